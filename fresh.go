package cache

import (
	"cmp"
	"encoding/binary"
	"math/rand/v2"
	"time"

	"github.com/bellwether-go/cache/internal/early"
	"github.com/bellwether-go/cache/internal/record"
)

// Freshness. A value is fresh for its TTL, less a random share of it (jitter), so that what was stored together does not
// expire together. A little before its end one process loads it anew in the background (early refresh, see
// internal/early). After its end it may be served stale, as in RFC 5861: while somebody loads it anew
// (stale-while-revalidate), or if the load fails (stale-if-error). A failed load leaves a mark on the value, so that the
// fleet tries at growing intervals and not at each call.

// entry is a value that was found, in Redis or in memory, whatever its age.
type entry struct {
	res      *result
	id       record.Owner // in Redis
	fence    int64
	cost     early.Cost
	at       time.Time     // when the rest was true
	left     time.Duration // of its TTL; negative: how long it has been over
	fresh    bool          // it was
	due      time.Duration // until it is to be refreshed early
	leased   bool          // somebody is loading it anew
	held     time.Duration // ... for so long, or since a renewal
	pause    time.Duration // until it may be loaded anew, after a failure
	failures int
	aged     *localEntry // in memory
}

// age is how long the entry has been stale, negative while it is fresh.
func (e *entry) age() time.Duration { return time.Since(e.at) - e.left }

// lifetime is how long a value is fresh and how long it may be served stale after that.
type lifetime struct{ fresh, stale time.Duration }

func (l lifetime) whole() time.Duration { return l.fresh + l.stale }

// stored reports whether it is to be stored at all.
func (l lifetime) stored() bool { return l.fresh > 0 }

// lifetime of a result that was loaded, jitter drawn.
func (c *core) lifetime(f *flight, res *result) lifetime {
	var l lifetime
	switch {
	case res.noStore:
		return lifetime{fresh: -1}
	case res.negative:
		l.fresh = cmp.Or(res.ttl, c.opts.NegativeTTL)
	default:
		l.fresh = cmp.Or(res.ttl, f.co.ttl, c.opts.TTL)
		l.stale = c.longestStale()
	}
	if c.opts.Jitter > 0 && l.stored() {
		less := time.Duration(float64(l.fresh) * c.opts.Jitter * c.chance(rand.Uint64()))
		l.fresh = max(l.fresh-less, time.Millisecond)
	}
	return l
}

func (c *core) longestStale() time.Duration {
	return max(c.opts.StaleWhileRevalidate, c.opts.StaleIfError, 0)
}

// permits reports whether a value may be served that has been stale for that long; failed: the last load of it failed.
func (c *core) permits(age time.Duration, failed bool) bool { return age < c.staleFor(failed) }

// staleFor is how long after its TTL a value may be served.
func (c *core) staleFor(failed bool) time.Duration {
	if failed {
		return c.longestStale()
	}
	return max(c.opts.StaleWhileRevalidate, 0)
}

// chance is 53 bits of u as a number in [0, 1).
func chance(u uint64) float64 { return float64(u>>11) / (1 << 53) }

// ahead is how long before its end an entry is to be refreshed. For each stored value a process draws once, however often
// it reads it: the draw is a function of its id.
func (c *core) ahead(id record.Owner, ttl time.Duration, cost early.Cost) time.Duration {
	if c.opts.EarlyRefresh < 0 {
		return 0
	}
	var u uint64
	if id == (record.Owner{}) { // it is in this memory only
		u = rand.Uint64()
	} else {
		u = mix(binary.BigEndian.Uint64(id[8:]) ^ c.draws) // it begins with what all of a process have
	}
	return early.Ahead(ttl, cost, c.opts.EarlyRefresh, c.chance(u))
}

// mix spreads differences over all bits (the finalizer of SplitMix64).
func mix(u uint64) uint64 {
	u = (u ^ u>>30) * 0xbf58476d1ce4e5b9
	u = (u ^ u>>27) * 0x94d049bb133111eb
	return u ^ u>>31
}

// lookAgain is when to look again at an entry that another process is loading anew: when that is likely to be done, and
// then in quarters of the time that it takes.
func (e *entry) lookAgain() time.Duration {
	next := e.cost.Bound() - e.held
	if next <= 0 || !e.leased {
		next = e.cost.Bound() / 4
	}
	return min(max(next, pollFirst), pollMost)
}

