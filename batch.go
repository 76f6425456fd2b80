package cache

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// batch is the flights that a call for many keys has begun. Each goes its own way, by the same code as one alone, in a
// goroutine of its own. But where one would send a command, or call the loader, it waits until no other one of the batch is
// moving: all of them have something to send or to load, or wait for somebody outside of the batch, or have landed. Then
// all commands go in one round trip, and one call of the loader is for all that have come to load. So none of them waits
// for another process, or for another flight of this one, while it holds a lease under which it has not begun to load.
type batch struct {
	c       *core
	co      callOptions
	began   time.Time
	loader  batchLoad
	parent  task
	ctx     context.Context
	cancel  context.CancelCauseFunc
	flights []*flight
	wanted  int           // flights that somebody waits for; guarded by flights.mu
	flying  int           // flights that have not landed; guarded by flights.mu
	done    chan struct{} // closed when all have
	landed  func()        // called then; may be nil
	slab    []flight      // not used yet

	mu       sync.Mutex
	moving   int         // flights; guarded by mu
	tripping bool        // a round trip is under way; guarded by mu
	requests []*gathered // guarded by mu
	loads    []*loadCall // guarded by mu
	patient  bool        // loads have waited for a round trip, which may bring more of them; guarded by mu
	hurry    *time.Timer // ends the waiting for others; nil while nobody waits; guarded by mu
	due      []due       // to be refreshed; guarded by mu
}

// batchLoad is a BatchLoader without its type. It returns where to look its values up.
type batchLoad func(ctx context.Context, keys []string) (func(key string) (any, bool), error)

// due is a key that is to be refreshed, and what was found there in Redis.
type due struct {
	key  string
	prev *entry
}

// gathered is a command that waits for the next round trip.
type gathered struct {
	of   *member
	what any
	done chan struct{}
}

// loadCall is a flight that waits for the loader.
type loadCall struct {
	f    *flight
	r    returned
	done chan struct{}
}

// member is who sends commands along with others: a flight, or somebody who renews a lease. It is the context of these
// commands.
type member struct {
	b      *batch
	f      *flight // that it is, or whose lease it renews
	moving bool    // guarded by batch.mu
}

func (m *member) Deadline() (time.Time, bool) { return m.b.ctx.Deadline() }
func (m *member) Done() <-chan struct{}       { return m.b.ctx.Done() }
func (m *member) Err() error                  { return m.b.ctx.Err() }
func (m *member) Value(key any) any           { return m.b.ctx.Value(key) }

func (c *core) newBatch(ctx context.Context, co callOptions, load batchLoad) *batch {
	b := &batch{c: c, co: co, began: time.Now(), loader: load, parent: taskFrom(ctx), done: make(chan struct{})}
	b.ctx, b.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return b
}

// slab is how many flights are allocated at once.
const slab = 32

// add makes a flight of the batch.
func (b *batch) add(id flightID) *flight {
	if len(b.slab) == 0 {
		b.slab = make([]flight, slab)
	}
	f := &b.slab[0]
	b.slab = b.slab[1:]
	f.batch, f.parent, f.cancel = b, b.parent, b.cancel
	b.c.prepare(f, id, b.co)
	f.company = member{b: b, f: f}
	f.ctx = &f.company
	b.flights = append(b.flights, f)
	b.flying++
	return f
}

// landedLocked is called with flights.mu held, and reports whether that was the last one.
func (b *batch) landedLocked(f *flight) bool {
	if b.flying--; b.flying > 0 {
		return false
	}
	b.cancel(nil)
	close(b.done)
	if b.landed != nil {
		b.landed()
	}
	return true
}

// start lets the flights go.
func (b *batch) start() {
	switch {
	case len(b.flights) == 0:
		b.cancel(nil)
	case b.c.redis == nil:
		go b.here()
	case b.c.opts.Tags: // the barriers are looked up along with each entry
		b.scatter(b.flights, b.c.run)
	default:
		go b.look()
	}
}

