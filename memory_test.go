package cache

import (
	"context"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/bellwether-go/cache/internal/lab"
)

// In virtual time, in which no timer is late, the clock of a hit says what the exact one says.
func TestClock(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		k := &clock{started: time.Now()}
		for _, step := range []time.Duration{1, time.Microsecond, time.Millisecond, 3 * time.Millisecond, clockStep - 1, clockStep, time.Second} {
			for range 50 {
				now := k.now()
				for _, d := range []time.Duration{-time.Second, -1, 0, 1, time.Millisecond, clockStep - 1, clockStep, clockStep + 1, time.Hour} {
					if got := k.before(now + int64(d)); got != (d > 0) {
						t.Fatalf("%v after %v: before(%v) is %v", step, time.Duration(now), d, got)
					}
				}
				time.Sleep(step)
			}
		}
	})
}

// The timer looks at the time only while there are hits, and a hit does then not.
func TestClockRests(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		k := &clock{started: time.Now()}
		hour := int64(time.Hour)
		for round := range 2 {
			k.before(hour)
			seen := k.seen.Load()
			if seen == 0 {
				t.Fatal("it does not run")
			}
			time.Sleep(clockStep / 2)
			k.before(hour)
			if k.seen.Load() != seen {
				t.Error("a hit looks at the time")
			}
			time.Sleep(clockStep)
			if k.seen.Load() == seen {
				t.Error("the timer does not")
			}
			time.Sleep(2 * clockStep)
			if k.seen.Load() != 0 {
				t.Errorf("%d: it runs although there are no hits", round)
			}
		}
	})
}

func TestClockInParallel(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		k := &clock{started: time.Now()}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 100 {
					k.before(int64(time.Hour))
					time.Sleep(clockStep)
				}
			})
		}
		all.Wait()
		time.Sleep(2 * clockStep)
		if k.seen.Load() != 0 {
			t.Error("it does not rest")
		}
	})
}

func TestAdder(t *testing.T) {
	var a adder
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			for range 100 {
				a.add(3)
			}
		})
	}
	all.Wait()
	if n := a.load(); n != 30_000 {
		t.Error(n)
	}
}

// Few hits are counted exactly; of many the sum comes close, also if they swing with the period in which one step is counted.
func TestHits(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		k := &clock{started: time.Now()}
		k.hits.exactly()
		var all uint64
		counted := 0
		hit := func(n uint64) {
			for range 2 { // the second one is not at the very moment of the timer
				k.before(int64(time.Hour))
				k.hits.add(n / 2)
				all += n / 2
				time.Sleep(clockStep / 4)
				if k.hits.weight.Load() > 0 {
					counted++
				}
				time.Sleep(clockStep / 4)
			}
		}
		for range 100 {
			hit(often/2 - 2)
		}
		if n := k.hits.sum.load(); n != all {
			t.Errorf("of %d hits %d were counted", all, n)
		}
		const rounds = 1000 // in each the error is 0.4 at most: together 0.0125, and six times that does not happen
		counted = 0
		var when [sampled]int // which of so many steps was counted
		for i := range rounds * sampled {
			before := counted
			hit(10*often + uint64(5*often*math.Sin(2*math.Pi*float64(i)/sampled)))
			when[i%sampled] += counted - before
		}
		if slices.Contains(when[:], 0) {
			t.Errorf("in a period of %d steps these were counted: %v", sampled, when)
		}
		if n := float64(k.hits.sum.load()) / float64(all); n < 0.92 || n > 1.08 {
			t.Errorf("for %d hits %.2f times as many were counted", all, n)
		}
		if counted < 2*(rounds-1) || counted > 2*(rounds+1) {
			t.Errorf("they were counted in %d of %d steps", counted/2, rounds*sampled)
		}
		for range 2 * sampled {
			hit(2)
		}
		before := k.hits.sum.load()
		for range 100 {
			hit(often - 2)
			time.Sleep(2 * clockStep) // the clock rests
		}
		if n := k.hits.sum.load() - before; n != 100*(often-2) {
			t.Errorf("after the many %d hits were counted, not %d", n, 100*(often-2))
		}
	})
}

// hitsOf returns a cache of many entries, and keys to ask for.
func hitsOf(b *testing.B, o Options) (*Cache[int], []string) {
	const entries, lookups = 100_000, 200_000
	o.TTL, o.LocalEntries = time.Hour, 3*entries/2
	c, err := New[int]("hits", o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	names := make([]string, entries)
	for i := range names {
		names[i] = strconv.Itoa(i)
		if err := c.Set(b.Context(), names[i], i); err != nil {
			b.Fatal(err)
		}
	}
	keys := make([]string, lookups)
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.01, 1, entries-1)
	for i := range keys {
		keys[i] = names[zipf.Uint64()]
	}
	return c, keys
}

