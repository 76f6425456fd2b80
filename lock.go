package cache

import (
	"context"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"time"

	"github.com/bellwether-go/cache/internal/record"
)

// The lease. Before a process computes a value that others may be computing as well, it writes a stub under the value's
// own key, or, if there is an entry already, its name into the entry's header. That is the check-and-set by random token
// of the Redlock discussion (http://antirez.com/news/101, point 3) with the cache entry as the protected resource, and the lease of
// "Scaling Memcache at Facebook" (NSDI 2013, section 3.2.1): whoever deletes the key revokes the lease with it, and a
// value is stored only while the lease is still its owner's. It saves work; nothing depends on it. Whatever goes wrong with it, the loader runs.

// store is what the lease needs of Redis, one method a verb. Errors mean that there was no answer: the verb may have
// been executed, or may be later.
type store interface {
	// read returns the record under key, or nothing; limit+1 bytes of one that is longer than limit.
	read(ctx context.Context, key string, limit int) ([]byte, error)
	acquire(ctx context.Context, a acquireArgs) (acquired, error)
	commit(ctx context.Context, c commitArgs) (committed, error)
	// abort and renew report whether the lease was this owner's. Fence 0 in abort stands for any.
	abort(ctx context.Context, key string, owner record.Owner, fence int64) (bool, error)
	renew(ctx context.Context, key string, owner record.Owner, fence int64, lease, life time.Duration) (bool, error)
	delete(ctx context.Context, keys []string) error
	announce(ctx context.Context, key string) error
}

type acquireArgs struct {
	key         string
	owner, seen record.Owner // seen: the entry that was found and cannot be used
	lease, life time.Duration
	coder       *coder
	force       bool
}

type outcome int

const (
	hit   outcome = iota + 1
	won           // the lease is ours
	busy          // it is another's
	other         // the entry is not for us, nor ours to replace
)

type acquired struct {
	outcome  outcome
	now      int64     // of the server, us
	received time.Time // when we learned it
	record   []byte    // hit
	fence    int64     // won
	holder   record.Owner
	left     time.Duration // busy: of the holder's lease
	wakes    bool          // busy: the holder has been asked to wake us
}

// serverTime is the server's time by this answer, rather early than late.
func (a *acquired) serverTime() int64 { return a.now + time.Since(a.received).Microseconds() }

type commitArgs struct {
	key    string
	owner  record.Owner
	fence  int64
	record []byte
	life   time.Duration
}

type committed int

const (
	stored  committed = iota + 1
	taken             // another owner was there since
	missing           // deleted or lost since
	refused           // the lease was ours until the server refused the value
)

const (
	pollFirst  = 5 * time.Millisecond // without wake-ups
	pollMost   = 250 * time.Millisecond
	lookSoon   = 5 * time.Millisecond // at least, between two looks at a lease that ends
	wakeBytes  = 4 << 10              // largest record sent along with a wake-up
	unreadable = 3                    // entries in a row that ACQUIRE calls usable and we cannot read
)

// recordLife is the TTL of a record that holds a lease.
func (c *core) recordLife() time.Duration {
	return max(10*c.opts.Lease, c.opts.LoadTimeout+c.opts.Lease)
}

