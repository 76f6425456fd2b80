package cache

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
)

// A refresh that begins late, because the machine is busy, does not load what was loaded since it was asked for: without
// Redis nobody else would tell it.
func TestLateRefresh(t *testing.T) {
	const late = 10 * time.Millisecond
	modes := map[string]func(*testing.T, Options, func(*testing.T, *proc)){
		"alike": alike,
		"cut off": func(t *testing.T, o Options, f func(*testing.T, *proc)) {
			bubble(t, func(t *testing.T, w *lab.World) {
				p := start(t, w, "A", o, nil)
				_ = p.cache.Set(background, "other", "v") // it knows the time
				w.CutOff("A", false)
				for !p.rds.cutOff() {
					time.Sleep(time.Second)
					_, _ = p.cache.GetOrLoad(background, "unknown", failing)
				}
				f(t, p)
				p.stop()
			})
		},
	}
	for name, mode := range modes {
		start := func(p *proc) {
			p.cache.core.chance = func(uint64) float64 { return 0 }
			p.cache.core.soon = func(f func()) { time.AfterFunc(late, f) }
		}
		once := func(t *testing.T, p *proc, before uint64, last *answer) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			if n := p.cache.Stats().Loads - before; n != 1 || !last.done || last.err != nil {
				t.Errorf("%d loads, and the call got %q, %v", n, last.value, last.err)
			}
		}
		t.Run(name+"/stale", func(t *testing.T) {
			o := Options{TTL: time.Minute, StaleWhileRevalidate: time.Minute, LocalTTL: 2 * time.Minute}
			mode(t, o, func(t *testing.T, p *proc) {
				start(p)
				_, _ = p.cache.GetOrLoad(background, "k", loads(time.Second, "v1"))
				time.Sleep(time.Minute + time.Second)
				before := p.cache.Stats().Loads
				p.get(background, "k", loads(late/2, "v2"))
				time.Sleep(late + late/4)
				once(t, p, before, p.get(background, "k", loads(late/2, "v3"))) // which is too early for the first one's
			})
		})
		for _, takes := range []time.Duration{late / 4, 2 * late} { // when the refresh begins, the load is over, and is not
			t.Run(name+"/early/"+takes.String(), func(t *testing.T) {
				mode(t, Options{TTL: time.Minute, EarlyRefresh: 1, LocalTTL: time.Minute}, func(t *testing.T, p *proc) {
					start(p)
					_, _ = p.cache.GetOrLoad(background, "k", loads(time.Second, "v1"))
					time.Sleep(time.Minute - late/2)
					before := p.cache.Stats().Loads
					p.get(background, "k", loads(takes, "v2")).must(t, "v1", nil, 0)
					time.Sleep(late / 2)
					once(t, p, before, p.get(background, "k", loads(takes, "v3")))
				})
			})
		}
	}
}

// A call whose ACQUIRE fails gets what was stored in memory meanwhile, and if that is fresh there is nothing to refresh.
func TestAcquireFailsWhileLoaded(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{TTL: time.Minute, StaleWhileRevalidate: time.Minute}, nil)
		_ = p.cache.Set(background, "other", "v") // it knows the time
		w.Hold(firstOf("A", "ACQUIRE", lab.Request))
		late := p.get(background, "k", loads(0, "v1"))
		synctest.Wait()
		if v, err := p.cache.Refresh(background, "k", loads(0, "v2")); v != "v2" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
		w.CutOff("A", false)
		time.Sleep(time.Minute - 2*time.Second)
		synctest.Wait()
		if late.must(t, "v2", nil, late.took); p.cache.Stats().Loads != 1 {
			t.Errorf("%d loads", p.cache.Stats().Loads)
		}
		p.stop()
	})
}

// A call that takes nothing stale and a refresh that began after it do not wait for each other.
func TestStrictAndRefresh(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		const ttl, slow = time.Minute, 30 * time.Millisecond // less than the budget
		p := start(t, w, "A", Options{TTL: ttl, StaleIfError: ttl, StaleWhileRevalidate: ttl, LocalTTL: 2 * ttl}, nil)
		_ = p.cache.Set(background, "k", "v1")
		w.Redis.Del(fullKey) // by a failover
		time.Sleep(ttl + time.Second)
		w.Hold(firstOf("A", "GETRANGE", lab.Reply))
		strictly := p.get(background, "k", loads(time.Second, "v2"), WithoutStale())
		synctest.Wait()
		w.Redis.SetError("ERR refused")
		p.get(background, "k", loads(time.Second, "v3")).must(t, "v1", nil, 0)
		w.Redis.SetError("")
		time.Sleep(slow)
		w.Hold(nil)
		time.Sleep(4 * time.Second)
		if synctest.Wait(); !strictly.done || strictly.err != nil {
			t.Errorf("%+v", *strictly)
		}
		p.stop()
	})
}
