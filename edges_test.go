package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/early"
	"github.com/bellwether-go/cache/internal/record"
)

// errorMatrix: every way to an error, and what errors.Is and errors.As say of it.
func errorMatrix(t *testing.T, b *backend) {
	own := errors.New("own")
	ended, cancel := context.WithCancel(background)
	cancel()
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(background, time.Millisecond)
		context.AfterFunc(ctx, cancel)
		return ctx
	}
	type call = func(c *Cache[string], key string) error
	get := func(ctx context.Context, load Loader[string]) call {
		return func(c *Cache[string], key string) error {
			v, err := c.GetOrLoad(ctx, key, load)
			if err != nil && v != "" {
				t.Errorf("%q and %v", v, err)
			}
			return err
		}
	}
	fails := func(err error) Loader[string] {
		return func(context.Context, string) (string, error) { return "ignored", err }
	}
	wait := func(ctx context.Context, _ string) (string, error) {
		<-ctx.Done()
		return "", fmt.Errorf("query: %w", ctx.Err())
	}
	hung := make(chan struct{})
	defer close(hung)
	hang := func(context.Context, string) (string, error) { <-hung; return "", nil }
	closed := func(f call) call {
		return func(c *Cache[string], key string) error {
			_ = c.Close()
			return f(c, key)
		}
	}
	long := strings.Repeat("k", MaxKeyBytes+1)

	for i, row := range []struct {
		name string
		do   call
		is   []error // errors.Is is true for these, and for no other column
		as   bool    // *PanicError
	}{
		{"a value", get(background, constant("v")), nil, false},
		{"the loader's error", get(background, fails(own)), []error{own}, false},
		{"the loader's error, wrapped", get(background, fails(fmt.Errorf("x: %w", own))), []error{own}, false},
		{"the loader's errors, joined", get(background, fails(errors.Join(own, context.Canceled))), []error{own, context.Canceled}, false},
		{"the loader's context.Canceled", get(background, fails(context.Canceled)), []error{context.Canceled}, false},
		{"not found", get(background, fails(fmt.Errorf("x: %w", ErrNotFound))), []error{ErrNotFound}, false},
		{"not found, from the cache", func(c *Cache[string], key string) error {
			_ = get(background, fails(fmt.Errorf("%w: %w", own, ErrNotFound)))(c, key)
			return get(background, constant("v"))(c, key)
		}, []error{ErrNotFound}, false},
		{"ErrClosed of somebody else's cache", get(background, fails(ErrClosed)), []error{ErrClosed}, false},
		{"a panic", get(background, func(context.Context, string) (string, error) { panic("x") }), nil, true},
		{"a panic with an error", get(background, func(context.Context, string) (string, error) { panic(own) }), []error{own}, true},
		{"a panic with ErrNotFound", get(background, func(context.Context, string) (string, error) { panic(ErrNotFound) }), []error{ErrNotFound}, true},
		{"Goexit", get(background, func(context.Context, string) (string, error) { runtime.Goexit(); return "", nil }), nil, true},
		{"no loader", get(background, nil), nil, true},
		{"cancelled before", get(ended, constant("v")), []error{context.Canceled}, false},
		{"the caller's deadline", func(c *Cache[string], key string) error { return get(soon(), wait)(c, key) }, []error{context.DeadlineExceeded}, false},
		{"LoadTimeout, heeded", get(background, wait), []error{context.DeadlineExceeded}, false},
		{"LoadTimeout, ignored", get(background, hang), []error{context.DeadlineExceeded}, false},
		{"a loader that waits for itself", func(c *Cache[string], key string) error {
			return get(background, func(ctx context.Context, key string) (string, error) { return c.GetOrLoad(ctx, key, nil) })(c, key)
		}, []error{errOwnKey}, false},
		{"Set", func(c *Cache[string], key string) error { return c.Set(background, key, "v") }, nil, false},
		{"Set, cancelled", func(c *Cache[string], key string) error { return c.Set(ended, key, "v") }, []error{context.Canceled}, false},
		{"Set, key too long", func(c *Cache[string], _ string) error { return c.Set(background, long, "v") }, []error{nil}, false},
		{"Delete", func(c *Cache[string], key string) error { return c.Delete(background, key) }, nil, false},
		{"Delete, cancelled", func(c *Cache[string], key string) error { return c.Delete(ended, key) }, []error{context.Canceled}, false},
		{"Delete, key too long", func(c *Cache[string], _ string) error { return c.Delete(background, long) }, nil, false},
		{"closed: GetOrLoad", closed(get(background, constant("v"))), []error{ErrClosed}, false},
		{"closed: Set", closed(func(c *Cache[string], key string) error { return c.Set(background, key, "v") }), []error{ErrClosed}, false},
		{"closed: Delete", closed(func(c *Cache[string], key string) error { return c.Delete(background, key) }), []error{ErrClosed}, false},
		{"closed: Close", closed(func(c *Cache[string], _ string) error { return c.Close() }), nil, false},
		{"closed in mid-load", func(c *Cache[string], key string) error {
			return get(background, func(ctx context.Context, key string) (string, error) {
				go c.Close()
				return wait(ctx, key)
			})(c, key)
		}, []error{ErrClosed}, false},
	} {
		c := cacheOf[string](b, "A", fmt.Sprint("matrix", i), Options{LoadTimeout: b.short()})
		err := row.do(c, "k")
		if (err != nil) != (row.is != nil || row.as) {
			t.Errorf("%s: %v", row.name, err)
		}
		for _, column := range []error{own, ErrNotFound, ErrClosed, context.Canceled, context.DeadlineExceeded, errOwnKey, errTooLarge} {
			want := false
			for _, e := range row.is {
				want = want || e == column //nolint:errorlint // the columns themselves
			}
			if errors.Is(err, column) != want {
				t.Errorf("%s: %v: errors.Is(%v) is %v", row.name, err, column, !want)
			}
		}
		var p *PanicError
		if errors.As(err, &p) != row.as {
			t.Errorf("%s: %v: errors.As(*PanicError) is %v", row.name, err, !row.as)
		}
		if err != nil && strings.Contains(strings.ToLower(err.Error()), "redis") {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// timeToLive: from a millisecond to a century, to the nanosecond where time is ours.
func timeToLive(t *testing.T, b *backend) {
	for _, ttl := range []time.Duration{time.Millisecond, 20 * time.Millisecond, time.Hour, 100 * 365 * 24 * time.Hour} {
		c := cacheOf[string](b, "A", "ttl-"+strings.ReplaceAll(ttl.String(), "µ", "u"), Options{TTL: ttl, LocalTTL: ttl})
		if v, err := c.GetOrLoad(background, "k", constant("1")); v != "1" || err != nil {
			t.Fatal(v, err)
		}
		loaded := time.Now()
		switch {
		case b.virtual && (b.client == nil || ttl <= time.Hour): // a subscription asks who is there each second of a century
			b.pass(ttl - time.Nanosecond)
			if v, err := c.GetOrLoad(background, "k", nil); v != "1" || err != nil {
				t.Errorf("%v: a nanosecond before: %q, %v", ttl, v, err)
			}
			b.pass(time.Nanosecond)
			if v, err := c.GetOrLoad(background, "k", constant("2")); v != "2" || err != nil {
				t.Errorf("%v: at the end: %q, %v", ttl, v, err)
			}
		case ttl < time.Second:
			b.eventually("the end of "+ttl.String(), func() bool {
				began := time.Now()
				v, err := c.GetOrLoad(background, "k", constant("2"))
				if err != nil || v == "1" && began.Sub(loaded) >= ttl {
					t.Errorf("%v: %q, %v, %v after the load", ttl, v, err, began.Sub(loaded))
				}
				return v != "1"
			})
		default:
			admin := b.client("admin")
			left := admin.PTTL(background, b.redisOf("A").key(c.core.name, "k")).Val()
			_ = admin.Close()
			if left > ttl || left < ttl-time.Minute {
				t.Errorf("%v: %v in Redis", ttl, left)
			}
			if v, err := c.GetOrLoad(background, "k", nil); v != "1" || err != nil {
				t.Errorf("%v: %q, %v", ttl, v, err)
			}
		}
	}
	c := cacheOf[string](b, "A", "one-call", Options{})
	_, _ = c.GetOrLoad(background, "not stored", constant("1"), WithTTL(-1))
	_, _ = c.GetOrLoad(background, "long", constant("1"), WithTTL(math.MaxInt64))
	if v, ok := c.Get(background, "not stored"); ok {
		t.Errorf("WithTTL(-1): %q", v)
	}
	if v, ok := c.Get(background, "long"); !ok {
		t.Errorf("WithTTL of ages: %q", v)
	}
}

// same loads v in one process and reads it in another.
func same[V any](t *testing.T, b *backend, name string, v V) {
	t.Helper()
	o := Options{CompressAbove: 100}
	if _, err := cacheOf[V](b, "A", name, o).GetOrLoad(background, "k", constant(v)); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	var loads int
	got, err := cacheOf[V](b, b.last(), name, o).GetOrLoad(background, "k", func(context.Context, string) (V, error) {
		loads++
		return v, nil
	})
	if err != nil || loads != 0 || !reflect.DeepEqual(got, v) {
		t.Errorf("%s: %#v, %v after %d loads; want %#v", name, got, err, loads, v)
	}
}

// values: what is stored comes back, nil and empty values and what looks like something of ours among it.
func values(t *testing.T, b *backend) {
	type pair struct {
		A string
		B []byte
		C *int
		D map[string]any
	}
	same[any](t, b, "nil-any", nil)
	same[*int](t, b, "nil-pointer", nil)
	same[[]byte](t, b, "nil-bytes", nil)
	same[[]string](t, b, "nil-slice", nil)
	same[map[string]int](t, b, "nil-map", nil)
	same[error](t, b, "nil-error", nil)
	same(t, b, "empty-string", "")
	same(t, b, "empty-bytes", []byte{})
	same(t, b, "zero", 0)
	same(t, b, "zero-struct", pair{})
	same(t, b, "zero-bytes", string(make([]byte, 300)))
	same(t, b, "struct", pair{"a", []byte("b"), new(int), map[string]any{"x": "y"}})
	same(t, b, "invalid-text", "\xff\xfe")
	same(t, b, "time", time.Unix(1, 2))
	same(t, b, "compressed", strings.Repeat("x", 10_000))
	same(t, b, "max", int64(math.MaxInt64))
	coder := cacheOf[string](b, "A", "user", Options{}).core.coder
	same(t, b, "stub", string(coder.stub("k", early.Cost{})))
	same(t, b, "lease", string(coder.lease("k", early.Cost{}, record.Lease{Owner: record.Owner{1}, Duration: time.Second})))
	same(t, b, "record", string(coder.seal("k", life{owner: record.Owner{1}, freshUntil: 1}, []byte("\xa1v"))))
	same(t, b, "record-bytes", coder.seal("k", life{owner: record.Owner{1}, freshUntil: 1}, []byte("\xa1v")))
}

// valuesNotStored: what cannot be encoded or is too large is returned, and kept in memory.
func valuesNotStored(t *testing.T, b *backend) {
	once(t, b, "func", Options{}, func() {})
	once(t, b, "chan", Options{}, make(chan int))
	once(t, b, "large", Options{MaxValueBytes: 100}, strings.Repeat("x", 101))
	large := cacheOf[string](b, "A", "large", Options{})
	switch err := large.Set(background, "set", strings.Repeat("x", 101)); {
	case b.client == nil && err != nil, b.client != nil && !errors.Is(err, errTooLarge):
		t.Errorf("Set of a large value: %v", err)
	}
	if err := cacheOf[func()](b, "A", "func", Options{}).Set(background, "set", func() {}); (err != nil) != (b.client != nil) {
		t.Errorf("Set of a func: %v", err)
	}
	if b.client != nil {
		admin := b.client("admin")
		defer admin.Close()
		for _, name := range []string{"func", "chan", "large"} {
			if n := admin.Exists(background, b.redisOf("A").key(name, "k"), b.redisOf("A").key(name, "set")).Val(); n != 0 {
				t.Errorf("%s: left in Redis", name)
			}
		}
	}
}

func once[V any](t *testing.T, b *backend, name string, o Options, v V) {
	t.Helper()
	c := cacheOf[V](b, "A", name, o)
	for range 2 {
		if got, err := c.GetOrLoad(background, "k", constant(v)); err != nil || reflect.ValueOf(got).IsZero() {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if s := c.Stats(); s.Loads != 1 || (s.ValuesUncached == 1) != (b.client != nil) {
		t.Errorf("%s: %+v", name, s)
	}
}

// keysOfAnyBytes: keys do not meet, whatever they hold; the longest one is cached, a longer one is loaded.
func keysOfAnyBytes(t *testing.T, b *backend) {
	keys := []string{
		"", ":", "a", "a:", ":a", "{a}", "}{", "{}", "a b", "\r\n", "\x00", "\x00\x00", "\xff\xfe", "user:a", "cache:user:a", "ä", "*",
		"$-1\r\n", "every-process-of-this-cache", strings.Repeat("k", MaxKeyBytes),
	}
	a, z := cacheOf[string](b, "A", "user", Options{}), cacheOf[string](b, b.last(), "user", Options{})
	for _, k := range keys {
		if v, err := a.GetOrLoad(background, k, constant("of "+k)); v != "of "+k || err != nil {
			t.Errorf("%.40q: %.40q, %v", k, v, err)
		}
	}
	for i, k := range keys {
		if v, err := z.GetOrLoad(background, k, nil); v != "of "+k || err != nil {
			t.Errorf("%.40q: %.40q, %v", k, v, err)
		}
		if err := z.Delete(background, k); err != nil {
			t.Errorf("%.40q: %v", k, err)
		}
		for j, other := range keys {
			if _, ok := z.Get(background, other); ok != (j > i) {
				t.Errorf("%.40q after the deletion of %.40q: %v", other, k, ok)
			}
		}
	}
	long := strings.Repeat("k", MaxKeyBytes+1)
	for _, v := range []string{"1", "2"} {
		if got, err := a.GetOrLoad(background, long, constant(v)); got != v || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	if _, ok := a.Get(background, long); ok {
		t.Error("a long key is cached")
	}
}

// nestedCalls: a loader may use the cache, for other keys and for its own.
func nestedCalls(t *testing.T, b *backend) {
	c := cacheOf[string](b, "A", "user", Options{})
	v, err := c.GetOrLoad(background, "a", func(ctx context.Context, _ string) (string, error) {
		b, err := c.GetOrLoad(ctx, "b", func(ctx context.Context, _ string) (string, error) {
			return c.GetOrLoad(ctx, "c", constant("c"))
		})
		return "a" + b, err
	})
	if v != "ac" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	v, err = c.GetOrLoad(background, "set", func(ctx context.Context, key string) (string, error) {
		return "loaded", c.Set(ctx, key, "set")
	})
	if v != "loaded" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if v, ok := c.Get(background, "set"); v != "set" || !ok {
		t.Errorf("%q, %v", v, ok)
	}
	v, err = c.GetOrLoad(background, "got", func(ctx context.Context, key string) (string, error) {
		if v, ok := c.Get(ctx, key); ok {
			t.Errorf("there is %q already", v)
		}
		return "v", nil
	})
	if v != "v" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
}

// waitsForItself: a loader that asks for the key it is loading, directly or through another key, gets an error at once;
// with a context that does not tell, it ends at LoadTimeout.
func waitsForItself(t *testing.T, b *backend) {
	c := cacheOf[string](b, "A", "user", Options{LoadTimeout: b.short()})
	direct := func(ctx context.Context, key string) (string, error) {
		_, err := c.GetOrLoad(ctx, key, constant("inner"))
		return "", err
	}
	if _, err := c.GetOrLoad(background, "direct", direct); !errors.Is(err, errOwnKey) {
		t.Errorf("directly: %v", err)
	}
	_, err := c.GetOrLoad(background, "a", func(ctx context.Context, _ string) (string, error) {
		return c.GetOrLoad(ctx, "b", func(ctx context.Context, _ string) (string, error) {
			return c.GetOrLoad(ctx, "a", nil)
		})
	})
	if !errors.Is(err, errOwnKey) {
		t.Errorf("through another key: %v", err)
	}
	_, err = c.GetOrLoad(background, "blind", func(_ context.Context, key string) (string, error) {
		return c.GetOrLoad(background, key, constant("inner"))
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with another context: %v", err)
	}
	// What a loader leaves behind may ask when it is done.
	left := make(chan context.Context, 1)
	_, _ = c.GetOrLoad(background, "left", func(ctx context.Context, _ string) (string, error) {
		left <- context.WithoutCancel(ctx)
		return "v", nil
	})
	if v, err := c.GetOrLoad(<-left, "left", nil); v != "v" || err != nil {
		t.Errorf("afterwards: %q, %v", v, err)
	}
	for _, key := range []string{"direct", "a", "b", "blind"} {
		if v, err := c.GetOrLoad(background, key, constant("v")); v != "v" || err != nil {
			t.Errorf("%s is not free: %q, %v", key, v, err)
		}
	}
}

// deleteInLoader: Delete inside a loader does not hang, and what that loader returns is not stored.
func deleteInLoader(t *testing.T, b *backend) {
	c := cacheOf[string](b, "A", "user", Options{})
	v, err := c.GetOrLoad(background, "k", func(ctx context.Context, key string) (string, error) {
		return "old", c.Delete(ctx, key)
	})
	if v != "old" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	for _, p := range b.processes {
		if v, ok := cacheOf[string](b, p, "user", Options{}).Get(background, "k"); ok {
			t.Errorf("in %s: %q", p, v)
		}
	}
}

// closeInEveryState: calls end with ErrClosed or with what they had, and nothing hangs.
func closeInEveryState(t *testing.T, b *backend) {
	o := Options{}
	expect := func(what string, err error) {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	hung := make(chan struct{})
	defer close(hung)
	for _, state := range []string{"idle", "filled", "loading", "hanging", "waiting", "busy"} {
		c := cacheOf[string](b, "A", state, o)
		var calls, waiter sync.WaitGroup
		switch state {
		case "filled":
			_ = c.Set(background, "k", "v")
		case "loading":
			g := newGate("", nil)
			calls.Go(func() {
				_, err := c.GetOrLoad(background, "k", g.load)
				expect(state, err)
			})
			<-g.begun
		case "hanging":
			begun := make(chan struct{})
			calls.Go(func() {
				_, err := c.GetOrLoad(background, "k", func(context.Context, string) (string, error) {
					close(begun)
					<-hung
					return "", nil
				})
				expect(state, err)
			})
			<-begun
		case "waiting": // for another process, where there is one
			holder := cacheOf[string](b, b.last(), state, o)
			g := newGate("v", nil)
			calls.Go(func() { _, _ = holder.GetOrLoad(background, "k", g.load) })
			<-g.begun
			waiter.Go(func() {
				_, err := c.GetOrLoad(background, "k", constant("own"))
				expect(state, err)
			})
			b.joined(c.core, "k", map[bool]int{true: 2, false: 1}[holder == c])
			defer close(g.free)
			if holder != c {
				defer holder.Close()
			}
		case "busy":
			for i := range 10 {
				calls.Go(func() {
					for j := range 20 {
						key := fmt.Sprint(i, j%3)
						_, err1 := c.GetOrLoad(background, key, constant("v"))
						err2 := c.Set(background, key, "v")
						err3 := c.Delete(background, key)
						_, _ = c.Get(background, key)
						for _, err := range []error{err1, err2, err3} {
							if err != nil {
								expect(state, err)
							}
						}
					}
				})
			}
		}
		var closers sync.WaitGroup
		for range 3 {
			closers.Go(func() {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		closers.Wait()
		waiter.Wait()
		if state != "waiting" {
			calls.Wait()
		}
		_, err := c.GetOrLoad(background, "k", constant("v"))
		expect(state, err)
		expect(state, c.Set(background, "k", "v"))
		expect(state, c.Delete(background, "k"))
		if v, ok := c.Get(background, "k"); ok {
			t.Errorf("%s: Get has %q", state, v)
		}
	}
	// By a loader of its own.
	c := cacheOf[string](b, "A", "own", o)
	_, err := c.GetOrLoad(background, "k", func(context.Context, string) (string, error) { return "v", c.Close() })
	expect("by its loader", err)
}
