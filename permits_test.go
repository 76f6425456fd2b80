package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
)

// narrow is an origin that knows how many loads it has at a time.
type narrow struct {
	took time.Duration

	mu        sync.Mutex
	now, most int
	all       []string
}

func (b *narrow) load(ctx context.Context, key string) (string, error) {
	b.mu.Lock()
	b.now++
	b.most = max(b.most, b.now)
	b.all = append(b.all, key)
	b.mu.Unlock()
	select {
	case <-time.After(b.took):
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now--
	return "value of " + key, nil
}

func (b *narrow) loadMany(ctx context.Context, keys []string) (map[string]string, error) {
	_, err := b.load(ctx, fmt.Sprint(keys))
	found := map[string]string{}
	for _, k := range keys {
		found[k] = "value of " + k
	}
	return found, err
}

// All loads of a memory cache are done, as many at a time as there may be: first those that most callers wait for.
func TestMaxLoads(t *testing.T) {
	bubble(t, func(t *testing.T, _ *lab.World) {
		for _, fair := range []bool{false, true} {
			c, err := New[string]("user", exact(Options{MaxLoads: 2, FairLoads: fair}))
			if err != nil {
				t.Fatal(err)
			}
			origin := &narrow{took: time.Second}
			p := &proc{t: t, cache: c}
			began := time.Now()
			var answers []*answer
			for i := range 10 {
				for range 1 + i {
					answers = append(answers, p.get(background, strconv.Itoa(i), origin.load))
				}
				synctest.Wait()
			}
			p.calls.Wait()
			for _, a := range answers {
				if a.err != nil {
					t.Error(a.err)
				}
			}
			want := []string{"0", "1", "9", "8", "7", "6", "5", "4", "3", "2"}
			if fair {
				slices.Sort(want)
			}
			for i := 0; i < len(want); i += 2 { // two begin at the same time
				slices.Sort(want[i : i+2])
				slices.Sort(origin.all[i : i+2])
			}
			if took := time.Since(began); took != 5*time.Second || origin.most != 2 || !slices.Equal(origin.all, want) {
				t.Errorf("fair %v: %v, %d at a time, %q, want %q", fair, took, origin.most, origin.all, want)
			}
			if s := c.Stats(); s.LoadsQueued != 8 || s.LoadsDropped != 0 {
				t.Errorf("%+v", s)
			}
			p.stop()
		}
	})
}

// A load that has not begun is given up when its callers have left. A refresh waits for nobody, and goes last.
func TestMaxLoadsDropped(t *testing.T) {
	for _, redis := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *lab.World) {
			o := Options{MaxLoads: 1, TTL: time.Minute, StaleWhileRevalidate: time.Hour}
			var p *proc
			if redis {
				p = start(t, w, "A", o, nil)
			} else {
				c, err := New[string]("user", exact(o))
				if err != nil {
					t.Fatal(err)
				}
				p = &proc{t: t, w: w, cache: c}
			}
			defer p.stop()
			origin := &narrow{}
			p.get(background, "stale", origin.load)
			p.calls.Wait()
			time.Sleep(2 * time.Minute)
			origin.took = time.Second
			a := p.get(background, "a", origin.load)
			synctest.Wait()
			p.get(background, "stale", origin.load)
			ctx, cancel := context.WithCancel(background)
			dead := p.get(ctx, "dead", origin.load)
			many := p.call(func() (string, error) {
				_, err := p.cache.GetOrLoadMany(ctx, []string{"dead1", "dead2"}, origin.loadMany)
				return "", err
			})
			synctest.Wait()
			alive := p.get(background, "alive", origin.load)
			synctest.Wait()
			cancel()
			synctest.Wait()
			if !errors.Is(dead.err, context.Canceled) || !errors.Is(many.err, context.Canceled) {
				t.Errorf("%v, %v", dead.err, many.err)
			}
			again := p.get(background, "dead", origin.load)
			p.calls.Wait()
			time.Sleep(time.Minute)
			synctest.Wait()
			if a.err != nil || alive.err != nil || again.err != nil {
				t.Errorf("%v, %v, %v", a.err, alive.err, again.err)
			}
			if want := []string{"stale", "a", "alive", "dead", "stale"}; !slices.Equal(origin.all, want) || origin.most != 1 {
				t.Errorf("%q, want %q; %d at a time", origin.all, want, origin.most)
			}
			if s := p.cache.Stats(); s.LoadsDropped != 2 || s.LoadErrors != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// Processes together never have more loads at a time than there may be, and as many as there may be while there is work.
func TestMaxLoadsInFleet(t *testing.T) {
	for _, most := range []int{1, 3, 7} {
		for _, fair := range []bool{false, true} {
			bubble(t, func(t *testing.T, w *lab.World) {
				ps := fleet(t, w, Options{MaxLoads: most, FairLoads: fair}, "A", "B", "C", "D")
				defer stopAll(ps)
				origin := &narrow{took: 300 * time.Millisecond}
				began := time.Now()
				var answers []*answer
				for name, p := range ps {
					for i := range 10 {
						answers = append(answers, p.get(background, name+strconv.Itoa(i), origin.load))
					}
				}
				for _, p := range ps {
					p.calls.Wait()
				}
				took := time.Since(began)
				for _, a := range answers {
					if a.err != nil {
						t.Error(a.err)
					}
				}
				best := time.Duration((40+most-1)/most) * origin.took
				t.Logf("%d at a time: %v, %v at best", most, took, best)
				if origin.most != most || len(origin.all) != 40 || took > best*115/100 {
					t.Errorf("%d at a time, want %d; %d loads in %v, at best %v", origin.most, most, len(origin.all), took, best)
				}
			})
		}
	}
}

// lone makes one permit and gives it to A, which loads for as long as told. Then B waits for it.
func lone(t *testing.T, w *lab.World, o Options, long time.Duration) (ps map[string]*proc, origin *narrow, b *answer) {
	t.Helper()
	o.MaxLoads = 1
	ps = fleet(t, w, o, "A", "B")
	origin = &narrow{took: time.Second}
	ps["A"].get(background, "a", (&narrow{took: long}).load)
	synctest.Wait()
	b = ps["B"].get(background, "b", origin.load)
	synctest.Wait()
	return ps, origin, b
}

// The permit of a process that is gone is had again when its lease would have ended.
func TestPermitOfTheDead(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps, _, b := lone(t, w, Options{}, time.Minute)
		defer stopAll(ps)
		time.Sleep(10 * time.Second)
		if b.done {
			t.Error("it has not waited")
		}
		w.CutOff("A", false)
		at := time.Now()
		ps["B"].calls.Wait()
		if gone := time.Since(at) - time.Second; b.err != nil || gone > 2*time.Second+lookSoon {
			t.Errorf("%v after %v", b.err, gone)
		}
	})
}

