package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2/server"

	"github.com/bellwether-go/cache/internal/early"
	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

// P10: a hostile stub whose fence could not be followed by a larger one.
func TestHostileFence(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		raw := p.cache.core.coder.lease(fullKey, early.Cost{}, record.Lease{})
		copy(raw[46:], "9999999999999999")
		_ = w.Redis.Set(fullKey, string(raw))
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
	})
}

// P10: an unreadable entry without an id is replaced too.
func TestZeroID(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{LocalTTL: -1}, nil)
		defer p.stop()
		raw := p.cache.core.coder.seal(fullKey, life{freshUntil: time.Now().Add(time.Hour).UnixMicro()}, []byte("\xc1"))
		_ = w.Redis.Set(fullKey, string(raw))
		for range 3 {
			p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		}
		if s := p.cache.Stats(); s.Loads != 1 {
			t.Errorf("never replaced: %d loads, %d errors, %d commands", s.Loads, s.RedisErrors, w.Sent("A"))
		}
	})
}

// P10: unreadable bytes that look like a lease are no lease.
func TestUnreadableLease(t *testing.T) {
	for _, wakes := range []bool{true, false} {
		t.Run(fmt.Sprint(wakes), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *lab.World) {
				p := start(t, w, "A", Options{LocalTTL: -1}, nil)
				defer p.stop()
				p.rds.stream.up.Store(wakes)
				raw := p.cache.core.coder.lease(fullKey, early.Cost{}, record.Lease{
					Owner: record.Owner{1}, Until: time.Now().Add(9000 * time.Second).UnixMicro(), Duration: 9999 * time.Second,
				})
				raw[128] ^= 1 // the checksum
				_ = w.Redis.Set(fullKey, string(raw))
				a := p.get(background, "k", loads(0, "v"))
				time.Sleep(time.Minute)
				synctest.Wait()
				a.must(t, "v", nil, 0)
				p.get(background, "k", nil).must(t, "v", nil, 0)
			})
		})
	}
}

// Without wake-ups a waiter's pauses grow, also when the entry there is broken.
func TestPollNeverGrows(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{LocalTTL: -1}, "A", "B")
		defer stopAll(ps)
		ps["A"].get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		raw, _ := w.Redis.Get(fullKey)
		_ = w.Redis.Set(fullKey, raw[:len(raw)-1]+"?")
		w.Redis.SetTTL(fullKey, time.Minute)
		ps["B"].rds.stream.up.Store(false)
		ps["A"].get(background, "k", loads(20*time.Second, "v2"))
		synctest.Wait()
		n := w.Sent("B")
		b := ps["B"].get(background, "k", loads(0, "no"))
		time.Sleep(21 * time.Second)
		synctest.Wait()
		if n = w.Sent("B") - n; n > 250 {
			t.Errorf("%d commands in 20s, %+v", n, *b)
		}
	})
}

// P4: two caches of one name in one process hear of each other's deletions.
func TestTwoCachesOneRedis(t *testing.T) {
	for _, how := range []string{"delete", "set"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *lab.World) {
				p := start(t, w, "A", Options{}, nil)
				defer p.stop()
				second, err := New[string]("user", Options{Redis: p.rds})
				if err != nil {
					t.Fatal(err)
				}
				defer second.Close()
				p.get(background, "k", loads(0, "old")).must(t, "old", nil, 0)
				if v, _ := second.GetOrLoad(background, "k", loads(0, "?")); v != "old" {
					t.Fatal(v)
				}
				if how == "delete" {
					err = p.cache.Delete(background, "k")
				} else {
					err = p.cache.Set(background, "k", "new")
				}
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				if v, _ := second.GetOrLoad(background, "k", loads(0, "new")); v != "new" {
					t.Errorf("10 s after %s in the same process: %q", how, v)
				}
			})
		})
	}
}

// P4 for keys that are too long to be cached.
func TestLongKeyDelete(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		key := strings.Repeat("k", MaxKeyBytes+1)
		p.get(background, key, loads(time.Second, "old"))
		time.Sleep(500 * time.Millisecond)
		if err := p.cache.Delete(background, key); err != nil {
			t.Fatal(err)
		}
		a := p.get(background, key, loads(time.Second, "new"))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if a.value != "new" {
			t.Errorf("%+v", a)
		}
	})
}

