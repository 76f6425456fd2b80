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
	caches := fleetOf(t, 2, func() Client { return sentinelClient(t, sentinels) })
	key := func(n int) string { return fmt.Sprint(n) }
	shares(t, caches, key)
	servers[0].Kill()
	shares(t, caches, func(n int) string { return key(1000 + n) })
}

// A failover to a replica that has not heard of a deletion loses it: what was deleted is served again, until its TTL ends.
func TestFailoverLosesADeletion(t *testing.T) {
	t.Parallel()
	servers, sentinels := realredis.StartSentinel(t, 1, 500*time.Millisecond)
	rds, err := NewRedis(sentinelClient(t, sentinels), RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rds.Close() })
	const ttl = 15 * time.Second
	c, err := New[string]("user", Options{Redis: rds, LocalTTL: -1, TTL: ttl, Jitter: -1, EarlyRefresh: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	version := "old"
	ask := func() string {
		v, err := c.GetOrLoad(background, "42", func(context.Context, string) (string, error) { return version, nil })
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	replica := servers[1].Client(nil)
	eventually(t, "the replica has the value", func() bool {
		ask()
		return replica.Exists(background, "cache:user:42").Val() == 1
	})
	servers[1].CutOff(background, servers[0])
	version = "new"
	if err := c.Delete(background, "42"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	servers[0].Kill()
	eventually(t, "the replica has taken over", func() bool {
		info, err := replica.InfoMap(background, "replication").Result()
		return err == nil && info["Replication"]["role"] == "master"
	})
	left := replica.PTTL(background, "cache:user:42").Val()
	if left > ttl {
		t.Errorf("the value lives for %v more", left)
	}
	stale := 0
	eventually(t, "its TTL ends", func() bool {
		if ask() == "old" {
			stale++
		}
		now, err := replica.PTTL(background, "cache:user:42").Result()
		ended := err == nil && (now < 0 || now > left) // gone, or replaced; in its last millisecond it has 0
		left = now
		return ended
	})
	if stale == 0 {
		t.Error("the deletion was not lost")
	}
	if v := ask(); v != "new" {
		t.Errorf("%q after the old value's TTL", v)
	}
	t.Logf("%d reads of the old value, the last one %v after its deletion", stale, time.Since(began).Round(time.Millisecond))
}

func sentinelClient(t *testing.T, sentinels []*realredis.Server) *redis.Client {
	t.Helper()
	o := &redis.FailoverOptions{MasterName: realredis.SentinelMaster}
	for _, s := range sentinels {
		o.SentinelAddrs = append(o.SentinelAddrs, s.Addr)
	}
	c := redis.NewFailoverClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Replicas are read that lag: what was deleted is served for as long as they do, and for as long as a memory keeps it. No caller
// gets an error, and a replica that lacks a value costs no load.
func TestReplicaReads(t *testing.T) {
	t.Parallel()
	masters, replicas := realredis.StartReplicatedCluster(t, 1, time.Second)
	servers, sentinels := realredis.StartSentinel(t, 1, time.Second)
	for _, setup := range []struct {
		name            string
		master, replica *realredis.Server
		client          func() *redis.ClusterClient
	}{
		{"Cluster", masters[0], replicas[0], func() *redis.ClusterClient {
			return redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{masters[0].Addr}, ReadOnly: true})
		}},
		{"Sentinel", servers[0], servers[1], func() *redis.ClusterClient {
			return redis.NewFailoverClusterClient(&redis.FailoverOptions{
				MasterName: realredis.SentinelMaster, SentinelAddrs: []string{sentinels[0].Addr}, RouteRandomly: true,
			})
		}},
	} {
		t.Run(setup.name, func(t *testing.T) {
			version := 1
			loads := 0
			load := func(context.Context, string) (int, error) {
				loads++
				return version, nil
			}
			var caches []*Cache[int]
			for range 2 {
				client := setup.client()
				t.Cleanup(func() { _ = client.Close() })
				rds, err := NewRedis(client, RedisOptions{ReplicaReads: true, Timeout: time.Second})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = rds.Close() })
				rds.name = "" // or there would be a key more
				c, err := New[int]("user", Options{Redis: rds, LocalTTL: -1, Tags: true})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close() })
				caches = append(caches, c)
			}
			ask := func(key string, co ...CallOption) (got int) {
				t.Helper()
				got, err := caches[1].GetOrLoad(background, key, load, co...)
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			tagged := WithTags("tag")
			replica := setup.replica.Client(nil)
			eventually(t, "the replica has what was stored", func() bool {
				for _, key := range []string{"deleted", "tagged"} {
					if v, err := caches[0].GetOrLoad(background, key, load, tagged); v != 1 || err != nil {
						t.Fatal(v, err)
					}
				}
				n, err := replica.DBSize(background).Result()
				return n == 3 && err == nil // with the barriers
			})

			version = 2
			setup.replica.CutOff(background, setup.master)
			if err := caches[1].Delete(background, "deleted"); err != nil {
				t.Fatal(err)
			}
			before := loads
			if v, err := caches[0].GetOrLoad(background, "new", load); v != 2 || err != nil {
				t.Fatal(v, err)
			}
			stale := 0
			const asked = 20
			for range asked {
				if ask("deleted") == 1 {
					stale++
				}
				if ask("tagged") != 1 || ask("new") != 2 {
					t.Fatal("a value that was not deleted is gone")
				}
			}
			t.Logf("%d of %d reads had what was deleted", stale, asked)
			if stale == 0 {
				t.Error("nobody read from the replica")
			}
			if n := loads - before; n > 2 {
				t.Errorf("%d loads for 2 keys", n)
			}
			if err := caches[1].DeleteTags(background, "tag"); err != nil {
				t.Fatal(err)
			}
			setup.replica.Reconnect(background)
			for _, key := range []string{"deleted", "tagged"} {
				eventually(t, key+" is new", func() bool { return ask(key) == 2 })
			}
		})
	}
}
