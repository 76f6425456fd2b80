package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// What happens while a loader runs.

// loadGrace is what a loader whose context has ended gets to return its own error.
const loadGrace = 10 * time.Millisecond

// task is what a loader is called for: a flight, or several flights of a batch.
type task interface {
	run(ctx context.Context) (any, error) // calls the loader
	flight(key string) *flight            // that of the key; nil if there is none
	owner() *core
	caller() task // whose loader made the call that this one is for
	says() *Load  // what the loader says about all of it
	keys() int
	names() []string // the keys
	renew() bool     // the leases and locks, and reports whether all leases are lost
	locked() bool    // there are locks
}

// loadedBy is the key in a loader's context under which its task is found.
type loadedBy struct{}

func taskFrom(ctx context.Context) task {
	t, _ := ctx.Value(loadedBy{}).(task)
	return t
}

// waitsForItself reports whether a call with this context is made by the loader of that key, at whatever depth.
func (c *core) waitsForItself(ctx context.Context, key string) bool {
	for t := taskFrom(ctx); t != nil; t = t.caller() {
		if t.owner() != c {
			continue
		}
		if f := t.flight(key); f != nil && !f.over.Load() { // what the loader left behind may ask
			return true
		}
	}
	return false
}

func (f *flight) run(ctx context.Context) (any, error) { return f.loader.load(ctx, f.key) }
func (f *flight) owner() *core                         { return f.c }
func (f *flight) caller() task                         { return f.parent }
func (f *flight) keys() int                            { return 1 }
func (f *flight) names() []string                      { return []string{f.key} }

func (f *flight) says() *Load {
	if f.told.Load() == nil {
		f.told.CompareAndSwap(nil, &Load{of: f})
	}
	return f.told.Load()
}

func (f *flight) flight(key string) *flight {
	if key != f.key {
		return nil
	}
	return f
}

func (f *flight) renew() bool {
	held := f.lease.keep(f.aside())
	if f.locked() {
		f.extend()
	}
	return held
}

// extend renews the lock.
func (f *flight) extend() {
	if f.lock.extend(f.aside()) {
		f.c.stats.locksLost.Add(1)
	}
}

func (f *flight) locked() bool { return f.lock != nil }

// period is the time between two renewals; 0 if there is nothing to renew.
func (f *flight) period() time.Duration { return cmp.Or(f.lease.period(), f.lock.period()) }

// returned is what came of a loader.
type returned struct {
	value     any
	err       error
	ended     int64 // on local's clock
	took      time.Duration
	abandoned bool // it has not returned
	unbegun   bool // it was not called
}

// load runs the loader of a flight, under the lease in f.lease if there is one. A value it returns is as of the beginning
// of the load; who knows better says so.
func (c *core) load(f *flight) *result {
	if f.ctx.Err() != nil { // nobody wants it any more
		return &result{err: context.Cause(f.ctx), abandoned: true}
	}
	if f.batch != nil {
		res := c.starts(f)
		return c.loaded(f, res, f.batch.load(f))
	}
	leases := c.renewing(f, f.period())
	defer leases.stop()
	room, err := c.limits.take(f.ctx, []*flight{f}, leases)
	if err != nil {
		return &result{err: err, abandoned: true, unbegun: true}
	}
	defer room.leave()
	res := c.starts(f)
	return c.loaded(f, res, c.perform(f.ctx, f, leases))
}

// starts begins the result of a load.
func (c *core) starts(f *flight) *result {
	f.old = f.prev
	c.stats.loads.Add(1)
	began := c.ticks.Add(1)
	f.loaded = result{asOf: began, began: began}
	return &f.loaded
}

// loaded makes a result of what came of a loader.
func (c *core) loaded(f *flight, res *result, r returned) *result {
	res.value, res.err, res.ended, res.took = r.value, r.err, r.ended, r.took
	if !r.unbegun {
		c.outcomes.loaded(f.key, loadOutcome(r.err, r.abandoned), r.took)
	}
	if r.abandoned {
		res.abandoned, res.unbegun, res.asOf = true, r.unbegun, 0
		return res
	}
	said := f.told.Load()
	if said.misused(c.opts.Tags) && res.err == nil {
		res.err = errTagsOff
	}
	var fit bool
	res.tags, fit = allTags(f.co.tags, said.all())
	res.unfit = !fit
	res.ttl, res.noStore = said.wants()
	if c.judge(res); !res.failed() {
		c.failures.forget(f.key)
	}
	return res
}

