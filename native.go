package cache

import (
	"context"
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/record"
)

// nativeStore has the verbs of a lease in plain commands, for servers that forbid scripts. It collapses loads like
// scripts do, with these differences: a stub expires with its lease, and so carries no deadline; a lease on a value has
// one, by this process's estimate of the server's clock; there is no fence, only the owner; nobody is woken, so waiters
// poll. A change is a WATCH, a bounded read, and a MULTI that fails if
// the record has moved since: a blind SET or PEXPIRE could overwrite what a newer owner stored.
type nativeStore struct{ r *Redis }

const (
	txTries = 3  // of a transaction that lost to another one
	txMost  = 16 // at a time: each has a connection of its own, and a batch has one for each key
)

// decision is what a transaction does about the record it read: write it for ttl; or only its lease, and then lengthen
// its life to ttl, or, with exact, set it; or remove it.
type decision struct {
	act   bool
	write []byte
	lease *record.Lease
	ttl   time.Duration
	exact bool
}

// change reads at most limit bytes of the record under key and does what decide says, if nobody changes it meanwhile.
// What decide returns besides goes the way of a reply: after a time-out it is not there.
func change[T any](
	ctx context.Context, r *Redis, key string, limit int, decide func(raw []byte) (T, decision),
) (T, error) {
	r.transactions <- struct{}{}
	defer func() { <-r.transactions }()
	return call(ctx, r, r.timeout, func(ctx context.Context) (result T, err error) {
		for range txTries {
			err = r.client.Watch(ctx, func(tx *redis.Tx) error {
				raw, err := tx.GetRange(ctx, key, 0, int64(limit)).Bytes()
				if wrongType(err) {
					raw, err = []byte("?"), nil
				}
				if err != nil {
					return err
				}
				var d decision
				if result, d = decide(raw); !d.act {
					return nil
				}
				if d.lease != nil && !d.exact {
					left, err := tx.PTTL(ctx, key).Result()
					if err != nil {
						return err
					}
					d.ttl = max(d.ttl, left)
				}
				_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
					switch {
					case d.lease != nil:
						p.SetRange(ctx, key, record.EntrySize, string(record.AppendLease(nil, d.lease)))
						p.PExpire(ctx, key, d.ttl)
					case d.write != nil:
						p.Set(ctx, key, d.write, d.ttl)
					default:
						p.Unlink(ctx, key)
					}
					return nil
				})
				return err
			}, key)
			if !errors.Is(err, redis.TxFailedErr) {
				break
			}
		}
		return result, err
	})
}

// time estimates the server's clock. What it says rather early is for deadlines: those that are further away than they can
// be count as over.
func (s nativeStore) time(ctx context.Context) (early, late int64) {
	early, late, known := s.r.clock.now()
	if !known && s.r.learnTime(ctx) == nil {
		early, late, known = s.r.clock.now()
	}
	if !known { // without TIME the only clock is ours; Redis ends entries by its own
		early = time.Now().UnixMicro()
		late = early
	}
	return early, late
}

// acquire is a transaction too, where SET NX would do for an empty key: a late copy of SET NX, executed after a
// deletion, would give the same owner its lease back, and there is no fence to tell the two apart. A late EXEC finds
// that the key has moved.
func (s nativeStore) acquire(ctx context.Context, a acquireArgs) (acquired, error) {
	early, now := s.time(ctx)
	nobody := acquired{now: now, received: time.Now()}
	stub := a.coder.lease(a.key, a.cost, record.Lease{Owner: a.owner, Duration: a.lease})
	got, err := change(ctx, s.r, a.key, a.coder.maxRecord(), func(raw []byte) (acquired, decision) {
		got := nobody
		h, _, err := a.coder.header(a.key, raw)
		if a.broken != "" && a.broken == record.Sum(raw) {
			h, err = record.Header{}, errUnreadable
		}
		usable := err == nil && h.State != record.Stub && now < h.FreshUntil
		held := h.Lease.Owner != (record.Owner{}) &&
			(h.Lease.Until == 0 || h.Lease.Until > now && h.Lease.Until-now <= h.Lease.Duration.Microseconds())
		switch {
		case errors.Is(err, errOther) && (held || h.State != record.Stub && now < h.StaleUntil):
			got.outcome = other
			return got, decision{}
		case err == nil && h.Lease.Owner == a.owner: // the reply of our EXEC was lost
			got.outcome, got.fence = won, h.Lease.Fence
			if h.State != record.Stub {
				got.stays = h.ID
			}
			return got, decision{}
		case a.force:
		case usable && h.ID != a.seen:
			got.outcome, got.record = hit, raw
			return got, decision{}
		case err == nil && held:
			got.outcome, got.holder, got.left = busy, h.Lease.Owner, a.lease
			return got, decision{}
		case err == nil && h.State != record.Stub && now < h.StaleUntil:
			rest := h.Lease.Until - now
			if a.serving && rest > 0 && rest <= h.Lease.Duration.Microseconds() { // a failed mark
				got.outcome = later
				return got, decision{}
			}
			got.outcome, got.stays = won, h.ID
			lease := h.Lease
			lease.Owner, lease.Until, lease.Duration = a.owner, early+a.lease.Microseconds(), a.lease
			return got, decision{act: true, lease: &lease, ttl: a.lease}
		}
		got.outcome = won
		return got, decision{act: true, write: stub, ttl: a.lease}
	})
	if errors.Is(err, redis.TxFailedErr) { // others are at it: look again soon
		got, err = nobody, nil
		got.outcome, got.left = busy, lookSoon
	}
	return got, err
}