// scatter lets flights go their own ways.
func (b *batch) scatter(flights []*flight, way func(*flight) *result) {
	b.each(flights, func(f *flight) {
		defer b.c.flights.running.Done()
		defer b.c.flights.land(f)
		f.res = way(f)
	})
}

// pause is d, and a little more, so that those who wait look at the same time.
func (b *batch) pause(d time.Duration) time.Duration {
	grid := lookSoon
	if d >= 8*lookTogether {
		grid = lookTogether
	}
	passed := time.Since(b.began)
	return (passed+d+grid-1)/grid*grid - passed
}

// each does something for all flights at the same time. It does not wait for the end.
func (b *batch) each(flights []*flight, do func(*flight)) {
	b.mu.Lock()
	for _, f := range flights {
		b.movesLocked(&f.company)
	}
	b.mu.Unlock()
	for _, f := range flights {
		go func() {
			defer f.away()
			do(f)
		}()
	}
}

// inTurn does something for one flight after the other. Those for which it returns a result land.
func (b *batch) inTurn(flights []*flight, do func(i int, f *flight) *result) {
	for next := 0; next < len(flights); { // a Codec of the user's may end the goroutine
		var all sync.WaitGroup
		all.Go(func() {
			for next < len(flights) {
				next++
				b.step(next-1, flights[next-1], do)
			}
		})
		all.Wait()
	}
}

func (b *batch) step(i int, f *flight, do func(i int, f *flight) *result) {
	flies := false
	defer func() {
		if p := recover(); p != nil || !flies {
			b.c.flights.landWith(f, p)
			b.c.flights.running.Done()
		}
	}()
	f.res = do(i, f)
	flies = f.res == nil
}

// here is the way of a batch that has nothing to do with Redis.
func (b *batch) here() {
	c := b.c
	var wait []*flight
	s := &shift{b: b}
	since := make([]epoch, 0, len(b.flights))
	results := make([]*result, 0, len(b.flights))
	b.inTurn(b.flights, func(_ int, f *flight) *result {
		if res := c.remembered(f); res != nil {
			return res
		}
		if f.kind <= strict && c.flights.before(f) != nil || !c.flights.enterNow(f) {
			wait = append(wait, f)
			return nil
		}
		if f.there {
			f.prev = c.kept(f.key)
		}
		if res := c.failing(f); res != nil {
			return res
		}
		s.flights = append(s.flights, f)
		since = append(since, c.local.epoch(f.key))
		results = append(results, c.starts(f))
		return nil
	})
	b.scatter(wait, c.run)
	if len(s.flights) == 0 {
		return
	}
	came := s.perform()
	b.inTurn(s.flights, func(i int, f *flight) *result {
		return c.loadedHere(f, since[i], c.loadedUnleased(f, c.loaded(f, results[i], came[i])))
	})
}

// look is the way of a batch to Redis.
func (b *batch) look() {
	c := b.c
	var read, rest []*flight
	var keys []string
	founds := make([]found, len(b.flights))
	b.inTurn(b.flights, func(i int, f *flight) *result {
		if res := c.remembered(f); res != nil {
			return res
		}
		if f.prev == nil && len(f.key) <= MaxKeyBytes && !c.undone.has(f.key) {
			f.found = &founds[i]
			f.found.since, f.found.asOf = c.local.epoch(f.key), c.ticks.Add(1)
			read, keys = append(read, f), append(keys, f.full)
		} else {
			rest = append(rest, f)
		}
		return nil
	})
	if len(keys) > 0 {
		raws, errs := c.store.readAll(b.ctx, keys, c.coder.maxRecord())
		for i, f := range read {
			f.found.raw, f.found.err = raws[i], errs[i]
		}
	}
	b.inTurn(read, func(_ int, f *flight) *result {
		found := f.found
		res, raw, err := c.firstLook(f)
		if res == nil {
			found.raw, found.err, found.looked = raw, err, true
			f.found, rest = found, append(rest, f)
		}
		return res
	})
	b.scatter(rest, c.run)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.goLocked()
}

