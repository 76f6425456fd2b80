package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
)

// batchOrigin is what batch loaders of a test ask. It remembers with which keys.
type batchOrigin struct {
	takes  time.Duration
	values map[string]string // those that are not there do not exist; nil: all do, "v" + key
	err    error

	mu    sync.Mutex
	calls [][]string // guarded by mu
}

func (o *batchOrigin) load(ctx context.Context, keys []string) (map[string]string, error) {
	o.mu.Lock()
	o.calls = append(o.calls, slices.Clone(keys))
	o.mu.Unlock()
	if o.takes > 0 {
		select {
		case <-time.After(o.takes):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	found := make(map[string]string)
	for _, k := range keys {
		v, ok := o.values[k]
		if o.values == nil {
			v, ok = "v"+k, true
		}
		if ok {
			found[k] = v
		}
	}
	return found, o.err
}

// was checks with which keys the loader was called, and forgets it.
func (o *batchOrigin) was(t *testing.T, want ...string) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	var got []string
	for _, keys := range o.calls {
		got = append(got, strings.Join(keys, " "))
	}
	if !slices.Equal(got, want) {
		t.Errorf("loaded %q, want %q", got, want)
	}
	o.calls = nil
}

// manyAnswer is what a call for many keys has returned.
type manyAnswer struct {
	values map[string]string
	err    error
	took   time.Duration
	done   bool
}

// many calls GetOrLoadMany in the background for keys with blanks between them.
func (p *proc) many(ctx context.Context, keys string, load BatchLoader[string], opts ...CallOption) *manyAnswer {
	a := new(manyAnswer)
	began := time.Now()
	p.calls.Go(func() {
		values, err := p.cache.GetOrLoadMany(ctx, strings.Fields(keys), load, opts...)
		*a = manyAnswer{values, err, time.Since(began), true}
	})
	return a
}

// must checks a finished call: values are key=value, with blanks between them. It returns the errors of keys.
func (a *manyAnswer) must(t *testing.T, values string, took time.Duration) map[string]error {
	t.Helper()
	synctest.Wait()
	if !a.done {
		t.Errorf("the call has not returned")
		return nil
	}
	var got []string
	for _, k := range slices.Sorted(maps.Keys(a.values)) {
		got = append(got, k+"="+a.values[k])
	}
	if text := strings.Join(got, " "); text != values {
		t.Errorf("got %s, want %s", text, values)
	}
	if a.took != took {
		t.Errorf("took %v, want %v", a.took, took)
	}
	failed := map[string]error{}
	for _, err := range allOf(a.err) {
		var le *LoadError
		if !errors.As(err, &le) {
			failed[""] = err
			continue
		}
		failed[le.Key] = le.Err
	}
	return failed
}

// allOf returns the errors of which a call's error consists.
func allOf(err error) []error {
	var all interface{ Unwrap() []error }
	if !errors.As(err, &all) {
		return nil
	}
	return all.Unwrap()
}

// fails checks that only these keys have failed, with these errors.
func fails(t *testing.T, got map[string]error, want map[string]error) {
	t.Helper()
	if !maps.EqualFunc(got, want, func(a, b error) bool { return errors.Is(a, b) }) {
		t.Errorf("failed: %v, want %v", got, want)
	}
}

func TestMany(t *testing.T) {
	alike(t, Options{NegativeTTL: time.Minute}, func(t *testing.T, p *proc) {
		o := &batchOrigin{values: map[string]string{"a": "1", "b": "2", "c": "3", "d": "4"}}
		fails(t, p.many(background, "a b x", o.load).must(t, "a=1 b=2", 0), nil)
		o.was(t, "a b x")
		// What is cached, also that there is nothing, is not loaded again. Keys may be there twice.
		fails(t, p.many(background, "c b a c x d x", o.load).must(t, "a=1 b=2 c=3 d=4", 0), nil)
		o.was(t, "c d")
		fails(t, p.many(background, "d c", o.load).must(t, "c=3 d=4", 0), nil)
		fails(t, p.many(background, "", nil).must(t, "", 0), nil)
		o.was(t)
		// And it is the same for single keys.
		p.get(background, "a", nil).must(t, "1", nil, 0)
		p.get(background, "x", nil).must(t, "", ErrNotFound, 0)
		p.get(background, "e", loads(0, "5")).must(t, "5", nil, 0)
		fails(t, p.many(background, "e", nil).must(t, "e=5", 0), nil)
		s := p.cache.Stats()
		if s.Loads != 6 || s.BatchLoads != 2 || s.LoadErrors != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// What is not kept in memory is found in Redis, with one round trip.
func TestManyWithoutMemory(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{LocalTTL: -1}, nil)
		defer p.stop()
		o := &batchOrigin{values: map[string]string{"a": "1", "b": "2"}}
		for range 3 {
			fails(t, p.many(background, "a x b x", o.load).must(t, "a=1 b=2", 0), nil)
		}
		o.was(t, "a x b")
		if s := p.cache.Stats(); s.RedisHits != 6 || s.Loads != 3 {
			t.Errorf("%+v", s)
		}
	})
}

// A batch loader is called with at most MaxBatchKeys keys, one call after the other.
func TestManyParts(t *testing.T) {
	alike(t, Options{MaxBatchKeys: 3}, func(t *testing.T, p *proc) {
		o := &batchOrigin{takes: time.Second}
		a := p.many(background, "a b a c d e b f g", o.load)
		time.Sleep(3 * time.Second)
		fails(t, a.must(t, "a=va b=vb c=vc d=vd e=ve f=vf g=vg", 3*time.Second), nil)
		o.was(t, "a b c", "d e f", "g")
		var parts []int
		for values, err := range p.cache.GetOrLoadSeq(background, slices.Values(strings.Fields("a b c d e")), o.load) {
			if err != nil {
				t.Error(err)
			}
			parts = append(parts, len(values))
			if len(parts) == 2 {
				break
			}
		}
		if !slices.Equal(parts, []int{3, 2}) {
			t.Errorf("parts of %v", parts)
		}
	})
}

func TestManyKeys(t *testing.T) {
	c, err := New[string]("user", Options{LocalEntries: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tenThousand(t, c)
}

// tenThousand asks a cache twice for as many keys.
func tenThousand(t *testing.T, c *Cache[string]) {
	t.Helper()
	const n = 10_000
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i)
	}
	o := &batchOrigin{}
	for range 2 {
		values, err := c.GetOrLoadMany(background, keys, o.load)
		if len(values) != n || err != nil || values["k4711"] != "vk4711" {
			t.Fatalf("%d values, %v", len(values), err)
		}
	}
	if len(o.calls) != 10 || len(o.calls[9]) != 1000 {
		t.Errorf("%d calls", len(o.calls))
	}
}

var errA, errB = errors.New("a is broken"), errors.New("the origin is down")

// Errors of single keys fail these, any other one those that the loader has not brought, and what it has brought is
// returned and kept.
func TestManyErrors(t *testing.T) {
	keyError := func(key string, err error) error { return &LoadError{key, err} }
	for _, c := range []struct {
		name string
		err  error
		want map[string]error
	}{
		{"of a key", keyError("x", errA), map[string]error{"x": errA}},
		{"of keys", errors.Join(keyError("x", errA), keyError("y", errB)), map[string]error{"x": errA, "y": errB}},
		{"wrapped", fmt.Errorf("users: %w", errors.Join(errors.Join(keyError("x", errA)), keyError("y", errB))), map[string]error{"x": errA, "y": errB}},
		{"of a key that there is", keyError("a", errA), map[string]error{"a": errA}},
		{"of all", errB, map[string]error{"x": errB, "y": errB}},
		{"of all, twice", errors.Join(errB, errA), map[string]error{"x": errA, "y": errB}},
		{"of a key and of all", errors.Join(keyError("x", errA), errB), map[string]error{"x": errA, "y": errB}},
		{"of another key", keyError("q", errA), map[string]error{"x": errA, "y": errA}},
		{"of a key and of another", errors.Join(keyError("q", errA), keyError("x", errB)), map[string]error{"x": errB, "y": errA}},
		{"none, with a type", (*LoadError)(nil), map[string]error{"x": nil, "y": nil}},
		{"not found", keyError("x", ErrNotFound), nil},
		{"of a key without more", keyError("x", nil), map[string]error{"x": nil}},
	} {
		t.Run(c.name, func(t *testing.T) {
			alike(t, Options{}, func(t *testing.T, p *proc) {
				o := &batchOrigin{values: map[string]string{"a": "1", "b": "2"}, err: c.err}
				a := p.many(background, "a x b y", o.load)
				values := "a=1 b=2"
				if c.want["a"] != nil {
					values = "b=2"
				}
				got := a.must(t, values, 0)
				if len(got) != len(c.want) {
					t.Errorf("failed: %v, want %v", got, c.want)
				}
				for k, err := range c.want {
					if got[k] == nil || err != nil && !errors.Is(got[k], err) || err != nil && !errors.Is(a.err, err) {
						t.Errorf("%s: %v, want %v", k, got[k], err)
					}
				}
				o.was(t, "a x b y")
				o.err = nil
				p.many(background, "b", o.load).must(t, "b=2", 0)
				o.was(t)
			})
		})
	}
	// Who waits for a single key gets the loader's own error.
	alike(t, Options{}, func(t *testing.T, p *proc) {
		o := &batchOrigin{takes: time.Second, values: map[string]string{}, err: errors.Join(keyError("x", errA), errB)}
		p.many(background, "x y", o.load)
		synctest.Wait()
		x, y := p.get(background, "x", nil), p.get(background, "y", nil)
		time.Sleep(time.Second)
		x.must(t, "", errA, time.Second)
		y.must(t, "", errB, time.Second)
	})
	// The text does not grow with the number of keys.
	c, err := New[string]("user", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	o := &batchOrigin{err: errB, values: map[string]string{}}
	_, err = c.GetOrLoadMany(background, strings.Fields("a b c d e"), o.load)
	if want := "cache: 5 keys failed, the first one: the origin is down"; err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	_, err = c.GetOrLoadMany(background, []string{"secret"}, o.load)
	if want := "cache: a key failed: the origin is down"; err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
}

// What becomes of a loader reaches all keys that it was called for, and nothing is left of it.
func TestManyLoaderAccidents(t *testing.T) {
	alike(t, Options{LoadTimeout: 2 * time.Second}, func(t *testing.T, p *proc) {
		for name, end := range map[string]func(){
			"panic": func() { panic("of the loader") }, "Goexit": runtime.Goexit,
		} {
			a := p.many(background, "a b", func(context.Context, []string) (map[string]string, error) {
				time.Sleep(time.Second)
				end()
				return nil, nil
			})
			synctest.Wait()
			single := p.get(background, "b", nil)
			time.Sleep(time.Second)
			failed := a.must(t, "", time.Second)
			var pe *PanicError
			if len(failed) != 2 || !errors.As(failed["a"], &pe) || !errors.As(failed["b"], &pe) || !errors.As(single.err, &pe) {
				t.Errorf("%s: %v, %v", name, failed, single.err)
			}
		}
		// One that ignores its context is left to itself.
		late := make(chan struct{})
		a := p.many(background, "a b", func(context.Context, []string) (map[string]string, error) {
			<-late
			return map[string]string{"a": "1"}, nil
		})
		time.Sleep(3 * time.Second)
		fails(t, a.must(t, "", 2*time.Second+loadGrace), map[string]error{"a": context.DeadlineExceeded, "b": context.DeadlineExceeded})
		close(late)
		synctest.Wait()
		if s := p.cache.Stats(); s.LateLoads != 2 || s.LoadsAbandoned != 2 || s.LoadPanics != 4 {
			t.Errorf("%+v", s)
		}
		o := &batchOrigin{}
		fails(t, p.many(background, "a b", o.load).must(t, "a=va b=vb", 0), nil)
	})
}

// Calls for single keys and overlapping batches share the loads of each key, in both directions.
func TestManyShares(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		o := &batchOrigin{takes: 2 * time.Second}
		single := p.get(background, "a", loads(time.Second, "1"))
		synctest.Wait()
		first := p.many(background, "a b c", o.load)
		synctest.Wait()
		second := p.many(background, "d c b", o.load)
		synctest.Wait()
		third := p.get(background, "d", nil)
		time.Sleep(2 * time.Second)
		single.must(t, "1", nil, time.Second)
		fails(t, first.must(t, "a=1 b=vb c=vc", 2*time.Second), nil)
		fails(t, second.must(t, "b=vb c=vc d=vd", 2*time.Second), nil)
		third.must(t, "vd", nil, 2*time.Second)
		o.was(t, "b c", "d")
	})
}

