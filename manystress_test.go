package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
)

// TestManyStress lets two processes call for single keys and for many, with random options, loaders that fail in all ways,
// deletions, deadlines and Close in the middle: who is called returns, in time, what it may, and nothing is left.
func TestManyStress(t *testing.T) {
	for seed := range uint64(25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *lab.World) { newStress(t, w, seed).play() })
		})
	}
}

type stress struct {
	t  *testing.T
	ps map[string]*proc
	o  Options

	mu      sync.Mutex
	rng     *rand.Rand     // guarded by mu
	origin  map[string]int // versions; guarded by mu
	deleted map[string]int // older ones must not be returned; guarded by mu
}

func newStress(t *testing.T, w *lab.World, seed uint64) *stress {
	s := &stress{t: t, rng: rand.New(rand.NewPCG(seed, 1)), origin: map[string]int{}, deleted: map[string]int{}}
	one := func(ds ...time.Duration) time.Duration { return ds[s.n(len(ds))] }
	s.o = Options{
		TTL: time.Duration(1+s.n(20)) * time.Second / 2, LoadTimeout: 4 * time.Second, Lease: time.Duration(1+s.n(4)) * time.Second / 2,
		CancelAbandoned: s.n(2) == 0, Tags: s.n(3) == 0, MaxBatchKeys: 1 + s.n(8), NegativeTTL: one(0, -1),
		StaleWhileRevalidate: one(0, 5*time.Second), StaleIfError: one(0, 5*time.Second), LocalTTL: one(0, -1, time.Second),
		Backoff: one(-1, 100*time.Millisecond), EarlyRefresh: []float64{-1, 2}[s.n(2)],
	}
	if s.n(4) == 0 {
		withoutScripts(w)
	}
	s.ps = fleet(t, w, s.o, "A", "B")
	return s
}

func (s *stress) n(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.IntN(n)
}

func (s *stress) play() {
	var all sync.WaitGroup
	for range 30 {
		time.Sleep(time.Duration(s.n(300)) * time.Millisecond)
		p := s.ps[string("AB"[s.n(2)])]
		keys := make([]string, 1+s.n(10))
		for i := range keys {
			keys[i] = string("abcdefghijkl"[s.n(12)])
		}
		switch s.n(10) {
		case 0:
			all.Go(func() { s.delete(p, keys) })
		case 1, 2, 3:
			all.Go(func() { s.call(p, keys[:1], true) })
		default:
			all.Go(func() { s.call(p, keys, false) })
		}
	}
	if s.n(3) > 0 { // otherwise it is closed in the middle
		all.Wait()
		time.Sleep(15 * time.Second)
		synctest.Wait()
		s.nothingLeft()
	}
	stopAll(s.ps)
	all.Wait()
	s.nothingLeft()
}

func (s *stress) nothingLeft() {
	for _, p := range s.ps {
		if p.cache.core.flights.left() > 0 {
			s.t.Errorf("%s: flights are left", p.name)
		}
		p.rds.waiters.mu.Lock()
		if len(p.rds.waiters.m) > 0 || p.cache.core.refreshing.Load() > 0 {
			s.t.Errorf("%s: waiters or refreshes are left", p.name)
		}
		p.rds.waiters.mu.Unlock()
	}
}

func (s *stress) delete(p *proc, keys []string) {
	at := map[string]int{}
	s.mu.Lock()
	for _, k := range keys {
		s.origin[k]++
		at[k] = s.origin[k]
	}
	s.mu.Unlock()
	if p.cache.Delete(background, keys...) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, n := range at { // in the other process within a message, which takes no time here
		s.deleted[k] = max(s.deleted[k], n)
	}
}

// call asks for keys, perhaps with a deadline.
func (s *stress) call(p *proc, keys []string, single bool) {
	ctx, limit := background, time.Duration(0)
	if s.n(3) == 0 {
		limit = time.Duration(1+s.n(2000)) * time.Millisecond
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(background, limit)
		defer cancel()
	}
	var co []CallOption
	if s.n(5) == 0 {
		co = append(co, WithoutStale())
	}
	if s.o.Tags && s.n(2) == 0 {
		co = append(co, WithTags("t"))
	}
	if s.n(8) == 0 {
		co = append(co, OnlyIfCached())
	}
	floor := map[string]int{}
	s.mu.Lock()
	for _, k := range keys {
		floor[k] = s.deleted[k]
	}
	s.mu.Unlock()
	began := time.Now()
	values, errs := map[string]string{}, manyErrors{}
	if single {
		v, err := p.cache.GetOrLoad(ctx, keys[0], func(ctx context.Context, key string) (string, error) {
			values, err := s.load(ctx, []string{key}, false)
			return values[key], err
		}, co...)
		if err == nil {
			values[keys[0]] = v
		} else {
			errs = append(errs, err)
		}
	} else {
		var err error
		values, err = p.cache.GetOrLoadMany(ctx, keys, func(ctx context.Context, keys []string) (map[string]string, error) {
			return s.load(ctx, keys, true)
		}, co...)
		errs = allOf(err)
	}
	for k, v := range values {
		if n, err := strconv.Atoi(strings.TrimPrefix(v, k+"=")); err != nil || n < floor[k] {
			s.t.Errorf("%s is %q, and %d was deleted", k, v, floor[k])
		}
	}
	for _, err := range errs {
		var p *PanicError
		switch {
		case errors.Is(err, errA), errors.Is(err, errB), errors.As(err, &p), errors.Is(err, ErrClosed), errors.Is(err, ErrNotCached):
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, ErrNotFound), errors.Is(err, context.Canceled) && s.o.CancelAbandoned:
		default:
			s.t.Errorf("an error that is nobody's: %v", err)
		}
	}
	if took := time.Since(began); limit > 0 && took > limit+time.Millisecond || took > time.Minute {
		s.t.Errorf("took %v, and had %v", took, limit)
	}
}

// late is when a loader returns that does not look at its context.
func (s *stress) late() <-chan time.Time { return time.After(6 * time.Second) }

// load is a loader in which anything may go wrong.
func (s *stress) load(ctx context.Context, keys []string, many bool) (map[string]string, error) {
	if len(keys) > s.o.MaxBatchKeys {
		s.t.Errorf("called for %d keys", len(keys))
	}
	values, errs := map[string]string{}, []error(nil)
	for _, k := range keys {
		switch what := s.n(10); {
		case what == 0 && many:
		case what == 1 && many:
			errs = append(errs, &LoadError{k, errA})
		default:
			s.mu.Lock()
			values[k] = fmt.Sprint(k, "=", s.origin[k])
			s.mu.Unlock()
		}
	}
	if d := s.n(5); d > 0 {
		select {
		case <-time.After(time.Duration(s.n(600*d)) * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	switch s.n(16) {
	case 0:
		panic("of the loader")
	case 1:
		runtime.Goexit()
	case 2:
		return values, errB
	case 3:
		<-s.late() // whatever its context says
	}
	return values, errors.Join(errs...)
}