// Rule 5: many deletions during a load do not cost as many loads.
func TestDeletionsPileUp(t *testing.T) {
	run := func(t *testing.T, p *proc, del func()) {
		before := p.cache.Stats().Loads
		p.get(background, "k", loads(time.Second, "v"))
		synctest.Wait()
		var last *answer
		for range 20 {
			del()
			last = p.get(background, "k", loads(time.Second, "v"))
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := p.cache.Stats().Loads - before; n > 4 {
			t.Errorf("%d loads, the last caller waited %v", n, last.took)
		}
	}
	alike(t, Options{}, func(t *testing.T, p *proc) {
		run(t, p, func() {
			if err := p.cache.Delete(background, "k"); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("cut off", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *lab.World) {
			p := start(t, w, "A", Options{}, nil)
			defer p.stop()
			_ = p.rds.Close()
			for i := range 10 {
				p.get(background, fmt.Sprint(i), loads(0, "v")).must(t, "v", nil, 0)
			}
			run(t, p, func() { _ = p.cache.Delete(background, "k") })
		})
	})
}

// Rule 5: the value of a load without a lease does not reach a younger call through memory either.
func TestUnleasedThroughL1(t *testing.T) {
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
		w.Hold(only("A", "ACQUIRE", lab.Request))
		ps["A"].get(background, "k", load)
		time.Sleep(100 * time.Millisecond) // past the budget: A loads without a lease
		synctest.Wait()
		w.Hold(func(m *lab.Message) bool { return m.Kind == lab.Push }) // the message about the deletion is late
		time.Sleep(100 * time.Millisecond)
		version.Store("new")
		if err := ps["B"].cache.Delete(background, "k"); err != nil {
			t.Fatal(err)
		}
		second := ps["A"].get(background, "k", load)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if second.value != "new" {
			t.Errorf("a call that began after the deletion got %q", second.value)
		}
		w.Hold(nil)
	})
}

// P1: who waits for a slot to load in notices that a fresh value is in Redis.
func TestWaitsForSlot(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		hung := loads(20*time.Second, "old")
		for range 2 {
			ps["A"].get(background, "k", hung)
			synctest.Wait()
			if err := ps["A"].cache.Delete(background, "k"); err != nil {
				t.Fatal(err)
			}
		}
		ps["A"].get(background, "k", hung)
		synctest.Wait()
		ps["B"].get(background, "k", loads(0, "new")).must(t, "new", nil, 0)
		time.Sleep(time.Second)
		c := ps["A"].get(background, "k", hung)
		time.Sleep(time.Minute)
		synctest.Wait()
		if c.took > 2*time.Second {
			t.Errorf("a fresh value was in Redis all the time: %+v", *c)
		}
	})
}

// P7: a panic is a panic, also with an error that wraps ErrNotFound.
func TestPanicNotFound(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		p.get(background, "k", func(context.Context, string) (string, error) {
			panic(fmt.Errorf("must: %w", ErrNotFound))
		})
		synctest.Wait()
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
	})
}

// P4: UNLINK is refused, with a text that speaks of a channel: Delete says so.
func TestUnlinkRefused(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		p.get(background, "k", loads(0, "old")).must(t, "old", nil, 0)
		refusing(w, "NOPERM User channel-worker has no permissions to run the 'unlink' command", "UNLINK")
		if err := p.cache.Delete(background, "k"); err == nil {
			a := p.get(background, "k", loads(0, "new"))
			synctest.Wait()
			t.Errorf("Delete returned nil; then %+v", *a)
		}
	})
}

// A reply of another shape to COMMIT is no answer.
func TestEmptyReply(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		var n int
		w.Redis.Server().SetPreHook(func(c *server.Peer, cmd string, _ ...string) bool {
			if strings.HasPrefix(cmd, "EVAL") {
				if n++; n == 2 {
					c.WriteLen(0)
					return true
				}
			}
			return false
		})
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
	})
}

type exitCodec struct{ Msgpack }

func (exitCodec) Marshal(any) ([]byte, error) { runtime.Goexit(); return nil, nil }

