package cache

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

// jury is the nodes of a Redlock, each with a network of its own.
type jury []*lab.World

// withJury runs f in a bubble with a server for the values and nodes that have been there for long.
func withJury(t *testing.T, n int, f func(t *testing.T, w *lab.World, j jury)) {
	bubble(t, func(t *testing.T, w *lab.World) {
		var j jury
		for range n {
			node := newWorld(t)
			defer node.Close()
			_ = node.Redis.Set("cache:born", "1")
			j = append(j, node)
		}
		f(t, w, j)
	})
}

// fleet starts processes that lock.
func (j jury) fleet(t *testing.T, w *lab.World, o Options, names ...string) map[string]*proc {
	t.Helper()
	ps := make(map[string]*proc)
	for _, name := range names {
		p := &proc{t: t, w: w, name: name, client: w.Client(name, nil)}
		for _, node := range j {
			p.nodes = append(p.nodes, node.Client(name, nil))
		}
		ps[name] = p.start(o, RedisOptions{})
	}
	return ps
}

// locks are the nodes that have a lock on key "k".
func (j jury) locks() (held string) {
	synctest.Wait()
	for i, node := range j {
		if node.Redis.Exists(lockKey(fullKey)) {
			held += fmt.Sprint(i)
		}
	}
	return held
}

// empty restarts a node without what it knew.
func (j jury) empty(i int) {
	j[i].Redis.FlushAll()
	for _, p := range []string{"A", "B", "C"} {
		j[i].Break(p)
	}
}

// lockStats are the counters of locks: won, busy, unavailable, lost.
func (p *proc) lockStats() [4]uint64 {
	s := p.cache.Stats()
	return [4]uint64{s.LocksWon, s.LocksBusy, s.LocksUnavailable, s.LocksLost}
}

func (p *proc) wantLocks(won, busy, unavailable, lost uint64) {
	p.t.Helper()
	if got, want := p.lockStats(), [4]uint64{won, busy, unavailable, lost}; got != want {
		p.t.Errorf("%s: locks won, busy, unavailable, lost: %v, want %v", p.name, got, want)
	}
}

// A load has the lock at all nodes, and nobody has it afterwards. Who waits for the lease does not ask for the lock.
func TestRedlock(t *testing.T) {
	withJury(t, 5, func(t *testing.T, w *lab.World, j jury) {
		ps := j.fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		a := ps["A"].get(background, "k", loads(10*time.Second, "v"))
		synctest.Wait()
		b := ps["B"].get(background, "k", loads(time.Second, "of B"))
		time.Sleep(9 * time.Second)
		if held := j.locks(); held != "01234" {
			t.Errorf("the lock is at nodes %q", held)
		}
		time.Sleep(time.Second)
		a.must(t, "v", nil, 10*time.Second)
		b.must(t, "v", nil, 10*time.Second)
		if held := j.locks(); held != "" {
			t.Errorf("the lock is at nodes %q", held)
		}
		ps["A"].wantLocks(1, 0, 0, 0)
		ps["B"].wantLocks(0, 0, 0, 0)
	})
}

// The lease is lost, as in a failover. Another process has it next, and loads when the first one is done; without lock nodes, at
// the same time. The first one's value is not stored: nothing tells a record that was lost from one that was deleted.
func TestRedlockAfterLossOfTheLease(t *testing.T) {
	for _, n := range []int{0, 3} {
		withJury(t, n, func(t *testing.T, w *lab.World, j jury) {
			ps := j.fleet(t, w, Options{}, "A", "B", "C")
			defer stopAll(ps)
			origin := &narrow{took: 10 * time.Second}
			a := ps["A"].get(background, "k", origin.load)
			time.Sleep(time.Second)
			w.Redis.FlushAll()
			b, c := ps["B"].get(background, "k", origin.load), ps["C"].get(background, "k", origin.load)
			time.Sleep(25 * time.Second)
			want, most := 10*time.Second, 2
			if n > 0 {
				want, most = 19*time.Second, 1
			}
			a.must(t, "value of k", nil, 10*time.Second)
			for _, x := range []*answer{b, c} {
				if x.err != nil || x.took < want || x.took > want+pollMost*3/2 {
					t.Errorf("%d nodes: after the loss a call took %v, %v; want %v", n, x.took, x.err, want)
				}
			}
			if origin.most != most || len(origin.all) != 2 {
				t.Errorf("%d nodes: %d loads, %d at a time, want 2, %d", n, len(origin.all), origin.most, most)
			}
			if n > 0 && ps["B"].cache.Stats().LocksBusy+ps["C"].cache.Stats().LocksBusy != 1 {
				t.Error("not one of the two has waited for the lock")
			}
		})
	}
}

