package cache

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
)

// A heartbeat whose reply does not come holds up deletions for the budget of one, not for as long as go-redis waits.
func TestHeartbeatWithoutAnswer(t *testing.T) {
	for _, timeout := range []time.Duration{0, -1} { // of go-redis: 3 s, none
		bubble(t, func(t *testing.T, w *lab.World) {
			w.Aside = nil
			p := start(t, w, "A", Options{}, func(o *redis.Options) { o.ReadTimeout = timeout })
			defer p.stop()
			w.Hold(func(m *lab.Message) bool {
				return m.Kind == lab.Reply && m.Args != nil && isHeartbeat(&lab.Message{Args: m.Args})
			})
			for len(w.Held()) == 0 {
				time.Sleep(100 * time.Millisecond)
			}
			began := time.Now()
			ctx, cancel := context.WithTimeout(background, time.Minute)
			defer cancel()
			if err := p.cache.Delete(ctx, "k"); err != nil || time.Since(began) > patient*p.rds.timeout {
				t.Errorf("Delete took %v: %v", time.Since(began), err)
			}
			w.Hold(nil)
		})
	}
}

// refuseBeats makes the server refuse heartbeats; the function it returns ends that.
func refuseBeats(w *lab.World) func() {
	w.Redis.Server().SetPreHook(func(c *server.Peer, cmd string, args ...string) bool {
		if cmd == "PUBLISH" && len(args[1]) == emptyEvent {
			c.WriteError("ERR not now")
			return true
		}
		return false
	})
	return func() { w.Redis.Server().SetPreHook(nil) }
}

// A heartbeat that gets lost is nothing that others have missed.
func TestHeartbeatLost(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		a, b := ps["A"], ps["B"]
		b.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		for range 3 {
			accept := refuseBeats(w)
			_ = a.cache.Delete(background, "x")
			time.Sleep(2 * quiet)
			accept()
			_ = a.cache.Delete(background, "y")
			synctest.Wait()
		}
		if !b.remembers("k") {
			t.Errorf("%d gaps, and nothing was missed", b.cache.Stats().EventGaps)
		}
	})
}

// An event gets lost, and the heartbeat after it; the next heartbeat tells.
func TestEventAndHeartbeatLost(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{LocalTTL: 10 * time.Minute, TTL: time.Hour}, "A", "B", "C")
		defer stopAll(ps)
		a, b, c := ps["A"], ps["B"], ps["C"]
		_ = a.cache.Delete(background, "x")
		time.Sleep(2 * quiet)
		b.get(background, "k", loads(0, "old")).must(t, "old", nil, 0)
		a.rds.events.mu.Lock()
		_ = a.rds.events.messageLocked(keyEvents([]string{fullKey})) // and lost
		a.rds.events.mu.Unlock()
		accept := refuseBeats(w)
		time.Sleep(2 * quiet)
		accept()
		for range 5 { // somebody else's events, so that nobody is asked for a sign of life
			_ = c.cache.Delete(background, "y")
			time.Sleep(2 * time.Second)
		}
		if b.remembers("k") || b.cache.Stats().EventGaps != 1 {
			t.Errorf("B remembers, %d gaps", b.cache.Stats().EventGaps)
		}
	})
}

// Messages do not stay in memory with the name of who sent them.
func TestMessagesAreForgotten(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		r := newRedis(nil, RedisOptions{Prefix: "cache", Timeout: time.Second}, true, true)
		r.stream.heard = heard{since: time.Now()}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range 100 {
			r.stream.handle(fmt.Sprintf("E%016d%016d%010d%s", i, 1, 0, keyEvents([]string{"cache:x:" + strings.Repeat("k", 1<<20)})))
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if got := int64(after.HeapAlloc) - int64(before.HeapAlloc); got > 10<<20 {
			t.Errorf("%d MiB are kept of 100 messages of 1 MiB", got>>20)
		}
		runtime.KeepAlive(r)
	})
}

// A deaf subscription is noticed also in a process that always has a message under way.
func TestDeafStreamOfBusyProcess(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		var deaf, stop atomic.Bool
		deaf.Store(true)
		aside := w.Aside
		w.Aside = func(m *lab.Message) bool { return aside(m) && (m.Kind != lab.Push || !deaf.Load()) }
		w.Hold(func(m *lab.Message) bool { return deaf.Load() && m.Kind == lab.Push })
		p := start(t, w, "A", Options{LocalTTL: 5 * time.Minute, TTL: 10 * time.Minute}, nil)
		defer p.stop()
		w.Redis.Server().SetPreHook(func(_ *server.Peer, cmd string, _ ...string) bool {
			if cmd == "PUBLISH" {
				time.Sleep(20 * time.Millisecond)
			}
			return false
		})
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		for i := range 3 {
			p.calls.Go(func() {
				for !stop.Load() {
					_ = p.cache.Delete(background, fmt.Sprint("x", i))
				}
			})
		}
		time.Sleep(2*heartbeat + 2*silences*quiet)
		if p.remembers("k") {
			t.Error("deaf, and memory is kept")
		}
		stop.Store(true)
		deaf.Store(false)
		w.Redis.Server().SetPreHook(nil)
		w.Hold(nil)
	})
}
