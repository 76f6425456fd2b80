package cache

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

// A flight that finds a value in memory may land after its tag was deleted: calls that joined it later go round.
func TestRememberedWhenTagIsDeleted(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		c, err := New[string]("user", Options{Tags: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.GetOrLoad(background, "k", taggedLoader("old", "t")); err != nil {
			t.Fatal(err)
		}
		gate := make(chan struct{})
		f, _, err := c.core.flights.join(flightID{key: "k"}, nil, func() *flight {
			f := &flight{order: &order{c: c.core}, flightID: flightID{key: "k"}, landed: make(chan struct{})}
			f.ctx, f.cancel = context.WithCancelCause(background)
			return f
		})
		if err != nil {
			t.Fatal(err)
		}
		c.core.flights.goes(f, func(f *flight) *result { // like core.run
			res := c.core.remembered(f)
			<-gate
			return res
		})
		synctest.Wait()
		deleteTags(t, c, "t")
		done := make(chan string, 1)
		go func() {
			v, _ := c.GetOrLoad(background, "k", taggedLoader("new", "t"))
			done <- v
		}()
		synctest.Wait()
		close(gate)
		if v := <-done; v != "new" {
			t.Errorf("a call that began after DeleteTags had returned got %q", v)
		}
		<-f.landed
	})
}

// Whatever somebody writes into the barriers costs a load or two, and is gone then.
func TestHostileBarriers(t *testing.T) {
	set := func(field, value string) func(w *lab.World) {
		return func(w *lab.World) { w.Redis.HSet("cache:user", field, value) }
	}
	for name, spoil := range map[string]func(w *lab.World){
		"empty base": set("base", ""), "empty last": set("last", ""), "base in the future": set("base", "5000000000000000"),
		"last in the future": set("last", "5999999999999999"), "last beyond all": set("last", "99999999999999999999"),
		"tag garbage": set("tt", "x"), "tag in the future": set("tt", "5000000000000000"), "tag negative": set("tt", "-1"),
		"foreign fields": func(w *lab.World) {
			for i := range manyTags + 1 {
				w.Redis.HSet("cache:user", fmt.Sprint("x", i), "1")
			}
		},
	} {
		for _, scripts := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", scripts ", scripts), func(t *testing.T) {
				bubble(t, func(t *testing.T, w *lab.World) {
					if !scripts {
						withoutScripts(w)
					}
					p := start(t, w, "A", Options{Tags: true, LocalTTL: -1}, nil)
					defer p.stop()
					load := func() {
						t.Helper()
						if v, err := p.cache.GetOrLoad(background, "k", taggedLoader("v", "t")); v != "v" || err != nil {
							t.Error(v, err)
						}
					}
					load()
					spoil(w)
					for range 20 {
						load()
						time.Sleep(time.Second)
					}
					if n := p.cache.Stats().Loads; n > 3 {
						t.Errorf("%d loads in 21 calls", n)
					}
					deleteTags(t, p.cache, "t")
					wants(t, p.cache, "k", "v2")
				})
			})
		}
	}
}

// Redis has cleared, and the message to the others cannot be published: only the message is repeated, and neither the
// others nor the process itself load all the time.
func TestClearUntold(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{Tags: true}, "A", "B")
		defer stopAll(ps)
		a, b := ps["A"].cache, ps["B"].cache
		accept := refusing(w, "ERR not now", "PUBLISH")
		if err := a.Clear(background); err == nil {
			t.Error("nobody was told, and there is no error")
		}
		for range 120 {
			wants(t, b, "k", "v2")
			b.core.local.dropAll() // as if it were another process each time
			wants(t, a, "l", "v2")
			time.Sleep(500 * time.Millisecond)
		}
		if n, m := b.Stats().Loads, a.Stats().Loads; n+m > 2 {
			t.Errorf("%d and %d loads in a minute", n, m)
		}
		wants(t, b, "m", "v2")
		accept()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, ok := b.core.local.get("m"); ok || a.Stats().DeletesPending > 0 {
			t.Error("B was not told in the end")
		}
	})
}

// Redis does not clear: the process that was to keeps what it loads since, in memory.
func TestClearPending(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{Tags: true}, nil)
		defer p.stop()
		defer refusing(w, "ERR not now", "INVALIDATE")()
		if err := p.cache.Clear(background); err == nil {
			t.Error("no error")
		}
		for range 50 {
			wants(t, p.cache, "k", "v2")
			time.Sleep(time.Millisecond)
		}
		if n := p.cache.Stats().Loads; n != 1 {
			t.Errorf("%d loads in 50 calls", n)
		}
	})
}

// The barriers do not answer, as when their node of a cluster is down: a fleet does not queue up behind them.
func TestStampSilent(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		var names []string
		for i := range 40 {
			names = append(names, fmt.Sprint("P", i))
		}
		ps := fleet(t, w, Options{Tags: true}, names...)
		defer stopAll(ps)
		w.Hold(func(m *lab.Message) bool {
			return m.Kind == lab.Request && (verbOf(m) == "STAMP" || m.Command() == "HMGET")
		})
		var all []*answer
		for _, p := range ps {
			all = append(all, p.get(background, "k", loads(0, "v")))
		}
		time.Sleep(time.Minute)
		for _, a := range all {
			a.must(t, "v", nil, 50*time.Millisecond)
		}
		w.Hold(nil)
	})
}

// Without scripts, too, barriers live as long as what they judge, and do not grow without bound.
func TestNativeBarriers(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		withoutScripts(w)
		p := start(t, w, "A", Options{Tags: true, LocalTTL: -1}, nil)
		defer p.stop()
		if err := p.cache.Set(background, "k", "v1", WithTTL(100*time.Hour), WithTags("a")); err != nil {
			t.Fatal(err)
		}
		deleteTags(t, p.cache, "z")
		time.Sleep(time.Hour)
		wants(t, p.cache, "k", "v1")
		for i := range 15 {
			deleteTags(t, p.cache, manyKeys(1000, fmt.Sprint(i, "-"))...)
		}
		if fields, _ := w.Redis.HKeys("cache:user"); len(fields) > manyTags+2 {
			t.Errorf("%d fields", len(fields))
		}
		wants(t, p.cache, "k", "v2")
		deleteTags(t, p.cache, strings.Repeat("x", record.LongestTag+1)) // which nothing can carry
		wants(t, p.cache, "k", "v2")
	})
}
