package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/scenario"
)

// TestExplain tells the story of a key in two processes, and what Explain says of it in each: testdata/explain.txt.
func TestExplain(t *testing.T) {
	var story strings.Builder
	bubble(t, func(t *testing.T, w *lab.World) {
		o := Options{
			TTL: time.Minute, LocalTTL: 20 * time.Second, StaleWhileRevalidate: time.Minute, Tags: true, Backoff: time.Second, EarlyRefresh: 1,
		}
		named := func(name string, o Options) *proc {
			return (&proc{t: t, w: w, name: name, client: w.Client(name, nil)}).start(o, RedisOptions{Process: "process-" + name})
		}
		a, b := named("A", o), named("B", o)
		defer a.stop()
		defer b.stop()
		for _, p := range []*proc{a, b} {
			p.cache.core.chance = func(uint64) float64 { return 0.5 }
		}
		says := func(title, key string, ps ...*proc) {
			t.Helper()
			synctest.Wait()
			fmt.Fprintf(&story, "# %s\n", title)
			for _, p := range ps {
				before, keys := p.cache.Stats(), w.Redis.Dump()
				x, err := p.cache.Explain(background, key)
				if err != nil {
					t.Errorf("%s: %v", title, err)
				}
				if after := p.cache.Stats(); after != before || w.Redis.Dump() != keys {
					t.Errorf("%s: %+v, and before %+v; %s, and before %s", title, after, before, w.Redis.Dump(), keys)
				}
				if again, err := p.cache.Explain(background, key); err != nil || x.Redis.Err == "" && again.String() != x.String() {
					t.Errorf("%s: %v %v, and before %v", title, again, err, x)
				}
				fmt.Fprintf(&story, "%s: %s\n", p.name, x)
			}
			story.WriteString("\n")
		}
		pause := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}

		says("nobody has asked for it", "k", a)
		gate := make(chan struct{})
		slow := b.get(background, "k", func(ctx context.Context, _ string) (string, error) {
			<-gate
			LoadFrom(ctx).SetTags("team")
			return "v1", nil
		})
		pause(300 * time.Millisecond)
		waits := a.get(background, "k", constant("v2"))
		pause(200 * time.Millisecond)
		says("B loads it, A waits", "k", a, b)
		if s := a.cache.Status(); len(s.Waits) != 1 || s.Waits[0].Process != "process-B" || s.Waits[0].Age != 200*time.Millisecond || s.Stats.Waiting != 1 {
			t.Errorf("A: %+v", s)
		}
		if s := b.cache.Status(); len(s.Loads) != 1 || s.Loads[0].Keys[0] != "k" || s.Loads[0].Age != 500*time.Millisecond || s.Stats.Loading != 1 {
			t.Errorf("B: %+v", s)
		}
		close(gate)
		synctest.Wait()
		slow.returns(t, "v1", 500*time.Millisecond)
		waits.returns(t, "v1", 200*time.Millisecond)
		pause(time.Second)
		says("it is loaded", "k", a, b)
		pause(20 * time.Second)
		says("memory asks Redis again", "k", a)
		pause(50 * time.Second)
		says("past its TTL", "k", a)
		deleteTags(t, b.cache, "team")
		says("its tag was deleted", "k", a, b)
		failing := func(context.Context, string) (string, error) { return "", errors.New("the origin is down") }
		if _, err := a.cache.GetOrLoad(background, "k", failing); err == nil {
			t.Error("no error")
		}
		says("the load fails", "k", a, b)
		pause(2 * time.Second)
		if err := a.cache.Set(background, "k", "v3"); err != nil {
			t.Error(err)
		}
		says("set", "k", a, b)
		if err := b.cache.Clear(background); err != nil {
			t.Error(err)
		}
		says("cleared", "k", a)
		if _, err := a.cache.GetOrLoad(background, "n", func(context.Context, string) (string, error) { return "", ErrNotFound }); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		says("not found", "n", a, b)
		_ = w.Redis.Set("cache:user:garbage", "whatever")
		says("garbage", "garbage", a)
		setter := named("setter", Options{Tags: true})
		defer setter.stop()
		if err := setter.cache.Set(background, "s", "v"); err != nil {
			t.Error(err)
		}
		pause(time.Second)
		says("set by a process that has loaded nothing", "s", a)
		old := named("old", Options{Tags: true, Version: 7, LocalTTL: -1})
		defer old.stop()
		wants(t, old.cache, "versions", "v2")
		says("of a newer version", "versions", a, old)
		accept := refusing(w, "ERR not now", "UNLINK")
		if err := a.cache.Delete(background, "n"); err == nil {
			t.Error("no error")
		}
		says("a deletion that is not confirmed", "n", a)
		accept()
		w.Freeze(true)
		says("Redis is gone", "k", b)
		w.Freeze(false)
		pause(time.Minute)
	})
	scenario.Golden(t, "testdata/explain.txt", story.String())
}