// judge counts the outcome of a load. An error, unlike a value, is never too old for anybody.
func (c *core) judge(res *result) {
	if res.err == nil {
		return
	}
	var p *PanicError
	switch {
	case errors.As(res.err, &p): // whatever the panic's value wraps
		res.value, res.asOf = nil, 0
		c.stats.loadErrors.Add(1)
		c.stats.panics.Add(1)
	case errors.Is(res.err, ErrNotFound) && c.opts.NegativeTTL > 0:
		res.value, res.negative = nil, true
	default:
		res.value, res.asOf = nil, 0
		c.stats.loadErrors.Add(1)
	}
}

// renewals renew the leases and locks of a task while its loader runs, or waits for its turn.
type renewals struct {
	c      *core
	t      task
	ticker *time.Ticker     // nil: there are none
	due    <-chan time.Time // nil: there are none any more
	answer chan bool        // nil: none is awaited
}

// renewing begins them; they are due each period, if it is not 0.
func (c *core) renewing(t task, period time.Duration) *renewals {
	r := &renewals{c: c, t: t}
	if period > 0 {
		r.ticker = time.NewTicker(period)
		r.due = r.ticker.C
	}
	return r
}

func (r *renewals) stop() {
	if r.ticker != nil {
		r.ticker.Stop()
	}
}

// begin renews, unless the last renewal has not been answered.
func (r *renewals) begin() {
	if r.answer == nil {
		answer := make(chan bool, 1)
		r.answer = answer
		r.c.flights.running.Go(func() { answer <- r.t.renew() })
	}
}

// end is told the answer, and returns it: whether the leases are not all lost.
func (r *renewals) end(held bool) bool {
	if r.answer = nil; !held && !r.t.locked() {
		r.due = nil
	}
	return held
}

// perform runs a loader in a goroutine of its own, at most for LoadTimeout, and renews leases meanwhile.
func (c *core) perform(parent context.Context, t task, leases *renewals) (r returned) {
	ctx, cancel := context.WithTimeout(context.WithValue(parent, loadedBy{}, t), c.opts.LoadTimeout)
	defer cancel()
	c.running.begin(t)
	defer c.running.end(t)
	ctx, tell := c.tellLoad(ctx, t)
	if tell != nil {
		defer func() { tell(r) }()
	}
	start := c.local.now()
	var late atomic.Bool
	done := make(chan returned, 1)
	watch, overdue := c.watches(t)
	defer watch.stop()
	go guard(ctx, t, watch, func(r returned) {
		done <- r
		if late.Load() && r.err == nil {
			c.stats.lateLoads.Add(uint64(t.keys()))
		}
	})

	var grace <-chan time.Time
	ended := ctx.Done()
	for {
		select {
		case r := <-done:
			r.ended = c.local.now()
			r.took = time.Duration(r.ended - start)
			return r
		case <-leases.due:
			leases.begin()
		case held := <-leases.answer:
			leases.end(held)
		case <-overdue:
			watch.report(false)
		case <-ended:
			ended = nil
			if parent.Err() == nil {
				timer := time.NewTimer(loadGrace)
				defer timer.Stop()
				grace = timer.C
				continue
			}
			late.Store(true)
			return returned{err: context.Cause(parent), abandoned: true}
		case <-grace:
			late.Store(true)
			c.stats.abandoned.Add(uint64(t.keys()))
			watch.report(true)
			err := fmt.Errorf("cache: load abandoned %v after its timeout: %w", loadGrace, context.DeadlineExceeded)
			return returned{err: err, abandoned: true}
		}
	}
}

// guard calls a loader and turns a panic or a Goexit into an error. It needs a goroutine of its own: a Goexit ends it.
func guard(ctx context.Context, t task, w *watch, then func(returned)) {
	w.here()
	r := returned{err: &PanicError{Goexit: true}}
	defer func() {
		if p := recover(); p != nil {
			r.err = &PanicError{Value: p, Stack: debug.Stack()}
		}
		then(r)
	}()
	v, err := t.run(ctx)
	r = returned{value: v, err: err}
}