// The server of the values is away: who cannot ask for the lease asks for the lock, so that loads come one after the other; when
// it is back, one load is for all who wait.
func TestRedlockWithoutTheServer(t *testing.T) {
	for _, n := range []int{0, 3} {
		withJury(t, n, func(t *testing.T, w *lab.World, j jury) {
			ps := j.fleet(t, w, Options{}, "A", "B", "C", "D", "E", "F")
			defer stopAll(ps)
			w.Freeze(true)
			origin := &narrow{took: 5 * time.Second}
			var all []*answer
			for _, p := range ps {
				all = append(all, p.get(background, "k", origin.load))
			}
			time.Sleep(12 * time.Second)
			w.Freeze(false)
			for _, p := range ps {
				p.calls.Wait()
			}
			most, loads := 6, 6
			if n > 0 {
				most, loads = 1, 4 // two and a half without the server, and one with it
			}
			if origin.most != most || len(origin.all) != loads {
				t.Errorf("%d nodes: %d loads, %d at a time; want %d, %d", n, len(origin.all), origin.most, loads, most)
			}
			for _, a := range all {
				if a.err != nil || a.value != "value of k" {
					t.Errorf("%q, %v", a.value, a.err)
				}
			}
		})
	}
}

// A minority may be dead, frozen or slow, and costs nothing.
func TestRedlockMinority(t *testing.T) {
	withJury(t, 5, func(t *testing.T, w *lab.World, j jury) {
		ps := j.fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		j[1].CutOff("A", false)
		j[3].Freeze(true)
		defer j[3].Freeze(false)
		a := ps["A"].get(background, "k", loads(10*time.Second, "v"))
		time.Sleep(time.Second)
		w.Redis.FlushAll()
		b := ps["B"].get(background, "k", loads(time.Second, "of B"))
		time.Sleep(15 * time.Second)
		a.must(t, "v", nil, 10*time.Second)
		if b.value != "of B" || b.took < 10*time.Second {
			t.Errorf("B got %q after %v", b.value, b.took)
		}
		ps["A"].wantLocks(1, 0, 0, 0)
		ps["B"].wantLocks(1, 1, 0, 0)
	})
}

// Without a majority loads begin all the same, after the budget of a command; and at once when that has happened a few times.
func TestRedlockWithoutMajority(t *testing.T) {
	withJury(t, 3, func(t *testing.T, w *lab.World, j jury) {
		ps := j.fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		for i := range 2 {
			j[i].CutOff("A", false)
			j[i].Freeze(true)
			defer j[i].Freeze(false)
		}
		for i := range 6 {
			for _, p := range ps {
				p.get(background, fmt.Sprint(p.name, i), loads(time.Second, "v"))
			}
			time.Sleep(3 * time.Second)
		}
		for _, p := range ps {
			p.wantLocks(0, 0, 6, 0)
		}
		ps["A"].get(background, "k", loads(0, "v")).returns(t, "v", 50*time.Millisecond) // once in a second, to look
		ps["A"].get(background, "j", loads(0, "v")).returns(t, "v", 0)
		if held := j.locks(); held != "" {
			t.Errorf("votes are left at %q", held)
		}
	})
}

// returns waits for a call.
func (a *answer) returns(t *testing.T, value string, took time.Duration) {
	t.Helper()
	time.Sleep(took)
	synctest.Wait()
	a.must(t, value, nil, took)
}

