package cache

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/realredis"
)

func TestRealServerMany(t *testing.T) {
	t.Parallel()
	client := realredis.Start(t).Client(nil)
	rds, err := NewRedis(client, RedisOptions{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer rds.Close()
	c, err := New[string]("user", Options{Redis: rds, LocalTTL: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	count := new(tripCounter)
	client.AddHook(count)
	tenThousand(t, c)
	if s := c.Stats(); s.Loads != 10_000 || s.RedisHits != 10_000 || s.RedisErrors > 0 {
		t.Errorf("%+v", s)
	}
	if n := len(count.take()); n > 60 { // three for each thousand keys, the second time one, the scripts, and those of the beginning
		t.Errorf("%d round trips", n)
	}
}

// In a cluster each step takes one round trip to each node, and no command is for keys of two slots.
func TestRealServerManyInCluster(t *testing.T) {
	t.Parallel()
	nodes := realredis.StartCluster(t, 3)
	var mu sync.Mutex
	counts := make(map[string]*tripCounter)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{nodes[0].Addr}})
	defer client.Close()
	client.OnNewNode(func(node *redis.Client) {
		mu.Lock()
		defer mu.Unlock()
		count := new(tripCounter)
		counts[node.Options().Addr] = count
		node.AddHook(count)
	})
	trips := func() map[string][]string {
		mu.Lock()
		defer mu.Unlock()
		took := make(map[string][]string)
		for addr, count := range counts {
			took[addr] = count.take()
		}
		return took
	}
	rds, err := NewRedis(client, RedisOptions{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer rds.Close()
	for _, tags := range []bool{false, true} {
		c, err := New[string](fmt.Sprint("tags-", tags), Options{Redis: rds, LocalTTL: -1, Tags: tags})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		keys := make([]string, 1000)
		for i := range keys {
			keys[i] = fmt.Sprint("k", i)
		}
		for round := range 3 {
			trips() // of before
			values, err := c.GetOrLoadMany(background, keys, new(batchOrigin).load)
			if len(values) != len(keys) || err != nil {
				t.Fatalf("%d values, %v", len(values), err)
			}
			if round == 1 { // loaded scripts and known slots: from now on it is always the same
				if err := c.Delete(background, keys...); err != nil {
					t.Fatal(err)
				}
				continue
			}
			for addr, took := range trips() {
				// Reads, leases and commits; with tags also stamps and barriers, which are all on one node.
				if round == 2 && (len(took) < 3 || len(took) > 5) {
					t.Errorf("tags %v: %d round trips to %s: %q", tags, len(took), addr, took)
				}
			}
		}
		if s := c.Stats(); s.Loads != 2000 || s.RedisHits != 1000 || s.RedisErrors+s.LoadsUnleased+s.CommitsRejected > 0 {
			t.Errorf("%+v", s)
		}
	}
}