// Each caller leaves by its own context with what it has; the load goes on for others, and for the next caller.
func TestManyContext(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		o := &batchOrigin{takes: 2 * time.Second}
		ctx, cancel := context.WithTimeout(background, time.Second)
		defer cancel()
		p.get(background, "b", loads(0, "2"))
		synctest.Wait()
		p.get(background, "c", loads(500*time.Millisecond, "3"))
		synctest.Wait()
		short := p.many(ctx, "a b c", o.load)
		long := p.many(background, "a b", o.load)
		time.Sleep(2 * time.Second)
		fails(t, short.must(t, "b=2 c=3", time.Second), map[string]error{"": context.DeadlineExceeded})
		fails(t, long.must(t, "a=va b=2", 2*time.Second), nil)
		o.was(t, "a")
		// One that is over already gets what is in memory, and begins nothing.
		fails(t, p.many(ctx, "a x", o.load).must(t, "a=va", 0), map[string]error{"": context.DeadlineExceeded})
		o.was(t)
	})
}

func TestManyAbandoned(t *testing.T) {
	alike(t, Options{CancelAbandoned: true}, func(t *testing.T, p *proc) {
		cancelled := 0
		load := func(ctx context.Context, keys []string) (map[string]string, error) {
			select {
			case <-time.After(3 * time.Second):
			case <-ctx.Done():
				cancelled++
				return nil, ctx.Err()
			}
			return map[string]string{"a": "1", "b": "2"}, nil
		}
		ctx, cancel := context.WithTimeout(background, time.Second)
		defer cancel()
		p.many(ctx, "a b", load)
		synctest.Wait()
		one := p.get(background, "b", nil) // who wants one of them keeps the others' load alive
		time.Sleep(3 * time.Second)
		one.must(t, "2", nil, 3*time.Second)
		if cancelled != 0 {
			t.Error("cancelled")
		}
		p.get(background, "a", nil).must(t, "1", nil, 0)

		ctx, cancel = context.WithTimeout(background, time.Second)
		defer cancel()
		p.many(ctx, "c d", load)
		synctest.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		if cancelled != 1 {
			t.Error("nobody waits, and it goes on")
		}
		if p.cache.core.flights.left() > 0 {
			t.Error("flights are left")
		}
	})
}