func (b *batch) movesLocked(m *member) {
	if !m.moving {
		m.moving = true
		b.moving++
	}
}

func (b *batch) restsLocked(m *member) {
	if m.moving {
		m.moving = false
		b.moving--
	}
	b.goLocked()
}

// rests says that a member waits for what its batch has no part in, or is done.
func (m *member) rests() {
	m.b.mu.Lock()
	defer m.b.mu.Unlock()
	m.b.restsLocked(m)
}

// away says that a flight waits for what its batch has no part in, or has landed.
func (f *flight) away() {
	if f.batch != nil {
		f.company.rests()
	}
}

// back is the opposite of away.
func (f *flight) back() {
	if b := f.batch; b != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.movesLocked(&f.company)
	}
}

// aside is the context of commands that the flight does not wait for.
func (f *flight) aside() context.Context {
	if f.batch != nil {
		return f.batch.ctx
	}
	return f.ctx
}

// goLocked sends and loads what has gathered, unless somebody is moving, who may add to it; but then for no longer than a
// command may take, for there are leases that nobody renews.
func (b *batch) goLocked() {
	switch {
	case b.tripping:
	case b.moving == 0:
		b.sendLocked()
	case len(b.requests)+len(b.loads) > 0 && b.hurry == nil:
		b.hurry = time.AfterFunc(b.c.company(), func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.hurry = nil; !b.tripping {
				b.sendLocked()
			}
		})
	}
}

// company is how long who has something to send or to load waits for others.
func (c *core) company() time.Duration {
	if c.redis == nil {
		return lookTogether
	}
	return c.redis.timeout
}

func (b *batch) sendLocked() {
	if b.hurry != nil {
		b.hurry.Stop()
		b.hurry = nil
	}
	if due := b.due; len(due) > 0 {
		b.due = nil
		b.c.refreshMany(b.ctx, due, b.co, b.loader)
	}
	requests := b.requests
	if loads := b.loads; len(loads) > 0 {
		if b.patient = len(requests) > 0 && !b.patient; !b.patient {
			b.loads = nil
			go b.perform(loads)
		}
	}
	if len(requests) > 0 {
		b.requests, b.tripping = nil, true
		go b.trip(requests)
	}
}

// meet blocks until something has been sent, along with what others have.
func (m *member) meet(what any) {
	g := &gathered{m, what, make(chan struct{})}
	m.b.mu.Lock()
	m.b.requests = append(m.b.requests, g)
	m.b.restsLocked(m)
	m.b.mu.Unlock()
	<-g.done
}

func (b *batch) trip(requests []*gathered) {
	slices.SortStableFunc(requests, func(x, y *gathered) int { return cmp.Compare(x.of.f.seq, y.of.f.seq) })
	all := make([]any, len(requests))
	for i, g := range requests {
		all[i] = g.what
	}
	b.c.store.trip(b.ctx, all)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tripping = false
	for _, g := range requests {
		b.movesLocked(g.of)
		close(g.done)
	}
	b.goLocked()
}

// load blocks until the loader has been called for a flight.
func (b *batch) load(f *flight) returned {
	l := &loadCall{f: f, done: make(chan struct{})}
	b.mu.Lock()
	b.loads = append(b.loads, l)
	b.restsLocked(&f.company)
	b.mu.Unlock()
	<-l.done
	return l.r
}

// perform calls the loader for flights that wait for it.
func (b *batch) perform(loads []*loadCall) {
	slices.SortStableFunc(loads, func(x, y *loadCall) int { return cmp.Compare(x.f.seq, y.f.seq) })
	s := &shift{b: b, flights: make([]*flight, len(loads))}
	for i, l := range loads {
		s.flights[i] = l.f
	}
	results := s.perform()
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, l := range loads {
		l.r = results[i]
		b.movesLocked(&l.f.company)
		close(l.done)
	}
}

// refresh has a key refreshed in the background, together with others.
func (b *batch) refresh(key string, prev *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.due = append(b.due, due{key, prev})
}