func (s nativeStore) commit(ctx context.Context, c commitArgs) (committed, error) {
	outcome, err := change(ctx, s.r, c.key, record.Size, func(raw []byte) (committed, decision) {
		switch _, mine := heldBy(raw, c.owner); {
		case mine:
			return stored, decision{act: true, write: c.record, ttl: c.life}
		case len(raw) == 0:
			return missing, decision{}
		}
		return taken, decision{}
	})
	if errors.Is(err, redis.TxFailedErr) {
		return taken, nil
	}
	return outcome, err
}

func (s nativeStore) abort(ctx context.Context, key string, owner record.Owner, pause time.Duration) (bool, error) {
	early, now := s.time(ctx)
	was, err := change(ctx, s.r, key, record.Size, func(raw []byte) (bool, decision) {
		h, mine := heldBy(raw, owner)
		life := (time.Duration(h.StaleUntil-now) * time.Microsecond).Truncate(time.Millisecond)
		if !mine || h.State == record.Stub || life <= 0 || pause < 0 {
			return mine, decision{act: mine}
		}
		free := record.Lease{Fence: h.Lease.Fence, Failures: h.Lease.Failures}
		if pause > 0 {
			free.Duration = pause << h.Lease.Failures
			free.Until = early + free.Duration.Microseconds()
			free.Failures = min(h.Lease.Failures+1, record.MostFailures)
		}
		return true, decision{act: true, lease: &free, ttl: life, exact: true}
	})
	return was && err == nil, err
}

func (s nativeStore) renew(
	ctx context.Context, key string, owner record.Owner, _ int64, lease, _ time.Duration,
) (bool, error) {
	early, _ := s.time(ctx)
	was, err := change(ctx, s.r, key, record.Size, func(raw []byte) (bool, decision) {
		h, mine := heldBy(raw, owner)
		switch {
		case !mine:
			return false, decision{}
		case h.State == record.Stub:
			return true, decision{act: true, write: raw, ttl: lease}
		}
		h.Lease.Until, h.Lease.Duration = early+lease.Microseconds(), lease
		return true, decision{act: true, lease: &h.Lease, ttl: lease}
	})
	return was && err == nil, err
}

// heldBy reads the header of a record and reports whether its lease is this owner's. The rest of the record need not be
// there: a checksum that covers it is not looked at.
func heldBy(raw []byte, owner record.Owner) (record.Header, bool) {
	h, err := record.OpenHeader(raw)
	return h, err == nil && h.Lease.Owner == owner
}

// twice is 2*d, or the most there is.
func twice(d time.Duration) time.Duration { return 2 * min(d, math.MaxInt64/2) }

// aheadOf is AHEAD in barrier.lua.
const aheadOf = time.Minute

// stamp writes nothing but the barriers' beginning, so that loads do not get in each other's way: the time is the
// server's, and rises only if its clock does.
func (s nativeStore) stamp(ctx context.Context, name string, life time.Duration) (int64, error) {
	return call(ctx, s.r, s.r.timeout, func(ctx context.Context) (stamp int64, err error) {
		err = s.barriers(ctx, name, func(tx *redis.Tx, key string, now, last int64) error {
			stamp = max(now, last+1)
			if last > 0 && tx.PTTL(ctx, key).Val() >= life {
				return nil
			}
			_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
				if last == 0 {
					begin := now + aheadOf.Microseconds()
					stamp = begin + 1
					p.Del(ctx, key)
					p.HSet(ctx, key, "base", begin, "last", stamp)
				}
				p.PExpire(ctx, key, twice(life))
				return nil
			})
			return err
		})
		return stamp, err
	})
}

// manyTags is MANY in barrier.lua.
const manyTags = 10_000

// invalidate is as in the script, but that with too many tags all of them are forgotten.
func (s nativeStore) invalidate(ctx context.Context, name string, tags []string, life time.Duration) error {
	_, err := insist(ctx, s.r, patient*s.r.timeout, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.barriers(ctx, name, func(tx *redis.Tx, key string, now, last int64) error {
			many := tx.HLen(ctx, key).Val()+int64(len(tags)) > manyTags
			short := tx.PTTL(ctx, key).Val() < life
			_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
				at := max(now, last+1)
				if last == 0 {
					at = now + aheadOf.Microseconds()
				}
				if len(tags) == 0 || last == 0 || many {
					short = true
					p.Del(ctx, key)
					p.HSet(ctx, key, "base", at)
				}
				for _, t := range tags {
					p.HSet(ctx, key, "t"+t, at)
				}
				p.HSet(ctx, key, "last", at)
				if short {
					p.PExpire(ctx, key, twice(life))
				}
				return nil
			})
			return err
		})
	})
	return err
}

// barriers gives f the server's time and the latest one in the barriers, 0 if they are lost, in a transaction.
func (s nativeStore) barriers(
	ctx context.Context, name string, f func(tx *redis.Tx, key string, now, last int64) error,
) (err error) {
	key := s.r.barriersKey(name)
	for range txTries {
		err = s.r.client.Watch(ctx, func(tx *redis.Tx) error {
			values, err := tx.HMGet(ctx, key, "last", "base").Result()
			if err != nil && !wrongType(err) {
				return err
			}
			now, err := tx.Time(ctx).Result()
			if err != nil {
				return err
			}
			last := int64(0)
			if len(values) == 2 && values[0] != nil {
				if _, ok := latestOf(values); ok {
					last, _ = strconv.ParseInt(values[0].(string), 10, 64)
				}
			}
			return f(tx, key, now.UnixMicro(), last)
		}, key)
		if !errors.Is(err, redis.TxFailedErr) {
			break
		}
	}
	return err
}
