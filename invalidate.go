package cache

import "context"

// Invalidation is done here first, then in Redis, and then here again: what was read from Redis in between may have been
// read before. Messages tell the other processes. What Redis has not confirmed is kept in undone.

// invalidate forgets a key in this cache, and returns the epoch that begins with it.
func (c *core) invalidate(key string) epoch {
	e := c.local.drop(key)
	c.flights.forget(key)
	return e
}

// invalidateHere forgets a key in all caches of this process that share it: messages tell only the other processes.
func (c *core) invalidateHere(key string) epoch {
	e := c.invalidate(key)
	if c.redis != nil {
		c.redis.each(c.name, func(other *core) {
			if other != c {
				other.invalidate(key)
			}
		})
	}
	return e
}

func (c *core) invalidateAll() {
	c.local.dropAll()
	c.flights.forgetAll()
}

// deaf is told that deletions by others are not heard of any more.
func (c *core) deaf() {
	c.local.gap()
	c.flights.forgetAll()
}

// ask invalidates keys, tags or everything for a caller.
func (c *core) ask(ctx context.Context, kind byte, names []string) error {
	return c.detached(ctx, func(ctx context.Context) error {
		err := c.invalidateNow(ctx, kind, names)
		if err != nil {
			err = c.undone.add(kind, names, err)
		}
		return err
	})
}

func (c *core) invalidateNow(ctx context.Context, kind byte, names []string) error {
	if kind == keyEvent {
		return c.deleteNow(ctx, names)
	}
	c.outdateHere(kind, names)
	if c.redis == nil {
		return nil
	}
	tags := names
	if kind == clearEvent {
		tags = nil
	}
	err := c.store.invalidate(ctx, c.name, tags, c.tagLife(0))
	c.outdateHere(kind, names)
	return err
}

// tell tells the other processes only.
func (c *core) tell(ctx context.Context, kind byte, names []string) error {
	var events []byte
	for _, name := range names {
		events = appendEvent(events, kind, c.redis.key(c.name, name))
	}
	if err := c.store.tell(ctx, events); err != nil {
		return &redisError{untoldError{err}}
	}
	return nil
}

func (c *core) deleteNow(ctx context.Context, keys []string) error {
	var full []string
	for _, k := range keys {
		c.invalidateHere(k)
		if c.redis != nil && len(k) <= MaxKeyBytes {
			full = append(full, c.redis.key(c.name, k))
		}
	}
	if len(full) == 0 {
		return nil
	}
	err := c.store.delete(ctx, full)
	for _, k := range keys {
		c.invalidateHere(k)
	}
	for _, k := range full {
		c.redis.waiters.lookAgain(k)
	}
	return err
}

// outdate invalidates what carries one of these tags, or everything, in this cache.
func (c *core) outdate(kind byte, tags []string) {
	if kind == clearEvent {
		c.invalidateAll()
	} else {
		c.local.dropTags(tags)
	}
}

// outdateHere is outdate in all caches of this process that share the name.
func (c *core) outdateHere(kind byte, tags []string) {
	c.outdate(kind, tags)
	if c.redis != nil {
		c.redis.each(c.name, func(other *core) {
			if other != c {
				other.outdate(kind, tags)
			}
		})
	}
}
