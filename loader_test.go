package cache

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
)

var background = context.Background()

// P2: one load, however many goroutines ask.
func TestOneLoad(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		var all []*answer
		for range 100 {
			all = append(all, p.get(background, "k", loads(time.Second, "v")))
		}
		time.Sleep(time.Second)
		for _, a := range all {
			a.must(t, "v", nil, time.Second)
		}
		p.get(background, "k", nil).must(t, "v", nil, 0)
		if n := p.cache.Stats().Loads; n != 1 {
			t.Errorf("%d loads", n)
		}
	})
}

// A loader's context ends with its load: what it has started and left behind is told.
func TestLoaderContextEnds(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		var given context.Context
		p.get(background, "k", func(ctx context.Context, _ string) (string, error) {
			given = ctx
			return "v", ctx.Err()
		}).must(t, "v", nil, 0)
		if given.Err() == nil {
			t.Error("it goes on")
		}
	})
}

// A load that nobody waits for, and that does not mind being cancelled, is counted when it returns after all.
func TestLateLoad(t *testing.T) {
	alike(t, Options{CancelAbandoned: true}, func(t *testing.T, p *proc) {
		ctx, cancel := context.WithCancel(background)
		p.get(ctx, "k", func(context.Context, string) (string, error) {
			time.Sleep(time.Second)
			return "late", nil
		})
		synctest.Wait()
		cancel()
		time.Sleep(time.Second)
		synctest.Wait()
		if s := p.cache.Stats(); s.LateLoads != 1 || s.Loads != 1 || s.LoadsAbandoned != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// P6: the caller that started the load is cancelled; the others get the value. So does whoever comes later.
func TestStarterCancelled(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		ctx, cancel := context.WithCancel(background)
		first := p.get(ctx, "k", loads(time.Second, "v"))
		synctest.Wait()
		second := p.get(background, "k", nil)
		time.Sleep(300 * time.Millisecond)
		cancel()
		first.must(t, "", context.Canceled, 300*time.Millisecond)
		time.Sleep(700 * time.Millisecond)
		second.must(t, "v", nil, time.Second)
	})
}

// P6: a waiter returns by its own deadline, and nobody else notices.
func TestWaiterDeadline(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		first := p.get(background, "k", loads(time.Second, "v"))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(background, 100*time.Millisecond)
		defer cancel()
		p.get(ctx, "k", nil)
		second := p.get(ctx, "k", nil)
		time.Sleep(100 * time.Millisecond)
		second.must(t, "", context.DeadlineExceeded, 100*time.Millisecond)
		time.Sleep(900 * time.Millisecond)
		first.must(t, "v", nil, time.Second)
	})
}

// A caller that is cancelled in the moment in which its load succeeds does not lose the value for the others.
func TestCancelledAfterLoad(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		ctx, cancel := context.WithCancel(background)
		p.get(ctx, "k", func(context.Context, string) (string, error) {
			cancel()
			return "v", nil
		})
		synctest.Wait()
		p.get(background, "k", nil).must(t, "v", nil, 0)
		if s := p.cache.Stats(); s.Loads != 1 {
			t.Errorf("%d loads", s.Loads)
		}
	})
}

// A caller whose context has ended starts nothing.
func TestCancelledBefore(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		ctx, cancel := context.WithCancel(background)
		cancel()
		p.get(ctx, "k", loads(0, "v")).must(t, "", context.Canceled, 0)
		if s := p.cache.Stats(); s.Loads != 0 {
			t.Errorf("%d loads", s.Loads)
		}
	})
}

// P7: a panic, a Goexit or an error reaches all callers as an error, and the key is free at once.
func TestLoaderAccidents(t *testing.T) {
	own := errors.New("origin is down")
	isPanic := func(value any) func(error) bool {
		return func(err error) bool {
			var p *PanicError
			return errors.As(err, &p) && p.Value == value && !p.Goexit && len(p.Stack) > 0
		}
	}
	for _, c := range []struct {
		name  string
		do    func() (string, error)
		check func(error) bool
	}{
		{"error", func() (string, error) { return "ignored", own }, func(err error) bool { return err == own }}, //nolint:errorlint // unchanged is what is promised
		{"panic", func() (string, error) { panic("boom") }, isPanic("boom")},
		{"panic with an error", func() (string, error) { panic(io.EOF) }, func(err error) bool {
			return isPanic(io.EOF)(err) && errors.Is(err, io.EOF)
		}},
		{"panic with nil", func() (string, error) { panic(nil) }, func(err error) bool {
			var p *PanicError
			var n *runtime.PanicNilError
			return errors.As(err, &p) && errors.As(err, &n)
		}},
		{"Goexit", func() (string, error) { runtime.Goexit(); return "", nil }, func(err error) bool {
			var p *PanicError
			return errors.As(err, &p) && p.Goexit && p.Value == nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			alike(t, Options{}, func(t *testing.T, p *proc) {
				var all []*answer
				for range 3 {
					all = append(all, p.get(background, "k", func(context.Context, string) (string, error) {
						time.Sleep(time.Second)
						return c.do()
					}))
				}
				time.Sleep(time.Second)
				synctest.Wait()
				for _, a := range all {
					if !a.done || a.value != "" || !c.check(a.err) || a.err.Error() == "" {
						t.Errorf("got %q, %v", a.value, a.err)
					}
				}
				p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
			})
		})
	}
}

