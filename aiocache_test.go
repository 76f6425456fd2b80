package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

// orders are the orders of aiocache #979 (https://github.com/aio-libs/aiocache/issues/979), in which two or three actors
// take a lock one after the other: +L the server executes the acquisition, +E its reply is handled, -L the server
// executes the release, -E its reply is handled. aiocache raises KeyError in 44 of these 50.
func orders(t *testing.T) map[string][]string {
	b, err := os.ReadFile("testdata/aiocache-979.txt")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]string)
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		found[words[0]] = words[1 : len(words)-1] // the last one is what aiocache makes of it
	}
	if len(found) != 50 {
		t.Fatalf("%d orders", len(found))
	}
	return found
}

// variant says how the actors release.
type variant struct {
	name   string
	fail   bool // their loaders fail: the release is an ABORT; else it is a COMMIT, and somebody deletes the value
	repeat bool // the reply of the release is lost: at -E the client has repeated it, and the copy is executed
}

var variants = []variant{
	{name: "abort", fail: true}, {name: "abort repeated", fail: true, repeat: true},
	{name: "commit"}, {name: "commit repeated", repeat: true},
}

// replay plays one order and returns what went wrong. breakIt changes the scripts of all actors; it may be nil.
func replay(t *testing.T, order []string, v variant, breakIt func(*scriptStore)) (faults []string) {
	complain := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	synctest.Test(t, func(t *testing.T) {
		w := lab.New(t)
		defer w.Close()
		const full = "cache:user:42"
		procs, answers := map[string]*proc{}, map[string]*answer{}
		owners := map[string]record.Owner{}
		gated := func(m *lab.Message) bool {
			switch verbOf(m) {
			case "ACQUIRE", "COMMIT", "ABORT", "SCRIPT":
				return m.Kind != lab.Push
			}
			return false
		}
		w.Hold(gated)
		loaderErr := func(name string) error { return fmt.Errorf("origin is down for %s", name) }
		errs := map[string]error{}
		for _, name := range []string{"A", "B", "C"} {
			if !strings.Contains(strings.Join(order, " "), name) {
				continue
			}
			p := start(t, w, name, Options{}, nil)
			defer p.stop()
			if breakIt != nil {
				breakIt(p.rds.store.(*scriptStore))
			}
			procs[name], errs[name] = p, loaderErr(name)
			answers[name] = p.get(t.Context(), "42", func(context.Context, string) (string, error) {
				if v.fail {
					return "", errs[name]
				}
				return "of " + name, nil
			})
		}
		next := func(name string, kind lab.Kind) *lab.Message {
			for _, m := range w.Held() {
				if m.Process == name && m.Kind == kind {
					return m
				}
			}
			return nil
		}
		var inForce string // who holds the lease by the order
		for _, step := range order {
			name, what := step[:1], step[1:]
			m := next(name, map[byte]lab.Kind{'L': lab.Request, 'E': lab.Reply}[what[1]])
			if m == nil {
				complain("%s: nothing of %s is under way", step, name)
				break
			}
			switch what {
			case "+L":
				m.Deliver()
				inForce, owners[name] = name, holder(w, full)
			case "+E":
				m.Deliver()
			case "-L":
				m.Deliver()
				inForce = ""
				if !v.fail {
					w.Redis.Del(full) // by somebody: so that the next actor takes the lease too
				}
			case "-E":
				if v.repeat {
					m.Lose()
					if m = next(name, lab.Request); m == nil {
						complain("%s: the client did not repeat the release", step)
						break
					}
					m.Deliver()
					if m = next(name, lab.Reply); m == nil {
						complain("%s: no reply to the repeated release", step)
						break
					}
				}
				m.Deliver()
			}
			if got := holder(w, full); inForce == "" && got != (record.Owner{}) {
				complain("%s: a lease is in force that nobody should hold", step)
			} else if inForce != "" && (got != owners[inForce] || got == (record.Owner{})) {
				complain("%s: the lease of %s is gone", step, inForce)
			}
			if w.Redis.Exists(full) && inForce == "" {
				complain("%s: something was stored", step)
			}
		}
		w.Hold(nil)
		for name, p := range procs {
			p.calls.Wait()
			a := answers[name]
			switch {
			case v.fail && !errors.Is(a.err, errs[name]):
				complain("%s got error %v", name, a.err)
			case !v.fail && (a.err != nil || a.value != "of "+name):
				complain("%s got %q, %v", name, a.value, a.err)
			case a.took != 0:
				complain("%s waited %v", name, a.took)
			}
			if s := p.cache.Stats(); s.Loads != 1 || s.LeasesWon != 1 {
				complain("%s: %d loads under %d leases", name, s.Loads, s.LeasesWon)
			}
		}
	})
	return faults
}

