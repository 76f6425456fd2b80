package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	gocache "github.com/go-redis/cache/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidisaside"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/dtm-labs/rockscache"

	"github.com/bellwether-go/cache"
)

// Hits in Redis, with nothing kept in memory.

const (
	remoteKeys    = 1000
	remoteLookups = 2048 // at a time
	aloneRounds   = 41   // with 1 goroutine, which scatters most: the kernel now and then moves who waits for whom
)

// remote is a cache in Redis alone.
type remote struct {
	name   string
	module string
	make   func(addr string) (get func(ctx context.Context, key string) (user, error), done func())
}

func load(_ context.Context, key string) (user, error) { return value(key), nil }

func remotes() []remote {
	return []remote{
		{"go-redis GET and msgpack", "github.com/redis/go-redis/v9", func(addr string) (func(context.Context, string) (user, error), func()) {
			client := redis.NewClient(&redis.Options{Addr: addr})
			return func(ctx context.Context, key string) (u user, err error) {
				b, err := client.Get(ctx, "plain:"+key).Bytes()
				if errors.Is(err, redis.Nil) {
					if b, err = msgpack.Marshal(value(key)); err == nil {
						err = client.Set(ctx, "plain:"+key, b, ttl).Err()
					}
				}
				if err != nil {
					return u, err
				}
				return u, msgpack.Unmarshal(b, &u)
			}, func() { _ = client.Close() }
		}},
		{"this package", "", func(addr string) (func(context.Context, string) (user, error), func()) {
			client := redis.NewClient(&redis.Options{Addr: addr})
			rds, err := cache.NewRedis(client, cache.RedisOptions{Timeout: time.Second})
			if err != nil {
				panic(err)
			}
			c, err := cache.New[user]("user", cache.Options{Redis: rds, TTL: ttl, LocalTTL: -1})
			if err != nil {
				panic(err)
			}
			return func(ctx context.Context, key string) (user, error) { return c.GetOrLoad(ctx, key, load) }, func() {
				_ = c.Close()
				_ = rds.Close()
				_ = client.Close()
			}
		}},
		{"go-redis/cache", "github.com/go-redis/cache/v9", func(addr string) (func(context.Context, string) (user, error), func()) {
			client := redis.NewClient(&redis.Options{Addr: addr})
			c := gocache.New(&gocache.Options{Redis: client})
			return func(ctx context.Context, key string) (u user, err error) {
				return u, c.Once(&gocache.Item{
					Ctx: ctx, Key: "once:" + key, Value: &u, TTL: ttl,
					Do: func(*gocache.Item) (any, error) { return value(key), nil },
				})
			}, func() { _ = client.Close() }
		}},
		{"rueidisaside and msgpack", "github.com/redis/rueidis/rueidisaside", func(addr string) (func(context.Context, string) (user, error), func()) {
			c, err := rueidisaside.NewClient(rueidisaside.ClientOption{
				ClientOption: rueidis.ClientOption{InitAddress: []string{addr}, DisableCache: true},
			})
			if err != nil {
				panic(err)
			}
			return func(ctx context.Context, key string) (u user, err error) {
				text, err := c.Get(ctx, ttl, "aside:"+key, func(ctx context.Context, _ string) (string, error) {
					return packed(ctx, key)
				})
				if err != nil {
					return u, err
				}
				return u, msgpack.Unmarshal([]byte(text), &u)
			}, c.Close
		}},
		{"rockscache and msgpack", "github.com/dtm-labs/rockscache", func(addr string) (func(context.Context, string) (user, error), func()) {
			client := redis.NewClient(&redis.Options{Addr: addr})
			c := rockscache.NewClient(client, rockscache.NewDefaultOptions())
			return func(ctx context.Context, key string) (u user, err error) {
				text, err := c.Fetch2(ctx, "rocks:"+key, ttl, func() (string, error) { return packed(ctx, key) })
				if err != nil {
					return u, err
				}
				return u, msgpack.Unmarshal([]byte(text), &u)
			}, func() { _ = client.Close() }
		}},
	}
}

