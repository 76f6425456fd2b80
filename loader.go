package cache

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
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

func (l Loader[V]) load(ctx context.Context, key string) (any, error) { return l(ctx, key) }

// anyLoader is a Loader without its type.
type anyLoader interface {
	load(ctx context.Context, key string) (any, error)
}

var errAbandoned = fmt.Errorf("cache: nobody waits for the load any more: %w", context.Canceled)

// result is what a flight brings its callers.
type result struct {
	value any
	err   error // the loader's own
	// asOf is the moment, on core.ticks, for which it is known that no deletion had made the value old. Only calls that
	// began before it may have the value; 0: all may.
	asOf      uint64
	tags      []string
	ttl       time.Duration // what the loader wants; 0: nothing
	began     uint64        // not after the beginning of the load, on core.ticks; 0: there was none
	ended     int64         // when the loader returned, on local's clock
	took      time.Duration // until then
	instead   *result       // with err: the stale value for callers that take one
	negative  bool          // with err nil: remembered from an earlier load
	stale     bool          // past its TTL, and served all the same
	noStore   bool          // the loader says that there is nothing to be stored
	unbegun   bool          // the loader was not called
	unfit     bool          // its tags are too many or too long to be kept
	abandoned bool          // the loader did not return
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

// order is what the call wants that begins a flight. Those of a batch have one in common.
type order struct {
	c       *core
	co      callOptions
	parent  task // whose loader makes the call
	loader  anyLoader
	batch   *batch                  // which loads, if there are several
	cancel  context.CancelCauseFunc // nil before it goes; guarded by flights.mu until then
	dropped error                   // why it is cancelled when it goes; guarded by flights.mu
	reading *reading                // its first look in Redis, if it is alone
}

// flight is one way through Redis and the loader, shared by the calls of this process that want the same key. There are
// thousands of them in a large batch: what they have in common is in order, and the rest is small.
type flight struct {
	*order
	flightID
	full string               // in Redis
	told atomic.Pointer[Load] // what the loader says; nil: nothing yet

	prev  *entry      // what is there while it loads anew; nil: nothing
	aged  *localEntry // unasked: what it is to replace in memory, or nothing is to be done; nil: whatever is there
	old   *entry      // prev when the load began
	found *found      // what is to be looked at first
	lease *tenure     // under which it loads; nil without one
	lock  *keyLock    // with which it loads, besides; nil without one
	seq   uint64      // flights begin in this order; guarded by flights.mu
	until int64       // how long it waits for others, on local's clock
	known early.Cost  // of earlier loads
	since uint64      // forced: when it began, on core.ticks
	after int64       // forced: loads under a lease with a later fence began after it, on the server's clock; 0: not known

	ctx     context.Context        // of everything the flight does; ends with Close and CancelAbandoned; before it goes the caller's, for its values
	joiner  *batch                 // the last one to join; guarded by flights.mu
	landed  chan struct{}          // closed when it lands, or the flights are closed; made when somebody waits for it, and nil before in a batch; guarded by flights.mu
	callers int32                  // guarded by flights.mu
	others  []context.Context      // of calls that have joined it, for an observer; guarded by flights.mu
	over    atomic.Bool            // res is there
	there   bool                   // memory had something when it began
	current bool                   // calls may join it; guarded by flights.mu
	lent    bool                   // a load waits for it, see limits.inside; guarded by flights.mu
	entered bool                   // it has one of its key's slots for loads; guarded by flights.mu
	ticket  atomic.Pointer[ticket] // while it waits for others to end
	res     *result
	loaded  result // res, if it has loaded
	company member // ctx, in a batch
}

// flights are the flights under way. Calls find the one of their key here. The call that began it leads it to Redis (see
// core.lead); from there, if there is nothing of use, singleflight (https://pkg.go.dev/golang.org/x/sync/singleflight) runs one
// for each name. Its traps are kept away from it: callers wait for their flight and not for it, because it never answers
// them after a Goexit (go.dev/issue/67087), and they leave by themselves. A flight that was forgotten or that nobody wants
// takes no more of them.
type flights struct {
	group [kinds]singleflight.Group

	mu      sync.Mutex
	closed  bool                      // guarded by mu
	current [kinds]map[string]*flight // those that calls may join, by key; guarded by mu, which also covers group's map
	all     map[*flight]struct{}      // also those that no call may join, but not those of batches; guarded by mu
	batches map[*batch]struct{}       // guarded by mu
	loading map[string]*loading       // what current does not tell, by key; guarded by mu
	room    room                      // for those who wait
	begun   uint64                    // flights; guarded by mu
	running sync.WaitGroup            // Add under mu while not closed
}

func newFlights(r room) *flights {
	fs := &flights{
		room:    r,
		all:     make(map[*flight]struct{}),
		batches: make(map[*batch]struct{}),
		loading: make(map[string]*loading),
	}
	for k := range fs.current {
		fs.current[k] = make(map[string]*flight)
	}
	return fs
}

// join returns the current flight with that ID, or begins the one that first makes: then the caller leads it. by is whose
// loader calls, or nil. There may be too many who wait: ErrOverloaded.
func (fs *flights) join(id flightID, by task, first func() *flight) (f *flight, leads bool, err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return nil, false, ErrClosed
	}
	if f = fs.current[id.kind][id.key]; fs.room.fullLocked(f, fs.room.waiting, by) {
		return nil, false, ErrOverloaded
	}
	if f == nil {
		f, leads = first(), true
		fs.addLocked(f)
	}
	fs.joinedLocked(f, by)
	return f, leads, nil
}