// TestAiocache979 is the bug that this package grew out of: a release must not touch what belongs to another attempt,
// however requests and replies of two or three processes interleave, and however often it is executed.
func TestAiocache979(t *testing.T) {
	for name, order := range orders(t) {
		for _, v := range variants {
			t.Run(name+"/"+v.name, func(t *testing.T) {
				for _, f := range replay(t, order, v, nil) {
					t.Error(f)
				}
			})
		}
	}
}

// TestAiocache979CatchesABrokenRelease shows that the orders would notice: a release that does not ask whose lease it
// is fails those in which it is repeated while another actor holds the lease.
func TestAiocache979CatchesABrokenRelease(t *testing.T) {
	const check = "return r and r.owner == owner and (fence == '' or r.lease_fence == tonumber(fence))"
	if !strings.Contains(recordLua, check) {
		t.Fatal("the owner check is not where this test expects it")
	}
	broken := strings.Replace(recordLua, check, "return r ~= nil", 1)
	breakIt := func(s *scriptStore) {
		s.abortL.script = redis.NewScript(broken + abortLua)
		s.commitL.script = redis.NewScript(broken + commitLua)
	}
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			var failed []string
			for name, order := range orders(t) {
				faults := replay(t, order, v, breakIt)
				if (len(faults) > 0) != (v.repeat && releasesUnderAnother(order)) {
					t.Errorf("%s: faults %q", name, faults)
				}
				if len(faults) > 0 {
					failed = append(failed, name)
				}
			}
			slices.Sort(failed)
			t.Logf("fails %d of 50: %s", len(failed), strings.Join(failed, " "))
		})
	}
}

// releasesUnderAnother reports whether some actor's -E comes while another one holds the lock.
func releasesUnderAnother(order []string) bool {
	var inForce string
	for _, step := range order {
		switch name := step[:1]; step[1:] {
		case "+L":
			inForce = name
		case "-L":
			inForce = ""
		case "-E":
			if inForce != "" && inForce != name {
				return true
			}
		}
	}
	return false
}

// The reply of ACQUIRE is lost: the lease is taken, and the process that took it does not know. go-redis repeats the
// command; ours says so, instead of "somebody has it" (go-redis/redis#2124).
func TestLostReplyOfAcquire(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		w.Hold(only("A", "ACQUIRE", lab.Reply))
		a := p.get(background, "k", loads(0, "v"))
		w.Held()[0].Lose()
		if holder(w, fullKey) == (record.Owner{}) {
			t.Fatal("no lease")
		}
		w.Hold(nil)
		a.must(t, "v", nil, 0)
		if s := p.cache.Stats(); s.LeasesWon != 1 || s.LoadsUnleased != 0 {
			t.Errorf("%+v", s)
		}
		if !w.Redis.Exists(fullKey) {
			t.Error("not stored")
		}
	})
}