// A permit that was handed over, and whose message was lost, is found.
func TestPermitMessageLost(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps, _, b := lone(t, w, Options{}, time.Second)
		defer stopAll(ps)
		w.Lose(func(m *lab.Message) bool { return m.Kind == lab.Push && m.Process == "B" })
		ps["B"].calls.Wait()
		if b.err != nil || b.took > 3*time.Second+lookSoon {
			t.Errorf("%v after %v", b.err, b.took)
		}
	})
}

// Without messages, processes look.
func TestPermitsWithoutMessages(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps, _, b := lone(t, w, Options{}, time.Second)
		defer stopAll(ps)
		ps["B"].rds.stream.up.Store(false)
		ps["A"].calls.Wait()
		at := time.Now()
		ps["B"].calls.Wait()
		if late := time.Since(at) - time.Second; b.err != nil || late > pollMost {
			t.Errorf("%v, %v late", b.err, late)
		}
	})
}

// While Redis does not answer, each process keeps to its share of the loads, or to one; there is no error.
func TestMaxLoadsCutOff(t *testing.T) {
	for most, want := range map[int]int{1: 1, 3: 1, 8: 2} {
		bubble(t, func(t *testing.T, w *lab.World) {
			ps := fleet(t, w, Options{MaxLoads: most, LocalTTL: -1}, "A", "B", "C", "D")
			defer stopAll(ps)
			warm := &narrow{took: time.Second}
			for _, p := range ps { // they know each other
				for i := range 8 {
					p.get(background, p.name+strconv.Itoa(i), warm.load)
				}
			}
			time.Sleep(time.Second)
			w.CutOff("A", false)
			origin := &narrow{took: time.Second}
			var answers []*answer
			for i := range 10 {
				answers = append(answers, ps["A"].get(background, "k"+strconv.Itoa(i), origin.load))
			}
			for _, p := range ps {
				p.calls.Wait()
			}
			for _, a := range answers {
				if a.err != nil {
					t.Error(a.err)
				}
			}
			if origin.most != want || len(origin.all) != 10 {
				t.Errorf("of %d: %d at a time, want %d; %d loads", most, origin.most, want, len(origin.all))
			}
			w.CutOff("A", true)
			time.Sleep(10 * time.Second)
			all := &narrow{took: time.Second}
			for i := range 10 {
				for _, p := range ps {
					p.get(background, "again"+p.name+strconv.Itoa(i), all.load)
				}
			}
			for _, p := range ps {
				p.calls.Wait()
			}
			if all.most != most || len(all.all) != 40 {
				t.Errorf("then %d at a time, want %d; %d loads", all.most, most, len(all.all))
			}
		})
	}
}

