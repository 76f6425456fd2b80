package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/scenario"
)

// told is an observer that writes down what it is told.
type told struct {
	began time.Time
	mu    sync.Mutex
	lines []line // guarded by mu
	story strings.Builder
}

type line struct {
	at            time.Duration
	process, text string
}

func (l *told) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := regexp.MustCompile(`[0-9a-f]{12}`).ReplaceAllString(fmt.Sprintf(format, args...), "an ID")
	process := text[:1]
	if strings.Contains(text, ": Redis ") { // which is told in a goroutine of its own
		process += "r"
	}
	l.lines = append(l.lines, line{time.Since(l.began), process, text})
}

// title ends what was told under the last one. Of what happens at one time in two processes, and in a batch, the order is
// not defined.
func (l *told) title(next string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	batch := strings.HasSuffix(l.story.String(), "batch\n")
	slices.SortStableFunc(l.lines, func(a, b line) int {
		c := cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.process, b.process))
		if c == 0 && batch {
			c = cmp.Compare(a.text, b.text)
		}
		return c
	})
	for _, one := range l.lines {
		fmt.Fprintf(&l.story, "%v %s\n", one.at, one.text)
	}
	l.lines = nil
	fmt.Fprintf(&l.story, "\n# %s\n", next)
}

type callerName struct{}

func (l *told) observer(process string) Observer {
	who := func(ctx context.Context) string {
		name, _ := ctx.Value(callerName{}).(string)
		return name
	}
	flags := func(e Lookup) (s string) {
		if e.Stale {
			s += ", stale"
		}
		if e.NotFound {
			s += ", not found"
		}
		return s
	}
	return Observer{
		Hit: func(ctx context.Context, e Lookup) {
			l.add("%s: %s hits %s %s in %s%s", process, who(ctx), e.Cache, e.Key, e.Tier, flags(e))
		},
		Miss: func(ctx context.Context, e Lookup) {
			l.add("%s: %s misses %s %s: %s", process, who(ctx), e.Cache, e.Key, e.Reason)
		},
		Load: func(ctx context.Context, e LoadEvent) (context.Context, func(LoadEvent)) {
			slices.Sort(e.Keys)
			l.add("%s: %s loads %s %v, background %v, leased %v", process, who(ctx), e.Cache, e.Keys, e.Background, e.Leased)
			return context.WithValue(ctx, callerName{}, "loader of "+who(ctx)), func(e LoadEvent) {
				var others []string
				for _, ctx := range e.Callers {
					others = append(others, who(ctx))
				}
				slices.Sort(others)
				slices.Sort(e.Keys)
				l.add("%s: %v loaded in %v: %s, %v; also for %v", process, e.Keys, e.Took, e.Outcome, e.Err, others)
			}
		},
		Lease: func(ctx context.Context, e LeaseEvent) {
			l.add("%s: %s, lease of %s %s: %s, %s, after %v, latency %v", process, who(ctx), e.Cache, e.Key, e.What, e.Process, e.Took, e.Latency)
		},
		Deletion: func(e DeletionEvent) {
			l.add("%s: %s %q of %s invalidated by %q", process, e.What, e.Name, e.Cache, e.From)
		},
		Redis: func(e RedisEvent) { l.add("%s: %s: Redis %s", process, e.Cache, e.What) },
	}
}