func TestManyClose(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		o := &batchOrigin{takes: time.Hour}
		a := p.many(background, "a b", o.load)
		synctest.Wait()
		_ = p.cache.Close()
		fails(t, a.must(t, "", 0), map[string]error{"": ErrClosed})
		fails(t, p.many(background, "a", o.load).must(t, "", 0), map[string]error{"": ErrClosed})
	})
}

// A loader may ask the cache, but not for the keys that it is loading.
func TestManyWithin(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		var inner, deeper error
		load := func(ctx context.Context, keys []string) (map[string]string, error) {
			values, err := p.cache.GetOrLoadMany(ctx, []string{"c", "b"}, func(ctx context.Context, keys []string) (map[string]string, error) {
				_, deeper = p.cache.GetOrLoad(ctx, "a", nil)
				return map[string]string{"c": "3"}, nil
			})
			inner = err
			return map[string]string{"a": values["c"], "b": "2"}, nil
		}
		fails(t, p.many(background, "a b", load).must(t, "a=3 b=2", 0), nil)
		var le *LoadError
		if !errors.As(inner, &le) || le.Key != "b" || le.Err != errOwnKey || deeper != errOwnKey { //nolint:errorlint // unchanged
			t.Errorf("%v, %v", inner, deeper)
		}
	})
}

