package cache

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/bellwether-go/cache/internal/early"
	"github.com/bellwether-go/cache/internal/record"
)

// look reads the record, and makes a result of it if it is of use to the flight. The error is that of the read, or of use.
func (c *core) look(f *flight) (*result, []byte, error) {
	e, raw, err := c.read(f)
	if e == nil && err != nil && !replaceable(err) {
		return nil, raw, err
	}
	return c.settle(f, e), raw, err
}

// found is a record that was read along with others.
type found struct {
	since  epoch
	asOf   uint64
	raw    []byte
	err    error
	looked bool // it was of no use
}

// reading is a look in Redis for which the flight that wants it has no goroutine yet.
type reading struct {
	request
	recordGet
	raw   []byte // without cmds
	found found
	one   [1]sender
}

// answer returns what was read.
func (rd *reading) answer() ([]byte, error) {
	if rd.cmds == nil {
		return rd.raw, rd.err
	}
	return got(rd.cmds[0])
}

// lead looks in Redis for a flight that this call has begun, and lets it go if there is nothing of use. Otherwise, and if
// the flight need not look there, it has landed: no goroutine was needed but the one that sends. If ctx ends meanwhile, the
// flight goes on without the call.
func (c *core) lead(ctx context.Context, f *flight) {
	if !c.leads(f) {
		c.flights.goes(f, c.run)
		return
	}
	if res := c.remembered(f); res != nil {
		f.res = res
		c.flights.lands(f)
		return
	}
	rd := f.reading
	rd.recordGet = recordGet{f.full, c.coder.maxRecord()}
	rd.ctx, rd.done = ctx, make(chan struct{})
	rd.one[0] = &rd.recordGet
	rd.sends = rd.one[:]
	rd.found.since, rd.found.asOf = c.local.epoch(f.key), c.ticks.Add(1)
	c.store.begin(rd)
	select {
	case <-rd.done:
	case <-ctx.Done():
	case <-c.closing:
	}
	select { // an answer that is there goes first
	case <-rd.done:
		c.looks(f)
	default:
		go func() {
			<-rd.done
			c.looks(f)
		}()
	}
}

// leads reports whether a call may look in Redis itself: whether nothing that may happen there can hold it up, or ends its
// goroutine.
func (c *core) leads(f *flight) bool {
	if c.redis == nil || !c.coder.ours || c.opts.Tags || f.kind > strict || len(f.key) > MaxKeyBytes || c.undone.has(f.key) {
		return false
	}
	_, _, known := c.redis.clock.now()
	return known
}

// looks looks at what was read for a flight. It lands, or goes.
func (c *core) looks(f *flight) {
	looked := false
	defer func() {
		if p := recover(); p != nil || !looked {
			c.flights.landWith(f, p)
			c.flights.running.Done()
		}
	}()
	rd := f.reading
	rd.found.raw, rd.found.err = rd.answer()
	f.found = &rd.found
	f.res = c.lookFound(f)
	if looked = true; f.res == nil {
		c.flights.goes(f, c.run)
		return
	}
	c.flights.lands(f)
}

// lookFound is firstLook at what was read along with others. What is of no use is not looked at again.
func (c *core) lookFound(f *flight) *result {
	found := f.found
	res, raw, err := c.firstLook(f)
	if res == nil {
		found.raw, found.err, found.looked = raw, err, true
		f.found = found
	}
	return res
}

// read reads the record, unless that is done, and makes an entry of it.
func (c *core) read(f *flight) (*entry, []byte, error) {
	since, asOf := c.local.epoch(f.key), c.ticks.Add(1)
	var raw []byte
	var err error
	var known *barriers
	if found := f.found; found != nil {
		f.found = nil
		since, asOf, raw, err = found.since, found.asOf, found.raw, found.err
	} else if c.opts.Tags {
		known = &barriers{of: f.co.tags}
		raw, known.latest, err = c.store.readWith(f.ctx, f.full, c.coder.maxRecord(), c.name, f.co.tags)
	} else {
		raw, err = c.store.read(f.ctx, f.full, c.coder.maxRecord())
	}
	if err != nil {
		c.stats.redisErrors.Add(1)
		return nil, nil, err
	}
	e, err := c.use(f, raw, since, asOf, false, known)
	return e, raw, err
}