// TestObserver tells what observers are told in a story of two processes: testdata/observer.txt.
func TestObserver(t *testing.T) {
	l := &told{}
	bubble(t, func(t *testing.T, w *lab.World) {
		l.began = time.Now()
		named := func(name string) *proc {
			o := Options{
				TTL: time.Minute, LocalTTL: 20 * time.Second, StaleWhileRevalidate: time.Minute, Tags: true, Observer: l.observer(name),
			}
			return (&proc{t: t, w: w, name: name, client: w.Client(name, nil)}).start(o, RedisOptions{Process: "process-" + name})
		}
		title := func(s string) {
			synctest.Wait()
			l.title(s)
		}
		as := func(name string) context.Context { return context.WithValue(background, callerName{}, name) }
		title("two processes start")
		a, b := named("A"), named("B")
		defer a.stop()
		defer b.stop()

		title("B loads, others wait")
		gate := make(chan struct{})
		b1 := b.get(as("b1"), "k", func(ctx context.Context, _ string) (string, error) {
			l.add("B: %v runs", ctx.Value(callerName{}))
			<-gate
			LoadFrom(ctx).SetTags("team")
			return "v1", nil
		})
		synctest.Wait()
		b2 := b.get(as("b2"), "k", constant("v2"))
		synctest.Wait()
		a1 := a.get(as("a1"), "k", constant("v2"))
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		close(gate)
		synctest.Wait()
		for _, c := range []*answer{b1, b2, a1} {
			c.returns(t, "v1", 300*time.Millisecond)
		}
		title("hits")
		for _, p := range []*proc{a, b} {
			if v, ok := p.cache.Get(as("reader"), "k"); v != "v1" || !ok {
				t.Error(v, ok)
			}
		}
		title("stale")
		time.Sleep(61 * time.Second)
		wants(t, a.cache, "k", "v1")
		synctest.Wait()
		title("a deletion")
		deleteTags(t, b.cache, "team")
		synctest.Wait()
		title("loads that fail")
		for _, failing := range []Loader[string]{
			func(context.Context, string) (string, error) { return "", errors.New("down") },
			func(context.Context, string) (string, error) { return "", ErrNotFound },
			func(context.Context, string) (string, error) { panic("boom") },
		} {
			if _, err := a.cache.GetOrLoad(as("a2"), "failing", failing); err == nil {
				t.Error("no error")
			}
			synctest.Wait()
			if err := a.cache.Delete(background, "failing"); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		title("a batch")
		if _, err := b.cache.GetOrLoadMany(as("b3"), []string{"k", "l", "m"}, func(context.Context, []string) (map[string]string, error) {
			return map[string]string{"l": "v"}, &LoadError{Key: "m", Err: errors.New("down")}
		}); err == nil {
			t.Error("no error")
		}
		title("a lease is lost")
		lost := make(chan struct{})
		b4 := b.get(as("b4"), "lost", func(context.Context, string) (string, error) {
			<-lost
			return "v", nil
		})
		synctest.Wait()
		if err := a.cache.Delete(background, "lost"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		close(lost)
		synctest.Wait()
		b4.returns(t, "v", time.Second)
		title("Redis is gone for a while")
		w.Freeze(true)
		time.Sleep(20 * time.Second)
		if v, err := b.cache.GetOrLoad(as("b5"), "away", constant("v")); v != "v" || err != nil {
			t.Error(v, err)
		}
		w.Freeze(false)
		time.Sleep(20 * time.Second)
		wants(t, b.cache, "again", "v2")
		title("the end")
	})
	scenario.Golden(t, "testdata/observer.txt", l.story.String())
}

// An observer that panics, or returns nothing, is nobody's trouble.
func TestObserverPanics(t *testing.T) {
	o := Options{Observer: Observer{
		Hit:  func(context.Context, Lookup) { panic("hit") },
		Miss: func(context.Context, Lookup) { panic("miss") },
		Load: func(ctx context.Context, e LoadEvent) (context.Context, func(LoadEvent)) {
			if e.Keys[0] == "nil" {
				return nil, nil
			}
			if e.Keys[0] == "end" {
				return ctx, func(LoadEvent) { panic("end") }
			}
			panic("load")
		},
		Lease:    func(context.Context, LeaseEvent) { panic("lease") },
		Deletion: func(DeletionEvent) { panic("deletion") },
		Redis:    func(RedisEvent) { panic("redis") },
	}}
	alike(t, o, func(t *testing.T, p *proc) {
		for _, key := range []string{"nil", "end", "load"} {
			wants(t, p.cache, key, "v2")
			wants(t, p.cache, key, "v2")
			if err := p.cache.Delete(background, key); err != nil {
				t.Error(err)
			}
			wants(t, p.cache, key, "v2")
		}
	})
}

// Two observers are told one after the other, and both may give the loader a context.
func TestObserverAnd(t *testing.T) {
	var lines []string
	one := func(name string) Observer {
		return Observer{
			Hit:  func(context.Context, Lookup) { lines = append(lines, name+" hit") },
			Miss: func(context.Context, Lookup) { lines = append(lines, name+" miss") },
			Load: func(ctx context.Context, _ LoadEvent) (context.Context, func(LoadEvent)) {
				lines = append(lines, name+" load")
				before, _ := ctx.Value(callerName{}).(string)
				return context.WithValue(ctx, callerName{}, before+name), func(LoadEvent) { lines = append(lines, name+" loaded") }
			},
			Deletion: func(DeletionEvent) { lines = append(lines, name+" deletion") },
		}
	}
	c, err := New[string]("user", Options{Observer: one("x").And(Observer{}).And(one("y"))})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	v, err := c.GetOrLoad(background, "k", func(ctx context.Context, _ string) (string, error) {
		return ctx.Value(callerName{}).(string), nil
	})
	if v != "xy" || err != nil {
		t.Error(v, err)
	}
	wants(t, c, "k", "xy")
	if err := c.Delete(background, "k"); err != nil {
		t.Error(err)
	}
	want := "x miss, y miss, x load, y load, y loaded, x loaded, x hit, y hit, x deletion, y deletion"
	if got := strings.Join(lines, ", "); got != want {
		t.Errorf("%s; want %s", got, want)
	}
}

// What observers add to a hit: one that logs, or measures loads, and has no Hit; and one whose Hit only counts.
//
//	go test -run - -bench Observer -benchtime 1x .
func BenchmarkObserver(b *testing.B) {
	c, keys := hitsOf(b, Options{})
	var hits atomic.Uint64
	with := func(o Observer) func([]string) {
		return func(keys []string) {
			c.core.opts.Observer = o
			for _, key := range keys {
				_, _ = c.GetOrLoad(context.Background(), key, nil)
			}
		}
	}
	compareWays(b, keys, []string{"unobserved", "observed", "each"},
		with(Observer{}),
		with(Observer{
			Miss:     func(context.Context, Lookup) {},
			Load:     func(ctx context.Context, _ LoadEvent) (context.Context, func(LoadEvent)) { return ctx, nil },
			Lease:    func(context.Context, LeaseEvent) {},
			Deletion: func(DeletionEvent) {},
			Redis:    func(RedisEvent) {},
		}),
		with(Observer{Hit: func(context.Context, Lookup) { hits.Add(1) }}))
}
