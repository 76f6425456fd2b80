package cache

import (
	"context"
	"errors"
	"time"

	"github.com/bellwether-go/cache/internal/record"
)

// What a call does in the tiers: memory, then the flight of its key, which looks in Redis, and then loads.

// fly is a call that found nothing in memory that is fresh and not due.
func (c *core) fly(ctx context.Context, key string, co callOptions, loader anyLoader) (any, error) {
	began := c.ticks.Load()
	if c.waitsForItself(ctx, key) {
		return nil, errOwnKey
	}
	if len(co.tags) > 0 && !c.opts.Tags {
		return nil, errTagsOff
	}
	if co.cached {
		return c.onlyCached(ctx, key, co)
	}
	if res := c.fromMemory(ctx, key, co, loader); res != nil {
		return c.answer(res)
	}
	id := flightID{key, co.kind()}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f, leads, err := c.flights.join(id, taskFrom(ctx), func() *flight { return c.newFlight(ctx, id, co, loader) })
		switch {
		case errors.Is(err, ErrOverloaded):
			return c.answer(c.turnedAway(key, id.kind))
		case err != nil:
			return nil, err
		}
		if leads {
			c.lead(ctx, f)
		}
		if !leads && c.opts.Observer.Load != nil {
			c.flights.noteOther(ctx, f)
		}
		if landed := c.flights.landing(f); landed != nil {
			select { // of few channels: thousands may stand here
			case <-landed:
			case <-ctx.Done():
				select { // a result that is there goes first
				case <-landed:
				default:
					c.flights.leave(f)
					return nil, ctx.Err()
				}
			}
			if !f.over.Load() {
				return nil, ErrClosed
			}
		}
		res := f.outcome()
		if res.serves(began, id.kind) {
			return c.answer(res)
		}
		c.stats.rounds.Add(1)
	}
}

// outcome is what a flight that has landed brings its callers.
func (f *flight) outcome() *result {
	if f.res.instead != nil {
		return f.res.instead
	}
	return f.res
}

// serves reports whether a call of that kind, which began then, may have the result.
func (res *result) serves(began uint64, k kind) bool {
	switch {
	case res.asOf != 0 && began >= res.asOf: // the value may be older than a deletion that the call comes after
		return false
	case k == forced && res.began != 0 && began >= res.began: // the load began before the call
		return false
	}
	return true
}

func (c *core) newFlight(ctx context.Context, id flightID, co callOptions, loader anyLoader) *flight {
	f := &struct {
		flight
		its   order
		first reading
	}{its: order{c: c, co: co, parent: taskFrom(ctx), loader: loader}}
	f.its.reading = &f.first
	f.order, f.flightID, f.ctx = &f.its, id, ctx
	f.name()
	return &f.flight
}

// name gives a flight the name of its key in Redis.
func (f *flight) name() {
	if f.c.redis != nil {
		f.full = f.c.redis.key(f.c.name, f.key)
	}
}

// answer makes of a result what a call returns.
func (c *core) answer(res *result) (any, error) {
	if res.stale {
		c.stats.staleHits.Add(1)
	}
	if res.negative && res.err == nil {
		return nil, ErrNotFound
	}
	return res.value, res.err
}

func (c *core) onlyCached(ctx context.Context, key string, co callOptions) (any, error) {
	res, err := c.peek(ctx, key, co)
	switch {
	case c.closed():
		return nil, ErrClosed
	case err != nil:
		return nil, err
	case res == nil:
		return nil, ErrNotCached
	}
	return c.answer(res)
}

func (c *core) closed() bool {
	select {
	case <-c.closing:
		return true
	default:
		return false
	}
}

// fromMemory returns what memory has for a call, or nil. If that is to be loaded anew, it is, in the background, with loader
// unless that is nil.
func (c *core) fromMemory(ctx context.Context, key string, co callOptions, loader anyLoader) *result {
	res, aged := c.remembers(key, co.kind(), loader != nil)
	if res != nil && c.opts.Observer.Hit != nil {
		c.tellHit(ctx, key, "memory", res.mark())
	}
	if aged != nil {
		c.refreshSoon(ctx, due{key: key, aged: aged}, co, loader)
	}
	return res
}

// remembers returns what memory has for a call of that kind, or nil, and what the caller is to load anew, if it loads.
func (c *core) remembers(key string, k kind, loads bool) (res *result, aged *localEntry) {
	if k == forced {
		return nil, nil
	}
	e, value := c.local.find(key)
	if e.localEntry == nil {
		return nil, nil
	}
	res = &result{value: value, negative: e.is(negative), stale: e.is(stale)}
	switch {
	case c.local.now() < e.until:
		if e.is(stale) && k == strict {
			return nil, nil
		}
		if loads {
			aged = c.local.claim(key)
		}
	case c.redis == nil: // otherwise Redis is asked before it is served stale
		old := c.kept(key)
		if old == nil || !c.serves(old, k) {
			return nil, nil
		}
		if res = old.res; loads {
			aged = old.aged
		}
	default:
		return nil, nil
	}
	c.local.hit(key)
	return res, aged
}

