package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/bellwether-go/cache/internal/early"
)

// Loader computes the value of a key. Its context has the values of the context of the call that began the load, but
// not its deadline or cancellation: a load is shared by many callers and outlives them. It ends after
// Options.LoadTimeout, at Close, or, with Options.CancelAbandoned, when the last caller has left.
//
// An error is returned to all callers unchanged. ErrNotFound is cached for Options.NegativeTTL; any other one is what
// this process's callers get until Options.Backoff has passed, unless there is a value, Options.StaleIfError allows it to
// be served, or the error is one of a context. A panic or a runtime.Goexit reaches all callers as a *PanicError.
type Loader[V any] func(ctx context.Context, key string) (V, error)

// loadGrace is what a loader whose context has ended gets to return its own error.
const loadGrace = 10 * time.Millisecond

var errAbandoned = fmt.Errorf("cache: nobody waits for the load any more: %w", context.Canceled)

// result is what a flight brings its callers.
type result struct {
	value    any
	err      error // the loader's own
	negative bool  // with err nil: remembered from an earlier load
	stale    bool  // past its TTL, and served all the same
	// asOf is the moment, on core.ticks, for which it is known that no deletion had made the value old. Only calls that
	// began before it may have the value; 0: all may.
	asOf      uint64
	tags      []string
	ttl       time.Duration // what the loader wants; 0: nothing
	noStore   bool          // it says that there is nothing to be stored
	unfit     bool          // its tags are too many or too long to be kept
	abandoned bool          // the loader did not return
	began     uint64        // not after the beginning of the load, on core.ticks; 0: there was none
	ended     time.Time     // when the loader returned
	took      time.Duration // until then
	instead   *result       // with err: the stale value for callers that take one
}

// kind tells flights of a key apart by what they bring. Calls join a flight of their own kind only.
type kind byte

const (
	ordinary kind = iota
	strict        // no stale value
	forced        // the result of a load that begins after the call
	unasked       // for nobody: to have it in time
	kinds
)

type flightID struct {
	key  string
	kind kind
}

// flight is one way through Redis and the loader, shared by the calls of this process that want the same key.
type flight struct {
	of     *core
	parent *flight // whose loader made the call that began this one
	flightID
	full string // in Redis
	load func(context.Context, string) (any, error)
	co   callOptions
	told Load // what the loader says

	prev  *entry     // what is there while it loads anew; nil: nothing
	old   *entry     // prev when the load began
	seq   uint64     // flights begin in this order; guarded by flights.mu
	until time.Time  // how long it waits for others
	known early.Cost // of earlier loads
	since uint64     // forced: when it began, on core.ticks
	after int64      // forced: loads under a lease with a later fence began after it, on the server's clock; 0: not known

	ctx     context.Context // of everything the flight does; ends with Close and CancelAbandoned
	cancel  context.CancelCauseFunc
	callers int           // guarded by flights.mu
	leave   func()        // gives the slot back that enter took; nil without one
	landed  chan struct{} // closed when res is there
	res     *result
}

// loadedBy is the key in a loader's context under which its flight is found.
type loadedBy struct{}

// waitsForItself reports whether a call with this context is made by the loader of that key, at whatever depth.
func (c *core) waitsForItself(ctx context.Context, key string) bool {
	for f, _ := ctx.Value(loadedBy{}).(*flight); f != nil; f = f.parent {
		if f.of == c && f.key == key {
			select {
			case <-f.landed: // what the loader left behind may ask
			default:
				return true
			}
		}
	}
	return false
}

// flights are the flights under way. singleflight (https://pkg.go.dev/golang.org/x/sync/singleflight) collapses
// calls; its traps are kept away from it. Callers wait for their flight and not for it, because it never answers them
// after a Goexit (go.dev/issue/67087), and they leave by themselves. A flight that was forgotten or that nobody wants
// takes no more of them.
type flights struct {
	group singleflight.Group

	mu      sync.Mutex
	closed  bool                 // guarded by mu
	current map[flightID]*flight // those that calls may join; guarded by mu, which also covers group's map
	all     map[*flight]struct{} // also those that no call may join; guarded by mu
	loading map[string]*loading  // by key; guarded by mu
	begun   uint64               // flights; guarded by mu
	running sync.WaitGroup       // Add under mu while not closed
}

