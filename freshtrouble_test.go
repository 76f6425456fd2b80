package cache

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

func failing(context.Context, string) (string, error) { return "", errLoad }

func unstored(ctx context.Context, _ string) (string, error) {
	LoadFrom(ctx).NoStore()
	return "unstored", nil
}

// NoStore removes what was there, from memory as well.
func TestNoStoreRemoves(t *testing.T) {
	alike(t, Options{TTL: time.Second, StaleWhileRevalidate: time.Hour}, func(t *testing.T, p *proc) {
		_ = p.cache.Set(background, "k", "old")
		if v, err := p.cache.Refresh(background, "k", unstored); v != "unstored" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
		if v, ok := p.cache.Get(background, "k"); ok {
			t.Errorf("%q is there", v)
		}
		_ = p.cache.Set(background, "k", "old")
		time.Sleep(2 * time.Second)
		p.get(background, "k", unstored).must(t, "old", nil, 0) // removed in the background
		p.get(background, "k", unstored).must(t, "unstored", nil, 0)
		_ = p.cache.Set(background, "k", "old")
		if v, err := p.cache.Refresh(background, "k", constant("v"), WithTTL(-1)); v != "v" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
		if _, ok := p.cache.Get(background, "k"); !ok {
			t.Error("a call that does not want its value to be stored has removed another one")
		}
	})
}

// A call that does not want its value to be stored does not refresh what it finds.
func TestRefreshOfUnstored(t *testing.T) {
	alike(t, Options{TTL: 10 * time.Second, EarlyRefresh: 0.5}, func(t *testing.T, p *proc) {
		p.cache.core.chance = func(uint64) float64 { return 0 }
		_, _ = p.cache.GetOrLoad(background, "k", loads(time.Second, "v1"))
		time.Sleep(9 * time.Second)
		p.get(background, "k", loads(time.Second, "v2"), WithTTL(-1)).must(t, "v1", nil, 0)
		time.Sleep(900 * time.Millisecond)
		if s := p.cache.Stats(); s.Loads != 1 {
			t.Errorf("%d loads", s.Loads)
		}
	})
}

// What began to be loaded before Refresh did not replace what that brought.
func TestRefreshIsNotUndone(t *testing.T) {
	alike(t, Options{TTL: 10 * time.Second, EarlyRefresh: 0.5}, func(t *testing.T, p *proc) {
		p.cache.core.chance = func(uint64) float64 { return 0 }
		for _, wait := range []time.Duration{time.Hour, 9 * time.Second} { // cold, and due for a refresh
			time.Sleep(wait)
			p.get(background, "k", loads(time.Second, "old"))
			synctest.Wait()
			if v, err := p.cache.Refresh(background, "k", loads(0, "new")); v != "new" || err != nil {
				t.Errorf("%q, %v", v, err)
			}
			time.Sleep(2 * time.Second)
			if v, _ := p.cache.Get(background, "k"); v != "new" {
				t.Errorf("afterwards %q", v)
			}
			_, _ = p.cache.Refresh(background, "k", loads(time.Second, "due"))
		}
	})
}

// A read that is handled late does not put what Refresh has replaced into memory.
func TestLateRead(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{TTL: time.Hour}, "A", "B")
		a := ps["A"]
		_ = a.cache.Set(background, "other", "v") // it knows the time
		_ = ps["B"].cache.Set(background, "k", "v1")
		w.Hold(firstOf("A", "GETRANGE", lab.Reply))
		a.get(background, "k", loads(0, "v2"))
		synctest.Wait()
		if v, err := a.cache.Refresh(background, "k", loads(0, "v2")); v != "v2" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
		w.Hold(nil)
		synctest.Wait()
		a.get(background, "k", loads(0, "v3")).must(t, "v2", nil, 0)
		stopAll(ps)
	})
}

