package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/bsm/redislock"
	"github.com/dtm-labs/rockscache"
	gocache "github.com/go-redis/cache/v9"
	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidisaside"
	"github.com/viccon/sturdyc"
	"github.com/vmihailenco/msgpack/v5"
	"golang.org/x/sync/singleflight"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/internal/resp"
)

// What stands in front of the origin of a fleet: caches that know of other processes, recipes with a lock, and caches that
// do not know of them. All are as they come, with the options that their documentation begins with.

// getter gets a value, and loads it if it has to.
type getter func(ctx context.Context, key string) (user, error)

// guard is one of them.
type guard struct {
	name   string
	module string
	make   func(addr string, sent *resp.Counter, load getter) (get getter, done func())
}

const (
	lockLife = 8 * time.Second // redsync's default
	lockLook = 50 * time.Millisecond
)

func guards() []guard {
	return []guard{
		{"this package", "", func(addr string, sent *resp.Counter, load getter) (getter, func()) {
			client := counted(addr, sent)
			rds, err := cache.NewRedis(client, cache.RedisOptions{})
			if err != nil {
				panic(err)
			}
			c, err := cache.New[user]("user", cache.Options{Redis: rds, TTL: ttl})
			if err != nil {
				panic(err)
			}
			loader := cache.Loader[user](load)
			return func(ctx context.Context, key string) (user, error) { return c.GetOrLoad(ctx, key, loader) }, func() {
				_ = c.Close()
				_ = rds.Close()
				_ = client.Close()
			}
		}},
		{"rueidisaside", "github.com/redis/rueidis/rueidisaside", func(addr string, sent *resp.Counter, load getter) (getter, func()) {
			c, err := rueidisaside.NewClient(rueidisaside.ClientOption{ClientOption: rueidis.ClientOption{
				InitAddress: []string{addr},
				DialCtxFn: func(ctx context.Context, addr string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
					return sent.Dial(ctx, d, addr)
				},
			}})
			if err != nil {
				panic(err)
			}
			return func(ctx context.Context, key string) (u user, err error) {
				text, err := c.Get(ctx, ttl, "aside:"+key, func(ctx context.Context, _ string) (string, error) {
					return pack(load(ctx, key))
				})
				if err != nil {
					return u, err
				}
				return u, msgpack.Unmarshal([]byte(text), &u)
			}, c.Close
		}},
		{"rockscache", "github.com/dtm-labs/rockscache", func(addr string, sent *resp.Counter, load getter) (getter, func()) {
			client := counted(addr, sent)
			c := rockscache.NewClient(client, rockscache.NewDefaultOptions())
			return func(ctx context.Context, key string) (u user, err error) {
				text, err := c.Fetch2(ctx, "rocks:"+key, ttl, func() (string, error) { return pack(load(ctx, key)) })
				if err != nil {
					return u, err
				}
				return u, msgpack.Unmarshal([]byte(text), &u)
			}, func() { _ = client.Close() }
		}},
		{"redsync, singleflight", "github.com/go-redsync/redsync/v4", func(addr string, sent *resp.Counter, load getter) (getter, func()) {
			client := counted(addr, sent)
			locks := redsync.New(goredis.NewPool(client))
			return recipe(client, load, func(ctx context.Context, key string) (func(), error) {
				m := locks.NewMutex("lock:" + key)
				return func() { _, _ = m.UnlockContext(ctx) }, m.LockContext(ctx)
			}), func() { _ = client.Close() }
		}},
		{"redislock, singleflight", "github.com/bsm/redislock", func(addr string, sent *resp.Counter, load getter) (getter, func()) {
			client := counted(addr, sent)
			locks := redislock.New(client)
			return recipe(client, load, func(ctx context.Context, key string) (func(), error) {
				l, err := locks.Obtain(ctx, "lock:"+key, lockLife, &redislock.Options{RetryStrategy: redislock.LinearBackoff(lockLook)})
				return func() { _ = l.Release(ctx) }, err
			}), func() { _ = client.Close() }
		}},
		{"go-redis/cache", "github.com/go-redis/cache/v9", func(addr string, sent *resp.Counter, load getter) (getter, func()) {
			client := counted(addr, sent)
			c := gocache.New(&gocache.Options{Redis: client, LocalCache: gocache.NewTinyLFU(hotKeys, ttl)})
			return func(ctx context.Context, key string) (u user, err error) {
				return u, c.Once(&gocache.Item{
					Ctx: ctx, Key: "once:" + key, Value: &u, TTL: ttl,
					Do: func(*gocache.Item) (any, error) { return load(ctx, key) },
				})
			}, func() { _ = client.Close() }
		}},
		{"sturdyc, no Redis", "github.com/viccon/sturdyc", func(_ string, _ *resp.Counter, load getter) (getter, func()) {
			const shards, evicted = 64, 10
			c := sturdyc.New[user](hotKeys, shards, ttl, evicted)
			return func(ctx context.Context, key string) (user, error) {
				return c.GetOrFetch(ctx, key, func(ctx context.Context) (user, error) { return load(ctx, key) })
			}, func() {}
		}},
	}
}

func counted(addr string, sent *resp.Counter) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: addr,
		Dialer: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return sent.Dial(ctx, new(net.Dialer), addr)
		},
	})
}

func pack(u user, err error) (string, error) {
	if err != nil {
		return "", err
	}
	b, err := msgpack.Marshal(u)
	return string(b), err
}

// recipe is what is written around a lock: look, lock, look again, load, store, unlock; once at a time in each process.
func recipe(client *redis.Client, load getter, lock func(context.Context, string) (unlock func(), err error)) getter {
	var group singleflight.Group
	stored := func(ctx context.Context, key string) (u user, err error) {
		b, err := client.Get(ctx, "recipe:"+key).Bytes()
		if err != nil {
			return u, err
		}
		return u, msgpack.Unmarshal(b, &u)
	}
	fill := func(ctx context.Context, key string) (user, error) {
		if u, err := stored(ctx, key); !errors.Is(err, redis.Nil) {
			return u, err
		}
		unlock, err := lock(ctx, key)
		if err != nil {
			return user{}, fmt.Errorf("lock: %w", err)
		}
		defer unlock()
		if u, err := stored(ctx, key); !errors.Is(err, redis.Nil) {
			return u, err
		}
		u, err := load(ctx, key)
		if err != nil {
			return u, err
		}
		b, err := msgpack.Marshal(u)
		if err != nil {
			return u, err
		}
		return u, client.Set(ctx, "recipe:"+key, b, ttl).Err()
	}
	return func(ctx context.Context, key string) (user, error) {
		v, err, _ := group.Do(key, func() (any, error) { return fill(ctx, key) })
		u, _ := v.(user)
		return u, err
	}
}
