package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
)

// A mistake is reported when the cache is made, and all of them at once.
func TestNewReportsEveryMistake(t *testing.T) {
	_, err := New[string]("a:b", Options{
		TTL: -1, NegativeTTL: time.Nanosecond, LoadTimeout: -1, Lease: 2 * time.Hour, LocalBytes: -1,
		MaxValueBytes: 1 << 30, LocalEntries: math.MaxInt,
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, field := range []string{
		`name "a:b"`, "TTL", "NegativeTTL", "LoadTimeout", "Lease", "LocalBytes", "MaxValueBytes", "LocalEntries",
	} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("nothing about %s in:\n%v", field, err)
		}
	}
	_, err = NewRedis(nil, RedisOptions{Prefix: "p:", Timeout: -1})
	for _, what := range []string{"no client", "Prefix", "Timeout"} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("nothing about %s in:\n%v", what, err)
		}
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", ":", "a:b", "a b", "a{b", "a}", "ä", "a\n", strings.Repeat("x", 101)} {
		if _, err := New[string](name, Options{}); err == nil {
			t.Errorf("name %q is accepted", name)
		}
	}
	for _, name := range []string{"u", "user", "user-v2", "team/user.v2_x", strings.Repeat("x", 100)} {
		c, err := New[string](name, Options{})
		if err != nil {
			t.Errorf("name %q: %v", name, err)
			continue
		}
		_ = c.Close()
	}
}

func TestDefaults(t *testing.T) {
	for _, c := range []struct{ in, want Options }{
		{Options{}, Options{
			TTL: 5 * time.Minute, NegativeTTL: 30 * time.Second, LocalTTL: time.Minute, LocalEntries: 10_000,
			LoadTimeout: 30 * time.Second, MaxBatchKeys: 1000, Lease: 2 * time.Second, CompressAbove: 4096, MaxValueBytes: 8 << 20,
		}},
		{Options{TTL: 10 * time.Second, LocalBytes: 1}, Options{
			TTL: 10 * time.Second, NegativeTTL: time.Second, LocalTTL: 10 * time.Second, LocalEntries: -1, LocalBytes: 1,
			LoadTimeout: 30 * time.Second, MaxBatchKeys: 1000, Lease: 2 * time.Second, CompressAbove: 4096, MaxValueBytes: 8 << 20,
		}},
		{Options{TTL: time.Millisecond, NegativeTTL: -1, LocalTTL: -1, LocalEntries: -1, CompressAbove: -1}, Options{
			TTL: time.Millisecond, NegativeTTL: -1, LocalTTL: -1, LocalEntries: -1,
			LoadTimeout: 30 * time.Second, MaxBatchKeys: 1000, Lease: 2 * time.Second, CompressAbove: -1, MaxValueBytes: 8 << 20,
		}},
	} {
		c.want.Codec, c.want.Jitter, c.want.EarlyRefresh, c.want.Backoff = Msgpack{}, 0.1, 0.5, 100*time.Millisecond
		if got, err := c.in.withDefaults(); !reflect.DeepEqual(got, c.want) || err != nil {
			t.Errorf("got %+v, %v\nwant %+v", got, err, c.want)
		}
	}
}

// NewRedis takes every client of go-redis, and refuses those that cache on their side or, but with ReplicaReads, read from replicas.
func TestClients(t *testing.T) {
	for name, client := range map[string]Client{
		"single":    redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}),
		"sentinel":  redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "m", SentinelAddrs: []string{"127.0.0.1:1"}}),
		"cluster":   redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}}),
		"ring":      redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}}),
		"universal": redis.NewUniversalClient(&redis.UniversalOptions{Addrs: []string{"127.0.0.1:1"}}),
	} {
		r, err := NewRedis(client, RedisOptions{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := r.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, o := range map[string]*redis.ClusterOptions{
		"ReadOnly": {ReadOnly: true}, "RouteByLatency": {RouteByLatency: true}, "RouteRandomly": {RouteRandomly: true},
	} {
		o.Addrs = []string{"127.0.0.1:1"}
		if _, err := NewRedis(redis.NewClusterClient(o), RedisOptions{}); err == nil {
			t.Errorf("a client with %s is accepted", name)
		}
		r, err := NewRedis(redis.NewClusterClient(o), RedisOptions{ReplicaReads: true})
		if err != nil {
			t.Errorf("%s with ReplicaReads: %v", name, err)
			continue
		}
		_ = r.Close()
	}
	for name, client := range map[string]Client{
		"single": redis.NewClient(&redis.Options{}), "cluster": redis.NewClusterClient(&redis.ClusterOptions{}),
	} {
		if _, err := NewRedis(client, RedisOptions{ReplicaReads: true}); err == nil {
			t.Errorf("ReplicaReads for a %s client that reads from none is accepted", name)
		}
	}
	caching := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:1", Protocol: 3, ClientSideCacheConfig: &redis.ClientSideCacheConfig{},
	})
	defer caching.Close()
	if _, err := NewRedis(caching, RedisOptions{}); err == nil {
		t.Error("a client with a cache of its own is accepted")
	}
}