// P6, P8: a loader that listens to its context ends at LoadTimeout with its own error.
func TestLoadTimeout(t *testing.T) {
	alike(t, Options{LoadTimeout: time.Second}, func(t *testing.T, p *proc) {
		a := p.get(background, "k", loads(time.Hour, "v"))
		time.Sleep(time.Second)
		a.must(t, "", context.DeadlineExceeded, time.Second)
		if s := p.cache.Stats(); s.LoadsAbandoned != 0 || s.LoadErrors != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// P6, P7: one that ignores it is left behind. Its callers are released, the key is free, its late result is dropped.
func TestAbandonedLoader(t *testing.T) {
	alike(t, Options{LoadTimeout: time.Second}, func(t *testing.T, p *proc) {
		deaf := func(context.Context, string) (string, error) {
			time.Sleep(time.Minute)
			return "late", nil
		}
		a := p.get(background, "k", deaf)
		time.Sleep(time.Second + loadGrace)
		synctest.Wait()
		if !a.done || !errors.Is(a.err, context.DeadlineExceeded) || a.took != time.Second+loadGrace {
			t.Errorf("%+v", a)
		}
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		time.Sleep(time.Minute)
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		if s := p.cache.Stats(); s.LoadsAbandoned != 1 || s.LateLoads != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A load outlives its callers, unless CancelAbandoned is set: then the last one to leave ends it, and whoever comes in
// that moment starts anew.
func TestAbandonedByItsCallers(t *testing.T) {
	for _, cancelAbandoned := range []bool{false, true} {
		alike(t, Options{CancelAbandoned: cancelAbandoned}, func(t *testing.T, p *proc) {
			var cancelled atomic.Bool
			load := func(ctx context.Context, _ string) (string, error) {
				select {
				case <-ctx.Done():
					cancelled.Store(true)
					return "", context.Cause(ctx)
				case <-time.After(time.Second):
					return "v", nil
				}
			}
			ctx1, cancel1 := context.WithCancel(background)
			ctx2, cancel2 := context.WithCancel(background)
			p.get(ctx1, "k", load)
			p.get(ctx2, "k", load)
			synctest.Wait()
			cancel1()
			synctest.Wait()
			if cancelled.Load() {
				t.Error("cancelled while somebody waits")
			}
			cancel2()
			synctest.Wait()
			if cancelled.Load() != cancelAbandoned {
				t.Errorf("cancelled: %v", cancelled.Load())
			}
			a := p.get(background, "k", load)
			time.Sleep(time.Second)
			a.must(t, "v", nil, time.Second)
			if n, want := p.cache.Stats().Loads, map[bool]uint64{false: 1, true: 2}[cancelAbandoned]; n != want {
				t.Errorf("%d loads, want %d", n, want)
			}
		})
	}
}

// The loader's context has the values of the first caller's, but not its end.
func TestLoaderContext(t *testing.T) {
	type key struct{}
	alike(t, Options{LoadTimeout: time.Minute}, func(t *testing.T, p *proc) {
		ctx, cancel := context.WithTimeout(context.WithValue(background, key{}, "trace"), time.Second)
		defer cancel()
		p.get(ctx, "k", func(ctx context.Context, k string) (string, error) {
			if ctx.Value(key{}) != "trace" || k != "k" {
				t.Errorf("value %v, key %q", ctx.Value(key{}), k)
			}
			if d, ok := ctx.Deadline(); !ok || time.Until(d) != time.Minute {
				t.Errorf("deadline in %v", time.Until(d))
			}
			return "v", nil
		}).must(t, "v", nil, 0)
	})
}

// P4: a call that starts after Delete does not get the value of a load that started before it, which is not stored
// either. At most two loads of a key run, however often it is deleted.
func TestDeleteDuringLoad(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		var version atomic.Value
		version.Store("old")
		var running, most atomic.Int32
		load := func(context.Context, string) (string, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			v := version.Load().(string)
			time.Sleep(time.Second)
			return v, nil
		}
		old := p.get(background, "k", load)
		time.Sleep(500 * time.Millisecond)
		version.Store("new")
		if err := p.cache.Delete(background, "k"); err != nil {
			t.Fatal(err)
		}
		var later []*answer
		for range 5 {
			later = append(later, p.get(background, "k", load))
			synctest.Wait()
			if err := p.cache.Delete(background, "k"); err != nil {
				t.Fatal(err)
			}
		}
		later = append(later, p.get(background, "k", load))
		time.Sleep(500 * time.Millisecond)
		old.must(t, "old", nil, time.Second)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for _, a := range later {
			if !a.done || a.value != "new" || a.err != nil {
				t.Errorf("%+v", a)
			}
		}
		if most.Load() > 2 {
			t.Errorf("%d loads at once", most.Load())
		}
		p.get(background, "k", load).must(t, "new", nil, 0)
	})
}

// P9: Close releases those who wait, at once, and leaves nothing behind but a loader that ignores its context; the
// bubble would fail if anything else were left.
func TestCloseDuringLoad(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		a := p.get(background, "k", loads(time.Hour, "v"))
		b := p.get(background, "k2", func(context.Context, string) (string, error) {
			time.Sleep(time.Minute)
			return "v", nil
		})
		time.Sleep(time.Second)
		if err := p.cache.Close(); err != nil {
			t.Fatal(err)
		}
		a.must(t, "", ErrClosed, time.Second)
		b.must(t, "", ErrClosed, time.Second)
		p.get(background, "k", loads(0, "v")).must(t, "", ErrClosed, 0)
		if err := p.cache.Close(); err != nil {
			t.Fatal(err)
		}
		if p.w != nil && len(p.w.Redis.Keys()) > 0 {
			t.Errorf("left in Redis: %q", p.w.Redis.Keys())
		}
		time.Sleep(time.Minute)
	})
}

// Calls after a deletion, of one key or of all that may be, do not join a flight of before it.
func TestForget(t *testing.T) {
	fs := newFlights(room{})
	end := make(chan struct{})
	join := func() *flight {
		f, leads, err := fs.join(flightID{key: "k"}, nil, func() *flight { return newTestFlight("k") })
		if err != nil {
			t.Fatal(err)
		}
		if leads {
			fs.goes(f, func(*flight) *result {
				<-end
				return &result{}
			})
		}
		return f
	}
	first := join()
	if join() != first {
		t.Error("two flights")
	}
	fs.forget("other")
	if join() != first {
		t.Error("two flights")
	}
	fs.forget("k")
	second := join()
	if second == first {
		t.Error("joined what was forgotten")
	}
	fs.forgetAll()
	if third := join(); third == first || third == second {
		t.Error("joined what was forgotten")
	}
	close(end)
	fs.close()
}

// Two loads of a key may run; a third waits, looks whether it is needed still, and leaves nothing behind.
func TestLoadsPerKey(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		fs := newFlights(room{})
		unasked := func() *result { t.Error("looked"); return nil }
		var fl [6]*flight
		for i := range fl {
			fl[i] = newTestFlight("k")
			fl[i].c = &core{flights: fs}
		}
		if fs.enter(fl[0], unasked) != nil || fs.enter(fl[1], unasked) != nil {
			t.Fatal("two may")
		}
		began := time.Now()
		found := &result{}
		if res := fs.enter(fl[2], func() *result { return found }); res != found || time.Since(began) != pollMost || fl[2].entered {
			t.Errorf("%+v after %v", res, time.Since(began))
		}
		fl[3].cancel(ErrClosed)
		if res := fs.enter(fl[3], unasked); res == nil || !errors.Is(res.err, ErrClosed) {
			t.Errorf("%+v", res)
		}
		looks := 0
		for i, f := range fl[4:] {
			time.AfterFunc(time.Millisecond, func() { fl[i].leave() })
			if res := fs.enter(f, func() *result { looks++; return nil }); res != nil || !f.entered {
				t.Errorf("%+v", res)
			}
		}
		if looks != 2 {
			t.Errorf("%d looks", looks)
		}
		for _, f := range fl {
			if f.entered {
				f.leave()
			}
		}
		if len(fs.loading) != 0 {
			t.Error("something is left")
		}
	})
}

func newTestFlight(key string) *flight {
	f := &flight{order: new(order), flightID: flightID{key: key}, landed: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancelCause(background)
	return f
}

// Whatever panics in a flight, its callers hear of it. Loaders and codecs have guards of their own.
func TestFlightPanics(t *testing.T) {
	fs := newFlights(room{})
	for range 2 {
		f, _, err := fs.join(flightID{key: "k"}, nil, func() *flight { return newTestFlight("k") })
		if err != nil {
			t.Fatal(err)
		}
		fs.goes(f, func(*flight) *result { panic("of ours") })
		<-f.landed
		var p *PanicError
		if !errors.As(f.res.err, &p) || p.Value != "of ours" || len(p.Stack) == 0 {
			t.Errorf("%+v", f.res)
		}
	}
	fs.close()
}
