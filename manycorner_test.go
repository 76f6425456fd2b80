package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
)

// badError panics when somebody looks at it.
type badError struct{}

func (badError) Error() string { return "bad" }
func (badError) As(any) bool   { panic("in As") }

// Whatever a batch loader returns as its error, or panics with, its callers hear of it.
func TestManyStrangeErrors(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		for name, load := range map[string]func() error{
			"panics when looked at":         func() error { return badError{} },
			"panic with an error of a key":  func() error { panic(fmt.Errorf("inner: %w", &LoadError{"row7", errB})) },
			"panic with that of a key here": func() error { panic(&LoadError{"a", errB}) },
		} {
			a := p.many(background, "a b", func(context.Context, []string) (map[string]string, error) { return nil, load() })
			failed := a.must(t, "", 0)
			var pe *PanicError
			if !errors.As(failed["a"], &pe) || !errors.As(failed["b"], &pe) {
				t.Errorf("%s: %v", name, failed)
			}
		}
		var none *LoadError
		if none.Error() == "" || none.Unwrap() != nil {
			t.Error("a nil LoadError has no text")
		}
	})
}

// The error of a batch inside a batch loader, whose keys are others, fails the keys of the outer one.
func TestManyErrorsOfAnotherBatch(t *testing.T) {
	alike(t, Options{MaxBatchKeys: 1}, func(t *testing.T, p *proc) {
		down := true
		load := func(ctx context.Context, keys []string) (map[string]string, error) {
			rows, err := p.cache.GetOrLoadMany(ctx, []string{"row:" + keys[0]}, func(context.Context, []string) (map[string]string, error) {
				if down {
					return nil, errB
				}
				return map[string]string{"row:" + keys[0]: "1"}, nil
			})
			if err != nil {
				return nil, err
			}
			return map[string]string{keys[0]: rows["row:"+keys[0]]}, nil
		}
		fails(t, p.many(background, "a b", load).must(t, "", 0), map[string]error{"a": errB, "b": errB})
		down = false
		fails(t, p.many(background, "a b", load).must(t, "a=1 b=1", 0), nil)

		// So does that of another cache, even if it says that that one is closed.
		other, err := New[string]("other", Options{})
		if err != nil {
			t.Fatal(err)
		}
		_ = other.Close()
		failed := p.many(background, "c a", func(ctx context.Context, keys []string) (map[string]string, error) {
			_, err := other.GetOrLoad(ctx, "q", nil)
			return nil, err
		}).must(t, "a=1", 0)
		fails(t, failed, map[string]error{"c": ErrClosed})
	})
}

// Stale values are refreshed also if all keys are found in Redis.
func TestManyStaleInRedis(t *testing.T) {
	for _, tags := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *lab.World) {
			p := start(t, w, "A", Options{LocalTTL: -1, TTL: time.Minute, StaleWhileRevalidate: time.Hour, Tags: tags}, nil)
			defer p.stop()
			o := new(batchOrigin)
			p.many(background, "a b", o.load).must(t, "a=va b=vb", 0)
			time.Sleep(2 * time.Minute)
			for range 3 {
				p.many(background, "a b", o.load).must(t, "a=va b=vb", 0)
				time.Sleep(time.Second)
			}
			if len(o.calls) != 2 || len(o.calls[1]) != 2 || p.cache.Stats().Refreshes != 2 {
				t.Errorf("loaded %q, %+v", o.calls, p.cache.Stats())
			}
		})
	}
}

// slowCodec takes 50 ms for each value, one after the other.
type slowCodec struct {
	Msgpack
	one   chan struct{}
	pause func()
}

func (c slowCodec) Marshal(v any) ([]byte, error) {
	c.one <- struct{}{}
	defer func() { <-c.one }()
	c.pause()
	return c.Msgpack.Marshal(v)
}

// Values whose encoding takes long do not keep the others from being stored.
func TestManySlowCodec(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		slow := slowCodec{one: make(chan struct{}, 1), pause: func() { time.Sleep(50 * time.Millisecond) }}
		a := start(t, w, "A", Options{Codec: slow}, nil)
		b := start(t, w, "B", Options{}, nil)
		defer a.stop()
		defer b.stop()
		const n = 50 // 2.5 s, and a lease is 2 s
		a.many(background, keysTo(n), new(batchOrigin).load)
		synctest.Wait()
		b.many(background, keysTo(n), new(batchOrigin).load)
		a.calls.Wait()
		b.calls.Wait()
		if s := a.cache.Stats(); s.CommitsRejected > n/4 || b.cache.Stats().Loads > n/4 {
			t.Errorf("%+v, %+v", s, b.cache.Stats())
		}
	})
}