// landing returns what is closed when the flight lands, or the flights are closed; nil if it has landed.
func (fs *flights) landing(f *flight) <-chan struct{} {
	if f.over.Load() {
		return nil
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.over.Load() {
		return nil
	}
	fs.landingLocked(f)
	return f.landed
}

// joinAll adds the current flights of these keys to others. Those that are not there are begun as flights of b, for its
// caller to start. It returns those keys for which too many wait.
func (fs *flights) joinAll(keys []string, k kind, b *batch, all []*flight) (_ []*flight, full []string, err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return all, nil, ErrClosed
	}
	all = slices.Grow(all, len(keys))
	b.flights = make([]*flight, 0, len(keys))
	waiting := fs.room.waiting // or a call for more keys than may wait could never succeed
	for _, key := range keys {
		f := fs.current[k][key]
		switch {
		case f != nil && f.joiner == b: // the key is there twice
			continue
		case fs.room.fullLocked(f, waiting, b.parent):
			full = append(full, key)
			continue
		case f == nil:
			f = b.add(flightID{key, k})
			fs.addLocked(f)
		default:
			fs.landingLocked(f)
		}
		f.joiner = b
		fs.joinedLocked(f, b.parent)
		all = append(all, f)
	}
	return all, full, nil
}

// start starts a flight for nobody unless there is one with its ID.
func (fs *flights) start(f *flight, run func(*flight) *result) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed || fs.current[f.kind][f.key] != nil {
		return false
	}
	fs.addLocked(f)
	fs.goLocked(f, run)
	return true
}

// startAll begins flights for nobody, for its caller to run; not those of keys that have one.
func (fs *flights) startAll(keys []string, k kind, first func(id flightID) *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, key := range keys {
		if id := (flightID{key, k}); !fs.closed && fs.current[k][key] == nil {
			fs.addLocked(first(id))
		}
	}
}

func (fs *flights) addLocked(f *flight) {
	fs.begun++
	f.seq = fs.begun
	fs.current[f.kind][f.key] = f
	f.current = true
	fs.running.Add(1)
	if f.batch == nil {
		fs.all[f] = struct{}{}
	} else if len(f.batch.flights) == 1 {
		fs.batches[f.batch] = struct{}{}
	}
}

// goes lets a flight go, in a goroutine of its own.
func (fs *flights) goes(f *flight, run func(*flight) *result) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.goLocked(f, run)
}

func (fs *flights) goLocked(f *flight, run func(*flight) *result) {
	f.ctx, f.cancel = context.WithCancelCause(context.WithoutCancel(f.ctx))
	if f.dropped != nil {
		f.cancel(f.dropped)
	}
	way := func() (any, error) {
		defer fs.running.Done()
		defer fs.land(f)
		f.res = run(f)
		return nil, nil
	}
	if f.current {
		fs.group[f.kind].DoChan(f.key, way)
	} else { // it was forgotten: another one may have the name
		go func() { _, _ = way() }()
	}
}

