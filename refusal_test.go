package cache

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2/server"

	"github.com/bellwether-go/cache/internal/lab"
)

// A flight waits for another process when its key is deleted, and Redis refuses: what it reads from Redis afterwards is
// not for calls that come later, nor kept.
func TestFailedDeletionOfWhatIsWaitedFor(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{CompressAbove: -1}, "A", "B")
		defer stopAll(ps)
		a, b := ps["A"], ps["B"]
		old := "old" + strings.Repeat("x", wakeBytes) // too large for a wake-up
		x := b.get(background, "k", loads(3100*time.Millisecond, old))
		time.Sleep(10 * time.Millisecond)
		y := a.get(background, "k", loads(0, "mine"))
		time.Sleep(10 * time.Millisecond)
		accept := refusing(w, "ERR not now", "UNLINK")
		if a.cache.Delete(background, "k") == nil {
			t.Fatal("no error")
		}
		for range 400 {
			time.Sleep(10 * time.Millisecond)
			if v, err := a.cache.GetOrLoad(background, "k", loads(0, "new")); strings.HasPrefix(v, "old") || err != nil {
				t.Fatalf("%.5q, %v", v, err)
			}
			if v, ok := a.cache.Get(background, "k"); ok && strings.HasPrefix(v, "old") {
				t.Fatalf("Get: %.5q", v)
			}
		}
		synctest.Wait()
		if !x.done || !y.done {
			t.Error("somebody waits still")
		}
		accept()
	})
}

// A Clear that Redis refuses for a while does not empty memory each time it is repeated.
func TestRefusedClearKeepsMemory(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{Tags: true}, nil)
		defer p.stop()
		accept := refusing(w, "MISCONF Redis is configured to save RDB snapshots", "EVAL", "EVALSHA", "UNLINK", "SET")
		if p.cache.Clear(background) == nil {
			t.Fatal("no error")
		}
		for range 600 {
			for k := range 20 {
				wants(t, p.cache, fmt.Sprint(k), "v2")
			}
			time.Sleep(50 * time.Millisecond)
		}
		if n := p.cache.Stats().Loads; n > 20 {
			t.Errorf("%d loads of 20 keys in 30 s", n)
		}
		accept()
		time.Sleep(5 * time.Second)
		if n := p.cache.Stats().DeletesPending; n != 0 {
			t.Errorf("%d pending", n)
		}
	})
}

// Where PUBLISH is forbidden and SUBSCRIBE is not, or PUBLISH fails for another reason, heartbeats are not repeated
// without end.
func TestPublishForbidden(t *testing.T) {
	for _, text := range []string{"NOPERM this user has no permissions to run the 'publish' command", "ERR unknown command"} {
		bubble(t, func(t *testing.T, w *lab.World) {
			n := 0
			p := start(t, w, "A", Options{}, nil)
			defer p.stop()
			w.Redis.Server().SetPreHook(func(c *server.Peer, cmd string, _ ...string) bool {
				if cmd == "PUBLISH" {
					n++
					c.WriteError(text)
				}
				return cmd == "PUBLISH"
			})
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			if n > 60 {
				t.Errorf("%s: %d times in 5 minutes", text, n)
			}
			if !p.rds.stream.wakes() {
				t.Errorf("%s: the subscription is taken for dead", text)
			}
			w.Redis.Server().SetPreHook(nil)
		})
	}
}

// Redis refuses to store what is set: what was there before is gone from all memories too.
func TestSetRefused(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		a, b := ps["A"], ps["B"]
		b.get(background, "k", loads(0, "old")).must(t, "old", nil, 0)
		w.Hold(func(m *lab.Message) bool { return m.Kind == lab.Request && verbOf(m) == "COMMIT" })
		a.calls.Go(func() {
			if a.cache.Set(background, "k", "new", WithTTL(time.Millisecond)) == nil {
				t.Error("no error")
			}
		})
		_ = w.Held()                      // COMMIT is on its way
		time.Sleep(10 * time.Millisecond) // the value's time is over
		w.Hold(nil)
		a.calls.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		if b.remembers("k") || w.Redis.Exists(fullKey) || a.cache.Stats().DeletesPending > 0 {
			t.Errorf("B remembers %v, Redis %v, %+v", b.remembers("k"), w.Redis.Exists(fullKey), a.cache.Stats())
		}
	})
}

// Without scripts, Set loses to others each time: what they left is deleted.
func TestNativeSetLoses(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		withoutScripts(w)
		ps := fleet(t, w, Options{LocalTTL: -1}, "A", "B")
		defer stopAll(ps)
		a, b := ps["A"], ps["B"]
		b.get(background, "k", loads(0, "old")).must(t, "old", nil, 0)
		raw, _ := w.Redis.Get(fullKey)
		n := 0
		w.Redis.Server().SetPreHook(func(c *server.Peer, cmd string, _ ...string) bool {
			if strings.HasPrefix(cmd, "EVAL") {
				c.WriteError("NOPERM this user has no permissions to run the 'eval' command")
				return true
			}
			if cmd == "EXEC" && n < txTries {
				n++
				_ = w.Redis.Set(fullKey, raw)
				w.Redis.SetTTL(fullKey, time.Minute)
			}
			return false
		})
		if a.cache.Set(background, "k", "new") == nil {
			t.Error("no error")
		}
		time.Sleep(10 * time.Second)
		b.get(background, "k", loads(0, "new")).must(t, "new", nil, 0)
		if s := a.cache.Stats(); s.DeletesRepeated != 1 {
			t.Errorf("%+v", s)
		}
	})
}