// shift is one call of a batch loader.
type shift struct {
	b       *batch
	flights []*flight
	told    Load

	mu    sync.Mutex
	byKey map[string]*flight // guarded by mu
}

func (s *shift) owner() *core { return s.b.c }
func (s *shift) caller() task { return s.b.parent }
func (s *shift) says() *Load  { return &s.told }

func (s *shift) flight(key string) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byKey == nil {
		s.byKey = make(map[string]*flight, len(s.flights))
		for _, f := range s.flights {
			s.byKey[f.key] = f
		}
	}
	return s.byKey[key]
}

func (s *shift) keys() int { return len(s.flights) }

// run calls the loader and returns what it has brought for each flight, in their order. What it has returned is the
// user's, and may panic when it is looked at.
func (s *shift) run(ctx context.Context) (any, error) {
	keys := make([]string, len(s.flights))
	for i, f := range s.flights {
		keys[i] = f.key
	}
	find, err := s.b.loader(ctx, keys)
	failed, rest := s.split(err)
	brought := make([]returned, len(s.flights))
	for i, f := range s.flights {
		value, found := find(f.key)
		own, fails := failed[f.key]
		switch {
		case fails:
			brought[i].err = own
		case found:
			brought[i].value = value
		case rest != nil:
			brought[i].err = rest
		default:
			brought[i].err = ErrNotFound
		}
	}
	return brought, nil
}

// renew renews all leases at once; those that are lost no more.
func (s *shift) renew() bool {
	held := make([]bool, len(s.flights))
	senders := make([]*member, len(s.flights))
	s.b.mu.Lock()
	for i, f := range s.flights {
		if f.lease != nil && !f.lease.lost {
			senders[i] = &member{b: s.b, f: f}
			s.b.movesLocked(senders[i])
		}
	}
	s.b.mu.Unlock()
	var all sync.WaitGroup
	for i, m := range senders {
		if m != nil {
			all.Go(func() {
				defer m.rests()
				held[i] = s.flights[i].renewWith(m)
			})
		}
	}
	all.Wait()
	for i, f := range s.flights {
		if f.lease != nil {
			f.lease.lost = !held[i]
		}
	}
	return slices.Contains(held, true)
}

// perform calls the loader, and tells what it has brought for each flight.
func (s *shift) perform() []returned {
	c := s.b.c
	s.told.of = s
	var period time.Duration
	for _, f := range s.flights {
		period = cmp.Or(period, f.lease.period())
	}
	whole := returned{err: context.Cause(s.b.ctx), abandoned: true}
	if whole.err == nil { // somebody wants it still
		c.stats.batchLoads.Add(1)
		whole = c.perform(s.b.ctx, s, period)
	}
	brought, _ := whole.value.([]returned)
	results := make([]returned, len(s.flights))
	for i, f := range s.flights {
		r := &results[i]
		*r = whole
		if r.value = nil; brought != nil {
			r.value, r.err = brought[i].value, brought[i].err
		}
		f.told.inherit(&s.told)
	}
	return results
}

// split tells apart, in what a batch loader has returned, the errors of single keys and the one of all others.
func (s *shift) split(err error) (failed map[string]error, rest error) {
	var le *LoadError
	if err == nil || !errors.As(err, &le) {
		return nil, err
	}
	failed = make(map[string]error)
	var others []error
	var walk func(error)
	walk = func(err error) {
		if !errors.As(err, &le) {
			others = append(others, err)
			return
		}
		switch e := err.(type) { //nolint:errorlint // layer by layer
		case *LoadError:
			if e == nil || s.flight(e.Key) == nil { // of no key of ours: then of all
				others = append(others, err)
				return
			}
			failed[e.Key] = cmp.Or(e.Err, err)
		case interface{ Unwrap() []error }:
			for _, err := range e.Unwrap() {
				walk(err)
			}
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		default:
			others = append(others, err)
		}
	}
	walk(err)
	if len(others) == 1 {
		return failed, others[0]
	}
	return failed, errors.Join(others...)
}