// A node that has restarted without what it knew does not vote for a lease: the one that it had voted for is still at work.
func TestRedlockDelayedRestart(t *testing.T) {
	withJury(t, 3, func(t *testing.T, w *lab.World, j jury) {
		ps := j.fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		j[2].CutOff("A", false)
		origin := &narrow{took: 1500 * time.Millisecond}
		a := ps["A"].get(background, "k", origin.load)
		time.Sleep(100 * time.Millisecond)
		if held := j.locks(); held != "01" {
			t.Fatalf("A has the lock at %q", held)
		}
		j.empty(1) // now the others would be a majority
		w.Redis.FlushAll()
		b := ps["B"].get(background, "k", origin.load)
		time.Sleep(5 * time.Second)
		a.must(t, "value of k", nil, 1500*time.Millisecond)
		if b.err != nil || origin.most > 1 {
			t.Errorf("%v, %d loads at a time", b.err, origin.most)
		}
		ps["A"].wantLocks(1, 0, 0, 0)
		ps["B"].wantLocks(1, 1, 0, 0)
	})
}

// Nodes vote for nobody until they have been there for a lease.
func TestRedlockYoungNodes(t *testing.T) {
	withJury(t, 3, func(t *testing.T, w *lab.World, j jury) {
		ps := j.fleet(t, w, Options{}, "A")
		defer stopAll(ps)
		for i := range j {
			j.empty(i)
		}
		ps["A"].get(background, "a", loads(0, "v")).returns(t, "v", 0)
		time.Sleep(2*time.Second - time.Microsecond)
		ps["A"].get(background, "b", loads(0, "v")).returns(t, "v", 0)
		ps["A"].wantLocks(0, 0, 2, 0)
		time.Sleep(time.Microsecond)
		ps["A"].get(background, "c", loads(0, "v")).returns(t, "v", 0)
		ps["A"].wantLocks(1, 0, 2, 0)
	})
}

// Time is taken before the nodes are asked: answers that come when the lock may be over win nothing.
func TestRedlockLateAnswers(t *testing.T) {
	for _, late := range []time.Duration{0, time.Millisecond} {
		withJury(t, 3, func(t *testing.T, w *lab.World, j jury) {
			p := &proc{t: t, w: w, name: "A", client: w.Client("A", nil)}
			for _, node := range j {
				p.nodes = append(p.nodes, node.Client("A", nil))
			}
			p.start(Options{Lease: 100 * time.Millisecond}, RedisOptions{Timeout: 200 * time.Millisecond})
			defer p.stop()
			for _, node := range j {
				node.Hold(only("A", "VOTE", lab.Reply))
			}
			a := p.get(background, "k", loads(0, "v"))
			took := 96*time.Millisecond + late // a lease without 1 % of it and 2 ms is 97 ms
			time.Sleep(took)
			for _, node := range j {
				node.Hold(nil)
			}
			a.must(t, "v", nil, took)
			if late == 0 {
				p.wantLocks(1, 0, 0, 0)
			} else {
				p.wantLocks(0, 0, 1, 0)
			}
			if held := j.locks(); held != "" {
				t.Errorf("votes are left at %q", held)
			}
		})
	}
}

// Three ask at the same time, and each gets one vote of three: nobody wins. They give them back and one after the other wins.
func TestRedlockSplitVotes(t *testing.T) {
	withJury(t, 3, func(t *testing.T, w *lab.World, j jury) {
		names := []string{"A", "B", "C"}
		ps := j.fleet(t, w, Options{}, names...)
		defer stopAll(ps)
		w.Freeze(true) // or only one of them would ask
		for i, node := range j {
			first := names[i]
			node.Hold(func(m *lab.Message) bool { return m.Kind == lab.Request && verbOf(m) == "VOTE" && m.Process != first })
		}
		origin := &narrow{took: time.Second}
		for _, p := range ps {
			p.get(background, "k", origin.load)
		}
		time.Sleep(60 * time.Millisecond) // the ACQUIREs are given up
		for _, node := range j {
			node.Hold(nil)
		}
		split, began := 0, time.Now()
		for _, p := range ps {
			p.calls.Wait()
			split += int(p.cache.Stats().LocksBusy)
		}
		if split < 2 { // the last one may be in time for a vote that was given back
			t.Errorf("%d have found the votes split", split)
		}
		if took := time.Since(began); took > 4*time.Second { // three loads, and pauses
			t.Errorf("all were done after %v", took)
		}
		if origin.most != 1 || len(origin.all) != 3 {
			t.Errorf("%d loads, %d at a time", len(origin.all), origin.most)
		}
		w.Freeze(false)
	})
}

