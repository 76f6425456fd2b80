package cache

import (
	"context"
	"sync"
	"time"
)

// batch is the flights that a call for many keys has begun. Each goes its own way, by the same code as one alone, in a
// goroutine of its own. But where one would send a command, or call the loader, it waits until no other one of the batch is
// moving: all of them have something to send or to load, or wait for somebody outside of the batch, or have landed. Then
// all commands go in one round trip, and one call of the loader is for all that have come to load. So none of them waits
// for another process, or for another flight of this one, while it holds a lease under which it has not begun to load.
type batch struct {
	order
	by      *many // nil: nobody waits for it
	began   time.Time
	loader  batchLoad
	ctx     context.Context
	flights []*flight
	wanted  int           // flights that somebody waits for; guarded by flights.mu
	flying  int           // flights that have not landed; guarded by flights.mu
	done    chan struct{} // closed when all have
	landed  func()        // called then; may be nil
	slab    []flight      // not used yet

	mu       sync.Mutex
	moving   int               // flights; guarded by mu
	tripping bool              // a round trip is under way; guarded by mu
	requests []*gathered       // guarded by mu
	loads    []*loadCall       // guarded by mu
	patient  bool              // loads have waited for a round trip, which may bring more of them; guarded by mu
	asleep   map[*member]alarm // who wait, until some time at the latest; guarded by mu
	clock    *time.Timer       // wakes them; nil while nobody is asleep; guarded by mu
	next     time.Duration     // when, since began; guarded by mu
	hurry    *time.Timer       // ends the waiting for others; nil while nobody waits; guarded by mu
	due      []due             // to be refreshed; guarded by mu
}

// batchLoad is a BatchLoader without its type. It returns where to look its values up.
type batchLoad func(ctx context.Context, keys []string) (func(key string) (any, bool), error)

// due is a key that is to be refreshed, and what was found there.
type due struct {
	key  string
	prev *entry      // in Redis; or nil
	aged *localEntry // in memory; or nil
}

func (c *core) newBatch(ctx context.Context, co callOptions, load batchLoad) *batch {
	b := &batch{began: time.Now(), loader: load, done: make(chan struct{})}
	b.order = order{c: c, co: co, parent: taskFrom(ctx), batch: b}
	b.ctx, b.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return b
}

// slab is how many flights are allocated at once: what fits into 16 KiB.
const slab = 47

// add makes a flight of the batch.
func (b *batch) add(id flightID) *flight {
	if len(b.slab) == 0 {
		b.slab = make([]flight, slab)
	}
	f := &b.slab[0]
	b.slab = b.slab[1:]
	f.order, f.flightID = &b.order, id
	f.name()
	f.company.f = f
	f.ctx = &f.company
	b.flights = append(b.flights, f)
	b.flying++
	return f
}

// landedLocked is called with flights.mu held, and reports whether that was the last one.
func (b *batch) landedLocked() bool {
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
		b.here()
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

// inTurn does something for one flight after the other. Those for which it returns a result land in the end; the others it
// returns.
func (b *batch) inTurn(flights []*flight, do func(i int, f *flight) *result) (left []*flight) {
	next := 0
	pass := func() {
		for ; next < len(flights); next++ {
			flights[next].res = do(next, flights[next])
		}
	}
	if b.c.redis == nil && b.c.local.weigh == nil { // nothing is encoded
		pass()
	}
	for next < len(flights) { // a Codec of the user's may end the goroutine
		var all sync.WaitGroup
		all.Go(func() {
			returned := false
			defer func() {
				if p := recover(); p != nil || !returned {
					b.c.flights.landWith(flights[next], p)
					b.c.flights.running.Done()
					next++
				}
			}()
			pass()
			returned = true
		})
		all.Wait()
	}
	return b.c.flights.landSome(flights)
}

// here is the way of a batch that has nothing to do with Redis. It does not wait for the loads.
func (b *batch) here() {
	c := b.c
	left := b.inTurn(b.flights, func(_ int, f *flight) *result { return c.remembered(f) })
	left, wait := c.flights.enterAll(left)
	load := b.inTurn(left, func(_ int, f *flight) *result {
		if f.there {
			f.prev = c.kept(f.key)
		}
		return c.failing(f)
	})
	b.scatter(wait, c.run)
	if len(load) == 0 {
		return
	}
	go b.shifts(load, func(s *shift) {
		since := make([]epoch, len(s.flights))
		for i, f := range s.flights {
			since[i] = c.local.epoch(f.key)
			c.starts(f)
		}
		s.perform()
		b.inTurn(s.flights, func(i int, f *flight) *result {
			return c.loadedHere(f, since[i], c.loadedUnleased(f, c.loaded(f, &f.loaded, s.of(i))))
		})
	})
}

// look is the way of a batch to Redis.
func (b *batch) look() {
	c := b.c
	left := b.inTurn(b.flights, func(_ int, f *flight) *result { return c.remembered(f) })
	var read, rest []*flight
	var keys []string
	founds := make([]found, len(left))
	for i, f := range left {
		if f.prev != nil || len(f.key) > MaxKeyBytes || c.undone.has(f.key) {
			rest = append(rest, f)
			continue
		}
		f.found = &founds[i]
		f.found.since, f.found.asOf = c.local.epoch(f.key), c.ticks.Add(1)
		read, keys = append(read, f), append(keys, f.full)
	}
	if len(keys) > 0 {
		raws, errs := c.store.readAll(b.ctx, keys, c.coder.maxRecord())
		for i, f := range read {
			f.found.raw, f.found.err = raws[i], errs[i]
		}
	}
	missed := b.inTurn(read, func(_ int, f *flight) *result { return c.lookFound(f) })
	b.scatter(append(rest, missed...), c.run)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.goLocked()
}

// refresh has a key refreshed in the background, together with others.
func (b *batch) refresh(d due) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.due = append(b.due, d)
}
