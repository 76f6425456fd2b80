// Package cache is a read-through cache for expensive loads that are shared by many goroutines in many processes.
//
//	users, err := cache.New[User]("user", cache.Options{Redis: rds, TTL: 10 * time.Minute})
//	u, err := users.GetOrLoad(ctx, "42", loadUser)
//
// A call looks in this process's memory, then joins the one flight for its key in this process, which looks in Redis,
// then takes the one lease for the key in the fleet, and loads. Each is tried only when the one before has no answer.
// Without Redis it is a memory cache with the same behaviour.
//
// The lease saves work. It is not mutual exclusion, nothing depends on it for correctness, and no error of it ever
// reaches a caller: when Redis is slow, down or refuses, when a lease is lost, expired, deleted or taken over, callers
// get the loaded value, their loader's own error, or their own context's error.
//
// Not promised: that a loader runs exactly once; mutual exclusion for side effects; freshness when the loader reads a
// lagging replica, when Delete is called before the database has committed, or when a failover of Redis loses the
// deletion.
//
// Values are shared between callers, not copied.
package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Cache is a read-through cache of values of type V. It is safe for concurrent use; the zero value is not usable.
//
// Values are shared by all callers and are not copied: treat them as read-only.
type Cache[V any] struct {
	core *core
}

// core is a Cache without its type: the tiers and what a call does in them.
type core struct {
	name    string
	opts    Options
	redis   *Redis // nil: memory only
	store   store
	coder   *coder
	local   *local
	flights *flights
	undone  undone
	ticks   atomic.Uint64 // a clock that tells which calls began before something
	stats   stats
	closing chan struct{}
	close   sync.Once
	lost    error // what Close returns
}

// New makes a cache. The name begins its keys in Redis: processes share entries if name, Options.Version and V are the
// same. It may hold letters, digits and - _ . / only. New reports every mistake in name and o at once.
func New[V any](name string, o Options) (*Cache[V], error) {
	full, err := o.withDefaults()
	if err = errors.Join(checkName("name", name), err); err != nil {
		return nil, err
	}
	c := &core{
		name: name, opts: full, redis: full.Redis,
		coder: newCoder[V](&full), local: newLocal(&full), flights: newFlights(),
		closing: make(chan struct{}),
	}
	c.undone.c = c
	if c.redis != nil {
		c.store = c.redis.store
		c.redis.register(name, c)
	}
	return &Cache[V]{c}, nil
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
	if e, ok := c.core.local.get(key); ok {
		c.core.stats.localHits.Add(1)
		v, _ := e.value.(V) // no V only if it is an interface and nil
		if e.negative {
			return v, ErrNotFound
		}
		return v, nil
	}
	return c.getOrLoad(ctx, key, loader, opts)
}

// getOrLoad keeps what escapes to the heap away from the path of a hit.
func (c *Cache[V]) getOrLoad(ctx context.Context, key string, loader Loader[V], opts []CallOption) (V, error) {
	value, err := c.core.fly(ctx, key, newCallOptions(opts), func(ctx context.Context, key string) (any, error) {
		return loader(ctx, key)
	})
	v, _ := value.(V)
	return v, err
}