func TestWithTTL(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		p.get(background, "k", loads(0, "1"), WithTTL(time.Second)).must(t, "1", nil, 0)
		time.Sleep(time.Second)
		p.get(background, "k", loads(0, "2"), WithTTL(0)).must(t, "2", nil, 0)
		time.Sleep(time.Minute)
		p.get(background, "k", loads(0, "3")).must(t, "2", nil, 0)

		// A negative one: not stored.
		p.get(background, "n", loads(0, "1"), WithTTL(-1)).must(t, "1", nil, 0)
		if v, ok := p.cache.Get(background, "n"); ok {
			t.Errorf("stored: %q", v)
		}
		// Out of range: brought into it.
		p.get(background, "s", loads(0, "1"), WithTTL(1)).must(t, "1", nil, 0)
		p.get(background, "l", loads(0, "1"), WithTTL(math.MaxInt64)).must(t, "1", nil, 0)
		time.Sleep(time.Millisecond)
		if _, ok := p.cache.Get(background, "s"); ok {
			t.Error("longer than 1 ms")
		}
		if _, ok := p.cache.Get(background, "l"); !ok {
			t.Error("too short")
		}
	})
}

// ErrNotFound is remembered; every other error is not.
func TestNegative(t *testing.T) {
	wrapped := fmt.Errorf("no user 42: %w", ErrNotFound)
	notFound := func(context.Context, string) (string, error) { return "ignored", wrapped }
	alike(t, Options{TTL: time.Minute}, func(t *testing.T, p *proc) {
		p.get(background, "k", notFound).must(t, "", wrapped, 0)
		p.get(background, "k", nil).must(t, "", ErrNotFound, 0)
		if _, ok := p.cache.Get(background, "k"); ok {
			t.Error("Get has a value")
		}
		if p.w != nil { // the other processes know it too
			b := start(t, p.w, "B", Options{TTL: time.Minute}, nil)
			b.get(background, "k", nil).must(t, "", ErrNotFound, 0)
			b.stop()
		}
		time.Sleep(6 * time.Second)
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		if err := p.cache.Delete(background, "k"); err != nil {
			t.Fatal(err)
		}
		p.get(background, "k", notFound).must(t, "", wrapped, 0)
		if err := p.cache.Set(background, "k", "v2"); err != nil {
			t.Fatal(err)
		}
		p.get(background, "k", nil).must(t, "v2", nil, 0)
		if n := p.cache.Stats().LoadErrors; n != 0 {
			t.Errorf("%d errors", n)
		}
	})
	alike(t, Options{NegativeTTL: -1}, func(t *testing.T, p *proc) {
		p.get(background, "k", notFound).must(t, "", wrapped, 0)
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
	})
}

func TestSetGetDelete(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		if v, ok := p.cache.Get(background, "k"); ok || v != "" {
			t.Errorf("got %q", v)
		}
		if err := p.cache.Set(background, "k", "v"); err != nil {
			t.Fatal(err)
		}
		if v, ok := p.cache.Get(background, "k"); !ok || v != "v" {
			t.Errorf("got %q, %v", v, ok)
		}
		p.get(background, "k", nil).must(t, "v", nil, 0)
		if err := p.cache.Set(background, "k", "v2", WithTTL(time.Second)); err != nil {
			t.Fatal(err)
		}
		p.get(background, "k", nil).must(t, "v2", nil, 0)
		time.Sleep(time.Second)
		if _, ok := p.cache.Get(background, "k"); ok {
			t.Error("not expired")
		}
		for _, k := range []string{"a", "b", "c"} {
			if err := p.cache.Set(background, k, k); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.cache.Delete(background, "a", "b", "nothing"); err != nil {
			t.Fatal(err)
		}
		if err := p.cache.Delete(background); err != nil {
			t.Fatal(err)
		}
		for k, want := range map[string]bool{"a": false, "b": false, "c": true} {
			if _, ok := p.cache.Get(background, k); ok != want {
				t.Errorf("%s: %v", k, ok)
			}
		}
		if err := p.cache.Set(background, "c", "v", WithTTL(-1)); err != nil {
			t.Fatal(err)
		}
		if _, ok := p.cache.Get(background, "c"); ok {
			t.Error("Set without storing leaves the old value")
		}
	})
}

