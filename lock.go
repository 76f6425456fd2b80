package cache

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/bellwether-go/cache/internal/early"
	"github.com/bellwether-go/cache/internal/record"
)

// The lease. Before a process computes a value that others may be computing as well, it writes a stub under the
// value's own key, or, if there is an entry already, its name into the entry's header. That is the check-and-set by
// random token of the Redlock discussion (http://antirez.com/news/101, point 3) with the cache entry as the protected
// resource, and the lease of "Scaling Memcache at Facebook" (NSDI 2013, section 3.2.1): whoever deletes the key
// revokes the lease with it, and a value is stored only while the lease is still its owner's. It saves work; nothing
// depends on it. Whatever goes wrong with it, the loader runs.

// store is what the lease needs of Redis, one method a verb. Errors mean that there was no answer: the verb may have
// been executed, or may be later.
type store interface {
	// read returns the record under key, or nothing; limit+1 bytes of one that is longer than limit.
	read(ctx context.Context, key string, limit int) ([]byte, error)
	// readAll is read for several keys, in one round trip, with an error for each of them.
	readAll(ctx context.Context, keys []string, limit int) ([][]byte, []error)
	// begin is read without waiting: rd.done is closed in the end, and then rd.answer has what was read.
	begin(rd *reading)
	readWith(ctx context.Context, key string, limit int, name string, tags []string) (raw []byte, barrier int64, err error)
	acquire(ctx context.Context, a acquireArgs) (acquired, error)
	commit(ctx context.Context, c commitArgs) (committed, error)
	// abort and renew report whether the lease was this owner's. Fence 0 in abort stands for any. pause: see there.
	abort(ctx context.Context, key string, owner record.Owner, fence int64, pause time.Duration) (bool, error)
	renew(ctx context.Context, key string, owner record.Owner, fence int64, lease, life time.Duration) (bool, error)
	delete(ctx context.Context, keys []string) error
	tell(ctx context.Context, events []byte) error // the other processes
	// trip sends what members of a batch have met for, in one round trip.
	trip(ctx context.Context, requests []any)
	// stamp, barrier and invalidate are about the tags of a cache of that name.
	stamp(ctx context.Context, name string, life time.Duration) (int64, error)
	barrier(ctx context.Context, name string, tags []string) (int64, error)
	barriers(ctx context.Context, name string, tags []string) ([]int64, error)
	invalidate(ctx context.Context, name string, tags []string, life time.Duration) error
	permits(ctx context.Context, a permitArgs) (permitted, error)
}

type acquireArgs struct {
	key         string
	owner, seen record.Owner // seen: the entry that is to be refreshed
	broken      string       // the checksum of a record that cannot be read
	lease, life time.Duration
	coder       *coder
	cost        early.Cost // of earlier loads
	force       bool
	patience    time.Duration // take over a lease that is held for longer; 0: none
	serving     bool          // there is something to serve, so that a failed mark counts
	quiet       bool          // nobody waits: do not wake this process
}

type outcome int

const (
	hit   outcome = iota + 1
	won           // the lease is ours
	busy          // it is another's
	later         // a failed mark is in force
	other         // the entry is not for us, nor ours to replace
)

type acquired struct {
	outcome  outcome
	now      int64        // of the server, us
	received time.Time    // when we learned it
	record   []byte       // hit
	fence    int64        // won; busy: the holder's
	stays    record.Owner // won: the entry that is there meanwhile
	holder   record.Owner
	left     time.Duration // busy: of the holder's lease
	wakes    bool          // busy: the holder has been asked to wake this process
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
	pollFirst    = 5 * time.Millisecond // without wake-ups
	pollMost     = 250 * time.Millisecond
	lookSoon     = 5 * time.Millisecond // at least, between two looks at a lease that ends
	lookTogether = 8 * lookSoon         // what is waited for longer than eight times that, those of a batch look at at the same time
	wakeBytes    = 4 << 10              // largest record sent along with a wake-up
	unreadable   = 3                    // entries in a row that ACQUIRE calls usable and we cannot read
	stuck        = 10                   // times what a load takes at most, usually: then another process takes over
)