// With CancelAbandoned, loads end when those have landed that somebody waits for.
func TestManyAbandonedInPart(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{CancelAbandoned: true}, "A", "B")
		defer stopAll(ps)
		ps["B"].get(background, "b", loads(time.Second, "B"))
		synctest.Wait()
		ctx, cancel := context.WithCancel(background)
		cancelled := false
		ps["A"].many(ctx, "a b", func(ctx context.Context, _ []string) (map[string]string, error) {
			<-ctx.Done()
			cancelled = ctx.Err() == context.Canceled
			return nil, ctx.Err()
		})
		synctest.Wait()
		one := ps["A"].get(background, "b", nil)
		synctest.Wait()
		cancel() // the only caller of a leaves
		time.Sleep(2 * time.Second)
		one.must(t, "B", nil, time.Second)
		if !cancelled {
			t.Error("the load of a goes on for nobody")
		}
	})
}

// A process that does not know the server's time yet asks for it once, not for each key.
func TestManyTime(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		o := Options{Tags: true, StaleWhileRevalidate: time.Hour}
		a := start(t, w, "A", o, nil)
		defer a.stop()
		a.many(background, keysTo(30), new(batchOrigin).load)
		a.calls.Wait()
		b := start(t, w, "B", o, nil)
		defer b.stop()
		asked := 0
		w.Hold(func(m *lab.Message) bool {
			mine := m.Process == "B" && m.Kind == lab.Request && m.Command() == "TIME"
			if mine {
				asked++
			}
			return mine
		})
		b.many(background, keysTo(30), new(batchOrigin).load)
		synctest.Wait()
		if asked > 2 {
			t.Errorf("asked for the time %d times", asked)
		}
		w.Hold(nil)
	})
}

// Calls for single keys do not wait for those of batches, when Redis does not answer.
func TestGetBesideBatches(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{LocalTTL: -1}, nil)
		defer p.stop()
		w.Freeze(true)
		for i := range 4 {
			p.many(background, strings.ReplaceAll(keysTo(100), "k", fmt.Sprint("b", i, "-")), nil, OnlyIfCached())
		}
		synctest.Wait()
		began := time.Now()
		if _, ok := p.cache.Get(background, "k"); ok || time.Since(began) != p.rds.timeout {
			t.Errorf("took %v", time.Since(began))
		}
		p.calls.Wait()
		w.Freeze(false)
	})
}

// What is said of one key goes over what is said of all, also if it was said first.
func TestManyForKey(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		var calls []string
		load := func(ctx context.Context, keys []string) (map[string]string, error) {
			calls = append(calls, strings.Join(keys, " "))
			LoadFrom(ctx).ForKey("a").SetTTL(time.Hour)
			LoadFrom(ctx).ForKey("b").SetTTL(0)
			LoadFrom(ctx).SetTTL(-1)
			values := map[string]string{}
			for _, k := range keys {
				values[k] = "v" + k
			}
			return values, nil
		}
		for range 2 {
			p.many(background, "a b c", load).must(t, "a=va b=vb c=vc", 0)
		}
		if got := strings.Join(calls, ", "); got != "a b c, c" {
			t.Errorf("loaded %s", got)
		}
		// In a loader of one key it is that key's.
		p.get(background, "d", func(ctx context.Context, _ string) (string, error) {
			if LoadFrom(ctx).ForKey("d") != LoadFrom(ctx) || LoadFrom(ctx).ForKey("a") != nil || LoadFrom(background).ForKey("d") != nil {
				t.Error("ForKey")
			}
			return "vd", nil
		}).must(t, "vd", nil, 0)
	})
}

// A key that is there twice is looked for once, and fails once.
func TestManyRepeated(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		_, err := p.cache.GetOrLoadMany(background, strings.Fields("a a b a"), nil, OnlyIfCached())
		if n := len(allOf(err)); n != 2 {
			t.Errorf("%d errors: %v", n, err)
		}
		_, err = p.cache.GetOrLoadMany(background, strings.Fields("a a b a"), (&batchOrigin{err: errB, values: map[string]string{}}).load)
		if n := len(allOf(err)); n != 2 {
			t.Errorf("%d errors: %v", n, err)
		}
		_, err = p.cache.GetOrLoadMany(background, strings.Fields("a b"), nil, WithTags("t"))
		if all := err.(interface{ Unwrap() []error }).Unwrap(); len(all) != 1 || !errors.Is(err, errTagsOff) {
			t.Errorf("%v", err)
		}
	})
}

// A loader is not called for a batch that has ended meanwhile.
func TestManyEndsBeforeItLoads(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		w.Hold(only("", "ACQUIRE", lab.Reply))
		o := new(batchOrigin)
		p.many(background, "warm", o.load)
		synctest.Wait()
		go func() { _ = p.cache.Close() }()
		synctest.Wait()
		w.Hold(nil)
		time.Sleep(time.Second)
		p.stop()
		o.was(t)
	})
}
