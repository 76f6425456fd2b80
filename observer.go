package cache

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/bellwether-go/cache/internal/record"
)

// Observer is told what a cache does. Each func may be nil, and then costs nothing; counters are in Stats, and need none of them.
// They are called in the goroutine in which it happens, several at a time, and hold it up: they must not block, and must not use
// the cache. One that panics is not heard of any more in that moment, and nobody's call fails. Texts for What, Reason, Tier and
// Outcome are those listed here and no others, so that they can be labels of metrics; keys are not.
type Observer struct {
	// Hit is told of each call that memory answers, and of each answer found in Redis, which may be for many calls. On the path of
	// a hit in memory a func is called that costs what it does: see docs/observing.md. The context is that of the call.
	Hit func(ctx context.Context, hit Lookup)

	// Miss is told of each key that is looked for and not found, or not to be served, in any tier: once for all calls that wait
	// for it, with the context of the one that began.
	Miss func(ctx context.Context, miss Lookup)

	// Load is called before a loader, with its context, and returns the one that the loader gets, and a func that is told how it
	// ended; either may be nil. The context has the values of that of the call that began the load.
	Load func(ctx context.Context, load LoadEvent) (context.Context, func(LoadEvent))

	// Lease is told what becomes of leases, and of waiting for those of others. The context has the values of that of the call
	// that began the load.
	Lease func(ctx context.Context, lease LeaseEvent)

	// Deletion is told of what is invalidated, by this process or, with memory, by others.
	Deletion func(deletion DeletionEvent)

	// Redis is told when Redis, or the subscription to what other processes invalidate, goes and comes; by each cache that uses it.
	Redis func(change RedisEvent)
}

// And returns an Observer that tells o and then other. The context that o returns for a loader is what other is given.
func (o Observer) And(other Observer) Observer {
	all := Observer{
		Hit: inTurn(o.Hit, other.Hit), Miss: inTurn(o.Miss, other.Miss), Load: o.Load, Lease: inTurn(o.Lease, other.Lease),
		Deletion: then(o.Deletion, other.Deletion), Redis: then(o.Redis, other.Redis),
	}
	switch {
	case o.Load == nil:
		all.Load = other.Load
	case other.Load != nil:
		all.Load = func(ctx context.Context, e LoadEvent) (context.Context, func(LoadEvent)) {
			first, end := o.Load(ctx, e)
			if first != nil {
				ctx = first
			}
			second, last := other.Load(ctx, e)
			if second != nil {
				ctx = second
			}
			return ctx, func(e LoadEvent) {
				if last != nil {
					last(e)
				}
				if end != nil {
					end(e)
				}
			}
		}
	}
	return all
}

func inTurn[E any](a, b func(context.Context, E)) func(context.Context, E) {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return func(ctx context.Context, e E) {
		a(ctx, e)
		b(ctx, e)
	}
}

func then[E any](a, b func(E)) func(E) {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return func(e E) {
		a(e)
		b(e)
	}
}

// Lookup is a look for a key.
type Lookup struct {
	Cache    string
	Key      string
	Tier     string // of a hit: "memory" or "Redis"
	Reason   string // of a miss: "absent", "expired", "leased", "deleted", "undeleted", "unreadable", "other" or "unreachable", see Stats
	Stale    bool   // past its TTL
	NotFound bool   // that there is no such key was remembered
}

// LoadEvent is the call of a loader.
type LoadEvent struct {
	Cache      string
	Keys       []string // one, or those that a BatchLoader is called for
	Background bool     // nobody waits for it: a refresh
	Leased     bool     // under a lease; in a batch, for one of its keys

	// What is known in the end.
	Took    time.Duration
	Outcome string            // "value", "not found", "error", "panic" or "abandoned"; in a batch the worst of them
	Err     error             // the loader's; in a batch the first one
	Callers []context.Context // of other calls that waited for it, at most 100: to be linked to
}

// LeaseEvent is a change of a lease, or the end of waiting for one.
type LeaseEvent struct {
	Cache string
	Key   string
	At    time.Time
	// What: "won", "taken over" (after waiting for another process, which lost it or gave up); then "stored", "released" (there was
	// nothing to store), "lost" (it was another's when it was renewed), "rejected" (the value was not stored: deleted meanwhile or
	// taken over) or "unconfirmed" (Redis has not said whether it was stored); "waits", for that of another process; then "woken" (by its
	// value), "found" (by looking) or "gave up" (and loads). "none": a load without a lease.
	What    string
	Process string        // that has it, or had it: its name, if it is known here, or its ID
	Took    time.Duration // since it was won, or since the wait began
	Latency time.Duration // "woken": since Redis has stored the value
	Fence   int64         // 0: there is none
}

// DeletionEvent is something that was invalidated.
type DeletionEvent struct {
	Cache string
	At    time.Time
	What  string // "key", "tag", "all" (Clear) or "missed" (others' messages were lost, and memory was dropped)
	Name  string // of the key or tag
	From  string // the process; empty: this one
}

// RedisEvent is a change in the connection to Redis.
type RedisEvent struct {
	Cache string
	At    time.Time
	What  string // "cut off" (nothing was answered for a while: the cache goes on without), "back", "events lost", "events back"
}

// reason is that of a miss.
type reason byte

const (
	absent      reason = iota // there is nothing
	expired                   // past its end, or past its TTL and not to be served
	leased                    // a lease without a value
	outdated                  // older than a deletion of its tags
	undeleted                 // older than a deletion that Redis has not confirmed
	garbage                   // it cannot be read
	foreign                   // of a newer version or another type
	unreachable               // Redis does not answer
	reasons
)

func (r reason) String() string {
	return [...]string{"absent", "expired", "leased", "deleted", "undeleted", "unreadable", "other", "unreachable"}[r]
}

