package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/realredis"
)

// trials is how many are made of each kind: CACHE_TRIALS, or a hundred.
func trials() int {
	if n, err := strconv.Atoi(os.Getenv("CACHE_TRIALS")); err == nil {
		return n
	}
	return 100
}

// pause waits between least and most, or until ctx ends.
func pause(ctx context.Context, least, most time.Duration) {
	t := time.NewTimer(least + rand.N(most-least+1))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// eachTrial does trials, 20 at a time.
func eachTrial(f func(i int)) {
	var wg sync.WaitGroup
	next := atomic.Int64{}
	for range 20 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < trials(); i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// invalidators are the ways to invalidate a key that carries itself as a tag. Clear is not among them: it would make all
// trials meet.
var invalidators = map[string]func(c *Cache[int], key string) error{
	"Delete":     func(c *Cache[int], key string) error { return c.Delete(background, key) },
	"DeleteTags": func(c *Cache[int], key string) error { return c.DeleteTags(background, key) },
	"Set":        func(c *Cache[int], key string) error { return c.Set(background, key, 2) },
}

// threeProcesses share a real server. All values carry their key as a tag.
func threeProcesses(t *testing.T, name string, s *realredis.Server, localTTL time.Duration, ro RedisOptions) []*Cache[int] {
	t.Helper()
	var all []*Cache[int]
	for range 3 {
		client := s.Client(func(o *redis.Options) { o.PoolSize = 100 })
		ro.Timeout = 10 * time.Second
		r, err := NewRedis(client, ro)
		if err != nil {
			t.Fatal(err)
		}
		c, err := New[int](name, Options{Redis: r, Tags: true, LocalTTL: localTTL})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = c.Close()
			_ = r.Close()
		})
		eventually(t, "a subscription", r.stream.wakes)
		if err := r.learnTime(background); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// A load takes 30 ms, and 1 to 5 ms into it its key, or its tag, is invalidated, by the loading process or by another:
// nobody sees the old value afterwards, from any tier.
func TestRealServerInvalidateInMidLoad(t *testing.T) {
	t.Parallel()
	s := realredis.Start(t)
	for how, invalidate := range invalidators {
		for by, process := range []string{"same process", "other process"} {
			t.Run(how+" by the "+process, func(t *testing.T) {
				caches := threeProcesses(t, fmt.Sprint(how, by), s, time.Minute, RedisOptions{})
				var old, loads atomic.Int32
				eachTrial(func(i int) {
					key := fmt.Sprint(i)
					var origin atomic.Int64
					origin.Store(1)
					load := func(ctx context.Context, key string) (int, error) {
						loads.Add(1)
						LoadFrom(ctx).SetTags(key)
						v := int(origin.Load())
						pause(ctx, 30*time.Millisecond, 30*time.Millisecond)
						return v, nil
					}
					begun := make(chan struct{})
					first := make(chan struct{})
					// Not to be over before that, on however busy a machine: then a memory may be old for a message's time.
					invalidated := make(chan struct{})
					letGo := sync.OnceFunc(func() { close(invalidated) })
					defer letGo()
					go func() {
						defer close(first)
						if v, err := caches[0].GetOrLoad(background, key, func(ctx context.Context, key string) (int, error) {
							close(begun)
							defer func() { <-invalidated }()
							return load(ctx, key)
						}); v < 1 || err != nil {
							t.Errorf("%d, %v", v, err)
						}
					}()
					<-begun
					pause(background, time.Millisecond, 5*time.Millisecond)
					origin.Store(2)
					if err := invalidate(caches[by], key); err != nil {
						t.Error(err)
						return
					}
					letGo()
					see := func() {
						var calls sync.WaitGroup
						for _, c := range caches {
							for range 2 {
								calls.Go(func() {
									if v, err := c.GetOrLoad(background, key, load); v != 2 || err != nil {
										old.Add(1)
									}
								})
							}
						}
						calls.Wait()
					}
					see()
					<-first
					see()
					for _, c := range caches {
						if e, ok := c.core.local.get(key); ok && e != 2 {
							old.Add(1)
						}
					}
				})
				if n := old.Load(); n > 0 {
					t.Errorf("old values or errors seen: %d", n)
				}
				t.Logf("%d trials, 14 looks each: %d old values; %d loads", trials(), old.Load(), loads.Load())
			})
		}
	}
}

// Nothing is being loaded, and all memories have the value: how soon after the invalidation has returned do they forget
// it?
func TestRealServerMemoriesForget(t *testing.T) {
	t.Parallel()
	s := realredis.Start(t)
	for how, invalidate := range invalidators {
		for _, tracking := range []bool{false, true} {
			t.Run(fmt.Sprint(how, " tracking ", tracking), func(t *testing.T) {
				caches := threeProcesses(t, fmt.Sprint(how, tracking), s, time.Minute, RedisOptions{Tracking: tracking})
				var lags []time.Duration
				for i := range trials() {
					key := fmt.Sprint(i)
					for _, c := range caches {
						eventually(t, "the value in memory", func() bool {
							v, err := c.GetOrLoad(background, key, func(ctx context.Context, key string) (int, error) {
								LoadFrom(ctx).SetTags(key)
								return 1, nil
							})
							_, ok := c.core.local.get(key)
							return v == 1 && err == nil && ok
						})
					}
					if err := invalidate(caches[0], key); err != nil {
						t.Fatal(err)
					}
					returned := time.Now()
					for _, c := range caches[1:] {
						eventually(t, "forgotten", func() bool {
							for time.Since(returned) < 5*time.Millisecond { // eventually looks every 5 ms
								if e, ok := c.core.local.get(key); !ok || e != 1 {
									return true
								}
							}
							e, ok := c.core.local.get(key)
							return !ok || e != 1
						})
						lags = append(lags, time.Since(returned))
					}
				}
				slices.Sort(lags)
				t.Logf("%d memories have forgotten after p50 %v, p99 %v, at most %v", len(lags),
					lags[len(lags)/2].Round(time.Microsecond), lags[len(lags)*99/100].Round(time.Microsecond), lags[len(lags)-1].Round(time.Microsecond))
			})
		}
	}
}

// The same while connections for messages are killed at random: no call that begins LocalTTL after an invalidation gets
// the old value, and in the end no memory has one.
func TestRealServerStreamKilled(t *testing.T) {
	t.Parallel()
	s := realredis.Start(t)
	admin := s.Client(nil)
	const localTTL = 200 * time.Millisecond
	for how, invalidate := range invalidators {
		t.Run(how, func(t *testing.T) {
			caches := threeProcesses(t, how, s, localTTL, RedisOptions{})
			ctx, cancel := context.WithCancel(background)
			var killer sync.WaitGroup
			defer killer.Wait()
			defer cancel()
			kills := 0
			killer.Go(func() {
				for ctx.Err() == nil {
					pause(ctx, 0, 20*time.Millisecond)
					_ = admin.Do(background, "CLIENT", "KILL", "TYPE", "pubsub").Err()
					kills++
				}
			})
			var late, stale, looks atomic.Int32
			eachTrial(func(i int) {
				key := fmt.Sprint(i)
				load := func(v int) Loader[int] {
					return func(ctx context.Context, key string) (int, error) {
						LoadFrom(ctx).SetTags(key)
						return v, nil
					}
				}
				for _, c := range caches {
					if v, err := c.GetOrLoad(background, key, load(1)); v != 1 || err != nil {
						t.Errorf("%d, %v", v, err)
					}
				}
				if err := invalidate(caches[0], key); err != nil {
					t.Error(err)
					return
				}
				deleted := time.Now()
				for time.Since(deleted) < 3*localTTL/2 {
					for j, c := range caches {
						asked := time.Now()
						v, err := c.GetOrLoad(background, key, load(2))
						looks.Add(1)
						switch {
						case err != nil:
							t.Error(err)
						case v == 2:
						case j == 0 || asked.Sub(deleted) >= localTTL:
							stale.Add(1)
						default:
							late.Add(1)
						}
					}
					pause(background, 10*time.Millisecond, 30*time.Millisecond)
				}
			})
			cancel()
			killer.Wait()
			if n := stale.Load(); n > 0 {
				t.Errorf("%d old values from the deleting process, or after LocalTTL", n)
			}
			for _, c := range caches {
				eventually(t, "a subscription again", c.core.redis.stream.wakes)
			}
			for i := range trials() {
				for _, c := range caches[1:] {
					eventually(t, "all memories fresh", func() bool {
						v, err := c.GetOrLoad(background, fmt.Sprint(i), func(context.Context, string) (int, error) { return 2, nil })
						return v == 2 && err == nil
					})
				}
			}
			t.Logf("%d trials, %d kills, %d looks: %d old values within LocalTTL, from other processes' memories; %d later",
				trials(), kills, looks.Load(), late.Load(), stale.Load())
		})
	}
}