// P7: a Codec that calls Goexit is an accident like a loader's.
func TestCodecGoexit(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{Codec: exitCodec{}}, nil)
		defer p.stop()
		for range 2 {
			a := p.get(background, "k", loads(0, "v"))
			synctest.Wait()
			var exit *PanicError
			if !a.done || !errors.As(a.err, &exit) || !exit.Goexit {
				t.Errorf("%+v", a)
			}
		}
	})
}

// A late copy of Set's ACQUIRE does not wipe what that Set has stored.
func TestGhostOfSet(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		w.Hold(only("A", "ACQUIRE", lab.Request))
		done := make(chan error, 1)
		go func() { done <- ps["A"].cache.Set(background, "k", "v") }()
		ghost := w.Held()[0]
		ghost.Lose()
		w.Hold(nil)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if !w.Redis.Exists(fullKey) {
			t.Fatal("not stored")
		}
		ghost.Copy()
		b := ps["B"].get(background, "k", loads(0, "origin"))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if b.value != "v" || b.took > 0 {
			t.Errorf("%+v", *b)
		}
	})
}

// P10: a damaged entry is replaced, also if the damage makes it look like one of another type.
func TestCorruptType(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{LocalTTL: -1}, nil)
		defer p.stop()
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		raw, _ := w.Redis.Get(fullKey)
		b := []byte(raw)
		b[25] ^= 1
		_ = w.Redis.Set(fullKey, string(b))
		w.Redis.SetTTL(fullKey, 5*time.Minute)
		for range 3 {
			p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		}
		if s := p.cache.Stats(); s.Loads != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// The estimate of the server's clock grows less certain with time, on both sides.
func TestClockDrift(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		k := serverClock{started: time.Now()}
		k.observe(time.Now(), time.Now(), 1e15)
		time.Sleep(24 * time.Hour)
		early, late, _ := k.now()
		day := (24 * time.Hour).Microseconds()
		early, late = 1e15+day-early, late-1e15-day
		if least := int64(100e-6 * float64(day)); early < least || late < least {
			t.Errorf("after a day without an observation the estimate claims to be exact to %d and %d us", early, late)
		}
	})
}

// P4: a call that joins a flight whose read has been executed, and begins after a deletion that came after that read, does
// not get what was read.
func TestJoinedRead(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{LocalTTL: -1}, "A", "B")
		defer stopAll(ps)
		ps["B"].get(background, "k", loads(0, "old")).must(t, "old", nil, 0)
		w.Hold(func(m *lab.Message) bool {
			return m.Process == "A" && (m.Kind == lab.Reply && m.Command() == "GETRANGE" || m.Kind == lab.Push)
		})
		first := ps["A"].get(background, "k", loads(0, "new"))
		w.Held()
		if err := ps["B"].cache.Delete(background, "k"); err != nil {
			t.Fatal(err)
		}
		second := ps["A"].get(background, "k", loads(0, "new"))
		synctest.Wait()
		w.Hold(nil)
		first.must(t, "old", nil, 0)
		second.must(t, "new", nil, 0)
		if s := ps["A"].cache.Stats(); s.Rounds != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// Many commands that fail in the same moment are one failure, and do not open the breaker.
func TestBurstIsOneFailure(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		w.Freeze(true)
		for i := range 3 {
			p.get(background, fmt.Sprint(i), loads(0, "v"))
		}
		time.Sleep(p.rds.timeout)
		synctest.Wait()
		w.Freeze(false)
		synctest.Wait()
		if p.rds.cutOff() {
			t.Error("the breaker is open")
		}
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		if !w.Redis.Exists(fullKey) {
			t.Error("not stored")
		}
	})
}

// More keys than one round trip takes.
func TestDeleteMany(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		keys := make([]string, 2500)
		for i := range keys {
			keys[i] = fmt.Sprint(i)
		}
		for _, k := range []string{"0", "999", "1000", "2499"} {
			ps["B"].get(background, k, loads(0, "old")).must(t, "old", nil, 0)
		}
		if err := ps["A"].cache.Delete(background, keys...); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, k := range []string{"0", "999", "1000", "2499"} {
			ps["B"].get(background, k, loads(0, "new")).must(t, "new", nil, 0)
		}
	})
}
