package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/bellwether-go/cache/internal/record"
)

// Cache is a read-through cache of values of type V. It is safe for concurrent use; the zero value is not usable.
//
// Values are shared by all callers and are not copied: treat them as read-only.
type Cache[V any] struct {
	core   *core
	memory *memory[V] // core's
}

// core is a Cache without its type: the tiers and what a call does in them.
type core struct {
	name       string
	opts       Options
	redis      *Redis // nil: memory only
	store      store
	coder      *coder
	local      *local
	flights    *flights
	undone     undone
	ticks      atomic.Uint64 // a clock that tells which calls began before something
	failures   failures
	refreshing atomic.Int32         // background loads under way
	draws      uint64               // makes this process's draws differ from those of others
	chance     func(uint64) float64 // what to make of random bits
	soon       func(func())         // runs something in the background
	limits     *limits
	stats      stats
	hot        *hot
	outcomes   outcomes
	running    running
	waits      waits
	leases     recent[LeaseEvent]
	deletions  recent[DeletionEvent]
	changes    recent[RedisEvent]
	closing    chan struct{}
	close      sync.Once
	lost       error // what Close returns
}

// New makes a cache. The name begins its keys in Redis: processes share entries if name, Options.Version and V are the
// same. It may hold letters, digits and - _ . / only. New reports every mistake in name and o at once.
func New[V any](name string, o Options) (*Cache[V], error) {
	full, err := o.withDefaults()
	if err = errors.Join(checkName("name", name), err); err != nil {
		return nil, err
	}
	memory := newMemory[V](&full)
	local := newLocal(&full, memory)
	c := &core{
		name: name, opts: full, redis: full.Redis,
		coder: newCoder[V](&full), local: local, hot: &local.hot, outcomes: outcomes{seed: maphash.MakeSeed()}, flights: newFlights(room{most: full.MaxWaiting, each: full.MaxWaitingPerKey}),
		draws: rand.Uint64(), chance: chance, soon: soon, closing: make(chan struct{}),
	}
	c.undone.c = c
	if c.redis != nil {
		c.store = c.redis.store
		c.redis.register(name, c)
		if full.Observer.Lease != nil || full.Observer.Deletion != nil {
			c.redis.curious.Store(true)
		}
	}
	c.limits = newLimits(c)
	return &Cache[V]{c, memory}, nil
}

// GetOrLoad returns the value of key: from memory, else from Redis, else from loader, which then runs once however many
// goroutines and processes ask.
//
// It blocks until there is an answer, but not longer than ctx: then it returns ctx.Err(), and the load goes on for the
// others. Its errors are that, the loader's own, unchanged, *PanicError, ErrNotFound and ErrClosed; and, if the loader
// has ignored the end of its context at Options.LoadTimeout, an error that is context.DeadlineExceeded. No error of
// Redis or of the lease is ever returned. A nil loader panics inside the load.
//
// A loader may call the cache. If it asks for the key that it is loading, with its context or one made from it, it gets
// an error at once; with another context, or where two loaders that others began wait for each other's keys, LoadTimeout
// ends the waiting.
func (c *Cache[V]) GetOrLoad(ctx context.Context, key string, loader Loader[V], opts ...CallOption) (V, error) {
	if s, there := c.memory.entries.GetIfPresent(key); there && c.core.local.serves(s.glance) {
		c.core.local.hit(key)
		if c.core.opts.Observer.Hit != nil {
			c.core.tellHit(ctx, key, "memory", s.mark)
		}
		if s.is(negative) {
			return s.value, ErrNotFound
		}
		return s.value, nil
	}
	return c.getOrLoad(ctx, key, loader, opts)
}

// getOrLoad keeps what escapes to the heap away from the path of a hit.
func (c *Cache[V]) getOrLoad(ctx context.Context, key string, loader Loader[V], opts []CallOption) (V, error) {
	value, err := c.core.fly(ctx, key, newCallOptions(opts), loader)
	v, _ := value.(V)
	return v, err
}

