package cache_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/cachetest"
)

// fenced is an origin that refuses what comes with an older fence.
type fenced struct {
	mu    sync.Mutex
	fence int64
	by    string
}

func (o *fenced) write(fence int64, by string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if fence <= o.fence {
		return false
	}
	o.fence, o.by = fence, by
	return true
}

func newUsers(fleet *cachetest.Fleet, r *cache.Redis, o cache.Options) *cache.Cache[string] {
	t := fleet.T
	t.Helper()
	o.Redis = r
	c, err := cache.New[string]("user", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// A holder is paused until its lease has ended and another one has loaded and written: what it writes then is refused.
func TestPausedHolderIsRefused(t *testing.T) {
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		var origin fenced
		resumed := make(chan struct{})
		var calls sync.WaitGroup
		call := func(p *cachetest.Process, load cache.Loader[string]) {
			c := newUsers(fleet, p.Redis(), cache.Options{Lease: 2 * time.Second})
			calls.Go(func() {
				if v, err := c.GetOrLoad(context.Background(), "42", load); v != "Ada" || err != nil {
					t.Errorf("%v: %q, %v", p, v, err)
				}
			})
		}
		first := fleet.Process(0)
		var l *cache.Load
		var taken time.Time
		call(first, func(ctx context.Context, _ string) (string, error) {
			l = cache.LoadFrom(ctx)
			taken = l.Deadline()
			lost := l.Lost()
			<-resumed
			time.Sleep(10 * time.Second) // until Redis is in reach again
			if !isClosed(lost) || l.Lost() != lost {
				t.Error("it does not know that its lease may be another's")
			}
			if err := l.Extend(ctx); !errors.Is(err, cache.ErrLeaseLost) {
				t.Errorf("a lease that is another's was extended: %v", err)
			}
			if origin.write(l.Fence(), "first") {
				t.Error("it has written over what came after it")
			}
			return "Ada", nil
		})
		synctest.Wait()
		if left := time.Until(taken); left <= 1900*time.Millisecond || left > 2*time.Second {
			t.Errorf("the lease ends in %v", left)
		}
		first.Pause()
		call(fleet.Process(1), func(ctx context.Context, _ string) (string, error) {
			if !origin.write(cache.LoadFrom(ctx).Fence(), "second") {
				t.Error("the second one was refused")
			}
			return "Ada", nil
		})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if origin.by != "second" || !isClosed(l.Lost()) {
			t.Errorf("written by %q", origin.by)
		}
		first.Resume()
		close(resumed)
		calls.Wait()
	})
}

