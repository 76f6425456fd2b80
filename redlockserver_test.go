package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/proxy"
	"github.com/bellwether-go/cache/internal/realredis"
)

// lockServers are a real server for values and five for locks, each behind a proxy.
type lockServers struct {
	t       *testing.T
	values  *realredis.Server
	nodes   []*realredis.Server
	proxies []*proxy.Proxy
	procs   []*lockProcess
}

// lockProcess has what a process has: clients, a Redis and a Cache.
type lockProcess struct {
	rds   *Redis
	cache *Cache[string]
}

func startLockServers(t *testing.T, processes int, o Options) *lockServers {
	s := &lockServers{t: t, values: realredis.Start(t)}
	for range 5 {
		node := realredis.Start(t)
		s.nodes = append(s.nodes, node)
		s.proxies = append(s.proxies, proxy.Start(t, node.Addr))
	}
	for range processes {
		var nodes []Client
		for _, p := range s.proxies {
			c := redis.NewClient(&redis.Options{Addr: p.Addr})
			t.Cleanup(func() { _ = c.Close() })
			nodes = append(nodes, c)
		}
		rds, err := NewRedis(s.values.Client(nil), RedisOptions{Timeout: time.Second, LockNodes: nodes})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = rds.Close() })
		o.Redis = rds
		c, err := New[string]("user", exact(o))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		s.procs = append(s.procs, &lockProcess{rds, c})
	}
	for i := range s.nodes {
		s.votes(i)
	}
	return s
}

// votes waits until a node votes: it was started a lease ago, and in whole seconds one more.
func (s *lockServers) votes(i int) {
	s.t.Helper()
	s.until(fmt.Sprint("node ", i, " votes"), func() bool {
		token := newOwner()
		n := s.procs[0].rds.lock.nodes[i]
		v, _ := n.vote(background, "nothing", token, s.procs[0].cache.core.opts.Lease)
		_ = n.release(background, "nothing", token)
		return v == yes
	})
}

func (s *lockServers) until(what string, is func() bool) {
	s.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(30 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-timeout:
			s.t.Fatalf("it does not come about that %s", what)
		}
	}
}

func (s *lockServers) restart(i int) {
	s.nodes[i].Kill()
	s.nodes[i].Restart()
}

