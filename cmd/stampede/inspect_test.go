package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/internal/realredis"
)

// dial returns what a service has.
func dial(t *testing.T, client redis.UniversalClient) *cache.Redis {
	t.Helper()
	rds, err := cache.NewRedis(client, cache.RedisOptions{Process: "web-1", Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = rds.Close()
		_ = client.Close()
	})
	return rds
}

func build[V any](t *testing.T, o cache.Options) *cache.Cache[V] {
	t.Helper()
	c, err := cache.New[V]("user", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// sees runs inspect, and returns what it has printed.
func sees(t *testing.T, addr string, args ...string) (x inspected) {
	t.Helper()
	var out bytes.Buffer
	if err := inspect(t.Context(), append([]string{"-redis", addr}, args...), &out); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), &x); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	return x
}

// inspect shows values, tags, leases, and what it cannot read.
func TestInspect(t *testing.T) {
	m := miniredis.RunT(t)
	rds := dial(t, redis.NewClient(&redis.Options{Addr: m.Addr()}))
	type user struct {
		Name string
		Big  int64
		Odd  map[int]float64
	}
	c := build[user](t, cache.Options{Redis: rds, Tags: true, CompressAbove: 10, Version: 3})
	load := func(_ context.Context, _ string) (user, error) {
		return user{strings.Repeat("<é>", 10), math.MaxInt64, map[int]float64{7: math.Inf(1)}}, nil
	}
	if _, err := c.GetOrLoad(t.Context(), "42", load, cache.WithTags("team:1", "team:2")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return sees(t, m.Addr(), "user", "42").Entry.StoredBy == "web-1" })
	x := sees(t, m.Addr(), "user", "42")
	if x.RedisKey != "cache:user:42" || x.State != "value" || x.Format != "msgpack" || x.Outdated || x.Lease != nil || x.Bytes == 0 || x.EndsIn == "" ||
		len(x.Tags) != 2 || x.Tags[0].Tag != "team:1" || !x.Tags[0].Deleted.IsZero() || !x.Entry.Compressed || x.Entry.Version != 3 {
		t.Errorf("%+v", x)
	}
	if got, want := fmt.Sprint(x.Payload), "map[Big:9.223372036854776e+18 Name:"+strings.Repeat("<é>", 10)+" Odd:map[7:+Inf]]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	var out bytes.Buffer
	if err := inspect(t.Context(), []string{"-redis", "redis://" + m.Addr(), "user", "42"}, &out); err != nil || !strings.Contains(out.String(), "9223372036854775807") {
		t.Errorf("%v: %s", err, out.String())
	}
	if err := c.DeleteTags(t.Context(), "team:2"); err != nil {
		t.Fatal(err)
	}
	if x = sees(t, m.Addr(), "user", "42"); !x.Outdated || x.Tags[1].Deleted.IsZero() || !x.Tags[0].Deleted.IsZero() {
		t.Errorf("%+v", x)
	}

	under := make(chan struct{})
	end := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = c.GetOrLoad(t.Context(), "43", func(context.Context, string) (user, error) {
			close(under)
			<-end
			return user{}, cache.ErrNotFound
		})
	}()
	<-under
	if x = sees(t, m.Addr(), "user", "43"); x.State != "stub" || x.Lease == nil || x.Lease.Holder != "web-1" || x.Lease.EndsIn == "" {
		t.Errorf("%+v", x)
	}
	close(end)
	<-done
	if x = sees(t, m.Addr(), "user", "43"); x.State != "not found" || x.Lease != nil || x.Payload != nil {
		t.Errorf("%+v", x)
	}

	if err := build[string](t, cache.Options{Redis: rds, Codec: cache.JSON{}}).Set(t.Context(), "json", "v"); err != nil {
		t.Fatal(err)
	}
	if x = sees(t, m.Addr(), "user", "json"); x.Format != "json" || x.Payload != "v" {
		t.Errorf("%+v", x)
	}
	sealed := build[string](t, cache.Options{Redis: rds, Secrets: []cache.Secret{bytes.Repeat([]byte{1}, 32)}})
	if err := sealed.Set(t.Context(), "sealed", "v"); err != nil {
		t.Fatal(err)
	}
	if x = sees(t, m.Addr(), "user", "sealed"); x.State != "value" || x.Format != "sealed" || x.Payload != nil {
		t.Errorf("%+v", x)
	}
	if err := m.Set("cache:user:foreign", "hello"); err != nil {
		t.Fatal(err)
	}
	if x = sees(t, m.Addr(), "user", "foreign"); x.State != "unreadable" || x.Bytes != 5 {
		t.Errorf("%+v", x)
	}
}

