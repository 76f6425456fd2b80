package cache

import (
	"context"
	"errors"
	"sync"
	"time"
)

// What a loader can know of the lease under which it loads. The cache itself needs none of it: its COMMIT is refused if the
// lease is another's. It is for what loaders write elsewhere.

// tenure is a lease while its load runs.
type tenure struct {
	c     *core
	f     *flight
	args  acquireArgs
	fence int64

	mu     sync.Mutex
	until  time.Time     // it is ours so long, rather less; guarded by mu
	lost   bool          // it was another's when it was renewed; guarded by mu
	ended  chan struct{} // closed when it is lost, or may be; nil: nobody asks; guarded by mu
	closed bool          // guarded by mu
}

// period is the time between two renewals; 0 without a lease.
func (t *tenure) period() time.Duration {
	if t == nil {
		return 0
	}
	return max(t.args.lease/3, time.Millisecond)
}

// renew reports whether the lease is still ours, or may be. It blocks for at most the budget of a command.
func (t *tenure) renew(ctx context.Context) bool {
	mine, err := t.extend(ctx)
	return mine || err != nil
}

// keep renews a lease that is not lost, and reports whether it is not. t may be nil: there is none to be lost.
func (t *tenure) keep(ctx context.Context) bool {
	switch {
	case t == nil:
		return true
	case t.isLost():
		return false
	case t.renew(ctx):
		return true
	}
	t.c.stats.lost.Add(1) // the load goes on: its callers want the value
	t.c.tellLease(t.f, LeaseEvent{What: "lost", Fence: t.fence}, t.args.owner)
	return false
}

// extend is renew, with the error of a command without an answer.
func (t *tenure) extend(ctx context.Context) (mine bool, err error) {
	sent := time.Now()
	mine, err = t.c.store.renew(ctx, t.args.key, t.args.owner, t.fence, t.args.lease, t.args.life)
	if err != nil {
		t.c.stats.redisErrors.Add(1)
		return false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if until := sent.Add(t.args.lease); mine && until.After(t.until) {
		t.until = until
	}
	if !mine {
		t.lost = true
		t.endLocked()
	}
	return mine, nil
}

func (t *tenure) isLost() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lost
}

func (t *tenure) deadline() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.until
}

// end is closed when the lease is lost, or may be.
func (t *tenure) end() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended == nil {
		t.ended = make(chan struct{})
		if t.watchLocked(); t.lost {
			t.endLocked()
		}
	}
	return t.ended
}

// watchLocked looks at the lease again when it ends by what is known now.
func (t *tenure) watchLocked() {
	left := time.Until(t.until)
	if left <= 0 {
		t.endLocked()
		return
	}
	time.AfterFunc(left, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if !t.f.over.Load() {
			t.watchLocked()
		}
	})
}

func (t *tenure) endLocked() {
	if t.ended != nil && !t.closed {
		t.closed = true
		close(t.ended)
	}
}

// single is the flight that a Load is about; nil if it is about several, or nothing.
func (l *Load) single() *flight {
	if l == nil {
		return nil
	}
	f, _ := l.of.(*flight)
	return f
}

// lease is the one under which the value is loaded, or nil.
func (l *Load) lease() *tenure {
	if f := l.single(); f != nil {
		return f.lease
	}
	return nil
}

// Fence returns a number that is higher for each later load of the key, in whatever process, so that an origin can refuse
// what a loader writes after another one has been there: a fencing token ("How to do distributed locking", M. Kleppmann,
// 2016). It rises as long as the key is in Redis; after a deletion or a loss as long as the clock of Redis does, for it is a time
// there in microseconds. Without Redis it is the clock of this process. It is 0 where the load has no lease, as when Redis does
// not answer: others may be loading as well, in any order. In a batch each key has its own: see ForKey.
func (l *Load) Fence() int64 {
	f := l.single()
	switch {
	case f == nil:
		return 0
	case f.lease != nil:
		return f.lease.fence
	case f.c.redis == nil:
		return f.c.local.started.UnixMicro() + int64(f.loaded.began)
	}
	return 0
}

// Deadline returns when other processes may begin to load the key, unless the lease is renewed until then, as it is at each
// third of Options.Lease. By the clock of this process, and rather too early. It is zero without a lease, and without Redis.
// It is not when the load must end: that is the deadline of the context.
func (l *Load) Deadline() time.Time {
	if t := l.lease(); t != nil {
		return t.deadline()
	}
	return time.Time{}
}

// Lost returns a channel that is closed when another process may be loading the key: the lease was not ours any more when it
// was to be renewed, or the key was deleted, or Deadline has passed while Redis did not answer. The load goes on, for its callers
// want the value. It is nil, and so blocks for ever, without a lease.
func (l *Load) Lost() <-chan struct{} {
	if t := l.lease(); t != nil {
		return t.end()
	}
	return nil
}

// Extend renews the lease now, for Options.Lease from now on, and so tells whether this load is still the only one: before
// something that is expensive, or better not done twice. That may change at any time after it; what has to be
// certain needs the Fence. It blocks for at most RedisOptions.Timeout, and returns ErrLeaseLost, or an error of Redis, or of the
// context. Without a lease it is ErrLeaseLost, so a loader that gives up on an error fails its callers whenever Redis does. Without
// Redis there is nobody else, and it returns nil. In a batch each key has its own lease: see ForKey.
func (l *Load) Extend(ctx context.Context) error {
	f := l.single()
	switch {
	case l == nil:
		return nil
	case f == nil:
		return errNoSingleLease
	case f.over.Load():
		return ErrLeaseLost
	case f.c.redis == nil:
		return ctx.Err()
	case f.lease == nil || f.lease.isLost():
		return ErrLeaseLost
	}
	mine, err := f.lease.extend(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return &redisError{err}
	case !mine:
		return ErrLeaseLost
	}
	return nil
}

var errNoSingleLease = errors.New("cache: a batch has a lease for each key: use ForKey")