// whyMissed tells from what was read why it is of no use.
func whyMissed(raw []byte, err error) reason {
	switch {
	case errors.Is(err, errUndone):
		return undeleted
	case errors.Is(err, errOther):
		return foreign
	case errors.Is(err, errUnreadable):
		return garbage
	case errors.Is(err, errOutdated):
		return outdated
	case err != nil:
		return unreachable
	case len(raw) == 0:
		return absent
	}
	if h, err := record.OpenHeader(raw); err == nil && h.State == record.Stub {
		return leased
	}
	return expired
}

// missed notes that a flight has found nothing that it may serve. Refreshes are no misses.
func (c *core) missed(f *flight, why reason) {
	if f.kind >= forced {
		return
	}
	c.stats.misses[why].Add(1)
	c.outcomes.missed(f.key, why)
	c.hot.noteAt(c.local.now(), f.key)
	if fn := c.opts.Observer.Miss; fn != nil {
		defer quietly()
		fn(f.ctx, Lookup{Cache: c.name, Key: f.key, Reason: why.String()})
	}
}

// quietly is deferred: what an observer does is nobody else's trouble.
func quietly() { _ = recover() }

// tellHit is behind a test for an observer, so that others do not pay.
func (c *core) tellHit(ctx context.Context, key, tier string, m mark) {
	defer quietly()
	c.opts.Observer.Hit(ctx, Lookup{Cache: c.name, Key: key, Tier: tier, Stale: m&stale != 0, NotFound: m&negative != 0})
}

// hitInRedis counts an answer found there.
func (c *core) hitInRedis(f *flight, res *result) {
	c.stats.redisHits.Add(1)
	c.hot.noteAt(c.local.now(), f.key)
	if c.opts.Observer.Hit == nil {
		return
	}
	c.tellHit(f.ctx, f.key, "Redis", res.mark())
}

// mark tells what kind of answer it is.
func (res *result) mark() (m mark) {
	if res.stale {
		m |= stale
	}
	if res.negative {
		m |= negative
	}
	return m
}

// tellLease notes what has become of a lease of a flight's key.
func (c *core) tellLease(f *flight, e LeaseEvent, owner record.Owner) {
	e.Cache, e.Key, e.At = c.name, f.key, time.Now()
	e.Process = c.redis.knownAs(processOf(owner))
	its := e
	its.Key = clipped(e.Key)
	c.leases.add(its)
	if fn := c.opts.Observer.Lease; fn != nil {
		defer quietly()
		fn(f.ctx, e)
	}
}

func (c *core) tellDeletion(kind byte, names []string, from string) {
	what := map[byte]string{keyEvent: "key", tagEvent: "tag", clearEvent: "all"}[kind]
	for _, name := range names {
		c.tellDeleted(DeletionEvent{Cache: c.name, At: time.Now(), What: what, Name: name, From: from})
	}
}

func (c *core) tellDeleted(e DeletionEvent) {
	its := e
	its.Name = clipped(e.Name)
	c.deletions.add(its)
	if fn := c.opts.Observer.Deletion; fn != nil {
		defer quietly()
		fn(e)
	}
}

func (c *core) tellRedis(what string) {
	e := RedisEvent{Cache: c.name, At: time.Now(), What: what}
	c.changes.add(e)
	if fn := c.opts.Observer.Redis; fn != nil {
		defer quietly()
		fn(e)
	}
}

// linked is how many callers of a load an observer is told of.
const linked = 100

// tellLoad tells an observer that a loader is about to be called, and returns its context, and what is to be called in the end.
func (c *core) tellLoad(ctx context.Context, t task) (_ context.Context, end func(returned)) {
	fn := c.opts.Observer.Load
	if fn == nil {
		return ctx, nil
	}
	keys := t.names()
	e := LoadEvent{Cache: c.name, Keys: keys, Background: true}
	for _, key := range keys {
		f := t.flight(key)
		e.Background = e.Background && f.kind == unasked
		e.Leased = e.Leased || f.lease != nil
	}
	its, done := ctx, func(LoadEvent) {}
	func() {
		defer quietly()
		with, then := fn(ctx, e)
		if with != nil {
			its = with
		}
		if then != nil {
			done = then
		}
	}()
	return its, func(r returned) {
		defer quietly()
		e.Took, e.Outcome, e.Err = r.took, "value", nil
		errs := []error{r.err}
		if all, ok := r.value.([]brought); ok {
			for _, one := range all {
				errs = append(errs, one.err)
			}
		}
		order := []string{"value", "not found", "error", "panic", "abandoned"}
		for _, err := range errs {
			what := loadOutcome(err, r.abandoned)
			if slices.Index(order, what) > slices.Index(order, e.Outcome) {
				e.Outcome, e.Err = what, err
			}
		}
		e.Callers = c.flights.othersOf(t, keys)
		done(e)
	}
}

// loadOutcome is what came of a loader.
func loadOutcome(err error, abandoned bool) string {
	var p *PanicError
	switch {
	case abandoned:
		return "abandoned"
	case err == nil:
		return "value"
	case errors.As(err, &p):
		return "panic"
	case isNotFound(err):
		return "not found"
	}
	return "error"
}

// othersOf returns the contexts of calls that joined the flights of a load.
func (fs *flights) othersOf(t task, keys []string) (all []context.Context) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, key := range keys {
		if f := t.flight(key); f != nil {
			all = append(all, f.others...)
		}
		if len(all) >= linked {
			return all[:linked]
		}
	}
	return all
}

// noteOther keeps the context of a call that has joined a flight, for an observer of loads.
func (fs *flights) noteOther(ctx context.Context, f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if len(f.others) < linked {
		f.others = append(f.others, ctx)
	}
}