// Get returns the value of key if it is cached, in memory or in Redis. It never loads and never waits for a load. It
// blocks for one command, at most RedisOptions.Timeout and not longer than ctx. Whatever goes wrong is a miss.
func (c *Cache[V]) Get(ctx context.Context, key string) (V, bool) {
	value, ok := c.core.peek(ctx, key)
	v, _ := value.(V)
	return v, ok
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

// Stats returns counters since New.
func (c *Cache[V]) Stats() Stats {
	s := c.core.stats.snapshot()
	s.DeletesPending = uint64(c.core.undone.n.Load())
	return s
}

// fly is a call that found nothing in memory.
func (c *core) fly(
	ctx context.Context, key string, co callOptions, load func(context.Context, string) (any, error),
) (any, error) {
	began := c.ticks.Load()
	if c.waitsForItself(ctx, key) {
		return nil, errOwnKey
	}
	if len(co.tags) > 0 && !c.opts.Tags {
		return nil, errTagsOff
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f, err := c.flights.join(key, func() *flight {
			f := &flight{of: c, key: key, load: load, ttl: co.ttl, tags: co.tags, landed: make(chan struct{})}
			f.parent, _ = ctx.Value(loadedBy{}).(*flight)
			if c.redis != nil {
				f.full = c.redis.key(c.name, key)
			}
			f.ctx, f.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
			return f
		}, c.run)
		if err != nil {
			return nil, err
		}
		select {
		case <-f.landed:
		case <-ctx.Done():
			select { // a result that is there goes first
			case <-f.landed:
			default:
				c.flights.leave(f, c.opts.CancelAbandoned)
				return nil, ctx.Err()
			}
		case <-c.closing:
			return nil, ErrClosed
		}
		res := f.res
		switch {
		case res.asOf != 0 && began >= res.asOf:
			// The value may be older than a deletion that this call comes after.
			c.stats.rounds.Add(1)
		case res.negative && res.err == nil:
			return nil, ErrNotFound
		default:
			return res.value, res.err
		}
	}
}

// run is a flight.
func (c *core) run(f *flight) *result {
	if res := c.remembered(f); res != nil { // the flight before this one has just landed
		return res
	}
	if c.redis != nil && len(f.key) <= MaxKeyBytes {
		return c.shared(f)
	}
	if res := c.flights.enter(f, func() *result { return c.remembered(f) }); res != nil {
		return res
	}
	since := c.local.epoch(f.key)
	res := c.load(f, nil)
	if res.err != nil && !res.negative {
		return res
	}
	if c.redis == nil { // otherwise: another process's deletion of such a key is not noticed
		began := res.asOf
		if res.asOf = 0; len(res.tags) > 0 { // of their deletion the flight was not told
			if res.asOf = c.ticks.Add(1); c.local.tagged(res.tags, since).outdated() {
				res.asOf = began
			}
		}
	}
	c.fill(f, since, res, -1, c.ttl(f, res))
	return res
}

// remembered makes a result of what is in memory.
func (c *core) remembered(f *flight) *result {
	asOf := c.ticks.Add(1)
	e, ok := c.local.get(f.key)
	if !ok {
		return nil
	}
	c.stats.localHits.Add(1)
	return &result{value: e.value, negative: e.negative, asOf: asOf}
}

// ttl is how long a loaded result is fresh; negative: it is not to be stored.
func (c *core) ttl(f *flight, res *result) time.Duration {
	switch {
	case res.negative:
		return c.opts.NegativeTTL
	case f.ttl != 0:
		return f.ttl
	}
	return c.opts.TTL
}

// fill stores a loaded result in memory. encoded is its size, -1 if it is not known.
func (c *core) fill(f *flight, since epoch, res *result, encoded int, ttl time.Duration) {
	if ttl < 0 || len(f.key) > MaxKeyBytes || res.unfit {
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
	ttl -= time.Since(res.ended)
	if c.redis != nil {
		ttl = min(ttl, c.opts.LocalTTL)
	}
	c.local.fill(f.key, since, res.value, res.negative, res.tags, encoded, ttl)
}

// encode returns the bytes of a loaded result, or false if it is not to be stored in Redis.
func (c *core) encode(res *result, ttl time.Duration) ([]byte, bool) {
	switch {
	case ttl < 0:
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

func (c *core) peek(ctx context.Context, key string) (any, bool) {
	if e, ok := c.local.get(key); ok {
		c.stats.localHits.Add(1)
		return e.value, !e.negative
	}
	if c.redis == nil || len(key) > MaxKeyBytes || c.undone.has(key) || ctx.Err() != nil {
		return nil, false
	}
	var res *result
	if c.detached(ctx, func(ctx context.Context) error {
		f := &flight{key: key, full: c.redis.key(c.name, key), ctx: ctx}
		var err error
		res, _, err = c.look(f)
		return err
	}) != nil || res == nil {
		return nil, false
	}
	c.stats.redisHits.Add(1)
	return res.value, !res.negative
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

func (c *core) set(ctx context.Context, key string, value any, co callOptions) error {
	if len(key) > MaxKeyBytes {
		return fmt.Errorf("cache: key of %d bytes: want at most %d", len(key), MaxKeyBytes)
	}
	if len(co.tags) > 0 && !c.opts.Tags {
		return errTagsOff
	}
	f := &flight{key: key, ttl: co.ttl}
	res := &result{value: value}
	var ok bool
	if res.tags, ok = allTags(co.tags, nil); !ok {
		return fmt.Errorf("cache: more than %d tags, or one of more than %d bytes", mostTags, longestTag)
	}
	ttl := c.ttl(f, res)
	if ttl < 0 {
		return c.ask(ctx, keyEvent, []string{key})
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.redis == nil {
		return c.detached(ctx, func(context.Context) error {
			res.ended = time.Now()
			c.fill(f, c.invalidate(key), res, -1, ttl)
			return nil
		})
	}
	payload, err := c.coder.marshal(value)
	if err != nil {
		return fmt.Errorf("cache: set: %w", err)
	}
	f.full = c.redis.key(c.name, key)
	return c.detached(ctx, func(ctx context.Context) error {
		err := c.replace(ctx, f, res, payload, ttl)
		var unsure *redisError
		if errors.As(err, &unsure) { // what was there may be there still
			err = c.undone.add(keyEvent, []string{key}, err)
		}
		return err
	})
}

// replace stores a value in Redis whatever is there, and here.
func (c *core) replace(ctx context.Context, f *flight, res *result, payload []byte, ttl time.Duration) error {
	began := c.invalidateHere(f.key)
	stamp, err := c.stampFor(ctx, ttl)
	if err != nil {
		return &redisError{err}
	}
	a := acquireArgs{
		key: f.full, owner: newOwner(), lease: c.opts.Lease, life: c.recordLife(), coder: c.coder, force: true,
	}
	got, err := c.store.acquire(ctx, a)
	if err != nil {
		c.redis.disown(ctx, f.full, a.owner)
		return &redisError{err}
	}
	switch got.outcome {
	case won:
	case busy: // others were faster each time
		return &redisError{errReply}
	default:
		return errOther
	}
	res.ended = time.Now()
	outcome, err := c.store.commit(ctx, commitArgs{
		key: f.full, owner: a.owner, fence: got.fence, life: ttl,
		record: c.coder.seal(f.full, life{
			owner: a.owner, fence: got.fence, stamp: cmp.Or(stamp, got.now), tags: res.tags,
			freshUntil: got.serverTime() + ttl.Microseconds(),
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
		c.fill(f, again, res, len(payload), ttl)
	}
	return c.tell(ctx, keyEvent, []string{f.key})
}

func (c *core) shut() error {
	c.close.Do(func() {
		close(c.closing)
		c.flights.close()
		c.lost = c.undone.close()
		if c.redis != nil {
			c.redis.unregister(c.name, c)
		}
		c.local.dropAll()
	})
	return c.lost
}