func TestManyOnlyIfCached(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		o := &batchOrigin{values: map[string]string{"a": "1"}}
		p.many(background, "a x", o.load).must(t, "a=1", 0)
		if p.rds != nil {
			p.cache.core.local.dropAll()
		}
		fails(t, p.many(background, "a b x c", nil, OnlyIfCached()).must(t, "a=1", 0), map[string]error{"b": ErrNotCached, "c": ErrNotCached})
		long := strings.Repeat("k", MaxKeyBytes+1)
		fails(t, p.many(background, "a "+long, nil, OnlyIfCached()).must(t, "a=1", 0), map[string]error{long: ErrNotCached})
		_ = p.cache.Close()
		fails(t, p.many(background, "b", nil, OnlyIfCached()).must(t, "", 0), map[string]error{"": ErrClosed})
	})
}

// Keys that are too long are loaded along with the others, and not kept.
func TestManyLongKeys(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		long := strings.Repeat("k", MaxKeyBytes+1)
		o := &batchOrigin{}
		fails(t, p.many(background, "a "+long+" b", o.load).must(t, "a=va b=vb "+long+"=v"+long, 0), nil)
		fails(t, p.many(background, "a "+long, o.load).must(t, "a=va "+long+"=v"+long, 0), nil)
		o.was(t, "a "+long+" b", long)
	})
}