// Get returns the value of key if it is cached, in memory or in Redis, and fresh or allowed to be stale. It never loads,
// not in the background either, and never waits for a load. It
// blocks for one command, at most RedisOptions.Timeout and not longer than ctx. Whatever goes wrong is a miss.
func (c *Cache[V]) Get(ctx context.Context, key string) (V, bool) {
	if s, there := c.memory.entries.GetIfPresent(key); there && c.core.local.serves(s.glance) {
		c.core.local.hit(key)
		if c.core.opts.Observer.Hit != nil {
			c.core.tellHit(ctx, key, "memory", s.mark)
		}
		return s.value, !s.is(negative)
	}
	value, err := c.core.onlyCached(ctx, key, callOptions{})
	v, _ := value.(V)
	return v, err == nil
}

// Refresh loads the value of key anew, whatever is cached, and stores it. It returns what a load has brought that began
// after the call, here or in another process; calls of Refresh that overlap share one. Meanwhile, and if the load fails,
// others are served what there was. It is no invalidation: the memories of other processes keep what they have for as long as
// they may (Options.LocalTTL). It blocks and fails like GetOrLoad, and does not mind Options.Backoff.
func (c *Cache[V]) Refresh(ctx context.Context, key string, loader Loader[V], opts ...CallOption) (V, error) {
	return c.getOrLoad(ctx, key, loader, append(slices.Clip(opts), func(co *callOptions) { co.forced = true }))
}

// Set stores a value as if it had just been loaded, and invalidates what is stored or being loaded elsewhere, as Delete
// does. If another Set or a Delete of the key overlaps, the order in which they take effect is not defined.
//
// It blocks for three commands, with Options.Tags four, not longer than ctx; when ctx ends it returns ctx.Err() and goes on
// in the background. Its errors are those of the Codec, ErrClosed, one if the value, the key or the tags are too large, one
// if Redis has an entry of a newer version or another type: the value is not stored then; and those of Redis: then it may
// be stored, and whatever is there is deleted, as by Delete.
func (c *Cache[V]) Set(ctx context.Context, key string, value V, opts ...CallOption) error {
	return c.core.set(ctx, key, value, newCallOptions(opts))
}

// Delete invalidates keys. After it returned nil, no GetOrLoad that starts later returns a value whose load started
// before: in this process at once, in others at once from Redis and from loads still running, and from their memory
// within the time that a message takes (LocalTTL at most while their connection for messages is down). Call it after
// the change of the origin is committed, not before.
//
// It is carried out even if ctx has ended: then, and when ctx ends, it returns ctx.Err() and goes on in the background. It
// blocks for one or two round trips for each 1,000 keys, each at most ten times RedisOptions.Timeout, and for the message
// of others that is under way.
//
// Nil means that Redis has deleted the keys and that the other processes have been told. On an error of Redis the keys are
// deleted here, and perhaps there, and the deletion is repeated, in order with others, until Redis confirms it or the
// cache is closed; until then this cache does not believe what Redis has under these keys. A cache keeps at most 10,000 of them:
// beyond that the error says that this one will not be repeated. Stats counts them.
func (c *Cache[V]) Delete(ctx context.Context, keys ...string) error {
	return c.core.ask(ctx, keyEvent, keys)
}

// DeleteTags invalidates all values that carry one of these tags (see WithTags), however many they are, with one command
// for each 1,000 tags. After it returned nil, no GetOrLoad that starts later returns one whose load started before: in
// this process at once, in others as after Delete. It waits, fails and is repeated like Delete. Without Options.Tags it
// returns an error.
//
// A cache remembers the last 10,000 deleted tags; when there are more, the values that were loaded before the older half
// of those deletions are invalidated.
func (c *Cache[V]) DeleteTags(ctx context.Context, tags ...string) error {
	switch {
	case !c.core.opts.Tags:
		return errTagsOff
	case len(tags) == 0:
		return nil
	}
	return c.core.ask(ctx, tagEvent, tags)
}

// Clear invalidates all values of the cache's name and Prefix that have Tags, in all processes, with one command. Otherwise it is like
// DeleteTags. What was invalidated stays in Redis until its TTL is over or it is replaced.
func (c *Cache[V]) Clear(ctx context.Context) error {
	if !c.core.opts.Tags {
		return errTagsOff
	}
	return c.core.ask(ctx, clearEvent, []string{""})
}