// The same with a client that does not repeat: the load runs without a lease, its value is not stored, and the lease
// that nobody knows of is given back at once, so that the next one need not wait for its end.
func TestLostReplyOfAcquireWithoutRetries(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{LocalTTL: -1}, func(o *redis.Options) { o.MaxRetries = -1 })
		defer p.stop()
		w.Hold(only("A", "ACQUIRE", lab.Reply))
		a := p.get(background, "k", loads(0, "v"))
		w.Held()[0].Lose()
		w.Hold(nil)
		a.must(t, "v", nil, 0)
		if w.Redis.Exists(fullKey) {
			t.Error("something is left in Redis")
		}
		p.get(background, "k", loads(0, "v2")).must(t, "v2", nil, 0)
		if s := p.cache.Stats(); s.LoadsUnleased != 1 || s.LeasesWon != 1 || s.RedisErrors != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// Rule 1, ghosts: ACQUIRE times out and is executed later. The load that began before it was answered must not commit.
func TestGhostAcquire(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{LocalTTL: -1}, "A", "B")
		defer stopAll(ps)
		w.Hold(only("A", "ACQUIRE", lab.Request))
		version := "old"
		a := ps["A"].get(background, "k", func(context.Context, string) (string, error) {
			v := version
			time.Sleep(time.Second)
			return v, nil
		})
		time.Sleep(100 * time.Millisecond) // past the budget: A loads without a lease
		synctest.Wait()
		version = "new"
		if err := ps["B"].cache.Delete(background, "k"); err != nil {
			t.Fatal(err)
		}
		w.Hold(nil) // the ghost takes a lease
		time.Sleep(900*time.Millisecond + 50*time.Millisecond)
		a.must(t, "old", nil, time.Second+50*time.Millisecond)
		b := ps["B"].get(background, "k", loads(0, "new"))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if !b.done || b.value != "new" || b.took > 2*time.Second+lookSoon {
			t.Errorf("%+v", b)
		}
	})
}

// Rule 1 again: the request of ACQUIRE is executed twice, the second time after a deletion. The lease that it takes then
// has the same owner and another fence: the load that began before the deletion does not commit under it.
func TestGhostAcquireAfterDelete(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{LocalTTL: -1}, "A", "B")
		defer stopAll(ps)
		w.Hold(only("A", "ACQUIRE", lab.Request))
		a := ps["A"].get(background, "k", loads(time.Second, "old"))
		ghost := w.Held()[0]
		w.Hold(nil)
		synctest.Wait()
		time.Sleep(500 * time.Millisecond)
		if err := ps["B"].cache.Delete(background, "k"); err != nil {
			t.Fatal(err)
		}
		ghost.Copy()
		if holder(w, fullKey) == (record.Owner{}) {
			t.Fatal("the ghost took no lease")
		}
		time.Sleep(500 * time.Millisecond)
		a.must(t, "old", nil, time.Second)
		if s := ps["A"].cache.Stats(); s.CommitsRejected != 1 {
			t.Errorf("%+v", s)
		}
		if _, ok := ps["B"].cache.Get(background, "k"); ok {
			t.Error("the old value was stored")
		}
	})
}

// The reply of COMMIT is lost, and the client repeats it: the value is there, and that is no rejection.
func TestLostReplyOfCommit(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		w.Hold(only("A", "COMMIT", lab.Reply))
		a := p.get(background, "k", loads(0, "v"))
		w.Held()[0].Lose()
		w.Hold(nil)
		a.must(t, "v", nil, 0)
		sent := w.Sent("A")
		p.get(background, "k", nil).must(t, "v", nil, 0)
		if s := p.cache.Stats(); s.CommitsRejected != 0 || s.RedisErrors != 0 || w.Sent("A") != sent {
			t.Errorf("%+v", s)
		}
	})
}

