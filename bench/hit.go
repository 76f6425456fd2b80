package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	theine "github.com/Yiling-J/theine-go"
	"github.com/jellydator/ttlcache/v3"
	"github.com/maypok86/otter/v2"
	"github.com/samber/hot"
	"github.com/viccon/sturdyc"
	"golang.org/x/sync/singleflight"

	gocache "github.com/go-redis/cache/v9"

	"github.com/bellwether-go/cache"
)

// Hits in memory.

const (
	entries = 100_000 // in memory
	room    = 150_000 // for so many
	lookups = 200_000 // at a time
	ttl     = time.Hour
)

// lookup is a cache that holds the values of keys; it looks one up.
type lookup struct {
	name   string
	module string
	make   func(keys []string) (get func(key string) (user, bool), done func())
}

func value(key string) user { return user{key, 42} }

func hitters() []lookup {
	ctx := context.Background()
	return []lookup{
		{"this package, GetOrLoad", "", func(keys []string) (func(string) (user, bool), func()) {
			c, err := cache.New[user]("user", cache.Options{TTL: ttl, LocalEntries: room})
			if err != nil {
				panic(err)
			}
			load := func(_ context.Context, key string) (user, error) { return value(key), nil }
			for _, k := range keys {
				if _, err := c.GetOrLoad(ctx, k, load); err != nil {
					panic(err)
				}
			}
			return func(key string) (user, bool) {
				u, err := c.GetOrLoad(ctx, key, nil)
				return u, err == nil
			}, func() { _ = c.Close() }
		}},
		{"otter, with a TTL", "github.com/maypok86/otter/v2", func(keys []string) (func(string) (user, bool), func()) {
			return filledOtter(keys, &otter.Options[string, user]{
				MaximumSize: room, ExpiryCalculator: otter.ExpiryWriting[string, user](ttl),
			})
		}},
		{"otter, nothing expires", "", func(keys []string) (func(string) (user, bool), func()) {
			return filledOtter(keys, &otter.Options[string, user]{MaximumSize: room})
		}},
		{"theine", "github.com/Yiling-J/theine-go", func(keys []string) (func(string) (user, bool), func()) {
			c, err := theine.NewBuilder[string, user](room).Build()
			if err != nil {
				panic(err)
			}
			for _, k := range keys {
				c.SetWithTTL(k, value(k), 1, ttl)
			}
			return c.Get, c.Close
		}},
		{"hot", "github.com/samber/hot", func(keys []string) (func(string) (user, bool), func()) {
			c := hot.NewHotCache[string, user](hot.LRU, room).WithTTL(ttl).Build()
			for _, k := range keys {
				c.Set(k, value(k))
			}
			return func(key string) (user, bool) {
				u, found, err := c.Get(key)
				return u, found && err == nil
			}, func() {}
		}},
		{"ttlcache", "github.com/jellydator/ttlcache/v3", func(keys []string) (func(string) (user, bool), func()) {
			c := ttlcache.New(ttlcache.WithTTL[string, user](ttl), ttlcache.WithCapacity[string, user](room),
				ttlcache.WithDisableTouchOnHit[string, user]())
			for _, k := range keys {
				c.Set(k, value(k), ttlcache.DefaultTTL)
			}
			return func(key string) (user, bool) {
				item := c.Get(key)
				if item == nil {
					return user{}, false
				}
				return item.Value(), true
			}, func() {}
		}},
		{"sturdyc, GetOrFetch", "github.com/viccon/sturdyc", func(keys []string) (func(string) (user, bool), func()) {
			const shards, evicted = 64, 10
			c := sturdyc.New[user](room, shards, ttl, evicted)
			for _, k := range keys {
				c.Set(k, value(k))
			}
			return func(key string) (user, bool) {
				u, err := c.GetOrFetch(ctx, key, nil)
				return u, err == nil
			}, func() {}
		}},
		{"go-redis/cache, in memory", "github.com/go-redis/cache/v9", func(keys []string) (func(string) (user, bool), func()) {
			c := gocache.New(&gocache.Options{LocalCache: gocache.NewTinyLFU(room, ttl)})
			for _, k := range keys {
				if err := c.Set(&gocache.Item{Ctx: ctx, Key: k, Value: value(k), TTL: ttl}); err != nil {
					panic(err)
				}
			}
			return func(key string) (u user, found bool) {
				err := c.Get(ctx, key, &u)
				return u, err == nil
			}, func() {}
		}},
		{"map, RWMutex and singleflight", "golang.org/x/sync", func(keys []string) (func(string) (user, bool), func()) {
			c := newPlain()
			for _, k := range keys {
				c.m[k] = value(k)
			}
			return func(key string) (user, bool) {
				u, err := c.get(key, nil)
				return u, err == nil
			}, func() {}
		}},
		{"sync.Map", "", func(keys []string) (func(string) (user, bool), func()) {
			var m sync.Map
			for _, k := range keys {
				m.Store(k, value(k))
			}
			return func(key string) (user, bool) {
				v, found := m.Load(key)
				u, _ := v.(user)
				return u, found
			}, func() {}
		}},
	}
}