// cancelLocked cancels a flight, when it goes.
func (f *flight) cancelLocked(cause error) {
	if f.cancel == nil {
		f.dropped = cause
		return
	}
	f.cancel(cause)
}

// find returns a flight that calls may join, or nil.
func (fs *flights) find(id flightID) *flight {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.current[id.kind][id.key]
	if f != nil {
		fs.landingLocked(f)
	}
	return f
}

// before returns the oldest flight of the same key that began before f, or nil.
func (fs *flights) before(f *flight) *flight {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	found := fs.beforeLocked(f)
	if found != nil {
		fs.landingLocked(found)
	}
	return found
}

func (fs *flights) beforeLocked(f *flight) (found *flight) {
	for k := range fs.current {
		if kind(k) == f.kind || len(fs.current[k]) == 0 {
			continue
		}
		other := fs.current[k][f.key]
		if other != nil && other.seq < f.seq && (found == nil || other.seq < found.seq) {
			found = other
		}
	}
	return found
}

// landingLocked sees to it that the flight's landing, or the end of all, can be waited for.
func (fs *flights) landingLocked(f *flight) {
	if f.landed == nil {
		f.landed = make(chan struct{})
		if fs.closed {
			close(f.landed)
		}
	}
}

// land tells the callers of a flight, also of one whose run has panicked or exited, as a Codec of the user's may. The
// flight leaves the map before they hear of it: the next call starts a new one, and finds in L1 what this one left.
func (fs *flights) land(f *flight) { fs.landWith(f, recover()) }

// landWith is land for who knows of the panic.
func (fs *flights) landWith(f *flight, panicked any) {
	if p := panicked; p != nil {
		f.res = &result{err: &PanicError{Value: p, Stack: debug.Stack()}}
	} else if f.res == nil {
		f.res = &result{err: &PanicError{Goexit: true}}
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.landLocked(f)
}

// lands is land for a flight without a goroutine of its own.
func (fs *flights) lands(f *flight) {
	fs.landWith(f, nil)
	fs.running.Done()
}

// landSome is land for those of several that have a result. It returns the others.
func (fs *flights) landSome(all []*flight) (left []*flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := 0
	for _, f := range all {
		if f.res != nil {
			n++
		}
		if f.res != nil && !f.over.Load() { // otherwise it has panicked
			fs.landLocked(f)
			fs.running.Done()
		}
	}
	switch n {
	case 0:
		return all
	case len(all):
		return nil
	}
	return slices.DeleteFunc(slices.Clone(all), func(f *flight) bool { return f.res != nil })
}

func (fs *flights) landLocked(f *flight) {
	f.leaveLocked(fs)
	fs.removeLocked(f)
	fs.room.waiting -= int(f.callers)
	delete(fs.all, f)
	f.over.Store(true)
	if f.landed != nil && !fs.closed {
		close(f.landed)
	}
	if f.batch == nil {
		f.cancelLocked(nil)
	} else if b := f.batch; b.landedLocked() {
		delete(fs.batches, b)
	} else if f.callers > 0 {
		fs.unwantedLocked(b)
	}
}

func (fs *flights) removeLocked(f *flight) {
	if f.current {
		f.current = false
		delete(fs.current[f.kind], f.key)
		if f.entered {
			fs.changeLocked(f, 1, 0)
		}
		if f.batch == nil {
			fs.group[f.kind].Forget(f.key)
		}
	}
}

// forget makes later calls for key start anew. Those already in the flight stay in it.
func (fs *flights) forget(key string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, current := range fs.current {
		if f := current[key]; f != nil {
			fs.removeLocked(f)
		}
	}
}

// forgetAll makes all later calls start anew.
func (fs *flights) forgetAll() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, current := range fs.current {
		for _, f := range current {
			fs.removeLocked(f)
		}
	}
}

// letGoLocked releases those who wait for a flight. It is called once, by close: callers need not wait for that as well.
func (f *flight) letGoLocked() {
	if f.landed != nil && !f.over.Load() {
		close(f.landed)
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
		f.cancelLocked(ErrClosed)
		f.letGoLocked()
	}
	for b := range fs.batches {
		b.cancel(ErrClosed)
		for _, f := range b.flights {
			f.letGoLocked()
		}
	}
	fs.mu.Unlock()
	fs.running.Wait()
}
