package cache

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Load is what a loader can say about what it loads, if it asks LoadFrom for it. All methods may be called on a nil *Load,
// so that loaders can be tested without a cache, and from several goroutines; after the loader has returned they do
// nothing.
type Load struct {
	of      task
	mu      sync.Mutex
	tags    []string      // guarded by mu
	ttl     time.Duration // guarded by mu
	noStore bool          // guarded by mu
	decided bool          // how long it is stored; guarded by mu
}

// LoadFrom returns what the loader that was given ctx, or a context made from it, can say about its load; nil elsewhere.
// What a batch loader says is about all keys that it was called for; ForKey is about one.
func LoadFrom(ctx context.Context) *Load {
	t := taskFrom(ctx)
	if t == nil {
		return nil
	}
	return t.says()
}

// ForKey is what a batch loader can say about one of the keys that it was called for; nil for other keys. SetTTL and NoStore
// of one key go over those of all; tags add up.
func (l *Load) ForKey(key string) *Load {
	if l == nil {
		return nil
	}
	f := l.of.flight(key)
	if f == nil {
		return nil
	}
	return f.says()
}

// Previous returns the value that the loader which was given ctx is to replace, so that it can ask its origin whether
// that has changed (an ETag and a 304) and return it once more. A batch loader names the key. There is a value while it is
// refreshed before its TTL is over or by Refresh, or kept by StaleWhileRevalidate or StaleIfError. It may have been
// invalidated already: do not return it unless the origin says so. It is shared with others: do not change it.
func Previous[V any](ctx context.Context, key ...string) (V, bool) {
	var none V
	t := taskFrom(ctx)
	if t == nil {
		return none, false
	}
	f, single := t.(*flight)
	if len(key) > 0 {
		f = t.flight(key[0])
	}
	if f == nil || !single && len(key) == 0 || f.old == nil || f.old.res.negative {
		return none, false
	}
	v, ok := f.old.res.value.(V)
	return v, ok
}

// SetTags gives the value these tags besides those of WithTags, under whose limits they fall; another call replaces them.
// Without Options.Tags the load fails.
func (l *Load) SetTags(tags ...string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tags = slices.Clone(tags)
}

// SetTTL makes the value, or an ErrNotFound that is cached, fresh for d, with the limits of WithTTL, over which it goes.
// Zero is Options.TTL, so what an origin forbids to keep (max-age=0) wants NoStore; negative is NoStore. Options.Jitter may shorten it.
func (l *Load) SetTTL(d time.Duration) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ttl, l.decided = boundTTL(d), true
}

// NoStore keeps the value out of the cache, and removes the one that it was to replace. The callers that wait for it get it.
// Beside an error of the loader it has no effect: that is not stored anyway, and what is served while the origin fails stays.
func (l *Load) NoStore() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noStore, l.decided = true, true
}

func (l *Load) all() []string {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tags
}

// wants returns the TTL that the loader has set, 0 without one, and whether it says that there is nothing to be stored.
func (l *Load) wants() (time.Duration, bool) {
	if l == nil {
		return 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.ttl, 0), l.noStore || l.ttl < 0
}

// inherit adds what the loader says about all keys of a batch to what it says about one.
func (l *Load) inherit(all *Load) {
	tags := all.all()
	ttl, noStore := all.wants()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tags = append(l.tags, tags...)
	if !l.decided {
		l.ttl, l.noStore = ttl, noStore
	}
}

// misused reports whether tags were set that cannot be kept.
func (l *Load) misused(tags bool) bool { return !tags && len(l.all()) > 0 }
