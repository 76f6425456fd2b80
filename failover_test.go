package cache

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/realredis"
)

// fleetOf makes caches of processes that have a client each.
func fleetOf(t *testing.T, n int, client func() Client) (caches []*Cache[string]) {
	t.Helper()
	for range n {
		rds, err := NewRedis(client(), RedisOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = rds.Close() })
		c, err := New[string]("user", Options{Redis: rds, LocalTTL: -1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		caches = append(caches, c)
	}
	return caches
}

// shares waits until a cold key is loaded once by all of them together: each asks for it in turn. No caller may get an error.
func shares(t *testing.T, caches []*Cache[string], key func(n int) string) {
	t.Helper()
	began := time.Now()
	n := 0
	eventually(t, "a cold key is loaded once", func() bool {
		n++
		loads := 0
		for _, c := range caches {
			v, err := c.GetOrLoad(background, key(n), func(context.Context, string) (string, error) {
				loads++
				return "v", nil
			})
			if v != "v" || err != nil {
				t.Fatalf("%q, %v", v, err)
			}
		}
		return loads == 1
	})
	t.Logf("%v until a cold key is loaded once", time.Since(began).Round(time.Millisecond))
}

// A master of a cluster is killed. When its replica has taken over, processes find it, though the node that is gone does not tell
// them.
func TestClusterFailover(t *testing.T) {
	t.Parallel()
	masters, _ := realredis.StartReplicatedCluster(t, 3, 500*time.Millisecond)
	caches := fleetOf(t, 2, func() Client {
		c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{masters[1].Addr, masters[2].Addr}})
		t.Cleanup(func() { _ = c.Close() })
		return c
	})
	inFirst := func(n int) string { return fmt.Sprint("{bar}", n) } // in slot 5061
	shares(t, caches, inFirst)
	masters[0].Kill()
	shares(t, caches, func(n int) string { return inFirst(1000 + n) })
}

// The same with Sentinel.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	servers, sentinels := realredis.StartSentinel(t, 2, 500*time.Millisecond)
	caches := fleetOf(t, 2, func() Client {
		o := &redis.FailoverOptions{MasterName: realredis.SentinelMaster}
		for _, s := range sentinels {
			o.SentinelAddrs = append(o.SentinelAddrs, s.Addr)
		}
		c := redis.NewFailoverClient(o)
		t.Cleanup(func() { _ = c.Close() })
		return c
	})
	key := func(n int) string { return fmt.Sprint(n) }
	shares(t, caches, key)
	servers[0].Kill()
	shares(t, caches, func(n int) string { return key(1000 + n) })
}
