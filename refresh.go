package cache

import (
	"context"
	"slices"
	"time"
)

// Loads that nobody waits for. They run in flights of their own kind, of which a key has one at a time in each process,
// and end with Close.

// mostRefreshes is how many of them run at a time in a cache. What is due beyond that stays due.
const mostRefreshes = 100

// soon is what starts one on the path of a hit. A go statement would wake another thread, which takes longer than to answer; a
// timer that is not the next one to fire wakes nobody.
func soon(f func()) { time.AfterFunc(time.Millisecond, f) }

// refreshSoon is refresh on the path of a hit.
func (c *core) refreshSoon(ctx context.Context, d due, co callOptions, loader anyLoader) {
	if c.flights.begin() {
		c.soon(func() {
			defer c.flights.running.Done()
			c.refresh(ctx, d, co, loader)
		})
	}
}

// refresh starts one, unless there is one, or there are too many, or the last load failed a moment ago.
func (c *core) refresh(ctx context.Context, d due, co callOptions, loader anyLoader) {
	id := flightID{d.key, unasked}
	if co.ttl < 0 || c.flights.find(id) != nil { // what is not to be stored is of no use
		return
	}
	if _, failed := c.failures.last(d.key); failed {
		c.local.rearm(d.key, pollMost)
		return
	}
	if c.refreshing.Add(1) > mostRefreshes {
		c.refreshing.Add(-1)
		c.stats.refreshesSkipped.Add(1)
		c.local.rearm(d.key, pollMost)
		return
	}
	f := c.newFlight(ctx, id, co, loader)
	f.prev, f.aged = d.prev, d.aged
	if !c.flights.start(f, func(f *flight) *result {
		defer c.refreshing.Add(-1)
		return c.run(f)
	}) {
		c.refreshing.Add(-1)
		return
	}
	c.stats.refreshes.Add(1)
}

// refreshMany is refresh for several keys, which one call of the loader is for.
func (c *core) refreshMany(ctx context.Context, keys []due, co callOptions, load batchLoad) {
	if co.ttl < 0 {
		return
	}
	for part := range slices.Chunk(keys, c.opts.MaxBatchKeys) {
		c.refreshPart(ctx, part, co, load)
	}
}

func (c *core) refreshPart(ctx context.Context, part []due, co callOptions, load batchLoad) {
	full := c.refreshing.Add(1) > mostRefreshes
	var keys []string
	dues := make(map[string]due)
	for _, d := range part {
		if _, failed := c.failures.last(d.key); failed || full {
			c.local.rearm(d.key, pollMost)
			continue
		}
		keys = append(keys, d.key)
		dues[d.key] = d
	}
	b := c.newBatch(ctx, co, load)
	if full {
		c.stats.refreshesSkipped.Add(uint64(len(part)))
	} else {
		c.flights.startAll(keys, unasked, func(id flightID) *flight {
			f := b.add(id)
			f.prev, f.aged = dues[id.key].prev, dues[id.key].aged
			return f
		})
	}
	if len(b.flights) == 0 {
		c.refreshing.Add(-1)
		b.cancel(nil)
		return
	}
	c.stats.refreshes.Add(uint64(len(b.flights)))
	b.landed = func() { c.refreshing.Add(-1) }
	b.start()
}

// refreshFor refreshes what a flight has found, with its loader.
func (c *core) refreshFor(f *flight, d due) {
	if f.batch != nil {
		f.batch.refresh(d)
		return
	}
	c.refresh(f.ctx, d, f.co, f.loader)
}

// await waits for a flight that brings what f is for, as long as f waits for others, and reports whether it has landed.
func (c *core) await(f, other *flight) bool {
	timer := time.NewTimer(time.Duration(f.until - c.local.now()))
	defer timer.Stop()
	f.away()
	defer f.back()
	select {
	case <-other.landed:
		return other.over.Load()
	case <-timer.C:
	case <-f.ctx.Done():
	}
	return false
}

// failed reports whether the loader has brought neither a value nor the news that there is none.
func (res *result) failed() bool { return res.abandoned || res.err != nil && !res.negative }

// failed remembers that a load has failed, and returns the pause that ABORT is to be told.
func (c *core) failed(f *flight, res *result) time.Duration {
	switch {
	case f.ctx.Err() != nil, res.unbegun: // it was cancelled
		return 0
	case isNotFound(res.err): // which is not to be remembered
		c.local.drop(f.key)
		f.prev = nil
		return drop
	}
	pause := pollMost
	if c.opts.Backoff > 0 && len(f.key) <= MaxKeyBytes {
		pause = c.failures.note(f.key, res.err, c.opts.Backoff)
	}
	if f.kind == unasked {
		c.local.rearm(f.key, pause)
	}
	return max(c.opts.Backoff, 0)
}

// loadUnleased loads without a lease, of which there is nothing to give back if that fails.
func (c *core) loadUnleased(f *flight) *result {
	f.lease = nil
	return c.loadedUnleased(f, c.load(f))
}

func (c *core) loadedUnleased(f *flight, res *result) *result {
	if res.failed() {
		_ = c.failed(f, res)
		res.instead = c.lastResort(f, 0)
	}
	return res
}

// failing is the result of a flight whose load would come too soon after one that failed; nil if it would not.
func (c *core) failing(f *flight) *result {
	err, failed := c.failures.last(f.key)
	if !failed || f.kind == forced {
		return nil
	}
	if f.kind == unasked {
		return &result{}
	}
	res := c.lastResort(f, 0)
	if res == nil && err != nil {
		res = &result{err: err}
	}
	if res != nil {
		c.stats.postponed.Add(1)
	}
	return res
}