// While it is renewed, or extended, a lease is not lost, and its deadline moves.
func TestLeaseIsKept(t *testing.T) {
	cachetest.Run(t, 1, func(fleet *cachetest.Fleet) {
		c := newUsers(fleet, fleet.Process(0).Redis(), cache.Options{Lease: 2 * time.Second})
		_, err := c.GetOrLoad(context.Background(), "42", func(ctx context.Context, _ string) (string, error) {
			l := cache.LoadFrom(ctx)
			lost, before := l.Lost(), l.Deadline()
			time.Sleep(500 * time.Millisecond)
			if err := l.Extend(ctx); err != nil {
				t.Error(err)
			}
			if got := l.Deadline().Sub(before); got < 500*time.Millisecond || got > 600*time.Millisecond {
				t.Errorf("extended by %v", got)
			}
			time.Sleep(10 * time.Second)
			if isClosed(lost) || time.Until(l.Deadline()) < time.Second {
				t.Errorf("lost, or ends in %v", time.Until(l.Deadline()))
			}
			if err := c.Delete(ctx, "42"); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
			if !isClosed(lost) || !errors.Is(l.Extend(ctx), cache.ErrLeaseLost) {
				t.Error("the key was deleted, and the lease with it")
			}
			gone, cancel := context.WithCancel(ctx)
			cancel()
			if err := l.Extend(gone); !errors.Is(err, cache.ErrLeaseLost) {
				t.Errorf("%v", err)
			}
			return "Ada", nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// Later loads of a key have higher fences: after deletions, in other processes, and in the memory of one.
func TestFenceRises(t *testing.T) {
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		caches := []*cache.Cache[string]{
			newUsers(fleet, fleet.Process(0).Redis(), cache.Options{}),
			newUsers(fleet, fleet.Process(1).Redis(), cache.Options{}),
			newUsers(fleet, nil, cache.Options{}),
		}
		for _, round := range [][]*cache.Cache[string]{{caches[0], caches[1]}, {caches[2]}} {
			last := int64(0)
			for i := range 20 {
				c := round[i%len(round)]
				_, err := c.GetOrLoad(context.Background(), "42", func(ctx context.Context, _ string) (string, error) {
					l := cache.LoadFrom(ctx)
					if l.Fence() <= last {
						t.Errorf("%d after %d", l.Fence(), last)
					}
					last = l.Fence()
					return "Ada", l.Extend(ctx)
				})
				if err := errors.Join(err, c.Delete(context.Background(), "42")); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Microsecond) // no server does both in less
			}
		}
	})
}

// What there is without a lease: nothing to refuse a write with, and no error that a loader has not asked for.
func TestLoadWithoutLease(t *testing.T) {
	var none *cache.Load
	if none.Fence() != 0 || !none.Deadline().IsZero() || none.Lost() != nil || none.Extend(context.Background()) != nil {
		t.Error("a nil Load has a lease")
	}
	cachetest.Run(t, 1, func(fleet *cachetest.Fleet) {
		r := fleet.Process(0).Redis()
		down, memory := newUsers(fleet, r, cache.Options{}), newUsers(fleet, nil, cache.Options{})
		fleet.Redis.Down()
		for c, wants := range map[*cache.Cache[string]]error{down: cache.ErrLeaseLost, memory: nil} {
			_, err := c.GetOrLoad(context.Background(), "42", func(ctx context.Context, _ string) (string, error) {
				l := cache.LoadFrom(ctx)
				if (l.Fence() == 0) != (c == down) || !l.Deadline().IsZero() || l.Lost() != nil {
					t.Errorf("%d, %v, %v", l.Fence(), l.Deadline(), l.Lost())
				}
				if err := l.Extend(ctx); !errors.Is(err, wants) {
					t.Errorf("%v, not %v", err, wants)
				}
				return "Ada", nil
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// Each key of a batch has its own.
func TestLeasesOfBatch(t *testing.T) {
	cachetest.Run(t, 1, func(fleet *cachetest.Fleet) {
		c := newUsers(fleet, fleet.Process(0).Redis(), cache.Options{Lease: 2 * time.Second})
		load := func(ctx context.Context, keys []string) (map[string]string, error) {
			all := cache.LoadFrom(ctx)
			if all.Fence() != 0 || all.Lost() != nil || !all.Deadline().IsZero() || all.Extend(ctx) == nil {
				t.Error("a batch has a lease")
			}
			values := make(map[string]string)
			for _, k := range keys {
				l := all.ForKey(k)
				before := l.Deadline()
				time.Sleep(100 * time.Millisecond)
				if err := l.Extend(ctx); err != nil || l.Fence() == 0 || !l.Deadline().After(before) {
					t.Errorf("%s: %v, %d, %v after %v", k, err, l.Fence(), l.Deadline(), before)
				}
				values[k] = "Ada"
			}
			if err := c.Delete(ctx, keys[0]); err != nil {
				t.Error(err)
			}
			time.Sleep(3 * time.Second)
			for i, k := range keys {
				if l := all.ForKey(k); isClosed(l.Lost()) != (i == 0) {
					t.Errorf("%s: lost is %v", k, i != 0)
				}
			}
			return values, nil
		}
		if _, err := c.GetOrLoadMany(context.Background(), []string{"1", "2", "3"}, load); err != nil {
			t.Error(err)
		}
	})
}