// shared is the way of a flight through Redis: read, else acquire, else wait for whoever acquired.
func (c *core) shared(f *flight) *result {
	since := c.local.epoch(f.key)
	raw, err := c.store.read(f.ctx, f.full, c.coder.maxRecord())
	if err != nil {
		c.stats.redisErrors.Add(1)
		return c.loadAlone(f)
	}
	res, seen, err := c.use(f, raw, since, true)
	if res != nil {
		c.stats.redisHits.Add(1)
		return res
	}
	if errors.Is(err, errOther) {
		c.stats.others.Add(1)
		return c.loadAlone(f)
	}

	// From here on wake-ups are kept for us: the holder may be done before its name has reached us.
	w := c.redis.waiters.register(f.full)
	defer c.redis.waiters.unregister(w)
	a := acquireArgs{
		key: f.full, owner: newOwner(), seen: seen, lease: c.opts.Lease, life: c.recordLife(), coder: c.coder,
	}
	patience := time.Now().Add(c.opts.LoadTimeout + c.opts.Lease)
	waited := false
	for tries := 0; ; {
		since = c.local.epoch(f.key)
		leave, err := c.flights.enter(f)
		if err != nil {
			return &result{err: err, confirmed: true}
		}
		got, err := c.store.acquire(f.ctx, a)
		if err == nil && got.outcome == hit {
			if res, a.seen, err = c.use(f, got.record, since, false); res != nil {
				leave()
				c.stats.redisHits.Add(1)
				return res
			}
			if tries++; !errors.Is(err, errOther) && tries < unreadable {
				leave()
				continue
			}
			err = errReply
		}
		switch {
		case err != nil || got.outcome == other:
			if err != nil {
				c.stats.redisErrors.Add(1)
				// It may have been executed, or may be: whoever comes next need not wait for the lease to end.
				c.redis.disown(f.ctx, f.full, a.owner)
			} else {
				c.stats.others.Add(1)
			}
			leave()
			return c.loadAlone(f)
		case got.outcome == won:
			if waited {
				c.stats.takeovers.Add(1)
			}
			res := c.loadLeased(f, since, a, got)
			leave()
			return res
		}
		leave()
		if !waited {
			waited = true
			c.stats.waits.Add(1)
		}
		res, err := c.wait(f, w, a, got, since, patience)
		switch {
		case res != nil:
			return res
		case f.ctx.Err() != nil:
			return &result{err: context.Cause(f.ctx), confirmed: true}
		case err != nil || !time.Now().Before(patience):
			c.stats.waitTimeouts.Add(1)
			return c.loadAlone(f)
		}
		// An attempt that was told BUSY holds nothing; a new one has a name of its own.
		a.owner = newOwner()
	}
}

// use makes a result of a record that is fresh, and fills L1 with it. Without one, seen is the id of the entry that
// was found and is of no use.
func (c *core) use(f *flight, raw []byte, since epoch, judge bool) (res *result, seen record.Owner, err error) {
	if len(raw) == 0 {
		return nil, seen, nil
	}
	h, payload, err := c.coder.header(f.full, raw)
	if err != nil {
		if !errors.Is(err, errOther) {
			c.stats.unreadable.Add(1)
		}
		return nil, record.ID(raw), err
	}
	if h.State == record.Stub {
		return nil, seen, nil
	}
	now, known := c.redis.clock.now()
	left := time.Duration(h.FreshUntil-now) * time.Microsecond
	if judge && known && left <= 0 {
		return nil, seen, nil // kept beyond its time for a refresh; or our estimate errs, and ACQUIRE says so
	}
	res = &result{negative: h.State == record.Negative, confirmed: true}
	if !res.negative {
		if res.value, err = c.coder.value(&h, payload); err != nil {
			c.stats.unreadable.Add(1)
			return nil, h.ID, err
		}
	}
	if known {
		c.local.fill(f.key, since, res.value, res.negative, len(payload), min(left, c.opts.LocalTTL))
	} else {
		c.redis.askTime(f.ctx)
	}
	return res, seen, nil
}

// wait waits for the holder's value: woken, or by looking. It returns a result, or nothing if the lease may be free, or
// an error if Redis does not answer. since was taken before the ACQUIRE that named the holder.
func (c *core) wait(
	f *flight, w *waiter, a acquireArgs, got acquired, since epoch, patience time.Time,
) (*result, error) {
	var poll time.Duration
	ends := time.Now().Add(got.left)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if got.wakes && c.redis.stream.wakes() {
			poll = c.opts.Lease / 2
		} else {
			poll = min(max(2*poll, pollFirst), pollMost)
		}
		next := poll/2 + mathrand.N(poll) // +-50 %
		if rest := time.Until(ends) + mathrand.N(lookSoon); rest < next {
			next = max(rest, lookSoon)
		}
		timer.Reset(max(min(next, time.Until(patience)), 0))
		var news wake
		select {
		case news = <-w.news:
		case <-timer.C:
		case <-f.ctx.Done():
			return nil, nil
		}
		if !time.Now().Before(patience) {
			return nil, nil
		}
		switch {
		case news.kind == wakeAborted && news.owner == got.holder:
			return nil, nil
		case news.kind == wakeCommitted && news.owner == got.holder && len(news.record) > 0:
			if res, _, _ := c.use(f, news.record, since, false); res != nil {
				c.stats.wakes.Add(1)
				return res, nil
			}
		}
		before := c.local.epoch(f.key)
		raw, err := c.store.read(f.ctx, f.full, c.coder.maxRecord())
		c.stats.polls.Add(1)
		if err != nil {
			c.stats.redisErrors.Add(1)
			return nil, err
		}
		if res, _, _ := c.use(f, raw, before, true); res != nil {
			return res, nil
		}
		left, held := c.leaseLeft(f.full, raw, got.holder)
		if !held {
			return nil, nil
		}
		ends = time.Now().Add(left)
	}
}

