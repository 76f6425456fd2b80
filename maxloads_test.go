package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
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

// alone is a process, with Redis or without.
func alone(t *testing.T, w *lab.World, redis bool, o Options) *proc {
	t.Helper()
	if redis {
		return start(t, w, "A", o, nil)
	}
	c, err := New[string]("user", exact(o))
	if err != nil {
		t.Fatal(err)
	}
	return &proc{t: t, w: w, cache: c}
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
			p := alone(t, w, redis, o)
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
			p := alone(t, w, redis, o)
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

// Loaders that ask for other keys of the same cache do not wait for each other's permits.
func TestMaxLoadsNested(t *testing.T) {
	for _, redis := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *lab.World) {
			p := alone(t, w, redis, Options{MaxLoads: 1})
			defer p.stop()
			origin := &narrow{took: time.Second}
			outer := func(ctx context.Context, key string) (string, error) {
				time.Sleep(time.Second)
				v, err := p.cache.GetOrLoad(ctx, "inner", origin.load)
				m, err2 := p.cache.GetOrLoadMany(ctx, []string{"inner", "inner2"}, origin.loadMany)
				return fmt.Sprint(key, v, len(m)), errors.Join(err, err2)
			}
			a := p.get(background, "a", outer)
			synctest.Wait()
			inner := p.get(background, "inner", origin.load) // waits, until a's loader does
			b := p.get(background, "b", outer)
			p.calls.Wait()
			a.must(t, "avalue of inner2", nil, 3*time.Second)
			inner.must(t, "value of inner", nil, 2*time.Second)
			b.must(t, "bvalue of inner2", nil, 4*time.Second)
			if origin.most != 1 || len(origin.all) != 2 {
				t.Errorf("%d at a time, %q", origin.most, origin.all)
			}
		})
	}
}

// Two caches of one name in one process take each its own permits.
func TestMaxLoadsTwice(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{MaxLoads: 1}, nil)
		defer p.stop()
		o := exact(Options{MaxLoads: 1})
		o.Redis = p.rds
		c, err := New[string]("user", o)
		if err != nil {
			t.Fatal(err)
		}
		other := &proc{t: t, w: w, cache: c, rds: p.rds, client: p.client}
		origin := &narrow{took: time.Second}
		for i := range 20 {
			p.get(background, strconv.Itoa(i), origin.load)
			other.get(background, "other"+strconv.Itoa(i), origin.load)
		}
		p.calls.Wait()
		other.calls.Wait()
		if origin.most != 1 || len(origin.all) != 40 {
			t.Errorf("%d at a time, %d loads", origin.most, len(origin.all))
		}
		_ = c.Close()
	})
}
