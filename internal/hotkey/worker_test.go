package hotkey

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/internal/workers"
)

// job is what one process does.
type job struct {
	Redis        string
	TTL          time.Duration
	StaleIfError time.Duration
	For          time.Duration // how long it asks
	FailFrom     time.Duration // since it was started, the origin fails
	FailTo       time.Duration
	Warm         bool // the hot key is there when it begins
	Callers      int
	Every        time.Duration // each of them asks
}

// report is what came of it. Moments are microseconds of the wall clock, which the processes share.
type report struct {
	Loads  []int64 // when they began
	Fails  []int64 // when those began that failed
	Errors int     // that callers got
	First  string
	Hot    []int64 // what calls for the hot key took, ns
	Hits   []int64 // ... for one that never expires, in turn with them
	Stale  uint64
}

const loadTakes = 50 * time.Millisecond

var errOrigin = errors.New("origin: sorry")

// loading is a loader that takes its time.
func loading(ctx context.Context, _ string) (string, error) {
	timer := time.NewTimer(loadTakes)
	defer timer.Stop()
	select {
	case <-timer.C:
		return "v", nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// work is the main function of a worker. It says that it is ready, waits for the start and reports.
func work(j job) error {
	client := redis.NewClient(&redis.Options{Addr: j.Redis})
	defer func() { _ = client.Close() }()
	rds, err := cache.NewRedis(client, cache.RedisOptions{Timeout: time.Second}) // the machine may be busy
	if err != nil {
		return err
	}
	defer func() { _ = rds.Close() }()
	hot, err := cache.New[string]("hot", cache.Options{Redis: rds, TTL: j.TTL, StaleIfError: j.StaleIfError})
	if err != nil {
		return err
	}
	defer func() { _ = hot.Close() }()
	calm, err := cache.New[string]("calm", cache.Options{Redis: rds, TTL: time.Hour, LocalTTL: time.Hour})
	if err != nil {
		return err
	}
	defer func() { _ = calm.Close() }()
	ctx := context.Background()
	steady := func(context.Context, string) (string, error) { return "v", nil }
	if _, err = calm.GetOrLoad(ctx, "k", steady); err != nil {
		return err
	}

	if j.Warm {
		if _, err = hot.GetOrLoad(ctx, "k", loading); err != nil {
			return err
		}
	}
	done, err := workers.Ready()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var r report
	began := time.Now()
	load := func(ctx context.Context, _ string) (string, error) {
		at := time.Now()
		fails := at.Sub(began) >= j.FailFrom && at.Sub(began) < j.FailTo
		mu.Lock()
		r.Loads = append(r.Loads, at.UnixMicro())
		if fails {
			r.Fails = append(r.Fails, at.UnixMicro())
		}
		mu.Unlock()
		if fails {
			return "", errOrigin
		}
		return loading(ctx, "")
	}
	var errs atomic.Int64
	var callers sync.WaitGroup
	for range j.Callers {
		callers.Go(func() {
			n := int(j.For/j.Every) + 100
			took := [2][]int64{make([]int64, 0, n), make([]int64, 0, n)}
			first := time.NewTimer(rand.N(j.Every)) // so that they do not ask in step
			<-first.C
			tick := time.NewTicker(j.Every)
			defer tick.Stop()
			for n := 0; time.Since(began) < j.For; n++ {
				<-tick.C
				for i := range 2 { // in turn first
					which := (i + n) % 2
					start := time.Now()
					var err error
					if which == 0 {
						_, err = hot.GetOrLoad(ctx, "k", load)
					} else {
						_, err = calm.GetOrLoad(ctx, "k", steady)
					}
					took[which] = append(took[which], time.Since(start).Nanoseconds())
					if err != nil && errs.Add(1) == 1 {
						mu.Lock()
						r.First = err.Error()
						mu.Unlock()
					}
				}
			}
			mu.Lock()
			defer mu.Unlock()
			r.Hot, r.Hits = append(r.Hot, took[0]...), append(r.Hits, took[1]...)
		})
	}
	callers.Wait()
	mu.Lock()
	defer mu.Unlock()
	r.Errors, r.Stale = int(errs.Load()), hot.Stats().StaleHits
	return done(r)
}