// A node that was started a moment ago does not vote, whatever it has kept on its disk: it may be of long ago.
func TestLockNodeRestartedWithSnapshot(t *testing.T) {
	client := realredis.Start(t).Client(nil)
	if err := client.Set(background, "cache:born", 1, time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	node := newLockNode(client, RedisOptions{Prefix: "cache", Timeout: time.Second})
	defer node.close()
	if v, err := node.vote(background, fullKey, newOwner(), time.Minute); v != young || err != nil {
		t.Errorf("vote %v, %v", v, err)
	}
}

// Five real nodes. One process loads, and the lease is lost in mid-load: another one has it next, and waits for the lock, whatever
// has happened to a minority of the nodes; then it loads.
func TestRedlockOnRealServers(t *testing.T) {
	t.Parallel()
	s := startLockServers(t, 2, Options{Lease: 500 * time.Millisecond})
	a, b := s.procs[0].cache, s.procs[1].cache
	var now, most atomic.Int32
	// load makes A load, does something meanwhile, and then B shall wait.
	load := func(name string, meanwhile func()) {
		t.Helper()
		key := "key of " + name
		before := b.Stats()
		began, done := make(chan struct{}), make(chan struct{})
		var calls sync.WaitGroup
		for _, c := range []*Cache[string]{a, b} {
			calls.Go(func() {
				_, err := c.GetOrLoad(background, key, func(context.Context, string) (string, error) {
					most.Store(max(most.Load(), now.Add(1)))
					defer now.Add(-1)
					if c == a {
						close(began)
						<-done
					}
					return name, nil
				})
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
			if c == a {
				<-began
				meanwhile()
				if err := s.values.Client(nil).FlushAll(background).Err(); err != nil {
					t.Fatal(err)
				}
			}
		}
		s.until(name+": B waits", func() bool { return b.Stats().LocksBusy > before.LocksBusy || now.Load() > 1 })
		if now.Load() != 1 {
			t.Errorf("%s: two load at a time", name)
		}
		close(done)
		calls.Wait()
		if got := b.Stats(); got.LocksWon != before.LocksWon+1 || got.LocksUnavailable > 0 {
			t.Errorf("%s: B %+v", name, got)
		}
	}
	load("all nodes there", func() {})
	for i := range s.nodes {
		load(fmt.Sprint("node ", i, " restarted empty"), func() { s.restart(i) })
		s.votes(i)
	}
	for i := range s.nodes {
		s.proxies[i].Delay(20 * time.Millisecond)
		load(fmt.Sprint("node ", i, " slow"), func() {})
		s.proxies[i].Delay(time.Minute)
		load(fmt.Sprint("node ", i, " unreachable"), func() {})
		s.proxies[i].Delay(0)
		s.proxies[i].Cut()
		s.votes(i)
	}
	for i := range s.nodes {
		for j := range i {
			s.nodes[i].Kill()
			s.nodes[j].Kill()
			load(fmt.Sprint("nodes ", i, " and ", j, " dead"), func() {})
			s.nodes[i].Restart()
			s.nodes[j].Restart()
			s.votes(i)
			s.votes(j)
		}
	}
	if most.Load() != 1 {
		t.Errorf("%d loads at a time", most.Load())
	}
}

// Ten thousand calls of four processes, while nodes are killed and come back empty, at most two at a time, and all leases are lost
// now and then. No caller gets an error, and two load the same key at a time only where one of them has found no majority.
func TestRedlockKills(t *testing.T) {
	t.Parallel()
	s := startLockServers(t, 4, Options{Lease: 500 * time.Millisecond})
	const operations, rounds = 10_000, 4
	var done, failed, overlaps, kills atomic.Int64
	var loading [8]atomic.Int32
	var over atomic.Bool
	var calls sync.WaitGroup
	defer calls.Wait()
	defer over.Store(true)
	for i := range 16 {
		c := s.procs[i%4].cache
		calls.Go(func() {
			for n := i; !over.Load(); n++ {
				key := n % len(loading)
				v, err := c.GetOrLoad(background, fmt.Sprint(key), func(_ context.Context, key string) (string, error) {
					k := int(key[0] - '0')
					if loading[k].Add(1) > 1 {
						overlaps.Add(1)
					}
					defer loading[k].Add(-1)
					<-time.NewTimer(time.Duration(rand.N(3)) * time.Millisecond).C
					return "value of " + key, nil
				}, WithTTL(-1))
				if err != nil || v != fmt.Sprint("value of ", key) {
					failed.Add(1)
					t.Errorf("%q, %v", v, err)
				}
				done.Add(1)
			}
		})
	}
	flusher := s.values.Client(nil)
	for round := 0; round < rounds || done.Load() < operations; round++ {
		i := round % 5
		down := []int{i, (i + 1 + round/5%4) % 5}
		for _, j := range down {
			s.nodes[j].Kill()
			kills.Add(1)
		}
		for range 20 {
			if err := flusher.FlushAll(background).Err(); err != nil {
				t.Fatal(err)
			}
			before := done.Load()
			s.until("calls go on", func() bool { return done.Load() >= before+10 })
		}
		for _, j := range down {
			s.nodes[j].Restart()
		}
		for _, j := range down {
			s.votes(j)
		}
	}
	over.Store(true)
	calls.Wait()
	var sum Stats
	for _, p := range s.procs {
		st := p.cache.Stats()
		sum.Loads += st.Loads
		sum.LocksWon += st.LocksWon
		sum.LocksBusy += st.LocksBusy
		sum.LocksUnavailable += st.LocksUnavailable
		sum.LocksLost += st.LocksLost
		sum.WaitTimeouts += st.WaitTimeouts
	}
	t.Logf("%d calls, %d loads, %d kills of nodes: locks won %d, busy %d, unavailable %d, lost %d; %d loads while another one was under way",
		done.Load(), sum.Loads, kills.Load(), sum.LocksWon, sum.LocksBusy, sum.LocksUnavailable, sum.LocksLost, overlaps.Load())
	if n := overlaps.Load(); n > int64(sum.LocksUnavailable+sum.LocksLost+sum.WaitTimeouts) {
		t.Errorf("%d loads of a key at a time, and only %d without the lock", n, sum.LocksUnavailable+sum.LocksLost+sum.WaitTimeouts)
	}
	if sum.LocksWon == 0 || sum.LocksBusy == 0 {
		t.Error("nobody has had the lock, or nobody has waited for it")
	}
}

// BenchmarkRedlock loads cold keys one after the other, with real servers: what the lock adds to a load that takes no time. The
// three kinds take turns.
func BenchmarkRedlock(b *testing.B) {
	kinds := []int{0, 3, 5}
	caches := make([]*Cache[string], len(kinds))
	values := realredis.Start(b)
	for i, n := range kinds {
		var nodes []Client
		for range n {
			node := realredis.Start(b).Client(nil)
			nodes = append(nodes, node)
		}
		rds, err := NewRedis(values.Client(nil), RedisOptions{Timeout: time.Second, LockNodes: nodes})
		if err != nil {
			b.Fatal(err)
		}
		defer rds.Close()
		c, err := New[string](fmt.Sprint("locks-", n), Options{Redis: rds})
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		for caches[i] = c; c.Stats().LocksWon == 0 && n > 0; { // until the nodes vote
			_, _ = c.GetOrLoad(background, fmt.Sprint(c.Stats().Loads), func(context.Context, string) (string, error) { return "", nil })
		}
	}
	took := make([]time.Duration, len(kinds))
	for n := 0; b.Loop(); n++ {
		for i, c := range caches {
			began := time.Now()
			_, err := c.GetOrLoad(background, fmt.Sprint("key", n), func(context.Context, string) (string, error) { return "v", nil })
			if took[i] += time.Since(began); err != nil {
				b.Fatal(err)
			}
		}
	}
	for i, n := range kinds {
		b.ReportMetric(float64(took[i].Microseconds())/float64(b.N), fmt.Sprintf("us/load-%d-nodes", n))
	}
	b.ReportMetric(float64(took[1])/float64(took[0]), "x-3-nodes")
	b.ReportMetric(float64(took[2])/float64(took[0]), "x-5-nodes")
}