// use makes an entry of a record that is fresh, or stale and not past its end, and fills L1 with it; judged means that the
// server has said by its own clock that it is fresh. The error tells records that are of no use to us, errUnreadable and
// errOther, from those that are stubs, past their time, or not there; and errOutdated and errUndone.
func (c *core) use(
	f *flight, raw []byte, since epoch, asOf uint64, judged bool, known *barriers,
) (*entry, error) {
	switch {
	case len(raw) == 0:
		return nil, nil
	case c.undone.has(f.key):
		return nil, errUndone
	}
	h, payload, err := c.coder.header(f.full, raw)
	if err != nil {
		if errors.Is(err, errUnreadable) {
			c.stats.unreadable.Add(1)
		}
		return nil, err
	}
	cost := early.Cost{Mean: h.Cost, Deviation: h.Deviation}
	if cost != (early.Cost{}) {
		f.known = cost
	}
	if h.State == record.Stub {
		return nil, nil
	}
	// The end of what has a time after its TTL, or is kept for a refresh, is not seen by its being gone.
	outlives := h.StaleUntil > h.FreshUntil || h.Lease.Owner != (record.Owner{})
	if c.redis.clock.old() {
		c.redis.askTime(f.ctx)
	}
	first, late, timed := c.redis.clock.now()
	if !timed && outlives && !judged && c.redis.learnTime(f.ctx) == nil {
		first, late, timed = c.redis.clock.now()
	}
	x := new(struct {
		entry
		result
	})
	e := &x.entry
	*e = entry{
		id: h.ID, fence: h.Fence, cost: cost, at: time.Now(), failures: h.Lease.Failures,
		left: time.Duration(h.FreshUntil-late) * time.Microsecond,
	}
	switch {
	case judged:
		e.fresh = true
	case !timed && outlives:
		return nil, nil // ACQUIRE knows
	case !timed, e.left > 0, !outlives && first < h.FreshUntil: // Redis, which counts in milliseconds, has not ended it yet
		e.fresh = true
	case h.StaleUntil <= late:
		return nil, nil
	}
	e.res = &x.result
	*e.res = result{negative: h.State == record.Negative, stale: !e.fresh, asOf: asOf, began: f.since}
	if h.Tagged {
		if e.res.tags, err = c.coder.tags(&h, payload); err != nil {
			c.stats.unreadable.Add(1)
			return nil, err
		}
		old, err := c.outdated(f.ctx, h.Stamp, e.res.tags, known)
		if err != nil {
			c.stats.redisErrors.Add(1)
			return nil, err
		}
		if old {
			return nil, errOutdated
		}
	}
	if e.res.value, err = c.coder.value(f.full, &h, payload); err != nil {
		c.stats.unreadable.Add(1)
		return nil, err
	}
	if !timed { // nobody knows when it is due
		e.due = time.Hour
		return e, nil
	}
	c.schedule(e, &h, late)
	c.keep(f, since, e, int(h.RawLen))
	return e, nil
}

// schedule tells when an entry is to be loaded anew.
func (c *core) schedule(e *entry, h *record.Header, now int64) {
	e.due = e.left
	if !e.res.negative {
		ttl := time.Duration(h.FreshUntil-cmp.Or(h.Fence, h.Stamp)) * time.Microsecond // without scripts there is no fence
		e.due -= c.ahead(e.id, max(ttl-e.cost.Mean, 0), e.cost)                        // which were taken before the load
	}
	rest := time.Duration(h.Lease.Until-now) * time.Microsecond
	inForce := rest > 0 && rest <= h.Lease.Duration // not if the clock was set back
	switch {
	case h.Lease.Owner != (record.Owner{}):
		e.leased, e.held = inForce || h.Lease.Until == 0, h.Lease.Duration-rest
	case inForce:
		e.pause, e.failures = rest, max(e.failures, 1)
	}
}

// replaceable reports whether err says that an entry is of no use to us, and ours to replace.
func replaceable(err error) bool { return errors.Is(err, errUnreadable) || errors.Is(err, errOutdated) }

func idOf(raw []byte) record.Owner {
	h, _, _ := record.Open(raw)
	return h.ID
}

// peek returns what is cached, in memory or in Redis, and can be served, or nil.
func (c *core) peek(ctx context.Context, key string, co callOptions) (*result, error) {
	if res := c.fromMemory(ctx, key, co, nil); res != nil {
		return res, nil
	}
	if c.redis == nil || len(key) > MaxKeyBytes || c.undone.has(key) || ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var res *result
	err := c.detached(ctx, func(ctx context.Context) error {
		f := &flight{order: &order{c: c, co: co}, flightID: flightID{key, co.kind()}, ctx: ctx}
		f.name()
		res = c.peekInRedis(f)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// peekMany is what peek does after memory, for several keys. results are complete only if it returns nil.
func (c *core) peekMany(ctx context.Context, keys []string, co callOptions, results []*result) error {
	if c.redis == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	return c.detached(ctx, func(ctx context.Context) error {
		b := c.newBatch(ctx, co, nil)
		defer b.cancel(nil)
		for i, key := range keys {
			if len(key) <= MaxKeyBytes && !c.undone.has(key) {
				b.add(flightID{key, co.kind()}).seq = uint64(i)
			}
		}
		var all sync.WaitGroup
		all.Add(len(b.flights))
		b.each(b.flights, func(f *flight) {
			defer all.Done()
			results[f.seq] = c.peekInRedis(f)
		})
		all.Wait()
		return nil
	})
}

func (c *core) peekInRedis(f *flight) *result {
	e, _, err := c.read(f)
	switch {
	case e != nil:
		c.hitInRedis(f, e.res)
	case err != nil && c.redis.cutOff():
		e = c.kept(f.key)
	}
	if e != nil && c.serves(e, f.kind) {
		return e.res
	}
	return nil
}