// recordLife is the TTL of a record that holds a lease.
func (c *core) recordLife() time.Duration {
	return max(10*c.opts.Lease, c.opts.LoadTimeout+c.opts.Lease)
}

// shared is the way of a flight through Redis: read, else acquire, else wait for whoever acquired.
func (c *core) shared(f *flight) *result {
	res, raw, err := c.firstLook(f)
	if res != nil {
		return res
	}
	return c.lease(f, raw, err)
}

// firstLook is look, unless the entry has been looked at.
func (c *core) firstLook(f *flight) (res *result, raw []byte, err error) {
	if c.undone.has(f.key) {
		c.missed(f, undeleted)
		return nil, nil, errUndone
	}
	c.reckon(f)
	if found := f.found; found != nil && found.looked {
		f.found = nil
		return nil, found.raw, found.err
	}
	if f.prev == nil {
		if res, raw, err = c.look(f); res != nil {
			c.hitInRedis(f, res)
		} else {
			c.missed(f, whyMissed(raw, err))
		}
	}
	return res, raw, err
}

// lease is what a flight does that has found nothing of use in Redis, but this.
func (c *core) lease(f *flight, raw []byte, err error) *result {
	var res *result
	if err != nil && !replaceable(err) {
		return c.loadAlone(f, err)
	}
	if res := c.failing(f); res != nil {
		return res
	}

	if f.kind == strict { // younger flights wait for older ones, never the other way
		other := c.flights.find(flightID{f.key, unasked})
		if other != nil && other.seq < f.seq && c.await(f, other) {
			if res, raw, err = c.look(f); res != nil {
				return res
			}
		}
	}

	// From here on wake-ups are kept for us: the holder may be done before its name has reached us.
	w := c.redis.waiters.register(f.full)
	defer c.redis.waiters.unregister(w)
	a := acquireArgs{
		key: f.full, owner: c.redis.newOwner(), lease: c.opts.Lease, life: c.recordLife(), coder: c.coder,
		quiet: f.kind == unasked,
	}
	patience := c.local.started.Add(time.Duration(f.until))
	wait := waiting{w: w, patience: patience}
	defer c.waits.end(f)
	for tries := 0; ; {
		switch {
		case errors.Is(err, errUnreadable):
			a.broken = record.Sum(raw)
		case errors.Is(err, errOutdated):
			a.seen = idOf(raw)
		case f.prev != nil:
			a.seen = f.prev.id
		}
		a.cost, a.patience, a.serving = f.known, c.patience(f), f.kind == unasked || c.mayServe(f)
		if res := c.flights.enter(f, func() *result {
			res, _, _ := c.look(f)
			return res
		}); res != nil {
			return res
		}
		if c.undone.has(f.key) {
			f.leave()
			return c.loadAlone(f, errUndone)
		}
		since, asOf, sent := c.local.epoch(f.key), c.ticks.Add(1), time.Now()
		got, failed := c.store.acquire(f.ctx, a)
		c.reckon(f)
		if failed == nil && got.outcome == hit {
			var e *entry
			raw = got.record
			if e, err = c.use(f, raw, since, asOf, true, nil); e != nil {
				if res := c.settle(f, e); res != nil {
					c.hitInRedis(f, res)
					return res
				}
			}
			if errors.Is(err, errUndone) {
				f.leave()
				return c.loadAlone(f, err)
			}
			if (e != nil || errors.Is(err, errOutdated)) && time.Now().Before(patience) {
				f.leave()
				continue
			}
			failed = errReply
		}
		if errors.Is(failed, errReply) {
			if tries++; tries < unreadable { // the same owner may ask again
				f.leave()
				continue
			}
		}
		switch {
		case failed != nil:
			c.stats.redisErrors.Add(1)
			// It may have been executed, or may be: whoever comes next need not wait for the lease to end.
			c.redis.disown(f.aside(), f.full, a.owner)
			f.leave()
			return c.loadAlone(f, failed)
		case got.outcome == other:
			f.leave()
			return c.loadAlone(f, errOther)
		case got.outcome == won:
			how := LeaseEvent{What: "won", Fence: got.fence}
			if wait.began {
				c.stats.takeovers.Add(1)
				how.What, how.Took = "taken over", time.Since(wait.since)
			}
			c.waits.end(f)
			c.tellLease(f, how, a.owner)
			if f.prev != nil && f.prev.id != got.stays { // deleted since it was read
				f.prev = nil
			}
			if res := c.loadLeased(f, since, asOf, sent, a, got); res != nil {
				return res
			}
			a.owner = c.redis.newOwner()
			continue
		}
		f.leave()
		switch {
		case f.kind == unasked: // somebody is at it, or has failed a moment ago
			c.local.rearm(f.key, pollMost)
			return &result{}
		case got.outcome == later: // somebody has tried since we looked; if there is nothing to serve now, we try
			res, raw, err = c.look(f)
		default:
			if !wait.began {
				wait.began, wait.since = true, time.Now()
				c.stats.waits.Add(1)
			}
			c.redis.meet(processOf(got.holder))
			c.waits.begin(f, got.holder)
			c.tellLease(f, LeaseEvent{What: "waits", Fence: got.fence}, got.holder)
			res, raw, err = c.wait(f, &wait, got, since, asOf)
			if res != nil {
				c.tellLease(f, LeaseEvent{What: wait.ended(), Took: time.Since(wait.since), Latency: wait.latency, Fence: got.fence}, got.holder)
			}
		}
		switch {
		case res != nil:
			return res
		case f.ctx.Err() != nil:
			return &result{err: context.Cause(f.ctx)}
		case err != nil && !replaceable(err) || !time.Now().Before(patience):
			c.stats.waitTimeouts.Add(1)
			c.tellLease(f, LeaseEvent{What: "gave up", Took: time.Since(wait.since), Fence: got.fence}, got.holder)
			return c.loadAlone(f, err)
		}
		// An attempt that was told BUSY holds nothing; a new one has a name of its own.
		a.owner = c.redis.newOwner()
	}
}

