package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
)

// A flush of everything, in virtual time: the real code in many processes, one server, callers who give up after a second, and
// a database that becomes slower the more is asked of it at once.

type flushed struct {
	processes, maxLoads int
	fair                bool
	scale               int // the callers, keys and capacity are that part of the whole
	length              time.Duration

	asked, served [100]int // in each second
	loads, most   int
	commands      int
}

const (
	flushRate     = 20_000                // calls a second
	flushKeys     = 100_000               // asked for by Zipf's law
	flushWorkers  = 32                    // of the database
	flushLoad     = 16 * time.Millisecond // what one of them takes
	flushThrash   = 128                   // queries at a time from which on it does less
	flushPatience = time.Second           // of a caller
)

// takes is what a query takes that makes k of them at a time.
func (f *flushed) takes(k int) time.Duration {
	all := float64(k*f.scale) / flushWorkers
	d := float64(flushLoad) * max(all, 1)
	return time.Duration(d * max(float64(k*f.scale)/flushThrash, 1))
}

func (f *flushed) play(t *testing.T) {
	var mu sync.Mutex
	server := newMemServer()
	streams := map[string]*stream{}
	var messages []func()
	server.publish = func(channel, message string) {
		for process, s := range streams {
			if channel == everybody || channel == process {
				messages = append(messages, func() { s.handle(message) })
			}
		}
	}
	send := func(_ context.Context, requests ...*memRequest) error {
		mu.Lock()
		for _, r := range requests {
			r.run()
		}
		f.commands += len(requests)
		told := messages
		messages = nil
		mu.Unlock()
		for _, tell := range told {
			tell()
		}
		return nil
	}
	var caches []*Cache[int]
	for i := range f.processes {
		r := newRedis(nil, RedisOptions{Prefix: "cache", Timeout: 50 * time.Millisecond}, true, true)
		r.process = fmt.Sprintf("%-16d", i)
		r.stream.stands()
		r.clock.observe(time.Now(), time.Now(), server.now())
		r.store = &memStore{r: r, server: server, process: fmt.Sprint(i), send: send}
		streams[r.process] = r.stream
		c, err := New[int]("user", exact(Options{Redis: r, MaxLoads: f.maxLoads, FairLoads: f.fair}))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		caches = append(caches, c)
	}
	var now, loads, most atomic.Int64
	load := func(ctx context.Context, _ string) (int, error) {
		loads.Add(1)
		k := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); k > m && !most.CompareAndSwap(m, k); m = most.Load() {
		}
		select {
		case <-time.After(f.takes(int(k))):
			return 1, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(rng, 1.0001, 1, uint64(flushKeys/f.scale-1))
	var calls sync.WaitGroup
	var served [100]atomic.Int64
	for ms := range int(f.length / time.Millisecond) {
		for range flushRate / 1000 / f.scale {
			c, key, second := caches[rng.IntN(len(caches))], fmt.Sprint(zipf.Uint64()), ms/1000
			f.asked[second]++
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(background, flushPatience)
				defer cancel()
				if _, err := c.GetOrLoad(ctx, key, load); err == nil {
					served[second].Add(1)
				}
			})
		}
		time.Sleep(time.Millisecond)
	}
	calls.Wait()
	for i := range served {
		f.served[i] = int(served[i].Load())
	}
	f.loads, f.most = int(loads.Load()), int(most.Load())
	for _, c := range caches {
		_ = c.Close()
	}
	synctest.Wait()
}

func (f *flushed) share(from, to int) float64 {
	asked, served := 0, 0
	for i := from; i < to; i++ {
		asked += f.asked[i]
		served += f.served[i]
	}
	return float64(served) / float64(max(asked, 1))
}

func (f *flushed) String() string {
	back := "never"
	for i := range int(f.length / time.Second) {
		if f.share(i, i+1) >= 0.9 {
			back = fmt.Sprintf("after %d s", i)
			break
		}
	}
	return fmt.Sprintf("%d processes, MaxLoads %d: %.1f %% served, %.1f %% of those in second 5, 90 %% %s; %d loads, %d at a time; %d commands",
		f.processes, f.maxLoads, 100*f.share(0, 100), 100*f.share(5, 6), back, f.loads, f.most, f.commands)
}

// Here a twentieth of it, for ten seconds; CACHE_FLUSH=1 plays the whole (make flush), whose numbers are in docs/origin.md.
func TestFlushOfEverything(t *testing.T) {
	scale, length := 20, 10*time.Second
	if os.Getenv("CACHE_FLUSH") != "" {
		scale, length = 1, 100*time.Second
	}
	play := func(processes, maxLoads int) *flushed {
		f := &flushed{processes: processes, maxLoads: maxLoads, scale: scale, length: length}
		lab.Bubble(t, f.play)
		t.Log(f)
		if maxLoads > 0 && f.most != maxLoads {
			t.Errorf("%d loads at a time", f.most)
		}
		return f
	}
	most := 48 / min(scale, 16)
	hundred, thousand := play(100, most), play(1000, most)
	if scale == 1 {
		for _, f := range []*flushed{hundred, thousand} {
			if f.share(0, 100) < 0.95 {
				t.Errorf("%.3f served", f.share(0, 100))
			}
		}
	}
	if scale == 1 { // which would take tens of thousands of loads at a time
		scale, length = 10, 20*time.Second
	}
	without := play(100, 0)
	for _, f := range []*flushed{hundred, thousand} {
		if f.share(0, 100) < without.share(0, 100)+0.2 {
			t.Errorf("%.3f served, and %.3f without MaxLoads", f.share(0, 100), without.share(0, 100))
		}
	}
}