// What cannot be asked for, and what is not there.
func TestInspectErrors(t *testing.T) {
	m := miniredis.RunT(t)
	for args, want := range map[string]string{
		"user":                                         "want NAME and KEY",
		"-codec xml user 1":                            "msgpack or json",
		"-redis http://x user 1":                       "invalid URL scheme",
		"-redis 127.0.0.1:1 user 1":                    "127.0.0.1:1",
		"-redis " + m.Addr() + " user 1":               `there is nothing under "cache:user:1"`,
		"-redis " + m.Addr() + " -prefix other user 1": `"other:user:1"`,
	} {
		if err := inspect(t.Context(), strings.Fields(args), new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
	for args, want := range map[string]string{
		"":                                  "want NAME",
		"user":                              "either keys, -tag or -all",
		"-all user 1":                       "either keys, -tag or -all",
		"-redis 127.0.0.1:1 user 1":         "127.0.0.1:1",
		"-redis " + m.Addr() + " us:er 1":   "name",
		"-redis " + m.Addr() + " -x user 1": "-x",
	} {
		if err := purge(t.Context(), strings.Fields(args), new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// purge deletes in Redis and in the memory of processes, with tags and without, on one server and on a Cluster.
func TestPurge(t *testing.T) {
	for _, c := range []struct {
		name   string
		tags   bool
		server func(*testing.T) (string, redis.UniversalClient)
	}{
		{"miniredis", false, embedded},
		{"miniredis, tags", true, embedded},
		{"cluster", false, cluster},
		{"cluster, tags", true, cluster},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, client := c.server(t)
			users := build[string](t, cache.Options{Redis: dial(t, client), Tags: c.tags, LocalTTL: time.Hour, TTL: time.Hour})
			has := func(key string) bool {
				_, found := users.Get(t.Context(), key)
				return found
			}
			fill := func() {
				var tags []cache.CallOption
				for i := range 30 {
					if c.tags {
						tags = []cache.CallOption{cache.WithTags(fmt.Sprint("part:", i%3))}
					}
					if err := users.Set(t.Context(), fmt.Sprint("k", i), "v", tags...); err != nil {
						t.Fatal(err)
					}
				}
			}
			purges := func(args ...string) {
				t.Helper()
				if err := purge(t.Context(), append([]string{"-redis", addr}, args...), new(bytes.Buffer)); err != nil {
					t.Fatal(err)
				}
			}
			fill()
			eventually(t, func() bool { // until the service hears of deletions
				purges("user", "k1", "k2")
				return !has("k1") && !has("k2") && has("k3")
			})
			if c.tags {
				fill()
				purges("-tag", "part:1", "-tag", "part:2", "user")
				eventually(t, func() bool { return !has("k1") && !has("k2") && has("k3") })
			}
			fill()
			purges("-all", "user")
			eventually(t, func() bool {
				for i := range 30 {
					if has(fmt.Sprint("k", i)) {
						return false
					}
				}
				return true
			})
		})
	}
}

func embedded(t *testing.T) (string, redis.UniversalClient) {
	m := miniredis.RunT(t)
	return m.Addr(), redis.NewClient(&redis.Options{Addr: m.Addr()})
}

func cluster(t *testing.T) (string, redis.UniversalClient) {
	nodes := realredis.StartCluster(t, 3)
	return nodes[1].Addr, redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{nodes[0].Addr}})
}

// eventually waits for what another process tells.
func eventually(t *testing.T, f func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !f(); {
		if time.Now().After(limit) {
			t.Fatal("in vain")
		}
		pause(t.Context(), 10*time.Millisecond)
	}
}