// A batch locks each of its keys, and those that others are loading do not hold up the rest.
func TestRedlockBatch(t *testing.T) {
	withJury(t, 3, func(t *testing.T, w *lab.World, j jury) {
		ps := j.fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		ps["A"].get(background, "k", loads(10*time.Second, "v"))
		time.Sleep(time.Second)
		w.Redis.FlushAll()
		origin := &narrow{took: 5 * time.Second}
		keys := []string{"a", "b", "c", "k"}
		b := ps["B"].call(func() (string, error) {
			found, err := ps["B"].cache.GetOrLoadMany(background, keys, origin.loadMany)
			return fmt.Sprint(found), err
		})
		time.Sleep(3 * time.Second)
		if node := j[0].Redis; !node.Exists(lockKey("cache:user:a")) || !node.Exists(lockKey("cache:user:c")) {
			t.Error("a key that is being loaded has no lock")
		}
		ps["B"].calls.Wait()
		if got := fmt.Sprint(origin.all); got != "[[a b c] [k]]" || b.err != nil || b.took < 14*time.Second {
			t.Errorf("loaded %s, %v after %v", got, b.err, b.took)
		}
		ps["B"].wantLocks(4, 1, 0, 0)
		synctest.Wait()
		for _, k := range keys {
			if j[0].Redis.Exists(lockKey("cache:user:" + k)) {
				t.Errorf("the lock on %s is left", k)
			}
		}
	})
}

// A refresh in the background does not wait for the lock: there is a value.
func TestRedlockRefresh(t *testing.T) {
	withJury(t, 3, func(t *testing.T, w *lab.World, j jury) {
		ps := j.fleet(t, w, Options{TTL: time.Second, StaleWhileRevalidate: time.Minute, LocalTTL: -1}, "A", "B")
		defer stopAll(ps)
		ps["A"].get(background, "k", loads(0, "old")).returns(t, "old", 0)
		time.Sleep(2 * time.Second)
		token := newOwner()
		for _, n := range ps["A"].rds.lock.nodes {
			_, _ = n.vote(background, fullKey, token, 2*time.Second)
		}
		ps["B"].get(background, "k", loads(0, "new")).returns(t, "old", 0)
		synctest.Wait()
		ps["B"].wantLocks(0, 1, 0, 0)
		if o := holder(w, fullKey); o != (record.Owner{}) {
			t.Error("it keeps the lease")
		}
		time.Sleep(2 * time.Second)
		ps["B"].get(background, "k", loads(0, "new")).returns(t, "old", 0)
		synctest.Wait()
		ps["B"].get(background, "k", loads(0, "newer")).returns(t, "new", 0)
	})
}

// Mistakes in LockNodes, and leases that are too short for it.
func TestLockNodesRefused(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		a, b := w.Client("A", nil), w.Client("B", nil)
		cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
		defer a.Close()
		defer b.Close()
		defer cluster.Close()
		for want, nodes := range map[string][]Client{
			"LockNodes are 2: want an odd number":     {b, cluster},
			"LockNodes[1] is a *redis.ClusterClient":  {b, cluster, nil},
			"LockNodes[2] is nil":                     {b, cluster, nil},
			"LockNodes[2] is there twice":             {b, nil, b},
			"LockNodes[0] is there twice, or has the": {a},
		} {
			if _, err := NewRedis(a, RedisOptions{LockNodes: nodes}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v; want %s", err, want)
			}
		}
		rds, err := NewRedis(a, RedisOptions{LockNodes: []Client{b}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New[int]("user", Options{Redis: rds, Lease: 99 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), "100ms or more with LockNodes") {
			t.Errorf("a lease of 99 ms: %v", err)
		}
		_ = rds.Close()
	})
}
