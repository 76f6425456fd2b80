package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	theine "github.com/Yiling-J/theine-go"
	gocache "github.com/go-redis/cache/v9"
	"github.com/jellydator/ttlcache/v3"
	"github.com/maypok86/otter/v2"
	"github.com/samber/hot"
	"github.com/viccon/sturdyc"

	"github.com/bellwether-go/cache"
)

// What an entry costs in memory.

const (
	kept      = 200_000
	keyBytes  = 16
	textBytes = 100
)

// holder is a cache; put stores an entry in it.
type holder struct {
	name   string
	module string
	make   func() (put func(key, value string), done func())
}

func holders() []holder {
	ctx := context.Background()
	ours := func(o cache.Options) func() (func(key, value string), func()) {
		return func() (func(key, value string), func()) {
			o.TTL, o.LocalEntries = ttl, kept
			c, err := cache.New[string]("text", o)
			if err != nil {
				panic(err)
			}
			return func(key, value string) {
				if _, err := c.GetOrLoad(ctx, key, func(context.Context, string) (string, error) { return value, nil }); err != nil {
					panic(err)
				}
			}, func() { _ = c.Close() }
		}
	}
	return []holder{
		{"this package", "", ours(cache.Options{})},
		{"this package, stale values", "", ours(cache.Options{StaleIfError: time.Minute})},
		{"otter, with a TTL", "github.com/maypok86/otter/v2", func() (func(key, value string), func()) {
			c := otter.Must(&otter.Options[string, string]{
				MaximumSize: kept, ExpiryCalculator: otter.ExpiryWriting[string, string](ttl),
			})
			return func(key, value string) { c.Set(key, value) }, func() { c.StopAllGoroutines() }
		}},
		{"theine", "github.com/Yiling-J/theine-go", func() (func(key, value string), func()) {
			c, err := theine.NewBuilder[string, string](kept).Build()
			if err != nil {
				panic(err)
			}
			return func(key, value string) { c.SetWithTTL(key, value, 1, ttl) }, c.Close
		}},
		{"hot", "github.com/samber/hot", func() (func(key, value string), func()) {
			c := hot.NewHotCache[string, string](hot.LRU, kept).WithTTL(ttl).Build()
			return c.Set, func() { c.Purge() }
		}},
		{"ttlcache", "github.com/jellydator/ttlcache/v3", func() (func(key, value string), func()) {
			c := ttlcache.New(ttlcache.WithTTL[string, string](ttl), ttlcache.WithCapacity[string, string](kept))
			return func(key, value string) { c.Set(key, value, ttlcache.DefaultTTL) }, func() { c.DeleteAll() }
		}},
		{"sturdyc", "github.com/viccon/sturdyc", func() (func(key, value string), func()) {
			const shards, evicted = 64, 10
			c := sturdyc.New[string](kept*5/4, shards, ttl, evicted)
			return func(key, value string) { c.Set(key, value) }, func() { runtime.KeepAlive(c) }
		}},
		{"go-redis/cache, in memory", "github.com/go-redis/cache/v9", func() (func(key, value string), func()) {
			c := gocache.New(&gocache.Options{LocalCache: gocache.NewTinyLFU(kept, ttl)})
			return func(key, value string) {
				if err := c.Set(&gocache.Item{Ctx: ctx, Key: key, Value: value, TTL: ttl}); err != nil {
					panic(err)
				}
			}, func() { runtime.KeepAlive(c) }
		}},
		{"map", "", func() (func(key, value string), func()) {
			m := make(map[string]string)
			return func(key, value string) { m[key] = value }, func() { runtime.KeepAlive(m) }
		}},
		{"sync.Map", "", func() (func(key, value string), func()) {
			var m sync.Map
			return func(key, value string) { m.Store(key, value) }, func() { runtime.KeepAlive(&m) }
		}},
	}
}

// memory compares how much heap there is for an entry besides its key and value.
func memory() []contest {
	c := contest{
		name:    fmt.Sprintf("memory for an entry besides a key of %d and a value of %d bytes, %d entries", keyBytes, textBytes, kept),
		columns: []string{"bytes"}, rounds: 3,
	}
	for _, h := range holders() {
		c.contenders = append(c.contenders, contender{h.name, h.module, func() (player, func()) {
			return func(time.Duration) []float64 {
				before := heap()
				put, done := h.make()
				for i := range kept {
					put(fmt.Sprintf("key-%0*d", keyBytes-4, i), strings.Repeat("x", textBytes))
				}
				grown := heap() - before
				done()
				return []float64{grown/kept - keyBytes - textBytes}
			}, func() {}
		}})
	}
	return []contest{c}
}

// heap returns the bytes of the heap that are in use.
func heap() float64 {
	time.Sleep(50 * time.Millisecond) // for what is done in the background
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
