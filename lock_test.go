package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/early"
	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

// P2 across processes: one load, everybody is woken with its value in the moment it is stored, and nobody polls.
// A miss costs three commands, a waiting process two.
func TestOneLoadInTheFleet(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B", "C")
		defer stopAll(ps)
		before := w.Sent("A") + w.Sent("B") + w.Sent("C")
		var all []*answer
		for range 10 {
			for _, p := range ps {
				all = append(all, p.get(background, "k", loads(300*time.Millisecond, "v")))
			}
		}
		time.Sleep(300 * time.Millisecond)
		for _, a := range all {
			a.must(t, "v", nil, 300*time.Millisecond)
		}
		var s Stats
		for _, p := range ps {
			one := p.cache.Stats()
			s.Loads += one.Loads
			s.Wakes += one.Wakes
			s.Polls += one.Polls
		}
		if s.Loads != 1 || s.Wakes != 2 || s.Polls != 0 {
			t.Errorf("loads %d, wakes %d, polls %d", s.Loads, s.Wakes, s.Polls)
		}
		if n := w.Sent("A") + w.Sent("B") + w.Sent("C") - before; n != 3+2+2 {
			t.Errorf("%d commands", n)
		}
		raw, _ := w.Redis.Get(fullKey)
		if h, _, err := record.Open([]byte(raw)); err != nil || h.Cost != 300*time.Millisecond {
			t.Errorf("%+v, %v", h, err)
		}
	})
}

// P8: the holder is gone in mid-load. One of those who wait takes over when its lease ends, the others go on waiting.
func TestHolderDies(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B", "C", "D")
		defer stopAll(ps)
		began := time.Now()
		ps["A"].get(background, "k", loads(time.Hour, ""))
		time.Sleep(150 * time.Millisecond)
		var all []*answer
		for _, n := range []string{"B", "C", "D"} {
			all = append(all, ps[n].get(background, "k", loads(300*time.Millisecond, "v")))
		}
		w.CutOff("A", false)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		for _, a := range all {
			if !a.done || a.err != nil || a.value != "v" || a.took > 2*time.Second-150*time.Millisecond+lookSoon+300*time.Millisecond {
				t.Errorf("%+v", a)
			}
		}
		var loaded, took uint64
		for _, n := range []string{"B", "C", "D"} {
			loaded += ps[n].cache.Stats().Loads
			took += ps[n].cache.Stats().LeasesTakenOver
		}
		if loaded != 1 || took != 1 {
			t.Errorf("%d loads, %d takeovers after %v", loaded, took, time.Since(began))
		}
		_ = ps["A"].cache.Close()
	})
}

// A load ten times as long as the lease: it is renewed, and everybody gets the one value.
func TestLoadOutlivesLease(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		a := ps["A"].get(background, "k", loads(20*time.Second, "v"))
		synctest.Wait()
		b := ps["B"].get(background, "k", loads(0, "other"))
		time.Sleep(20 * time.Second)
		a.must(t, "v", nil, 20*time.Second)
		b.must(t, "v", nil, 20*time.Second)
		if n := ps["A"].cache.Stats().LeasesLost; n != 0 {
			t.Errorf("%d leases lost", n)
		}
	})
}

// P5: a holder that was paused beyond its lease does not replace what a newer one stored. Its own callers get what it
// loaded.
func TestLateHolder(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{LocalTTL: -1}, "A", "B")
		defer stopAll(ps)
		a := ps["A"].get(background, "k", loads(3*time.Second, "late"))
		synctest.Wait()
		w.Hold(only("A", "RENEW", lab.Request)) // as if A were stopped
		b := ps["B"].get(background, "k", loads(0, "v"))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if !a.done || a.value != "late" || a.err != nil {
			t.Errorf("A: %+v", a)
		}
		if !b.done || b.value != "v" || b.err != nil {
			t.Errorf("B: %+v", b)
		}
		if v, ok := ps["B"].cache.Get(background, "k"); v != "v" || !ok {
			t.Errorf("stored: %q", v)
		}
		if s := ps["A"].cache.Stats(); s.CommitsRejected != 1 {
			t.Errorf("%+v", s)
		}
		w.Hold(nil)
	})
}