func newFlights() *flights {
	return &flights{
		current: make(map[flightID]*flight),
		all:     make(map[*flight]struct{}),
		loading: make(map[string]*loading),
	}
}

// loading bounds the loads of a key in this process: one whose result was made worthless by a deletion, and the next.
type loading struct {
	slots chan struct{}
	users int // guarded by flights.mu
}

const loadsPerKey = 2

// join returns the current flight with that ID, or starts the one that first makes, to be run by run.
func (fs *flights) join(id flightID, first func() *flight, run func(*flight) *result) (*flight, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return nil, ErrClosed
	}
	f := fs.current[id]
	if f == nil {
		f = first()
	}
	f.callers++
	fs.goLocked(f, run)
	return f, nil
}

// start starts a flight for nobody unless there is one with its ID.
func (fs *flights) start(f *flight, run func(*flight) *result) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed || fs.current[f.flightID] != nil {
		return false
	}
	fs.goLocked(f, run)
	return true
}

func (fs *flights) goLocked(f *flight, run func(*flight) *result) {
	if fs.current[f.flightID] == nil {
		fs.begun++
		f.seq = fs.begun
		fs.current[f.flightID] = f
		fs.all[f] = struct{}{}
		fs.running.Add(1)
	}
	fs.group.DoChan(f.name(), func() (any, error) {
		defer fs.running.Done()
		defer fs.land(f)
		f.res = run(f)
		return nil, nil
	})
}

// name is injective.
func (id flightID) name() string { return string(rune(id.kind)) + id.key }

// find returns a flight that calls may join, or nil.
func (fs *flights) find(id flightID) *flight {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.current[id]
}

// before returns the oldest flight of the same key that began before f, or nil.
func (fs *flights) before(f *flight) (found *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for k := range kinds {
		other := fs.current[flightID{f.key, k}]
		if other != nil && other.seq < f.seq && (found == nil || other.seq < found.seq) {
			found = other
		}
	}
	return found
}

// land tells the callers of a flight, also of one whose run has panicked or exited, as a Codec of the user's may. The
// flight leaves the map before they hear of it: the next call starts a new one, and finds in L1 what this one left.
func (fs *flights) land(f *flight) {
	if p := recover(); p != nil {
		f.res = &result{err: &PanicError{Value: p, Stack: debug.Stack()}}
	} else if f.res == nil {
		f.res = &result{err: &PanicError{Goexit: true}}
	}
	if f.leave != nil {
		f.leave()
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.removeLocked(f)
	delete(fs.all, f)
	f.cancel(nil)
	close(f.landed)
}

// leave counts a caller out. The last one may end the flight; nobody can join it from then on.
func (fs *flights) leave(f *flight, cancelAbandoned bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.callers--; f.callers == 0 && cancelAbandoned {
		fs.removeLocked(f)
		f.cancel(errAbandoned)
	}
}

func (fs *flights) removeLocked(f *flight) {
	if fs.current[f.flightID] == f {
		delete(fs.current, f.flightID)
		fs.group.Forget(f.name())
	}
}

// forget makes later calls for key start anew. Those already in the flight stay in it.
func (fs *flights) forget(key string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for k := range kinds {
		if f := fs.current[flightID{key, k}]; f != nil {
			fs.removeLocked(f)
		}
	}
}

// forgetAll makes all later calls start anew.
func (fs *flights) forgetAll() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range fs.current {
		fs.removeLocked(f)
	}
}

// enter waits until fewer than two loads of f's key run, and takes a slot for one: f.leave gives it back, at the latest
// when the flight lands. While it waits it looks whether a load is still needed: look returns a result if it is not, or
// has become pointless. A background flight does not wait.
func (fs *flights) enter(f *flight, look func() *result) *result {
	fs.mu.Lock()
	l := fs.loading[f.key]
	if l == nil {
		l = &loading{slots: make(chan struct{}, loadsPerKey)}
		fs.loading[f.key] = l
	}
	l.users++
	fs.mu.Unlock()
	done := func() {
		fs.mu.Lock()
		defer fs.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(fs.loading, f.key)
		}
	}
	entered := func() {
		f.leave = func() {
			f.leave = nil
			<-l.slots
			done()
		}
	}
	select {
	case l.slots <- struct{}{}:
		entered()
		return nil
	default:
	}
	if f.kind == unasked {
		done()
		return &result{}
	}
	tick := time.NewTicker(pollMost)
	defer tick.Stop()
	for {
		select {
		case l.slots <- struct{}{}:
			entered()
			return look()
		case <-tick.C:
			if res := look(); res != nil {
				done()
				return res
			}
		case <-f.ctx.Done():
			done()
			return &result{err: context.Cause(f.ctx)}
		}
	}
}