// Calls of different kinds do not load a cold key twice.
func TestKindsShareLoads(t *testing.T) {
	alike(t, Options{TTL: time.Hour}, func(t *testing.T, p *proc) {
		for _, order := range [][]CallOption{{nil, WithoutStale()}, {WithoutStale(), nil}} {
			before := p.cache.Stats().Loads
			for _, o := range order {
				var opts []CallOption
				if o != nil {
					opts = append(opts, o)
				}
				p.get(background, "k", loads(time.Second, "v1"), opts...)
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(2 * time.Second)
			if n := p.cache.Stats().Loads - before; n != 1 {
				t.Errorf("%d loads", n)
			}
			_ = p.cache.Delete(background, "k")
		}
	})
}

// Refresh tells its loader of the value before, also where nothing is ever stale; and what a loader has left behind may ask
// for it while the flight goes on.
func TestPrevious(t *testing.T) {
	alike(t, Options{TTL: time.Hour, NegativeTTL: -1}, func(t *testing.T, p *proc) {
		_ = p.cache.Set(background, "k", "v1")
		var left chan struct{}
		_, err := p.cache.Refresh(background, "k", func(ctx context.Context, _ string) (string, error) {
			if v, ok := Previous[string](ctx); v != "v1" || !ok {
				t.Errorf("%q, %v", v, ok)
			}
			if _, ok := Previous[int](ctx); ok {
				t.Error("it is of another type")
			}
			left = make(chan struct{})
			go func() {
				defer close(left)
				for range 1000 {
					_, _ = Previous[string](ctx)
				}
			}()
			return "", ErrNotFound
		})
		<-left
		if !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		_, _ = p.cache.GetOrLoad(background, "k", func(ctx context.Context, _ string) (string, error) {
			if v, ok := Previous[string](ctx); ok {
				t.Errorf("%q, which is gone", v)
			}
			return "v2", nil
		})
		if _, ok := Previous[string](background); ok {
			t.Error("outside a loader")
		}
	})
}

// A Refresh that fails leaves what is there as it is.
func TestRefreshFails(t *testing.T) {
	alike(t, Options{TTL: time.Hour, Backoff: 100 * time.Millisecond}, func(t *testing.T, p *proc) {
		_ = p.cache.Set(background, "k", "v1")
		_, _ = p.cache.Refresh(background, "k", failing)
		time.Sleep(time.Second)
		p.get(background, "k", loads(0, "v2")).must(t, "v1", nil, 0)
		if s := p.cache.Stats(); s.Loads != 1 || s.Refreshes != 0 {
			t.Errorf("%d loads, %d refreshes", s.Loads, s.Refreshes)
		}
	})
}

// Nothing is kept of keys that are too long, nor for ever of the others.
func TestFailuresAreForgotten(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		c, err := New[string]("user", Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		long := strings.Repeat("x", MaxKeyBytes+1)
		_, _ = c.GetOrLoad(background, long, failing)
		if v, err := c.GetOrLoad(background, long, constant("v")); v != "v" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
		for i := range 100 {
			_, _ = c.GetOrLoad(background, long[i+1:], failing)
		}
		fs := &c.core.failures
		if len(fs.m) < 10 || fs.bytes > mostFailureBytes {
			t.Errorf("%d keys, %d bytes", len(fs.m), fs.bytes)
		}
		time.Sleep(24 * time.Hour)
		for range 100 {
			_, _ = fs.last("")
		}
		if len(fs.m) != 0 || fs.bytes != 0 {
			t.Errorf("a day later %d keys, %d bytes", len(fs.m), fs.bytes)
		}
	})
}

// acquires counts A's attempts, and ends them when they are far too many.
func acquires(w *lab.World, hold func(*lab.Message) bool) *int {
	n := new(int)
	w.Hold(func(m *lab.Message) bool {
		if m.Kind == lab.Request && m.Process == "A" && verbOf(m) == "ACQUIRE" {
			*n++
		}
		return *n > 100 || hold != nil && hold(m)
	})
	return n
}

// A failed mark that says that nothing has failed, which the lease's part of a record may, for it has no checksum.
func TestStrangeMark(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		a := start(t, w, "A", Options{TTL: time.Second, StaleIfError: time.Hour, LocalTTL: -1}, nil)
		_ = a.cache.Set(background, "k", "v1")
		time.Sleep(2 * time.Second)
		raw, _ := w.Redis.Get(fullKey)
		mark := record.Lease{Until: time.Now().Add(time.Minute).UnixMicro(), Duration: time.Minute}
		_ = w.Redis.Set(fullKey, raw[:record.EntrySize]+string(record.AppendLease(nil, &mark))+raw[record.Size:])
		w.Redis.SetTTL(fullKey, time.Hour)
		n := acquires(w, nil)
		call := a.get(background, "k", loads(0, "v2"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if !call.done || call.err != nil || *n > 2 {
			t.Errorf("done: %v, %v, %d times ACQUIRE", call.done, call.err, *n)
		}
		a.stop()
	})
}

// A value that is due, has a failed mark and is invalid by its tags: nobody hammers Redis.
func TestMarkOnOutdated(t *testing.T) {
	for _, how := range []string{"barriers lost", "tag deleted, and not heard of"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *lab.World) {
				o := Options{Tags: true, TTL: 10 * time.Second, EarlyRefresh: 0.5, Backoff: time.Second}
				ps := fleet(t, w, o, "A", "B", "C")
				a, b := ps["A"], ps["B"]
				for _, p := range ps {
					p.cache.core.chance = func(uint64) float64 { return 0 }
				}
				_ = a.cache.Set(background, "other", "v") // it knows the time
				_, _ = b.cache.GetOrLoad(background, "k", loads(time.Second, "v1"), WithTags("t"))
				_, _ = a.cache.GetOrLoad(background, "k", loads(0, "v1"), WithTags("t"))
				time.Sleep(9 * time.Second)
				_, _ = b.cache.GetOrLoad(background, "k", failing, WithTags("t")) // a refresh, which fails
				synctest.Wait()
				n := acquires(w, func(m *lab.Message) bool { return how != "barriers lost" && m.Kind == lab.Push && m.Process == "A" })
				if how == "barriers lost" {
					w.Redis.Del("cache:user")
				} else if err := ps["C"].cache.DeleteTags(background, "t"); err != nil {
					t.Fatal(err)
				}
				a.get(background, "k", loads(0, "v2"), WithTags("t")).must(t, "v1", nil, 0)
				if *n > 2 {
					t.Errorf("%d times ACQUIRE", *n)
				}
				w.Hold(nil)
				stopAll(ps)
			})
		})
	}
}