// Rule 5: COMMIT is not confirmed, for its reply is lost and the client does not repeat it. A call that began during the
// load does not take its value on trust: it looks, and finds it stored.
func TestUnconfirmedCommit(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, func(o *redis.Options) { o.MaxRetries = -1 })
		defer p.stop()
		w.Hold(only("A", "COMMIT", lab.Reply))
		a := p.get(background, "k", loads(time.Second, "v"))
		time.Sleep(500 * time.Millisecond)
		b := p.get(background, "k", loads(time.Second, "other"))
		time.Sleep(500 * time.Millisecond)
		w.Held()[0].Lose()
		w.Hold(nil)
		a.must(t, "v", nil, time.Second)
		b.must(t, "v", nil, 500*time.Millisecond)
		if s := p.cache.Stats(); s.Rounds != 1 || s.Loads != 1 || s.RedisHits != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// Rule 2, late wake-ups: the value of an earlier holder, told to a process that waits for a later one, counts for
// nothing. Between the two lies a deletion.
func TestWakeUpOfAnEarlierHolder(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B", "C")
		defer stopAll(ps)
		ps["A"].get(background, "k", loads(time.Second, "old"))
		synctest.Wait()
		early := ps["B"].get(background, "k", loads(0, "")) // makes A's COMMIT tell B
		synctest.Wait()
		w.Hold(func(m *lab.Message) bool { return m.Kind == lab.Push && m.Process == "B" })
		time.Sleep(time.Second)
		late := w.Held()
		if len(late) != 1 {
			t.Fatalf("%d wake-ups", len(late))
		}
		if err := ps["C"].cache.Delete(background, "k"); err != nil {
			t.Fatal(err)
		}
		ps["C"].get(background, "k", loads(time.Second, "new"))
		synctest.Wait()
		ps["B"].cache.core.flights.forget("k") // as if the deletion had been B's: the call below does not join
		b := ps["B"].get(background, "k", loads(0, ""))
		synctest.Wait()
		late[0].Deliver()
		w.Hold(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if !b.done || b.value != "new" || b.err != nil {
			t.Errorf("%+v", b)
		}
		if !early.done || early.err != nil {
			t.Errorf("%+v", early)
		}
	})
}

// A late RENEW of a holder that has been displaced does not touch the lease of the newer one.
func TestLateRenew(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{LocalTTL: -1}, "A", "B")
		defer stopAll(ps)
		a := ps["A"].get(background, "k", loads(4*time.Second, "late"))
		synctest.Wait()
		w.Hold(only("A", "RENEW", lab.Request))
		b := ps["B"].get(background, "k", loads(time.Second, "v"))
		time.Sleep(2*time.Second + lookSoon)
		synctest.Wait()
		before, _ := w.Redis.Get(fullKey)
		w.Hold(nil)
		synctest.Wait()
		if after, _ := w.Redis.Get(fullKey); after != before || ps["B"].cache.Stats().LeasesTakenOver != 1 {
			t.Error("the lease has changed")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !a.done || a.value != "late" || !b.done || b.value != "v" {
			t.Errorf("%+v, %+v", a, b)
		}
		if s := ps["A"].cache.Stats(); s.LeasesLost != 1 || s.CommitsRejected != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// The server's clock is set back by an hour while a lease is in force: the lease is over, not an hour long, and fences go
// on rising.
func TestServerClockSetBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{LocalTTL: -1}, "A", "B")
		defer stopAll(ps)
		w.Redis.SetTime(time.Now().Add(time.Hour))
		ps["A"].get(background, "k", loads(time.Hour, ""))
		synctest.Wait()
		fence := func() int64 {
			raw, _ := w.Redis.Get(fullKey)
			h, _, err := record.Open([]byte(raw))
			if err != nil {
				t.Fatal(err)
			}
			return max(h.Fence, h.Lease.Fence)
		}
		first := fence()
		w.CutOff("A", false)
		w.Redis.SetTime(time.Now())
		ps["B"].get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		if now := fence(); now <= first {
			t.Errorf("fence %d after %d", now, first)
		}
		_ = ps["A"].cache.Close()
	})
}
