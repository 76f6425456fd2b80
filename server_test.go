package cache

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/realredis"
)

// eventually waits for something that a real server does in its own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

// onServer makes as many processes as there are clients: each has its own Redis and Cache, all in this one. Their
// budget is generous, for a test must not depend on how busy its machine is.
func onServer(t *testing.T, o Options, wakes bool, clients ...Client) []*Cache[string] {
	t.Helper()
	var caches []*Cache[string]
	for _, client := range clients {
		r, err := NewRedis(client, RedisOptions{Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		o.Redis = r
		c, err := New[string]("user", o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = c.Close()
			_ = r.Close()
		})
		if wakes {
			eventually(t, "a subscription", r.stream.wakes)
		}
		caches = append(caches, c)
	}
	return caches
}

// collapse lets 20 callers in each of the caches ask for a cold key, and returns how often it was loaded.
func collapse(t *testing.T, caches []*Cache[string], key string) int32 {
	t.Helper()
	var loads atomic.Int32
	var wg sync.WaitGroup
	defer wg.Wait()
	free := make(chan struct{})
	letGo := sync.OnceFunc(func() { close(free) })
	defer letGo()
	for _, c := range caches {
		for range 20 {
			wg.Go(func() {
				v, err := c.GetOrLoad(background, key, func(_ context.Context, key string) (string, error) {
					loads.Add(1)
					<-free
					return "of " + key, nil
				})
				if v != "of "+key || err != nil {
					t.Errorf("%q, %v", v, err)
				}
			})
		}
	}
	for _, c := range caches {
		eventually(t, "all callers in a flight", func() bool { return callers(c.core, key) == 20 })
		eventually(t, "a load, or waiting for one", func() bool { return c.Stats().Loads+c.Stats().Waits > 0 })
	}
	letGo()
	wg.Wait()
	return loads.Load()
}

// The scripts, the subscription and the native form do on a real server what they do on miniredis.
func TestRealServer(t *testing.T) {
	t.Parallel()
	s := realredis.Start(t)
	admin := s.Client(nil)
	user := func(name string, rules ...any) *redis.Client {
		args := append([]any{"ACL", "SETUSER", name, "on", "nopass", "allkeys", "allchannels", "+@all"}, rules...)
		if err := admin.Do(background, args...).Err(); err != nil {
			t.Fatal(err)
		}
		return s.Client(func(o *redis.Options) { o.Username, o.Password = name, "x" })
	}
	for _, c := range []struct {
		name   string
		wakes  bool
		client func() Client
	}{
		{"RESP3", true, func() Client { return s.Client(nil) }},
		{"RESP2", true, func() Client { return s.Client(func(o *redis.Options) { o.Protocol = 2 }) }},
		{"one connection", true, func() Client { return s.Client(func(o *redis.Options) { o.PoolSize = 1 }) }},
		{"no scripts", true, func() Client { return user("noscripts", "-@scripting") }},
		{"no channels", false, func() Client { return user("nochannels", "resetchannels") }},
		{"no scripts, no channels, no TIME", false, func() Client {
			return user("little", "-@scripting", "resetchannels", "-time")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.HasPrefix(c.name, "no ") {
				needChannels(t, admin)
			}
			caches := onServer(t, Options{}, c.wakes, c.client(), c.client(), c.client())
			for _, key := range []string{"a", "a:{b}\r\n\x00\xff", ""} {
				if n := collapse(t, caches, c.name+key); n != 1 {
					t.Errorf("key %q: %d loads", key, n)
				}
			}
			batch := strings.Fields(strings.ReplaceAll(keysTo(200), "k", strings.ReplaceAll(c.name, " ", "")))
			if values, err := caches[0].GetOrLoadMany(background, batch, new(batchOrigin).load); len(values) != 200 || err != nil {
				t.Errorf("%d values, %v", len(values), err)
			}
			if values, err := caches[1].GetOrLoadMany(background, batch, nil, OnlyIfCached()); len(values) != 200 || err != nil {
				t.Errorf("in another process: %d values, %v", len(values), err)
			}
			k := c.name + "a"
			if err := caches[0].Delete(background, k, c.name, "nothing"); err != nil {
				t.Error(err)
			}
			if _, ok := caches[0].Get(background, k); ok {
				t.Error("not deleted")
			}
			if c.wakes {
				eventually(t, "deleted from the memory of others", func() bool {
					_, ok := caches[1].Get(background, k)
					return !ok
				})
			}
			if err := caches[0].Set(background, k, "set"); err != nil {
				t.Error(err)
			}
			caches[2].core.invalidateAll()
			if v, ok := caches[2].Get(background, k); v != "set" || !ok {
				t.Errorf("%q, %v", v, ok)
			}
			keys, err := admin.Keys(background, "*").Result()
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range keys {
				if ttl := admin.PTTL(background, k).Val(); ttl <= 0 {
					t.Errorf("key %q: TTL %v", k, ttl)
				}
			}
		})
	}
}

// Whatever a server refuses, callers get their value.
func TestRealServerRefuses(t *testing.T) {
	t.Parallel()
	s := realredis.Start(t)
	admin := s.Client(nil)
	config := func(name, value string) {
		t.Helper()
		if err := admin.ConfigSet(background, name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := admin.Do(background, "ACL", "SETUSER", "reader", "on", "nopass", "allkeys", "+@read").Err(); err != nil {
		t.Fatal(err)
	}
	_ = admin.LPush(background, "cache:user:list", "x")
	caches := onServer(t, Options{}, true, s.Client(nil))
	reader := onServer(t, Options{}, false, s.Client(func(o *redis.Options) { o.Username, o.Password = "reader", "x" }))
	for _, c := range []struct {
		name    string
		caches  []*Cache[string]
		before  func()
		after   func()
		uncache bool
	}{
		{name: "nothing"},
		{name: "list"},
		{name: "large", before: func() { _ = admin.Set(background, "cache:user:large", strings.Repeat("x", 10<<20), 0) }},
		{name: "memory", before: func() { config("maxmemory", "1") }, after: func() { config("maxmemory", "0") }, uncache: true},
		{
			name:    "replica",
			before:  func() { _ = admin.Do(background, "REPLICAOF", "127.0.0.1", "1").Err() },
			after:   func() { _ = admin.Do(background, "REPLICAOF", "NO", "ONE").Err() },
			uncache: true,
		},
		{name: "permission", caches: reader, uncache: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.caches == nil {
				c.caches = caches
			}
			if c.before != nil {
				c.before()
			}
			n := collapse(t, c.caches, c.name)
			if c.after != nil {
				c.after()
			}
			if n != 1 {
				t.Errorf("%d loads", n)
			}
			got := admin.GetRange(background, "cache:user:"+c.name, 0, 2).Val()
			if (got == "bw1") == c.uncache {
				t.Errorf("in Redis: %q", got)
			}
		})
	}
}

// Kill -9 with an empty restart, a server that is stopped, FLUSHALL, SCRIPT FLUSH and CLIENT KILL in mid-load: callers
// get their value, and afterwards Redis is used again.
func TestRealServerDies(t *testing.T) {
	t.Parallel()
	s := realredis.Start(t)
	admin := s.Client(nil)
	caches := onServer(t, Options{}, true, s.Client(nil), s.Client(nil))
	for name, fault := range map[string]func(){
		"kill":         func() { s.Kill(); s.Restart() },
		"stop":         func() { _ = s.Process().Signal(syscall.SIGSTOP) },
		"flushall":     func() { _ = admin.FlushAll(background) },
		"script flush": func() { _ = admin.ScriptFlush(background) },
		"client kill": func() {
			_ = admin.Do(background, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err()
			_ = admin.Do(background, "CLIENT", "KILL", "TYPE", "pubsub").Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			var wg sync.WaitGroup
			faulted := make(chan struct{})
			var once sync.Once
			for i, c := range caches {
				for j := range 20 {
					wg.Go(func() {
						key := fmt.Sprint(name, j%5)
						v, err := c.GetOrLoad(background, key, func(_ context.Context, key string) (string, error) {
							once.Do(func() {
								defer close(faulted) // also if the server does not start again
								fault()
							})
							<-faulted
							return "of " + key, nil
						})
						if v != "of "+key || err != nil {
							t.Errorf("process %d: %q, %v", i, v, err)
						}
					})
				}
			}
			<-faulted
			if name == "stop" { // long enough to be noticed, by calls and by the subscription
				eventually(t, "cut off", func() bool { return !caches[0].core.redis.stream.wakes() })
				_ = s.Process().Signal(syscall.SIGCONT)
			}
			wg.Wait()
			for i := 0; ; i++ {
				for _, c := range caches {
					eventually(t, "back", c.core.redis.stream.wakes)
					eventually(t, "closed breaker", func() bool {
						_, _ = c.Get(background, "probe")
						return !c.core.redis.cutOff()
					})
				}
				n := collapse(t, caches, fmt.Sprint(name, " after ", i))
				if n == 1 {
					break
				}
				if i == 3 { // go-redis finds its dead connections one by one
					t.Errorf("still %d loads", n)
					break
				}
			}
		})
	}
}
