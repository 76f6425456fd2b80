package cache

import (
	"context"
	"errors"
	"sync"
	"time"
)

// failures are the keys whose last load in this process has failed, for as long as that keeps others from trying: the
// callers of this process get its own last error, never that of another one, whose trouble may be its own.
type failures struct {
	mu sync.Mutex
	m  map[string]failure // guarded by mu
}

type failure struct {
	err   error // nil: not one to be given to others
	count int
	until time.Time
}

const (
	mostFailures = 10_000 // that are remembered
	doublings    = 4      // of the pause after a failure
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
	pause := first << min(f.count, doublings)
	if fs.m == nil {
		fs.m = make(map[string]failure)
	}
	if len(fs.m) >= mostFailures && !again {
		for k := range fs.m { // whichever
			delete(fs.m, k)
			break
		}
	}
	fs.m[key] = failure{err, f.count + 1, now.Add(pause)}
	return pause
}

// last returns the error of the last load if its pause is not over, and whether it is not.
func (fs *failures) last(key string) (error, bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f, ok := fs.m[key]
	if !ok || !time.Now().Before(f.until) {
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
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.m, key)
}

func (fs *failures) forgetAll() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	clear(fs.m)
}