// A late holder that nobody has displaced may still store its value.
func TestLateHolderAlone(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		w.Hold(only("A", "RENEW", lab.Request))
		a := p.get(background, "k", loads(3*time.Second, "v"))
		time.Sleep(5 * time.Second)
		a.must(t, "v", nil, 3*time.Second)
		if s := p.cache.Stats(); s.CommitsRejected != 0 || !w.Redis.Exists(fullKey) {
			t.Errorf("%+v", s)
		}
		w.Hold(nil)
	})
}

// P4 across processes: B deletes while A loads. The old value is not stored; a call of A that starts after the deletion
// does not get it; A's memory does not keep it.
func TestDeleteByAnotherDuringLoad(t *testing.T) {
	for _, told := range []bool{true, false} {
		t.Run(fmt.Sprintf("told=%v", told), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *lab.World) {
				ps := fleet(t, w, Options{}, "A", "B")
				defer stopAll(ps)
				var version atomic.Value
				version.Store("old")
				load := func(context.Context, string) (string, error) {
					v := version.Load().(string)
					time.Sleep(time.Second)
					return v, nil
				}
				first := ps["A"].get(background, "k", load)
				time.Sleep(500 * time.Millisecond)
				version.Store("new")
				if !told { // the message about the deletion is late: the rejected COMMIT alone must do
					w.Hold(func(m *lab.Message) bool { return m.Kind == lab.Push })
				}
				if err := ps["B"].cache.Delete(background, "k"); err != nil {
					t.Fatal(err)
				}
				second := ps["A"].get(background, "k", load)
				time.Sleep(5 * time.Second)
				synctest.Wait()
				first.must(t, "old", nil, time.Second)
				if !second.done || second.value != "new" {
					t.Errorf("%+v", second)
				}
				s := ps["A"].cache.Stats()
				if s.CommitsRejected != 1 || s.Loads != 2 {
					t.Errorf("%+v", s)
				}
				if !told && s.Rounds != 1 {
					t.Errorf("%d rounds", s.Rounds)
				}
				w.Hold(nil)
			})
		})
	}
}

// P4: a deletion and a Set reach the memory of another process with one message.
func TestInvalidationOfOtherMemories(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		for _, p := range ps {
			p.get(background, "k", loads(0, "1")).must(t, "1", nil, 0)
		}
		if err := ps["A"].cache.Delete(background, "k"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		ps["B"].get(background, "k", loads(0, "2")).must(t, "2", nil, 0)
		ps["A"].get(background, "k", nil).must(t, "2", nil, 0)
		if err := ps["B"].cache.Set(background, "k", "3"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		ps["A"].get(background, "k", nil).must(t, "3", nil, 0)
		sent := w.Sent("B")
		ps["B"].get(background, "k", nil).must(t, "3", nil, 0)
		if n := w.Sent("B") - sent; n != 0 {
			t.Errorf("Set did not fill its own memory: %d commands", n)
		}
	})
}

// Rule 3: between the beginning of Delete and its UNLINK somebody reads the old value into memory. It does not stay.
func TestReadDuringDelete(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		p.get(background, "k", loads(0, "old")).must(t, "old", nil, 0)
		w.Hold(only("A", "UNLINK", lab.Request))
		done := make(chan error, 1)
		go func() { done <- p.cache.Delete(background, "k") }()
		w.Held()
		p.get(background, "k", nil).must(t, "old", nil, 0)
		w.Hold(nil)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		p.get(background, "k", loads(0, "new")).must(t, "new", nil, 0)
	})
}

// P1: a hit in Redis is one command, for all who ask at the same time; a hit in memory is none.
func TestCommandsOfHits(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		ps["A"].get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		ps["B"].get(background, "other", loads(0, "v")).must(t, "v", nil, 0) // B learns the server's time
		sent := w.Sent("B")
		for i, want := range []int{1, 1} {
			for range 10 {
				ps["B"].get(background, "k", nil)
			}
			synctest.Wait()
			if n := w.Sent("B") - sent; n != want {
				t.Errorf("round %d: %d commands", i, n)
			}
		}
	})
}

