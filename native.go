package cache

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/record"
)

// nativeStore has the verbs of a lease in plain commands, for servers that forbid scripts. It collapses loads like
// scripts do, with these differences: a stub expires with its lease (SET NX cannot take over), which is why it carries
// no deadline; there is no fence, only the owner; nobody is woken, so waiters poll. A change is a WATCH, a bounded read,
// and a MULTI that fails if the record has moved since: a blind SET or PEXPIRE could overwrite what a newer owner
// stored.
type nativeStore struct{ r *Redis }

// retries of a transaction that lost to another one.
const txTries = 3

// decision is what a transaction does about the record it read: write it for ttl, or remove it if it is nil.
type decision struct {
	act   bool
	write []byte
	ttl   time.Duration
}

// change reads at most limit bytes of the record under key and does what decide says, if nobody changes it meanwhile.
func (s nativeStore) change(ctx context.Context, key string, limit int, decide func(raw []byte) decision) error {
	_, err := call(ctx, s.r, s.r.timeout, func(ctx context.Context) (struct{}, error) {
		var err error
		for range txTries {
			err = s.r.client.Watch(ctx, func(tx *redis.Tx) error {
				raw, err := tx.GetRange(ctx, key, 0, int64(limit)).Bytes()
				if wrongType(err) {
					raw, err = []byte("?"), nil
				}
				if err != nil {
					return err
				}
				d := decide(raw)
				if !d.act {
					return nil
				}
				_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
					if d.write == nil {
						p.Unlink(ctx, key)
					} else {
						p.Set(ctx, key, d.write, d.ttl)
					}
					return nil
				})
				return err
			}, key)
			if !errors.Is(err, redis.TxFailedErr) {
				break
			}
		}
		return struct{}{}, err
	})
	return err
}

func (s nativeStore) acquire(ctx context.Context, a acquireArgs) (acquired, error) {
	now, known := s.r.clock.now()
	if !known {
		if s.r.learnTime(ctx) != nil {
			// Without TIME the only clock is ours. Redis ends entries by its own.
			now = time.Now().UnixMicro()
		} else {
			now, _ = s.r.clock.now()
		}
	}
	got := acquired{now: now, received: time.Now()}
	stub := a.coder.lease(a.key, record.Lease{Owner: a.owner, Duration: a.lease})
	if !a.force {
		set, err := call(ctx, s.r, s.r.timeout, func(ctx context.Context) (string, error) {
			return s.r.client.SetArgs(ctx, a.key, stub, redis.SetArgs{Mode: "NX", TTL: a.lease}).Result()
		})
		if err == nil && set == "OK" {
			got.outcome = won
			return got, nil
		}
		if err != nil && !errors.Is(err, redis.Nil) {
			return got, err
		}
	}
	err := s.change(ctx, a.key, a.coder.maxRecord(), func(raw []byte) decision {
		h, _, err := a.coder.header(a.key, raw)
		usable := err == nil && h.State != record.Stub && now < h.FreshUntil
		held := h.Lease.Owner != (record.Owner{}) &&
			(h.Lease.Until == 0 || h.Lease.Until > now && h.Lease.Until-now <= h.Lease.Duration.Microseconds())
		switch {
		case errors.Is(err, errOther) && (held || h.State != record.Stub && now < h.StaleUntil):
			got.outcome = other
			return decision{}
		case err == nil && h.Lease.Owner == a.owner: // the reply of our SET was lost
			got.outcome, got.fence = won, h.Lease.Fence
			return decision{}
		case a.force:
		case usable && h.ID != a.seen:
			got.outcome, got.record = hit, raw
			return decision{}
		case err == nil && held:
			got.outcome, got.holder, got.left = busy, h.Lease.Owner, a.lease
			return decision{}
		}
		got.outcome = won
		return decision{act: true, write: stub, ttl: a.lease}
	})
	if errors.Is(err, redis.TxFailedErr) { // others are at it: look again soon
		got.outcome, got.left, err = busy, a.lease, nil
	}
	return got, err
}

func (s nativeStore) commit(ctx context.Context, c commitArgs) (committed, error) {
	var outcome committed
	err := s.change(ctx, c.key, record.Size, func(raw []byte) decision {
		outcome = taken
		h, mine := s.mine(raw, c.owner)
		switch {
		case mine:
			outcome = stored
			return decision{act: true, write: c.record, ttl: c.life}
		case len(raw) == 0:
			outcome = missing
		case h.ID == c.owner && h.State != record.Stub:
			outcome = stored
		}
		return decision{}
	})
	if errors.Is(err, redis.TxFailedErr) {
		return taken, nil
	}
	return outcome, err
}

func (s nativeStore) abort(ctx context.Context, key string, owner record.Owner, _ int64) (was bool, err error) {
	err = s.change(ctx, key, record.Size, func(raw []byte) decision {
		_, was = s.mine(raw, owner)
		return decision{act: was}
	})
	return was, err
}

func (s nativeStore) renew(
	ctx context.Context, key string, owner record.Owner, _ int64, lease, _ time.Duration,
) (was bool, err error) {
	err = s.change(ctx, key, record.Size, func(raw []byte) decision {
		_, was = s.mine(raw, owner)
		return decision{act: was, write: raw, ttl: lease}
	})
	return was, err
}

// mine reports whether raw is a stub of this owner. Only stubs are written here.
func (nativeStore) mine(raw []byte, owner record.Owner) (record.Header, bool) {
	h, _, err := record.Open(raw)
	return h, err == nil && h.State == record.Stub && h.Lease.Owner == owner
}
