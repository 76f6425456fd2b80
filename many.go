package cache

import (
	"context"
	"errors"
	"iter"
	"slices"
)

// Calls for many keys.

// BatchLoader computes the values of several keys, none of them twice, with one query. It is called like a Loader, for
// keys that this process alone is to load, at most Options.MaxBatchKeys of them; one call of GetOrLoadMany may call it
// several times, at the same time even, where other processes have begun to load some of the keys.
//
// Keys that it leaves out do not exist: that is cached for Options.NegativeTTL. Keys that it was not asked for are ignored.
// With an error, keys that it has brought are cached and returned; all others fail with it. Errors that are of one key only
// it returns as *LoadError, several joined by errors.Join: then the other keys do not fail. LoadFrom and Previous
// have more about each key.
type BatchLoader[V any] func(ctx context.Context, keys []string) (map[string]V, error)

// GetOrLoadMany returns the values of keys: from memory, else from Redis, else from loader. It is GetOrLoad for each of
// them, at the same time: whatever holds for one key holds here, and calls for single keys and for overlapping batches share
// their loads. But the commands of all keys go to Redis in one round trip, and loader is called for all of those that
// nobody else is loading.
//
// The map has the keys for which there is a value; a key that does not exist is not in it. If the error is not nil it has
// what was found all the same. The error holds a *LoadError for each key that failed, among which errors.Is and errors.As
// look, or several: type-assert it to interface{ Unwrap() []error } to see all; ctx.Err() if ctx has ended and ErrClosed
// stand beside them as they are. WithTags, WithTTL and the others are for all keys. With
// OnlyIfCached loader may be nil, and keys that are not cached have the error ErrNotCached.
//
// Keys may be repeated and in any order. There may be none. They are worked off in parts of Options.MaxBatchKeys, one
// after the other. GetOrLoadMany blocks as long as each of them takes, but not longer than ctx; each round trip of n
// commands has RedisOptions.Timeout and a 32nd of it for each command, up to ten times it in all.
func (c *Cache[V]) GetOrLoadMany(
	ctx context.Context, keys []string, loader BatchLoader[V], opts ...CallOption,
) (map[string]V, error) {
	found := make(map[string]V, len(keys))
	local := c.core.local
	now := local.now()
	var missing, old []string
	for i, key := range keys {
		s, there := c.memory.entries.GetIfPresent(key)
		switch {
		case !there || !local.valid(s.glance):
			if missing == nil {
				missing = make([]string, 0, len(keys)-i)
			}
			missing = append(missing, key)
		case now >= s.due:
			old = append(old, key)
		case !s.is(negative):
			found[key] = s.value
		}
	}
	c.core.local.hits.add(uint64(len(keys) - len(missing) - len(old)))
	if missing == nil && old == nil {
		return found, nil
	}
	load := func(ctx context.Context, keys []string) (func(string) (any, bool), error) {
		values, err := loader(ctx, keys)
		return func(key string) (any, bool) {
			v, ok := values[key]
			return v, ok
		}, err
	}
	return found, c.core.flyMany(ctx, missing, old, newCallOptions(opts), load, func(key string, value any) {
		found[key], _ = value.(V)
	})
}

// GetOrLoadSeq is GetOrLoadMany for more keys than should be in memory at once: it takes Options.MaxBatchKeys of them at a
// time, and yields what GetOrLoadMany returns for these, until there are no more or ctx has ended. While the loop's body
// runs, nothing is loaded.
func (c *Cache[V]) GetOrLoadSeq(
	ctx context.Context, keys iter.Seq[string], loader BatchLoader[V], opts ...CallOption,
) iter.Seq2[map[string]V, error] {
	return func(yield func(map[string]V, error) bool) {
		part := make([]string, 0, c.core.opts.MaxBatchKeys)
		for key := range keys {
			if part = append(part, key); len(part) < cap(part) {
				continue
			}
			if !yield(c.GetOrLoadMany(ctx, part, loader, opts...)) || ctx.Err() != nil {
				return
			}
			part = part[:0]
		}
		if len(part) > 0 {
			yield(c.GetOrLoadMany(ctx, part, loader, opts...))
		}
	}
}

// many is a call for many keys that were not all found in memory.
type many struct {
	c     *core
	co    callOptions
	load  batchLoad
	began uint64
	found func(key string, value any)
	errs  manyErrors
}