// A plain DEL by anything else is an invalidation too: for Redis and for the load under way.
func TestDeleteByAnyTool(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{LocalTTL: -1}, nil)
		defer p.stop()
		a := p.get(background, "k", loads(time.Second, "old"))
		time.Sleep(500 * time.Millisecond)
		w.Redis.Del(fullKey)
		time.Sleep(500 * time.Millisecond)
		a.must(t, "old", nil, time.Second)
		if w.Redis.Exists(fullKey) {
			t.Error("the old value was stored")
		}
	})
}

// A loader's error gives the lease back: those who wait in other processes take over at once, one by one, and report
// their own loader's error only.
func TestErrorFreesTheLease(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		errA := errors.New("A's origin is down")
		a := ps["A"].get(background, "k", func(context.Context, string) (string, error) {
			time.Sleep(time.Second)
			return "", errA
		})
		synctest.Wait()
		b := ps["B"].get(background, "k", loads(time.Second, "v"))
		time.Sleep(2 * time.Second)
		a.must(t, "", errA, time.Second)
		b.must(t, "v", nil, 2*time.Second)
	})
}

// Wake-ups are lost: those who wait find the value by looking.
func TestLostWakeUps(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		w.Hold(func(m *lab.Message) bool { return m.Kind == lab.Push })
		ps["A"].get(background, "k", loads(300*time.Millisecond, "v"))
		synctest.Wait()
		b := ps["B"].get(background, "k", loads(0, "other"))
		time.Sleep(2*time.Second + lookSoon)
		synctest.Wait()
		if !b.done || b.value != "v" {
			t.Errorf("%+v", b)
		}
		for _, m := range w.Held() {
			m.Lose()
		}
		w.Hold(nil)
	})
}

// Wake-ups for others, malformed, doubled and early ones are harmless.
func TestStrangeMessages(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		a := ps["A"].get(background, "k", loads(300*time.Millisecond, "v"))
		synctest.Wait()
		b := ps["B"].get(background, "k", loads(0, "other"))
		synctest.Wait()
		foreign := "C" + strings.Repeat("x", 16) + "00000012" + fullKey + "not a record"
		for range 10 {
			for _, m := range []string{
				"", "?", "C", "D", foreign, foreign[:20], "A" + foreign[1:], "D0123456789abcdef99999999x",
				"C" + strings.Repeat("x", 16) + "-0000001k", strings.Repeat("D", 1<<20),
			} {
				w.Redis.Publish(ps["B"].rds.inboxChannel(ps["B"].rds.process), m)
				w.Redis.Publish(ps["B"].rds.everybodyChannel(), m)
			}
			synctest.Wait()
		}
		time.Sleep(300 * time.Millisecond)
		a.must(t, "v", nil, 300*time.Millisecond)
		b.must(t, "v", nil, 300*time.Millisecond)
	})
}

// SCRIPT FLUSH at any time costs a round trip and nothing else.
func TestScriptFlush(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{LocalTTL: -1}, nil)
		defer p.stop()
		for i := range 3 {
			key := fmt.Sprint(i)
			a := p.get(background, key, loads(time.Second, "v"))
			time.Sleep(500 * time.Millisecond)
			if err := p.client.ScriptFlush(background).Err(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond)
			a.must(t, "v", nil, time.Second)
			if !w.Redis.Exists("cache:user:" + key) {
				t.Error("not stored")
			}
		}
	})
}

