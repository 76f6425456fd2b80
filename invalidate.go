package cache

import "context"

// Invalidation is done here first, then in Redis, and then here again: what was read from Redis in between may have been
// read before. Messages tell the other processes. What Redis has not confirmed is kept in undone.

// invalidate forgets a key in this cache, and returns the epoch that begins with it.
func (c *core) invalidate(key string) epoch {
	e := c.local.drop(key)
	c.flights.forget(key)
	c.failures.forget(key)
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
	c.failures.forgetAll()
}

// deaf is told that deletions by others are not heard of any more.
func (c *core) deaf() {
	c.local.gap()
	c.flights.forgetAll()
}

// ask invalidates keys, tags or everything for a caller.
func (c *core) ask(ctx context.Context, kind byte, names []string) error {
	return c.detached(ctx, func(ctx context.Context) error {
		c.dropHere(kind, names)
		c.tellDeletion(kind, names, "")
		if c.redis == nil {
			return nil
		}
		err := c.invalidateThere(ctx, kind, names)
		c.dropHere(kind, names)
		c.wakeHere(kind, names)
		if err != nil {
			err = c.undone.add(kind, names, err)
			c.dropHere(kind, names) // what was read before undone knew
		}
		return err
	})
}

// invalidateThere invalidates in Redis, and tells the other processes.
func (c *core) invalidateThere(ctx context.Context, kind byte, names []string) error {
	switch kind {
	case clearEvent:
		return c.store.invalidate(ctx, c.name, nil, c.tagLife(0))
	case tagEvent:
		return c.store.invalidate(ctx, c.name, names, c.tagLife(0))
	}
	var full []string
	for _, k := range names {
		if len(k) <= MaxKeyBytes {
			full = append(full, c.redis.key(c.name, k))
		}
	}
	if len(full) == 0 {
		return nil
	}
	return c.store.delete(ctx, full)
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

// drop invalidates in this cache.
func (c *core) drop(kind byte, names []string) {
	switch kind {
	case clearEvent:
		c.invalidateAll()
	case tagEvent:
		c.local.dropTags(names)
	case keyEvent:
		for _, k := range names {
			c.invalidate(k)
		}
	}
}

// dropHere is drop in all caches of this process that share the name: messages tell only the other processes.
func (c *core) dropHere(kind byte, names []string) {
	c.drop(kind, names)
	if c.redis != nil {
		c.redis.each(c.name, func(other *core) {
			if other != c {
				other.drop(kind, names)
			}
		})
	}
}

// wakeHere makes those who wait for deleted keys look again.
func (c *core) wakeHere(kind byte, names []string) {
	if kind != keyEvent {
		return
	}
	for _, k := range names {
		c.redis.waiters.lookAgain(c.redis.key(c.name, k))
	}
}