// loadLeased loads under the lease, renews it meanwhile, and stores the value. It returns nothing if the lease was lost
// before the load has begun. asOf and sent were taken before the ACQUIRE that won.
func (c *core) loadLeased(f *flight, since epoch, asOf uint64, sent time.Time, a acquireArgs, got acquired) *result {
	stamp, err := c.stampFor(f.ctx, f.co.ttl)
	if err != nil {
		c.stats.redisErrors.Add(1)
		_, _ = c.abort(f, a.owner, got.fence, 0)
		f.leave()
		return c.loadAlone(f, noBarriersError{err})
	}
	c.stats.leases.Add(1)
	c.redis.introduce()
	f.lease = &tenure{c: c, f: f, args: a, fence: got.fence, until: sent.Add(a.lease)}
	res := c.takeLock(f)
	defer f.lock.release()
	if res == nil {
		res = c.load(f)
	}
	if res.unbegun && errors.Is(res.err, ErrLeaseLost) {
		f.lease = nil
		f.leave()
		return nil
	}
	over := func(what string) {
		c.tellLease(f, LeaseEvent{What: what, Took: time.Since(sent), Fence: got.fence}, a.owner)
	}
	if res.failed() {
		over("released")
		pause := c.failed(f, res)
		later := c.ticks.Add(1)
		if mine, _ := c.abort(f, a.owner, got.fence, pause); mine {
			asOf = later
		}
		if c.opts.Tags { // of their deletion the lease knows nothing
			asOf = 0
		}
		res.instead = c.lastResort(f, asOf)
		return res
	}
	began := res.asOf
	l := c.lifetime(f, res)
	if l.whole() > max(f.co.ttl, c.opts.TTL)+c.longestStale() { // the barriers have to be there as long
		if _, err := c.stampFor(f.ctx, l.fresh); err != nil {
			res.unfit = true
		}
	}
	encoded := false
	defer func() {
		if !encoded { // the Codec has ended this goroutine
			_, _ = c.abort(f, a.owner, got.fence, 0)
		}
	}()
	payload, ok := c.encode(res, l)
	encoded = true
	if !ok {
		over("released")
		c.outcomes.becomes(f.key, "not stored")
		asOf, pause := c.ticks.Add(1), time.Duration(0)
		if res.noStore {
			pause = drop
		}
		if mine, err := c.abort(f, a.owner, got.fence, pause); mine || err != nil && c.redis.cutOff() {
			if mine {
				res.asOf = asOf
			}
			if c.stillValid(f, stamp, res, began) {
				c.fill(f, since, res, -1, l, a.owner)
			}
		}
		return res
	}
	cost := f.known.After(res.took)
	rec := c.coder.seal(f.full, life{
		owner: a.owner, fence: got.fence, stamp: cmp.Or(stamp, got.now), tags: res.tags,
		freshUntil: got.serverTime() + l.fresh.Microseconds(), stale: l.stale, cost: cost, negative: res.negative,
	}, payload)
	asOf = c.ticks.Add(1)
	outcome, err := c.store.commit(f.ctx, commitArgs{
		key: f.full, owner: a.owner, fence: got.fence, record: rec, life: l.whole(),
	})
	keep, what := true, "stored"
	switch {
	case err != nil:
		what = "unconfirmed"
		c.stats.redisErrors.Add(1)
		keep = c.redis.cutOff()
		if silence(err) == nil { // it was refused: nobody need wait for the end of the lease, and if it is ours still
			if mine, _ := c.abort(f, a.owner, got.fence, 0); mine { // nothing was deleted meanwhile
				res.asOf, keep = asOf, true
			}
		}
	case outcome == stored:
		res.asOf = asOf
	case outcome == refused: // the lease was ours until then, so nothing was deleted meanwhile
		what = "released"
		c.stats.uncached.Add(1)
		res.asOf = asOf
	default:
		what = "rejected"
		c.stats.rejected.Add(1)
		if outcome == taken {
			c.stats.duplicated.Add(1)
		}
		keep = false
	}
	over(what)
	c.outcomes.becomes(f.key, what)
	if c.stillValid(f, stamp, res, began) && keep {
		c.fill(f, since, res, len(payload), l, a.owner)
	}
	return res
}

