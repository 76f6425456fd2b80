package batches

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/internal/realredis"
	"github.com/bellwether-go/cache/internal/workers"
)

func TestMain(m *testing.M) { workers.Main(m, work) }

const (
	processes = 8
	keys      = 2000 // cold
	batchKeys = 500
	callers   = 2 // in each process
	calls     = 6 // of each
)

type job struct{ Redis string }

type report struct {
	Loaded []string // keys, in the order of their loads
	Calls  int      // of the loader
	Wrong  string   // that a caller got
	Took   time.Duration
	Stats  cache.Stats
}

// work asks for random batches.
func work(j job) error {
	client := redis.NewClient(&redis.Options{Addr: j.Redis})
	defer func() { _ = client.Close() }()
	rds, err := cache.NewRedis(client, cache.RedisOptions{Timeout: 10 * time.Second}) // the machine may be busy
	if err != nil {
		return err
	}
	defer func() { _ = rds.Close() }()
	c, err := cache.New[string]("user", cache.Options{Redis: rds, Lease: time.Minute}) // a process that stands still for longer would load twice
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	var r report
	var mu sync.Mutex
	load := func(ctx context.Context, keys []string) (map[string]string, error) {
		mu.Lock()
		r.Loaded, r.Calls = append(r.Loaded, keys...), r.Calls+1
		mu.Unlock()
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
		values := make(map[string]string)
		for _, k := range keys {
			values[k] = "v" + k
		}
		return values, nil
	}
	ask := func() string {
		batch := make([]string, batchKeys)
		for i, k := range rand.Perm(keys)[:batchKeys] {
			batch[i] = fmt.Sprint("k", k)
		}
		values, err := c.GetOrLoadMany(context.Background(), batch, load)
		if err != nil || len(values) != batchKeys {
			return fmt.Sprintf("%d values, %v", len(values), err)
		}
		for k, v := range values {
			if v != "v"+k {
				return fmt.Sprintf("%s is %s", k, v)
			}
		}
		return ""
	}
	done, err := workers.Ready()
	if err != nil {
		return err
	}
	began := time.Now()
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range calls {
				if wrong := ask(); wrong != "" {
					mu.Lock()
					r.Wrong = wrong
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	r.Took, r.Stats = time.Since(began), c.Stats()
	return done(r)
}

// Eight processes ask for overlapping random batches of 500 out of 2,000 cold keys, all at the same time: each key is loaded
// once.
func TestRealServerBatches(t *testing.T) {
	addr := realredis.Start(t).Client(nil).Options().Addr
	loads := make(map[string]int)
	total, loaderCalls, waits, wakes, polls := 0, 0, uint64(0), uint64(0), uint64(0)
	var slowest time.Duration
	for _, r := range workers.Run[report](t, processes, job{addr}) {
		if r.Wrong != "" {
			t.Error(r.Wrong)
		}
		for _, k := range r.Loaded {
			loads[k]++
		}
		if s := r.Stats; s.LoadsUnleased+s.RedisErrors+s.CommitsRejected > 0 {
			t.Errorf("%+v", s)
		}
		total += len(r.Loaded)
		loaderCalls += r.Calls
		slowest = max(slowest, r.Took)
		waits, wakes, polls = waits+r.Stats.Waits, wakes+r.Stats.Wakes, polls+r.Stats.Polls
	}
	if total != len(loads) || total > keys {
		t.Errorf("%d loads of %d keys", total, len(loads))
	}
	t.Logf("%d calls for %d keys each by %d processes: %d keys loaded by %d calls of the loader, in %v; %d waits, %d woken, %d looks",
		processes*callers*calls, batchKeys, processes, total, loaderCalls, slowest.Round(time.Millisecond), waits, wakes, polls)
}
