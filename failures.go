package cache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// failures are the keys whose last load in this process has failed, for as long as that keeps others from trying: the
// callers of this process get its own last error, never that of another one, whose trouble may be its own.
type failures struct {
	mu    sync.Mutex
	m     map[string]failure // guarded by mu
	bytes int                // of its keys; guarded by mu
	some  atomic.Bool        // m may not be empty
}

type failure struct {
	err   error // nil: not one to be given to others
	count int
	until time.Time
}

const (
	mostFailures     = 10_000 // that are remembered
	mostFailureBytes = 1 << 20
	doublings        = 4               // of the pause after a failure
	forgotten        = 32 * maxBackoff // from then on a failure counts for nothing
)

// note remembers that a load has failed, and returns how long the next one is to wait: twice as long each time.
func (fs *failures) note(key string, err error, first time.Duration) time.Duration {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	now := time.Now()
	f, again := fs.m[key]
	if now.Sub(f.until) > first<<doublings { // that was another time
		f.count = 0
	}
	fs.sweepLocked(now)
	pause := first << min(f.count, doublings)
	if fs.m == nil {
		fs.m = make(map[string]failure)
	}
	fs.some.Store(true)
	if len(fs.m) >= mostFailures && !again {
		for k := range fs.m { // whichever
			fs.removeLocked(k)
			break
		}
	}
	if !again {
		fs.bytes += len(key)
	}
	for k := range fs.m {
		if fs.bytes <= mostFailureBytes {
			break
		}
		fs.removeLocked(k)
	}
	fs.m[key] = failure{err, f.count + 1, now.Add(pause)}
	return pause
}

// recall returns the last failure, however long ago.
func (fs *failures) recall(key string) (failure, bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f, ok := fs.m[key]
	return f, ok
}

// last returns the error of the last load if its pause is not over, and whether it is not.
func (fs *failures) last(key string) (error, bool) {
	if !fs.some.Load() {
		return nil, false
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	now := time.Now()
	fs.sweepLocked(now)
	f, ok := fs.m[key]
	if !ok || !now.Before(f.until) {
		return nil, false
	}
	return f.err, true
}

// failing reports whether the last load failed, however long ago.
func (fs *failures) failing(key string) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	_, ok := fs.m[key]
	return ok
}

func (fs *failures) forget(key string) {
	if !fs.some.Load() {
		return
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.removeLocked(key)
	fs.some.Store(len(fs.m) > 0)
}

func (fs *failures) removeLocked(key string) {
	if _, ok := fs.m[key]; ok {
		delete(fs.m, key)
		fs.bytes -= len(key)
	}
}

// sweepLocked looks at a few keys and removes those that have not been asked for in a long time, with their errors.
func (fs *failures) sweepLocked(now time.Time) {
	few := 4
	for k, f := range fs.m {
		if now.Sub(f.until) > forgotten {
			fs.removeLocked(k)
		}
		if few--; few == 0 {
			return
		}
	}
}

func (fs *failures) forgetAll() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	clear(fs.m)
	fs.bytes = 0
}