// A Set ends what is loading: a load that began before it does not replace it.
func TestSetDuringLoad(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		a := p.get(background, "k", loads(time.Second, "old"))
		time.Sleep(500 * time.Millisecond)
		if err := p.cache.Set(background, "k", "set"); err != nil {
			t.Fatal(err)
		}
		p.get(background, "k", nil).must(t, "set", nil, 0)
		time.Sleep(500 * time.Millisecond)
		a.must(t, "old", nil, time.Second)
		p.get(background, "k", nil).must(t, "set", nil, 0)
	})
}

// Delete and Set return when their context ends, and go on.
func TestDetached(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		w.Hold(only("A", "UNLINK", lab.Request))
		ctx, cancel := context.WithTimeout(background, 10*time.Millisecond)
		defer cancel()
		began := time.Now()
		if err := p.cache.Delete(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 10*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		w.Hold(nil)
		synctest.Wait()
		if w.Redis.Exists(fullKey) {
			t.Error("not deleted")
		}
		if err := p.cache.Delete(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// Two names, and two prefixes, share nothing.
func TestNamespaces(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		var caches []*Cache[string]
		client := w.Client("A", nil)
		defer client.Close()
		for _, prefix := range []string{"a", "b"} {
			r, err := NewRedis(client, RedisOptions{Prefix: prefix})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			for _, name := range []string{"a", "b"} {
				c, err := New[string](name, Options{Redis: r})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				caches = append(caches, c)
			}
		}
		for i, c := range caches {
			want := fmt.Sprint(i)
			v, err := c.GetOrLoad(background, "k", func(context.Context, string) (string, error) { return want, nil })
			if v != want || err != nil {
				t.Errorf("%q, %v", v, err)
			}
		}
	})
}

// Every key in Redis has a TTL, whatever state it is in.
func TestEveryKeyHasATTL(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		p.get(background, "value", loads(0, "v"))
		p.get(background, "stub", loads(5*time.Second, "v"))
		p.get(background, "negative", func(context.Context, string) (string, error) { return "", ErrNotFound })
		_ = p.cache.Set(background, "set", "v")
		for range 10 {
			synctest.Wait()
			for _, k := range w.Redis.Keys() {
				if w.Redis.TTL(k) <= 0 {
					t.Errorf("%s: TTL %v", k, w.Redis.TTL(k))
				}
			}
			time.Sleep(time.Second)
		}
	})
}

// P9: a memory cache without work under way has no goroutine: this bubble ends without Close.
func TestMemoryCacheHasNoGoroutine(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		c, err := New[string]("user", Options{})
		if err != nil {
			t.Fatal(err)
		}
		if v, err := c.GetOrLoad(background, "k", loads(time.Second, "v")); v != "v" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
	})
}

// A hit in memory allocates nothing, whatever is asked and whatever the answer.
func TestHitAllocates(t *testing.T) {
	c, err := New[string]("user", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	loader := loads(0, "v")
	_, _ = c.GetOrLoad(background, "missing", func(context.Context, string) (string, error) { return "", ErrNotFound })
	for name, hit := range map[string]func(){
		"GetOrLoad": func() {
			if v, err := c.GetOrLoad(background, "k", loader); v != "v" || err != nil {
				t.Fatal(v, err)
			}
		},
		"Get": func() {
			if v, ok := c.Get(background, "k"); v != "v" || !ok {
				t.Fatal(v, ok)
			}
		},
		"not found": func() {
			if _, err := c.GetOrLoad(background, "missing", loader); !errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
		},
	} {
		_, _ = c.GetOrLoad(background, "k", loader)
		if n := testing.AllocsPerRun(1000, hit); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