// compareWays reports what each way to hits takes, as a ratio to the first one: the median of many rounds, in each of which all
// take their turn.
func compareWays(b *testing.B, keys []string, names []string, ways ...func(keys []string)) {
	const rounds = 101
	for b.Loop() {
		took := make([][]float64, len(ways))
		for range rounds {
			for i, way := range ways {
				started := time.Now()
				way(keys)
				took[i] = append(took[i], float64(time.Since(started))/float64(len(keys)))
			}
		}
		for i := range took {
			slices.Sort(took[i])
		}
		first := took[0][rounds/2]
		b.ReportMetric(first, "ns/"+names[0])
		for i, name := range names[1:] {
			b.ReportMetric(took[i+1][rounds/2]/first, name+"/"+names[0])
		}
	}
}

// What counting adds to a hit, sampled and each, as ratios to a hit that is not counted:
//
//	go test -run - -bench HitsCounted -benchtime 1x .
func BenchmarkHitsCounted(b *testing.B) {
	c, keys := hitsOf(b, Options{})
	var all adder
	compareWays(b, keys, []string{"uncounted", "sampled", "each"},
		func(keys []string) {
			for _, key := range keys {
				_, _ = hitUncounted(c, key)
			}
		},
		func(keys []string) {
			for _, key := range keys {
				_, _ = c.GetOrLoad(context.Background(), key, nil)
			}
		},
		func(keys []string) {
			for _, key := range keys {
				all.add(1)
				_, _ = hitUncounted(c, key)
			}
		})
}

//go:noinline
func hitUncounted(c *Cache[int], key string) (int, error) {
	if s, there := c.memory.entries.GetIfPresent(key); there && c.core.local.serves(s.glance) {
		if s.is(negative) {
			return s.value, ErrNotFound
		}
		return s.value, nil
	}
	panic("a miss")
}

func TestWritesToMemoryOneAtATime(t *testing.T) {
	var m *memory[int]
	seen := 0
	look := func() {
		seen++
		if m.mu.TryLock() {
			m.mu.Unlock()
			t.Error("another write could have begun")
		}
	}
	m = &memory[int]{entries: otter.Must(&otter.Options[string, slot[int]]{
		MaximumWeight:    100,
		Weigher:          func(string, slot[int]) uint32 { look(); return 1 },
		OnAtomicDeletion: func(otter.DeletionEvent[string, slot[int]]) { look() },
	})}
	l := newLocal(&Options{}, m)
	for _, write := range []func(){
		func() { m.put("k", glance{localEntry: &localEntry{}}, 1, l, l.epoch("k")) },
		func() { m.change("k", func(glance) int64 { return 1 }) },
		func() { m.remove("k") },
		func() { m.put("k", glance{localEntry: &localEntry{}}, 1, l, l.epoch("k")) },
		m.removeAll,
	} {
		seen = 0
		if write(); seen == 0 {
			t.Error("no write")
		}
	}
}

// How long 500 first writes at once take while there is garbage to collect: to otter, and to a memory.
//
//	go test -run - -bench FirstWrites -benchtime 1x .
func BenchmarkFirstWrites(b *testing.B) {
	const writers, rounds = 500, 1000
	names := manyKeys(writers, "k")
	once := func(put func(key string)) time.Duration {
		var all sync.WaitGroup
		begin := make(chan struct{})
		for _, key := range names {
			all.Go(func() { <-begin; put(key) })
		}
		began := time.Now()
		close(begin)
		all.Wait()
		return time.Since(began)
	}
	ways := []func() time.Duration{
		func() time.Duration {
			m := otter.Must(&otter.Options[string, slot[int]]{MaximumSize: 10_000})
			return once(func(key string) { m.Set(key, slot[int]{}) })
		},
		func() time.Duration {
			m := newMemory[int](&Options{LocalEntries: 10_000})
			l := newLocal(&Options{}, m)
			return once(func(key string) { m.put(key, glance{localEntry: &localEntry{}}, 1, l, l.epoch(key)) })
		},
	}
	stop := make(chan struct{})
	defer close(stop)
	for range runtime.GOMAXPROCS(0) {
		go func() {
			var garbage [1000][]byte
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					garbage[i%len(garbage)] = make([]byte, 1000)
				}
			}
		}()
	}
	for b.Loop() {
		took := make([][]time.Duration, len(ways))
		for range rounds {
			for i, way := range ways {
				took[i] = append(took[i], way())
			}
		}
		for i, name := range []string{"otter", "memory"} {
			slices.Sort(took[i])
			b.ReportMetric(float64(took[i][rounds/2].Microseconds()), "µs/"+name+"-median")
			b.ReportMetric(float64(took[i][rounds-1].Microseconds()), "µs/"+name+"-longest")
		}
	}
}