// leaseLeft returns how long the holder's lease in raw has to go, and whether it is in force.
func (c *core) leaseLeft(key string, raw []byte, holder record.Owner) (time.Duration, bool) {
	h, _, err := c.coder.header(key, raw)
	if err != nil || h.Lease.Owner != holder {
		return 0, false
	}
	if h.Lease.Until == 0 { // written without scripts: it is in force while it is there
		return h.Lease.Duration, true
	}
	now, known := c.redis.clock.now()
	left := time.Duration(h.Lease.Until-now) * time.Microsecond
	return left, known && left > 0 && left <= h.Lease.Duration
}

// loadLeased loads under the lease, renews it meanwhile, and stores the value.
func (c *core) loadLeased(f *flight, since epoch, a acquireArgs, got acquired) *result {
	c.stats.leases.Add(1)
	res := c.load(f, &tenure{c: c, f: f, args: a, fence: got.fence})
	if res.abandoned || res.err != nil && !res.negative {
		c.abort(f, a.owner, got.fence)
		return res
	}
	ttl := c.ttl(f, res)
	payload, ok := c.encode(res, ttl)
	if !ok {
		if mine, err := c.abort(f, a.owner, got.fence); mine || err != nil && c.redis.cutOff() {
			res.confirmed = true
			c.fill(f, since, res, -1, ttl)
		}
		return res
	}
	rec := c.coder.seal(f.full, life{
		owner: a.owner, fence: got.fence, stamp: got.now, freshUntil: got.serverTime() + ttl.Microseconds(),
		cost: res.cost, negative: res.negative,
	}, payload)
	outcome, err := c.store.commit(f.ctx, commitArgs{key: f.full, owner: a.owner, fence: got.fence, record: rec, life: ttl})
	switch {
	case err != nil:
		c.stats.redisErrors.Add(1)
		res.confirmed = c.redis.cutOff()
	case outcome == stored:
		res.confirmed = true
	case outcome == refused: // the lease was ours until then, so nothing was deleted meanwhile
		c.stats.uncached.Add(1)
		res.confirmed = true
	default:
		c.stats.rejected.Add(1)
	}
	if res.confirmed {
		c.fill(f, since, res, len(payload), ttl)
	}
	return res
}

// loadAlone loads without a lease: its value is not stored in Redis, for nothing tells whether it is older than a
// deletion. While Redis does not answer this process is a memory cache.
func (c *core) loadAlone(f *flight) *result {
	leave, err := c.flights.enter(f)
	if err != nil {
		return &result{err: err, confirmed: true}
	}
	defer leave()
	c.stats.unleased.Add(1)
	since := c.local.epoch(f.key)
	res := c.load(f, nil)
	if res.abandoned || res.err != nil && !res.negative {
		return res
	}
	res.confirmed = c.redis.cutOff()
	c.fill(f, since, res, -1, c.ttl(f, res))
	return res
}

// abort gives the lease back, and reports whether it was still ours.
func (c *core) abort(f *flight, owner record.Owner, fence int64) (bool, error) {
	mine, err := c.store.abort(f.ctx, f.full, owner, fence)
	if err != nil {
		c.stats.redisErrors.Add(1)
	}
	return mine, err
}

// disown gives a lease back that may never have been ours, and does not wait for the answer.
func (r *Redis) disown(ctx context.Context, key string, owner record.Owner) {
	if r.cutOff() || !r.begin() {
		return
	}
	go func() {
		defer r.work.Done()
		_, _ = r.store.abort(ctx, key, owner, 0)
	}()
}

// tenure renews a lease while its load runs.
type tenure struct {
	c     *core
	f     *flight
	args  acquireArgs
	fence int64
}

// period is the time between two renewals.
func (t *tenure) period() time.Duration { return max(t.args.lease/3, time.Millisecond) }

// renew reports whether the lease is still ours, or may be. It blocks for at most the budget of a command.
func (t *tenure) renew() bool {
	mine, err := t.c.store.renew(t.f.ctx, t.args.key, t.args.owner, t.fence, t.args.lease, t.args.life)
	if err != nil {
		t.c.stats.redisErrors.Add(1)
		return true
	}
	return mine
}

func newOwner() (o record.Owner) {
	_, _ = rand.Read(o[:]) // never fails
	return o
}