// loadAlone loads without a lease: its value is not stored in Redis, for nothing tells whether it is older than a
// deletion. While Redis is out of reach, or refuses, this process is a memory cache; but after a command without an
// answer it does not remember the value, for deletions by others may have been missed as well.
func (c *core) loadAlone(f *flight, why error) *result {
	if f.prev == nil {
		if f.prev = c.kept(f.key); f.prev != nil && f.kind == ordinary && c.serves(f.prev, ordinary) {
			if !f.prev.fresh { // otherwise a hit refreshes it, when it is due
				c.refreshFor(f, due{key: f.key, aged: f.prev.aged})
			}
			return f.prev.res
		}
	}
	if res := c.enterAlone(f); res != nil {
		return res
	}
	if res := c.failing(f); res != nil {
		return res
	}
	f.lease = nil
	res := c.takeLock(f)
	defer f.lock.release()
	if res != nil {
		if errors.Is(res.err, errAnswers) {
			f.leave()
			return c.shared(f)
		}
		return res
	}
	c.stats.unleased.Add(1)
	c.tellLease(f, LeaseEvent{What: "none"}, record.Owner{})
	if errors.Is(why, errOther) {
		c.stats.others.Add(1)
	}
	since := c.local.epoch(f.key)
	res = c.loadUnleased(f)
	if res.failed() {
		return res
	}
	var noBarriers noBarriersError
	if c.redis.cutOff() || errors.As(why, &noBarriers) && c.redis.stream.up.Load() || silence(why) == nil || errors.Is(why, errOther) || errors.Is(why, errRedisClosed) ||
		errors.Is(why, errUndone) {
		c.fill(f, since, res, -1, c.lifetime(f, res), record.Owner{})
	}
	return res
}

// drop is the pause for ABORT after a load that has told that the value which is there is none any more.
const drop = -time.Microsecond

// abort gives the lease back, and reports whether it was still ours.
func (c *core) abort(f *flight, owner record.Owner, fence int64, pause time.Duration) (bool, error) {
	mine, err := c.store.abort(f.ctx, f.full, owner, fence, pause)
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
		_, _ = r.store.abort(ctx, key, owner, 0, 0)
	}()
}

func newOwner() (o record.Owner) {
	_, _ = rand.Read(o[:]) // never fails
	return o
}