func packed(_ context.Context, key string) (string, error) {
	b, err := msgpack.Marshal(value(key))
	return string(b), err
}

// remoteCalls compares reads of what is in Redis, and loads of what is not. Redis's own time is counted too.
func remoteCalls(h *host) (cs []contest) {
	for _, cold := range []bool{false, true} {
		for _, goroutines := range []int{1, 16, 256} {
			c := contest{name: fmt.Sprintf("hits in Redis, %d goroutines", goroutines)}
			if cold {
				c.name = fmt.Sprintf("misses in Redis, loaded at once and stored, %d goroutines", goroutines)
			}
			c.columns = append(slices.Clone(perOperation), "us of Redis")
			if goroutines == 1 {
				c.rounds = aloneRounds
			}
			for _, r := range remotes() {
				c.contenders = append(c.contenders, contender{r.name, r.module, func() (player, func()) {
					server := h.server()
					get, done := r.make(server.Addr)
					client := server.Client(nil)
					ask(get, 1, remoteKeys, "")
					round, asked := 0, 0
					play := each(remoteLookups, func() {
						suffix := ""
						if cold {
							round++
							suffix = fmt.Sprint("-", goroutines, "-", round)
						}
						asked += remoteLookups
						ask(get, goroutines, remoteLookups, suffix)
					})
					return func(slice time.Duration) []float64 {
						asked = 0
						before := h.busy(client)
						columns := play(slice)
						return append(columns, (h.busy(client)-before)/float64(asked))
					}, done
				}})
			}
			cs = append(cs, c)
		}
	}
	return cs
}

// busy is how many microseconds the server has used of a processor.
func (h *host) busy(client *redis.Client) (us float64) {
	info, err := client.InfoMap(context.Background(), "cpu").Result()
	if err != nil {
		h.Fatal(err)
	}
	for _, name := range []string{"used_cpu_sys", "used_cpu_user"} {
		s, err := strconv.ParseFloat(info["CPU"][name], 64)
		if err != nil {
			h.Fatal(err)
		}
		us += s * 1e6
	}
	return us
}

// ask asks for n keys, all of which end with suffix; without one some are asked for again.
func ask(get func(ctx context.Context, key string) (user, error), goroutines, n int, suffix string) {
	ctx := context.Background()
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for i := g; i < n; i += goroutines {
				key := fmt.Sprint("user-", i%remoteKeys)
				if suffix != "" {
					key = fmt.Sprint("user-", i, suffix)
				}
				if u, err := get(ctx, key); err != nil || u.Name != key {
					panic(fmt.Sprintf("%s is %v, %v", key, u, err))
				}
			}
		})
	}
	all.Wait()
}

// remoteMemory compares what one entry takes of Redis's memory, with its key, by MEMORY USAGE.
func remoteMemory(h *host) []contest {
	c := contest{name: "memory of an entry in Redis: a struct of 18 bytes in msgpack", columns: []string{"bytes", "of them stored"}, rounds: 1}
	for _, r := range remotes() {
		c.contenders = append(c.contenders, contender{r.name, r.module, func() (player, func()) {
			server := h.server()
			get, done := r.make(server.Addr)
			return func(time.Duration) []float64 {
				const key = "entry-0"
				client, ctx := server.Client(nil), context.Background()
				defer client.Close()
				if _, err := get(ctx, key); err != nil {
					h.Fatal(err)
				}
				keys, err := client.Keys(ctx, "*"+key).Result()
				if err != nil || len(keys) != 1 {
					h.Fatal(keys, err)
				}
				defer client.Del(ctx, keys...)
				used, err := client.MemoryUsage(ctx, keys[0]).Result()
				if err != nil {
					h.Fatal(err)
				}
				stored, err := client.StrLen(ctx, keys[0]).Result()
				if err != nil { // it is a hash
					all, _ := client.HGetAll(ctx, keys[0]).Result()
					for k, v := range all {
						stored += int64(len(k) + len(v))
					}
				}
				return []float64{float64(used), float64(stored)}
			}, done
		}})
	}
	return []contest{c}
}
