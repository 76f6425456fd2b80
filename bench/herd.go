package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	theine "github.com/Yiling-J/theine-go"
	"github.com/maypok86/otter/v2"
	"github.com/viccon/sturdyc"

	"github.com/bellwether-go/cache"
)

// A stampede in one process.

const (
	callers = 10_000
	loading = 50 * time.Millisecond
)

// origin loads slowly, and counts.
type origin struct{ loads atomic.Int64 }

func (o *origin) load(_ context.Context, key string) (user, error) {
	o.loads.Add(1)
	time.Sleep(loading)
	return value(key), nil
}

// collapser is a cache in front of an origin.
type collapser struct {
	name   string
	module string
	make   func(o *origin) (get func(key string) (user, error), done func())
}

func collapsers() []collapser {
	ctx := context.Background()
	return []collapser{
		{"map, RWMutex and singleflight", "golang.org/x/sync", func(o *origin) (func(string) (user, error), func()) {
			c := newPlain()
			return func(key string) (user, error) {
				return c.get(key, func() (user, error) { return o.load(ctx, key) })
			}, func() {}
		}},
		{"this package", "", func(o *origin) (func(string) (user, error), func()) {
			c, err := cache.New[user]("user", cache.Options{TTL: ttl})
			if err != nil {
				panic(err)
			}
			return func(key string) (user, error) { return c.GetOrLoad(ctx, key, o.load) }, func() { _ = c.Close() }
		}},
		{"otter", "github.com/maypok86/otter/v2", func(o *origin) (func(string) (user, error), func()) {
			c := otter.Must(&otter.Options[string, user]{
				MaximumSize: callers, ExpiryCalculator: otter.ExpiryWriting[string, user](ttl),
			})
			loader := otter.LoaderFunc[string, user](o.load)
			return func(key string) (user, error) { return c.Get(ctx, key, loader) }, func() { c.StopAllGoroutines() }
		}},
		{"theine", "github.com/Yiling-J/theine-go", func(o *origin) (func(string) (user, error), func()) {
			c, err := theine.NewBuilder[string, user](callers).BuildWithLoader(
				func(ctx context.Context, key string) (theine.Loaded[user], error) {
					u, err := o.load(ctx, key)
					return theine.Loaded[user]{Value: u, Cost: 1, TTL: ttl}, err
				})
			if err != nil {
				panic(err)
			}
			return func(key string) (user, error) { return c.Get(ctx, key) }, c.Close
		}},
		{"sturdyc", "github.com/viccon/sturdyc", func(o *origin) (func(string) (user, error), func()) {
			const shards, evicted = 64, 10
			c := sturdyc.New[user](callers, shards, ttl, evicted)
			return func(key string) (user, error) {
				return c.GetOrFetch(ctx, key, func(ctx context.Context) (user, error) { return o.load(ctx, key) })
			}, func() {}
		}},
	}
}

// herd compares what many callers of one cold key wait beyond the load.
func herd() []contest {
	c := contest{
		name:    fmt.Sprintf("%d goroutines ask for one cold key, beyond a load of %v", callers, loading),
		columns: []string{"ms", "allocs each", "loads"},
	}
	for _, k := range collapsers() {
		c.contenders = append(c.contenders, contender{k.name, k.module, func() (player, func()) {
			o := new(origin)
			get, done := k.make(o)
			n := 0
			return func(time.Duration) []float64 {
				n++
				return o.rush(fmt.Sprint("user-", n), get, callers)
			}, done
		}})
	}
	return []contest{c}
}

// rush lets all callers go at once.
func (o *origin) rush(key string, get func(key string) (user, error), callers int) []float64 {
	o.loads.Store(0)
	start := make(chan struct{})
	var ready, all sync.WaitGroup
	ready.Add(callers)
	for range callers {
		all.Go(func() {
			ready.Done()
			<-start
			if u, err := get(key); err != nil || u.Name != key {
				panic(fmt.Sprintf("%s is %v, %v", key, u, err))
			}
		})
	}
	ready.Wait()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	close(start)
	all.Wait()
	took := time.Since(began) - loading
	runtime.ReadMemStats(&after)
	return []float64{
		float64(took.Microseconds()) / 1000, float64(after.Mallocs-before.Mallocs) / float64(callers), float64(o.loads.Load()),
	}
}