func filledOtter(keys []string, o *otter.Options[string, user]) (func(string) (user, bool), func()) {
	c := otter.Must(o)
	for _, k := range keys {
		c.Set(k, value(k))
	}
	return c.GetIfPresent, func() { c.StopAllGoroutines() }
}

// plain is what everybody writes first: nothing is ever removed.
type plain struct {
	mu    sync.RWMutex
	m     map[string]user
	group singleflight.Group
}

func newPlain() *plain { return &plain{m: make(map[string]user)} }

func (p *plain) get(key string, load func() (user, error)) (user, error) {
	p.mu.RLock()
	u, found := p.m[key]
	p.mu.RUnlock()
	if found {
		return u, nil
	}
	v, err, _ := p.group.Do(key, func() (any, error) {
		u, err := load()
		if err == nil {
			p.mu.Lock()
			p.m[key] = u
			p.mu.Unlock()
		}
		return u, err
	})
	u, _ = v.(user)
	return u, err
}

// hits compares lookups of what is in memory.
func hits() (cs []contest) {
	keys := make([]string, entries)
	for i := range keys {
		keys[i] = fmt.Sprint("user-", i)
	}
	random := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(random, 1.01, 1, entries-1)
	for _, c := range []struct {
		name       string
		goroutines int
		next       func() int
	}{
		{"hits in memory, 1 goroutine, uniform", 1, func() int { return random.IntN(entries) }},
		{"hits in memory, 2 goroutines, uniform", 2, func() int { return random.IntN(entries) }},
		{"hits in memory, 1 goroutine, Zipf", 1, func() int { return int(zipf.Uint64()) }},
		{"hits in memory, 2 goroutines, Zipf", 2, func() int { return int(zipf.Uint64()) }},
	} {
		asked := make([][]string, c.goroutines)
		for g := range asked {
			for range lookups {
				asked[g] = append(asked[g], keys[c.next()])
			}
		}
		one := contest{name: c.name, columns: append(slices.Clone(perOperation), "% found")}
		for _, h := range hitters() {
			one.contenders = append(one.contenders, contender{h.name, h.module, func() (player, func()) {
				get, done := h.make(keys)
				found := 0
				play := each(lookups*c.goroutines, func() { found = inParallel(asked, get) })
				return func(slice time.Duration) []float64 {
					return append(play(slice), float64(100*found)/float64(lookups*c.goroutines))
				}, done
			}})
		}
		cs = append(cs, one)
	}
	return cs
}

// inParallel returns how many were found.
func inParallel(asked [][]string, get func(key string) (user, bool)) int {
	found := make([]int, len(asked))
	var all sync.WaitGroup
	for g, keys := range asked {
		all.Go(func() {
			n := 0
			for _, k := range keys {
				if u, ok := get(k); ok && u.Name == k {
					n++
				}
			}
			found[g] = n
		})
	}
	all.Wait()
	n := 0
	for _, f := range found {
		n += f
	}
	return n
}