// Close ends the cache: calls that wait return ErrClosed, loaders' contexts are cancelled, leases are given back. It
// waits for work under way, but not for loaders that ignore their context. Deletions that Redis has not confirmed are
// tried once more; if it does not, Close returns an error, and they are lost. It does not close Options.Redis. Close is
// safe to call more than once.
func (c *Cache[V]) Close() error { return c.core.shut() }

// Name returns the name that New was given.
func (c *Cache[V]) Name() string { return c.core.name }

// Stats returns counters since New.
func (c *Cache[V]) Stats() Stats { return c.core.counters() }

func (c *core) set(ctx context.Context, key string, value any, co callOptions) error {
	if len(key) > MaxKeyBytes {
		return fmt.Errorf("cache: key of %d bytes: want at most %d", len(key), MaxKeyBytes)
	}
	if len(co.tags) > 0 && !c.opts.Tags {
		return errTagsOff
	}
	f := &flight{order: &order{c: c, co: co}, flightID: flightID{key: key}}
	if g, _ := c.local.find(key); g.localEntry != nil {
		f.known = g.cost.Unpack()
	}
	res := &result{value: value}
	var ok bool
	if res.tags, ok = allTags(co.tags, nil); !ok {
		return fmt.Errorf("cache: more than %d tags, or one of more than %d bytes", record.MostTags, record.LongestTag)
	}
	l := c.lifetime(f, res)
	if !l.stored() {
		return c.ask(ctx, keyEvent, []string{key})
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.redis == nil {
		return c.detached(ctx, func(context.Context) error {
			res.ended = c.local.now()
			c.fill(f, c.invalidate(key), res, -1, l, record.Owner{})
			return nil
		})
	}
	payload, err := c.coder.marshal(value)
	if err != nil {
		return fmt.Errorf("cache: set: %w", err)
	}
	f.full = c.redis.key(c.name, key)
	return c.detached(ctx, func(ctx context.Context) error {
		err := c.replace(ctx, f, res, payload, l)
		var unsure *redisError
		if errors.As(err, &unsure) { // what was there may be there still
			err = c.undone.add(keyEvent, []string{key}, err)
		}
		return err
	})
}

// replace stores a value in Redis whatever is there, and here.
func (c *core) replace(ctx context.Context, f *flight, res *result, payload []byte, l lifetime) error {
	began := c.invalidateHere(f.key)
	stamp, err := c.stampFor(ctx, l.fresh)
	if err != nil {
		return &redisError{err}
	}
	a := acquireArgs{
		key: f.full, owner: c.redis.newOwner(), lease: c.opts.Lease, life: c.recordLife(), coder: c.coder, force: true,
	}
	got, err := c.store.acquire(ctx, a)
	if err != nil {
		c.redis.disown(ctx, f.full, a.owner)
		return &redisError{err}
	}
	switch got.outcome {
	case won:
		c.redis.introduce()
	case busy: // others were faster each time
		return &redisError{errReply}
	default:
		return errOther
	}
	res.ended = c.local.now()
	outcome, err := c.store.commit(ctx, commitArgs{
		key: f.full, owner: a.owner, fence: got.fence, life: l.whole(),
		record: c.coder.seal(f.full, life{
			owner: a.owner, fence: got.fence, stamp: cmp.Or(stamp, got.now), tags: res.tags,
			freshUntil: got.serverTime() + l.fresh.Microseconds(), stale: l.stale, cost: f.known,
		}, payload),
	})
	ours := c.local.epoch(f.key).same(began)
	again := c.invalidateHere(f.key)
	if err != nil {
		_ = c.tell(ctx, keyEvent, []string{f.key}) // it may have been stored
		return &redisError{err}
	}
	if outcome == refused {
		return &redisError{errRefused}
	}
	if outcome == stored && ours && again.same(epoch{era: began.era, gaps: began.gaps, key: began.key + 1}) {
		again.tags = began.tags
		c.fill(f, again, res, len(payload), l, a.owner)
	}
	return c.tell(ctx, keyEvent, []string{f.key})
}

func (c *core) shut() error {
	c.close.Do(func() {
		close(c.closing)
		c.flights.close()
		c.limits.close()
		c.lost = c.undone.close()
		if c.redis != nil {
			c.redis.unregister(c.name, c)
		}
		c.local.dropAll()
	})
	return c.lost
}