// Versions: a higher one replaces a lower one; a lower one, and another type, leave the entry alone and keep what they
// load in memory. So old and new processes do not wipe each other's entries in a loop.
func TestVersionsAndTypes(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		one := start(t, w, "old", Options{Version: 1}, nil)
		defer one.stop()
		two := start(t, w, "new", Options{Version: 2}, nil)
		defer two.stop()
		numbers, err := New[int]("user", Options{Redis: two.rds, Version: 2})
		if err != nil {
			t.Fatal(err)
		}
		defer numbers.Close()
		one.get(background, "k", loads(0, "v1")).must(t, "v1", nil, 0)
		two.get(background, "k", loads(0, "v2")).must(t, "v2", nil, 0)
		before, _ := w.Redis.Get(fullKey)
		one.cache.core.invalidate("k")
		one.get(background, "k", loads(0, "v1")).must(t, "v1", nil, 0)
		one.get(background, "k", nil).must(t, "v1", nil, 0)
		n, err := numbers.GetOrLoad(background, "k", func(context.Context, string) (int, error) { return 7, nil })
		if n != 7 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if err := one.cache.Set(background, "k", "x"); err == nil {
			t.Error("a lower version has replaced a higher one")
		}
		if after, _ := w.Redis.Get(fullKey); after != before {
			t.Error("the entry has changed")
		}
		two.cache.core.invalidate("k")
		two.get(background, "k", nil).must(t, "v2", nil, 0)
		if s := one.cache.Stats(); s.OtherEntries == 0 || s.Unreadable != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Whatever the loader returns comes back equal, from memory and from Redis: nothing in a value is a marker.
func TestMarkersInValues(t *testing.T) {
	o, _ := Options{}.withDefaults()
	stub := string(newCoder[string](&o).lease(fullKey, early.Cost{}, record.Lease{Owner: record.Owner{1}}))
	for _, v := range []string{
		"", "\x00", "S", "N", "*", "bw1S", "rueidisid:x", "not found", "null", "\xc0", stub, strings.Repeat("\x00", 100000),
	} {
		bubble(t, func(t *testing.T, w *lab.World) {
			ps := fleet(t, w, Options{}, "A", "B")
			defer stopAll(ps)
			ps["A"].get(background, "k", loads(0, v)).must(t, v, nil, 0)
			ps["A"].get(background, "k", nil).must(t, v, nil, 0)
			ps["B"].get(background, "k", nil).must(t, v, nil, 0)
			if n := ps["A"].cache.Stats().Loads; n != 1 {
				t.Errorf("%q: %d loads", v[:min(len(v), 20)], n)
			}
		})
	}
}

// P9: closing a cache in mid-load gives its leases back, so that others take over at once.
func TestCloseFreesTheLease(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		a := ps["A"].get(background, "k", loads(time.Hour, ""))
		synctest.Wait()
		b := ps["B"].get(background, "k", loads(0, "v"))
		time.Sleep(100 * time.Millisecond)
		_ = ps["A"].cache.Close()
		a.must(t, "", ErrClosed, 100*time.Millisecond)
		b.must(t, "v", nil, 100*time.Millisecond)
	})
}

// P8: a holder that renews for ever does not keep others waiting for ever.
func TestBoundedWaiting(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		slow := start(t, w, "A", Options{LoadTimeout: time.Hour}, nil)
		defer slow.stop()
		quick := start(t, w, "B", Options{LoadTimeout: 3 * time.Second}, nil)
		defer quick.stop()
		slow.get(background, "k", loads(30*time.Minute, "late"))
		synctest.Wait()
		b := quick.get(background, "k", loads(0, "v"))
		time.Sleep(6 * time.Second)
		b.must(t, "v", nil, 3*time.Second+2*time.Second)
		if s := quick.cache.Stats(); s.WaitTimeouts != 1 {
			t.Errorf("%+v", s)
		}
		_ = slow.cache.Close()
	})
}

// Many callers and keys on all paths at once, for the race detector; loads are counted per key.
func TestCrowd(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B", "C")
		defer stopAll(ps)
		var count sync.Map
		for i := range 1000 {
			for name, p := range ps {
				if name != "A" && i%5 > 0 {
					continue
				}
				key := fmt.Sprint(i % 100)
				p.get(background, key, func(context.Context, string) (string, error) {
					n, _ := count.LoadOrStore(key, new(atomic.Int32))
					n.(*atomic.Int32).Add(1)
					time.Sleep(10 * time.Millisecond)
					return key, nil
				})
			}
		}
		for _, p := range ps {
			p.calls.Wait()
		}
		count.Range(func(key, n any) bool {
			if n := n.(*atomic.Int32).Load(); n != 1 {
				t.Errorf("key %v: %d loads", key, n)
			}
			return true
		})
	})
}