// begin counts work of another kind that close waits for.
func (fs *flights) begin() bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if !fs.closed {
		fs.running.Add(1)
	}
	return !fs.closed
}

// close ends all flights and waits for them. Loaders that ignore their context are left behind.
func (fs *flights) close() {
	fs.mu.Lock()
	fs.closed = true
	for f := range fs.all {
		f.cancel(ErrClosed)
	}
	fs.mu.Unlock()
	fs.running.Wait()
}

// load runs the loader of a flight in a goroutine of its own, at most for LoadTimeout, and renews the lease meanwhile if
// there is one. A value it returns is as of the beginning of the load; who knows better says so.
func (c *core) load(f *flight, t *tenure) *result {
	if f.ctx.Err() != nil { // nobody wants it any more
		return &result{err: context.Cause(f.ctx), abandoned: true}
	}
	ctx, cancel := context.WithTimeout(context.WithValue(f.ctx, loadedBy{}, f), c.opts.LoadTimeout)
	defer cancel()
	f.old = f.prev
	began := c.ticks.Add(1)
	res := &result{asOf: began, began: began}
	c.stats.loads.Add(1)
	start := time.Now()
	var late atomic.Bool
	done := make(chan returned, 1)
	go guard(ctx, f.key, f.load, func(r returned) {
		done <- r
		if late.Load() && r.err == nil {
			c.stats.lateLoads.Add(1)
		}
	})

	var renewals <-chan time.Time
	var renewed chan bool
	if t != nil {
		ticker := time.NewTicker(t.period())
		defer ticker.Stop()
		renewals = ticker.C
	}
	var grace <-chan time.Time
	ended := ctx.Done()
	for {
		select {
		case r := <-done:
			res.value, res.err = r.value, r.err
			res.ended = time.Now()
			res.took = res.ended.Sub(start)
			if f.told.misused(c.opts.Tags) && res.err == nil {
				res.err = errTagsOff
			}
			var fit bool
			res.tags, fit = allTags(f.co.tags, f.told.all())
			res.unfit = !fit
			res.ttl, res.noStore = f.told.wants()
			if c.judge(res); !res.failed() {
				c.failures.forget(f.key)
			}
			return res
		case <-renewals:
			if renewed == nil { // the last one has been answered
				renewed = make(chan bool, 1)
				answer := renewed
				c.flights.running.Go(func() { answer <- t.renew() })
			}
		case mine := <-renewed:
			renewed = nil
			if !mine { // the load goes on: its callers want the value
				c.stats.lost.Add(1)
				renewals = nil
			}
		case <-ended:
			ended = nil
			if f.ctx.Err() == nil {
				timer := time.NewTimer(loadGrace)
				defer timer.Stop()
				grace = timer.C
				continue
			}
			late.Store(true)
			res.err, res.abandoned, res.asOf = context.Cause(f.ctx), true, 0
			return res
		case <-grace:
			late.Store(true)
			c.stats.abandoned.Add(1)
			res.err = fmt.Errorf("cache: load abandoned %v after its timeout: %w", loadGrace, context.DeadlineExceeded)
			res.abandoned, res.asOf = true, 0
			return res
		}
	}
}

// judge counts the outcome of a load. An error, unlike a value, is never too old for anybody.
func (c *core) judge(res *result) {
	var p *PanicError
	switch {
	case res.err == nil:
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

type returned struct {
	value any
	err   error
}

// guard calls a loader and turns a panic or a Goexit into an error. It needs a goroutine of its own: a Goexit ends it.
func guard(ctx context.Context, key string, load func(context.Context, string) (any, error), then func(returned)) {
	r := returned{err: &PanicError{Goexit: true}}
	defer func() {
		if p := recover(); p != nil {
			r.err = &PanicError{Value: p, Stack: debug.Stack()}
		}
		then(r)
	}()
	v, err := load(ctx, key)
	r = returned{v, err}
}