// serves reports whether calls of this kind may have the entry.
func (c *core) serves(e *entry, k kind) bool {
	return e.fresh || k == ordinary && !e.res.negative && c.permits(e.age(), e.failures > 0)
}

// settle makes the result of a flight of what it has found in Redis, nil being nothing; or returns nil, and keeps what was
// found for the load. What is to be loaded anew is, in the background.
func (c *core) settle(f *flight, e *entry) *result {
	f.prev = e
	if e == nil {
		return nil
	}
	idle := !e.leased && e.pause <= 0
	old := !e.fresh || e.due <= 0
	switch f.kind {
	case forced:
		// Fences run ahead of a clock that was set back, and say nothing then.
		if _, now, _ := c.redis.clock.now(); !e.fresh || f.after == 0 || e.fence <= f.after || e.fence > now {
			return nil
		}
	case unasked:
		f.aged = nil // Redis knows better than memory, which has a copy of it now
		if old && idle {
			return nil
		}
	default:
		if !c.serves(e, f.kind) {
			return nil
		}
		if old && idle {
			c.refreshFor(f, due{key: f.key, prev: e})
		}
	}
	return e.res
}

// reckon tells a forced flight, once the server's clock is known, which loads by others will do.
func (c *core) reckon(f *flight) {
	if f.kind != forced || f.after > 0 {
		return
	}
	f.since = c.ticks.Add(1)
	if _, late, known := c.redis.clock.now(); known {
		f.after = late
	}
}

// mayServe reports whether a flight has something to serve if its load fails.
func (c *core) mayServe(f *flight) bool {
	e := f.prev
	return e != nil && f.kind == ordinary && !e.res.negative && (e.age() < 0 || c.permits(e.age(), true))
}

// lastResort is what a flight whose load has failed, or would come too soon after one that failed, gives callers that
// take a stale value; nil if there is nothing. asOf is the moment for which it is known to have been there still, 0 if
// that is not known.
func (c *core) lastResort(f *flight, asOf uint64) *result {
	if !c.mayServe(f) {
		return nil
	}
	res := *f.prev.res
	res.stale = f.prev.age() >= 0
	res.asOf = max(res.asOf, asOf)
	return &res
}

// keep fills memory with an entry that was found in Redis.
func (c *core) keep(f *flight, since epoch, e *entry, encoded int) {
	k := filling{
		value: e.res.value, negative: e.res.negative, stale: e.res.stale, tags: e.res.tags, encoded: encoded, cost: e.cost,
		fresh: e.left, keep: c.keepFor(e.res.negative, e.left), serve: e.left, due: e.due, asOf: e.res.asOf,
	}
	next := e.lookAgain()
	switch {
	case !k.stale:
		if e.leased || k.due <= 0 {
			k.due = max(k.due, next)
		}
		k.due = max(k.due, e.pause)
	case c.serves(e, ordinary):
		k.serve = min(max(next, min(e.pause, time.Second)), c.staleFor(e.failures > 0)-e.age())
	default:
		return
	}
	k.serve = min(k.serve, c.opts.LocalTTL)
	c.local.fill(f.key, since, &k)
}

// keepFor is how long an entry may be served from memory at the longest, if it is fresh for that long; 0: while it is fresh.
func (c *core) keepFor(negative bool, fresh time.Duration) time.Duration {
	if negative || c.longestStale() == 0 {
		return 0
	}
	keep := fresh + c.longestStale()
	if c.redis != nil {
		keep = min(keep, c.opts.LocalTTL)
	}
	return keep
}

// kept makes an entry of what is in memory and may be served, now or if a load fails, or nothing.
func (c *core) kept(key string) *entry {
	asOf := c.ticks.Add(1)
	e, value := c.local.find(key)
	if e.localEntry == nil || e.is(negative) {
		return nil
	}
	now, fresh, keep := c.local.now(), e.until, e.until
	if e.more != nil && e.more.keep > e.more.fresh {
		fresh, keep = e.more.fresh, max(e.more.keep, e.until)
	}
	if now >= keep {
		return nil
	}
	old := &entry{
		res: &result{value: value, stale: now >= fresh, asOf: asOf}, cost: e.cost.Unpack(),
		at: time.Now(), left: time.Duration(fresh - now), fresh: now < fresh,
		aged: e.localEntry,
	}
	if c.failures.failing(key) {
		old.failures = 1
	}
	return old
}