// flyMany is fly for keys that are missing in memory, and for those that are there, but old.
func (c *core) flyMany(
	ctx context.Context, missing, old []string, co callOptions, load batchLoad, found func(string, any),
) error {
	m := &many{c: c, co: co, load: load, began: c.ticks.Load(), found: found}
	if len(co.tags) > 0 && !c.opts.Tags {
		return manyErrors{errTagsOff}
	}
	keys := m.sift(ctx, append(missing, m.remembered(ctx, old)...))
	for part := range slices.Chunk(keys, c.opts.MaxBatchKeys) {
		fly := m.fly
		if co.cached {
			fly = m.peek
		}
		if err := fly(ctx, part); err != nil {
			m.errs = append(m.errs, err)
			break
		}
	}
	if m.errs == nil {
		return nil
	}
	return m.errs
}

// answer is what a key gets.
func (m *many) answer(key string, res *result) {
	value, err := m.c.answer(res)
	switch {
	case err == nil:
		m.found(key, value)
	case !isNotFound(err):
		m.fail(key, err)
	}
}

func (m *many) fail(key string, err error) { m.errs = append(m.errs, &LoadError{key, err}) }

// remembered returns those of these keys for which memory has nothing that can be served.
func (m *many) remembered(ctx context.Context, keys []string) (left []string) {
	var late []due
	for _, key := range keys {
		res, aged := m.c.remembers(key, m.co.kind(), !m.co.cached)
		if aged != nil {
			late = append(late, due{key: key, aged: aged})
		}
		if res == nil {
			left = append(left, key)
			continue
		}
		m.answer(key, res)
	}
	if len(late) > 0 && m.c.flights.begin() {
		m.c.soon(func() {
			defer m.c.flights.running.Done()
			m.c.refreshMany(ctx, late, m.co, m.load)
		})
	}
	return left
}

// sift removes keys that the loader which makes the call is loading itself, and repetitions that joinAll would not see.
func (m *many) sift(ctx context.Context, keys []string) []string {
	within := taskFrom(ctx) != nil
	if len(keys) > m.c.opts.MaxBatchKeys || m.co.cached || within {
		seen := make(map[string]struct{}, len(keys))
		keys = slices.DeleteFunc(keys, func(key string) bool {
			n := len(seen)
			seen[key] = struct{}{}
			return len(seen) == n
		})
	}
	if within {
		keys = slices.DeleteFunc(keys, func(key string) bool {
			own := m.c.waitsForItself(ctx, key)
			if own {
				m.fail(key, errOwnKey)
			}
			return own
		})
	}
	return keys
}

// fly waits for the flights of these keys.
func (m *many) fly(ctx context.Context, keys []string) error {
	var waiting []*flight
	var left error
	for {
		if len(keys) > 0 && left == nil {
			if left = ctx.Err(); left == nil {
				waiting, left = m.join(ctx, keys, waiting)
			}
		}
		keys = nil
		waiting = slices.DeleteFunc(waiting, func(f *flight) bool {
			if !f.over.Load() {
				return false
			}
			switch res := f.outcome(); {
			case !res.serves(m.began, f.kind):
				m.c.stats.rounds.Add(1)
				keys = append(keys, f.key)
			case m.c.closed() && errors.Is(res.err, ErrClosed):
				left = ErrClosed
			default:
				m.answer(f.key, res)
			}
			return true
		})
		switch {
		case left != nil:
			for _, f := range waiting {
				m.c.flights.leave(f)
			}
			return left
		case len(keys) > 0:
			continue
		case len(waiting) == 0:
			return nil
		}
		select {
		case <-m.landed(waiting[0]):
		case <-ctx.Done():
			left = ctx.Err()
		case <-m.c.closing:
			left = ErrClosed
		}
	}
}

// landed is what tells that a flight has landed, or, of those that this call has begun, all of its batch.
func (m *many) landed(f *flight) <-chan struct{} {
	if f.batch != nil && f.batch.by == m {
		return f.batch.done
	}
	return f.landed
}

// join joins the flights of these keys, or begins them.
func (m *many) join(ctx context.Context, keys []string, waiting []*flight) ([]*flight, error) {
	b := m.c.newBatch(ctx, m.co, m.load)
	b.by = m
	waiting, full, err := m.c.flights.joinAll(keys, m.co.kind(), b, waiting)
	if err != nil {
		b.cancel(nil)
		return waiting, err
	}
	b.start()
	for _, key := range full {
		m.answer(key, m.c.turnedAway(key, m.co.kind()))
	}
	return waiting, nil
}

// peek looks for these keys in Redis.
func (m *many) peek(ctx context.Context, keys []string) error {
	results := make([]*result, len(keys))
	err := m.c.peekMany(ctx, keys, m.co, results)
	if m.c.closed() {
		return ErrClosed
	}
	if err != nil {
		return err
	}
	for i, key := range keys {
		if results[i] == nil {
			m.fail(key, ErrNotCached)
			continue
		}
		m.answer(key, results[i])
	}
	return nil
}