// With StrictLoads, loads fail then, unless there is something stale.
func TestStrictLoads(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{MaxLoads: 1, StrictLoads: true, StaleIfError: time.Hour, TTL: time.Minute, LocalTTL: time.Hour}, nil)
		defer p.stop()
		origin := &narrow{took: time.Second}
		p.get(background, "old", origin.load)
		p.calls.Wait()
		time.Sleep(90 * time.Second)
		w.CutOff("A", false)
		old := p.get(background, "old", origin.load)
		k := p.get(background, "k", origin.load)
		many := p.call(func() (string, error) {
			_, err := p.cache.GetOrLoadMany(background, []string{"1", "2"}, origin.loadMany)
			return "", err
		})
		p.calls.Wait()
		if old.must(t, "value of old", nil, old.took); !errors.Is(k.err, ErrOverloaded) || !errors.Is(many.err, ErrOverloaded) {
			t.Errorf("%v, %v", k.err, many.err)
		}
		if len(origin.all) != 1 {
			t.Errorf("%q", origin.all)
		}
		w.CutOff("A", true)
		time.Sleep(10 * time.Second)
		p.get(background, "k", origin.load)
		p.calls.Wait()
		if len(origin.all) != 2 {
			t.Errorf("%q", origin.all)
		}
	})
}

// A load whose lease gets lost while it waits is not begun without need.
func TestLeaseLostWhileWaiting(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps, origin, b := lone(t, w, Options{}, 10*time.Second)
		defer stopAll(ps)
		raw, _ := w.Redis.Get("cache:user:b")
		w.Redis.Del("cache:user:b")
		if raw == "" {
			t.Fatal("no lease")
		}
		if err := ps["A"].cache.Set(background, "b", "set"); err != nil {
			t.Error(err)
		}
		ps["B"].calls.Wait()
		if b.value != "set" || b.err != nil || b.took > time.Second || len(origin.all) != 0 {
			t.Errorf("%+v, %q", b, origin.all)
		}
	})
}

// Each limit has its loads; a batch is loaded in parts.
func TestLimitBy(t *testing.T) {
	for _, redis := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *lab.World) {
			o := Options{MaxLoads: 1, LimitBy: func(key string) string {
				if key == "?" {
					panic("?")
				}
				return key[:1]
			}}
			var p *proc
			if redis {
				p = start(t, w, "A", o, nil)
			} else {
				c, err := New[string]("user", exact(o))
				if err != nil {
					t.Fatal(err)
				}
				p = &proc{t: t, w: w, cache: c}
			}
			defer p.stop()
			origin := &narrow{took: time.Second}
			began := time.Now()
			for _, key := range []string{"a1", "a2", "b1", "b2", "?"} {
				p.get(background, key, origin.load)
			}
			many := p.call(func() (string, error) {
				m, err := p.cache.GetOrLoadMany(background, []string{"a3", "b3", "a4"}, origin.loadMany)
				return fmt.Sprint(len(m)), err
			})
			p.calls.Wait()
			many.must(t, "3", nil, many.took)
			if took := time.Since(began); took != 3*time.Second || origin.most != 3 || len(origin.all) != 7 {
				t.Errorf("%v, %d at a time, %q", took, origin.most, origin.all)
			}
			time.Sleep(time.Minute)
			l := p.cache.core.limits
			l.mu.Lock()
			defer l.mu.Unlock()
			if len(l.m) != 0 {
				t.Errorf("%d limiters are left", len(l.m))
			}
		})
	}
}

// A cache that is closed gives its permits back.
func TestPermitsOfClosed(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps, _, b := lone(t, w, Options{}, time.Hour)
		defer stopAll(ps)
		_ = ps["A"].cache.Close()
		ps["B"].calls.Wait()
		if b.err != nil || b.took > 2*time.Second {
			t.Errorf("%v after %v", b.err, b.took)
		}
	})
}

// A process that has few loads needs no command for them, but to renew what it holds.
func TestPermitsAreKept(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{MaxLoads: 10}, nil)
		defer p.stop()
		origin := &narrow{took: 10 * time.Millisecond}
		var commands atomic.Int32
		w.Hold(func(m *lab.Message) bool {
			if m.Kind == lab.Request && verbOf(m) == "PERMITS" {
				commands.Add(1)
			}
			return false
		})
		for i := range 100 {
			p.get(background, strconv.Itoa(i), origin.load)
			p.calls.Wait()
		}
		before := commands.Load()
		if before > 3 { // one takes, and one renews at each third of a lease
			t.Errorf("%d commands", before)
		}
		if time.Sleep(10 * time.Second); commands.Load() > before+2 {
			t.Errorf("%d commands more", commands.Load()-before)
		}
	})
}

// A server that refuses keeps nobody waiting, and leases are by scripts still.
func TestPermitsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{MaxLoads: 2}, "A", "B")
		defer stopAll(ps)
		refusing(w, "ERR The user executing the script can't run this command or subcommand script: 0, on @user_script:1.", "PERMITS")
		origin := &narrow{took: time.Second}
		var answers []*answer
		for name, p := range ps {
			for i := range 4 {
				answers = append(answers, p.get(background, name+strconv.Itoa(i), origin.load))
			}
		}
		for _, p := range ps {
			p.calls.Wait()
		}
		for _, a := range answers {
			if a.err != nil || a.took > 2*time.Second {
				t.Errorf("%v after %v", a.err, a.took)
			}
		}
		if origin.most != 4 { // they do not know of each other
			t.Errorf("%d at a time", origin.most)
		}
		if ps["A"].rds.store.(*scriptStore).forbidden.Load() != 0 {
			t.Error("scripts are taken to be forbidden")
		}
	})
}