// run is a flight.
func (c *core) run(f *flight) *result {
	f.until = c.local.now() + int64(c.opts.LoadTimeout+c.opts.Lease)
	if res := c.remembered(f); res != nil { // the flight before this one has just landed
		return res
	}
	if c.redis != nil && len(f.key) <= MaxKeyBytes {
		return c.shared(f)
	}
	return c.loadHere(f)
}

// loadHere is a flight that has nothing to do with Redis.
func (c *core) loadHere(f *flight) *result {
	if res := c.enterAlone(f); res != nil {
		return res
	}
	if f.prev = c.kept(f.key); f.there {
		c.missed(f, expired)
	} else {
		c.missed(f, absent)
	}
	if res := c.failing(f); res != nil {
		return res
	}
	since := c.local.epoch(f.key)
	return c.loadedHere(f, since, c.loadUnleased(f))
}

// loadedHere keeps what a flight has loaded that has nothing to do with Redis.
func (c *core) loadedHere(f *flight, since epoch, res *result) *result {
	if res.failed() {
		return res
	}
	if c.redis == nil { // otherwise: another process's deletion of such a key is not noticed
		began := res.asOf
		if res.asOf = 0; len(res.tags) > 0 { // of their deletion the flight was not told
			if res.asOf = c.ticks.Add(1); c.local.outdated(res.tags, since) {
				res.asOf = began
			}
		}
	}
	c.fill(f, since, res, -1, c.lifetime(f, res), record.Owner{})
	return res
}

// yields reports whether a flight that loads without a lease waits for older ones that do.
func (f *flight) yields() bool { return f.kind <= strict || f.aged != nil }

// enterAlone enters for a load without a lease, which would have told that the key is being loaded: it waits for flights of
// other kinds that are older.
func (c *core) enterAlone(f *flight) *result {
	if f.yields() {
		for other := c.flights.before(f); other != nil && c.await(f, other); other = c.flights.before(f) {
			if res := c.remembered(f); res != nil {
				return res
			}
		}
	}
	return c.flights.enter(f, func() *result { return c.remembered(f) })
}

// remembered makes a result of what is in memory, and learns from it what loads cost.
func (c *core) remembered(f *flight) *result {
	asOf := c.ticks.Add(1)
	e, value := c.local.find(f.key)
	if f.aged != nil && f.aged != e.localEntry { // this refresh comes too late
		return &result{}
	}
	if e.localEntry == nil {
		return nil
	}
	f.known, f.there = e.cost.Unpack(), true
	if f.kind > strict || c.local.now() >= e.until || e.is(stale) && f.kind == strict {
		return nil
	}
	c.local.hit(f.key)
	if c.opts.Observer.Hit != nil {
		c.tellHit(f.ctx, f.key, "memory", e.mark)
	}
	return &result{value: value, negative: e.is(negative), stale: e.is(stale), asOf: asOf}
}

// fill stores a loaded result in memory. encoded is its size, -1 if it is not known; id is its name in Redis, if any.
func (c *core) fill(f *flight, since epoch, res *result, encoded int, l lifetime, id record.Owner) {
	if res.noStore {
		c.local.drop(f.key)
	}
	if !l.stored() || len(f.key) > MaxKeyBytes || res.unfit {
		return
	}
	if encoded < 0 && c.local.weigh != nil && !res.negative {
		b, err := c.coder.marshal(res.value)
		if err != nil {
			c.stats.uncached.Add(1)
			return
		}
		encoded = len(b)
	}
	left := l.fresh - time.Duration(c.local.now()-res.ended)
	k := filling{
		value: res.value, negative: res.negative, tags: res.tags, encoded: encoded, cost: f.known,
		serve: left, due: left, fresh: left, keep: c.keepFor(res.negative, left), asOf: res.began,
	}
	if res.took != 0 {
		k.cost = f.known.After(res.took)
	}
	if c.redis != nil { // if it was stored there it was the newest then, whenever its load began
		k.asOf = max(res.began, res.asOf)
	}
	if !res.negative {
		k.due -= c.ahead(id, l.fresh, k.cost)
	}
	if c.redis != nil {
		k.serve = min(k.serve, c.opts.LocalTTL)
	}
	c.local.fill(f.key, since, &k)
}

// encode returns the bytes of a loaded result, or false if it is not to be stored in Redis.
func (c *core) encode(res *result, l lifetime) ([]byte, bool) {
	switch {
	case !l.stored():
		return nil, false
	case res.unfit:
		c.stats.uncached.Add(1)
		return nil, false
	case res.negative:
		return nil, true
	}
	b, err := c.coder.marshal(res.value)
	if err != nil {
		c.stats.uncached.Add(1)
	}
	return b, err == nil
}

// isNotFound reports whether a loader has said that there is no such key.
func isNotFound(err error) bool {
	var p *PanicError
	return errors.Is(err, ErrNotFound) && !errors.As(err, &p)
}

// detached runs f with a context that has the values of ctx only. If ctx ends first, or c is closed, it returns without
// f, which goes on; what f writes may be read only if it returned nil.
func (c *core) detached(ctx context.Context, f func(context.Context) error) error {
	if !c.flights.begin() {
		return ErrClosed
	}
	done := make(chan error, 1)
	go func() {
		defer c.flights.running.Done()
		done <- f(context.WithoutCancel(ctx))
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
