package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/early"
	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

const years = 365 * 24 * time.Hour

// What a call gets at which moment after the end of its value's load: to the nanosecond from memory, and from Redis as
// exactly as the server's clock is known, never beyond the end.
func TestTimes(t *testing.T) {
	const (
		fresh   = "v1"
		stale   = "v1, stale"
		nothing = "not cached"
	)
	type look struct {
		after time.Duration
		want  string
	}
	for _, c := range []struct {
		name string
		o    Options
		from string // memory, redis, both
		call []CallOption
		look []look
	}{
		{"the exact end", Options{TTL: time.Minute}, "both", nil, []look{
			{0, fresh}, {time.Minute - 40*time.Millisecond, fresh}, {time.Minute, nothing},
		}},
		{"the last nanosecond", Options{TTL: time.Minute}, "memory", nil, []look{
			{time.Minute - 1, fresh}, {time.Minute, nothing},
		}},
		{"1 ms", Options{TTL: time.Millisecond}, "both", nil, []look{
			{0, fresh}, {time.Millisecond, nothing},
		}},
		{"years", Options{TTL: 100 * years}, "memory", nil, []look{
			{99 * years, fresh}, {100 * years, nothing},
		}},
		{"years, stale for years", Options{TTL: 100 * years, StaleWhileRevalidate: 10 * years}, "memory", nil, []look{
			{100*years - 1, fresh}, {100 * years, stale}, {110*years - 1, stale}, {110 * years, nothing},
		}},
		{"stale", Options{TTL: time.Minute, StaleWhileRevalidate: time.Minute}, "both", nil, []look{
			{time.Minute - 40*time.Millisecond, fresh}, {time.Minute, stale}, {2*time.Minute - 80*time.Millisecond, stale}, {2 * time.Minute, nothing},
		}},
		{"stale to the nanosecond", Options{TTL: time.Minute, StaleWhileRevalidate: time.Minute}, "memory", nil, []look{
			{time.Minute - 1, fresh}, {time.Minute, stale}, {2*time.Minute - 1, stale}, {2 * time.Minute, nothing},
		}},
		{"stale for 1 ms", Options{TTL: time.Millisecond, StaleWhileRevalidate: time.Millisecond}, "memory", nil, []look{
			{time.Millisecond, stale}, {2 * time.Millisecond, nothing},
		}},
		{"no stale", Options{TTL: time.Minute, StaleWhileRevalidate: time.Minute}, "both", []CallOption{WithoutStale()}, []look{
			{0, fresh}, {time.Minute, nothing},
		}},
		{"stale if error, and there was none", Options{TTL: time.Minute, StaleIfError: time.Minute}, "both", nil, []look{
			{0, fresh}, {time.Minute, nothing},
		}},
		{"both", Options{TTL: time.Minute, StaleIfError: time.Hour, StaleWhileRevalidate: time.Minute}, "both", nil, []look{
			{time.Minute, stale}, {2 * time.Minute, nothing},
		}},
		{"paused for hours", Options{TTL: time.Hour, StaleWhileRevalidate: time.Hour}, "both", nil, []look{
			{90 * time.Minute, stale}, {3 * time.Hour, nothing},
		}},
		{"LocalTTL ends before", Options{TTL: time.Hour, LocalTTL: time.Second, StaleWhileRevalidate: time.Hour}, "redis", nil, []look{
			{time.Second, fresh}, {time.Hour, stale},
		}},
	} {
		ask := func(t *testing.T, p *proc) string {
			t.Helper()
			before := p.cache.Stats().StaleHits
			v, err := p.cache.GetOrLoad(background, "k", nil, append(c.call, OnlyIfCached())...)
			switch {
			case errors.Is(err, ErrNotCached):
				return nothing
			case err != nil:
				t.Fatal(err)
			case p.cache.Stats().StaleHits > before:
				return v + ", stale"
			}
			return v
		}
		if c.from != "redis" {
			t.Run(c.name+"/memory", func(t *testing.T) {
				lab.Bubble(t, func(t *testing.T) {
					cache, err := New[string]("user", exact(c.o))
					if err != nil {
						t.Fatal(err)
					}
					defer cache.Close()
					p := &proc{t: t, cache: cache}
					began := time.Now()
					_, _ = cache.GetOrLoad(background, "k", constant("v1"))
					for _, l := range c.look {
						time.Sleep(l.after - time.Since(began))
						if got := ask(t, p); got != l.want {
							t.Errorf("after %v: %s, want %s", l.after, got, l.want)
						}
					}
				})
			})
		}
		if c.from != "memory" {
			for _, l := range c.look { // each by a process that has nothing in memory
				t.Run(fmt.Sprint(c.name, "/redis/", l.after), func(t *testing.T) {
					bubble(t, func(t *testing.T, w *lab.World) {
						a, b := start(t, w, "A", c.o, nil), start(t, w, "B", c.o, nil)
						began := time.Now()
						_, _ = a.cache.GetOrLoad(background, "k", constant("v1"))
						time.Sleep(l.after - time.Since(began))
						if got := ask(t, b); got != l.want {
							t.Errorf("%s, want %s", got, l.want)
						}
						a.stop()
						b.stop()
					})
				})
			}
		}
	}
}

// The server's clock jumps while a value is in Redis. Forward: it ends earlier by that. Back: Redis itself keeps it longer by
// that, and so do processes that come to know the clock afterwards; what is in memory is not longer served.
func TestServerClockJumps(t *testing.T) {
	for _, c := range []struct {
		jump  time.Duration
		after time.Duration
		want  bool // found by a process that starts then
	}{
		{time.Hour, 0, false},
		{50 * time.Second, 5 * time.Second, true},
		{50 * time.Second, 10 * time.Second, false},
		{-50 * time.Second, time.Minute, true},
		{-50 * time.Second, 110 * time.Second, false},
	} {
		t.Run(fmt.Sprint(c.jump, " ", c.after), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *lab.World) {
				o := Options{TTL: time.Minute, StaleWhileRevalidate: time.Second}
				a := start(t, w, "A", o, nil)
				_, _ = a.cache.GetOrLoad(background, "k", constant("v1"))
				w.Redis.SetTime(time.Now().Add(c.jump))
				time.Sleep(c.after)
				w.Redis.SetTime(time.Now().Add(c.jump))
				if _, ok := a.cache.core.local.get("k"); ok != (c.after < time.Minute) {
					t.Errorf("in the memory of who stored it: %v", ok)
				}
				b := start(t, w, "B", o, nil)
				_, err := b.cache.GetOrLoad(background, "k", nil, OnlyIfCached(), WithoutStale())
				if (err == nil) != c.want {
					t.Errorf("%v", err)
				}
				a.stop()
				b.stop()
			})
		})
	}
}

// Jitter shortens a TTL by at most its share, and is the same for all processes.
func TestJitter(t *testing.T) {
	for _, c := range []struct {
		jitter float64
		chance float64
		ttl    time.Duration
		want   time.Duration
	}{
		{0, 0, time.Minute, time.Minute}, // 0.1
		{0, 0.5, time.Minute, 57 * time.Second},
		{0.5, 1 - 1e-9, time.Minute, 30 * time.Second},
		{1, 1 - 1e-9, time.Minute, time.Millisecond},
		{-1, 0.5, time.Minute, time.Minute},
		{0, 0.5, time.Millisecond, time.Millisecond},
		{0, 0.5, 100 * years, 95 * years},
	} {
		bubble(t, func(t *testing.T, w *lab.World) {
			p := start(t, w, "A", Options{TTL: c.ttl, Jitter: c.jitter, NegativeTTL: c.ttl}, nil)
			if c.jitter == 0 {
				p.cache.core.opts.Jitter = 0.1
			}
			p.cache.core.chance = func(uint64) float64 { return c.chance }
			for i, load := range []Loader[string]{
				constant("v"),
				func(context.Context, string) (string, error) { return "", ErrNotFound },
			} {
				_, _ = p.cache.GetOrLoad(background, fmt.Sprint(i), load)
				if got := w.Redis.TTL(fmt.Sprint("cache:user:", i)); (got - c.want).Abs() > time.Millisecond {
					t.Errorf("jitter %v, chance %v: a TTL of %v becomes %v, want %v", c.jitter, c.chance, c.ttl, got, c.want)
				}
			}
			p.stop()
		})
	}
}

// Random draws are spread evenly, and a process draws the same for an entry each time, and not what another one draws.
func TestDraws(t *testing.T) {
	c, err := New[string]("user", Options{TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	other, err := New[string]("user", Options{TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	const n = 100_000
	cost := early.Cost{Mean: time.Second}
	sum, beyond, same := 0.0, 0, 0
	for range n {
		id := newOwner()
		got := c.core.ahead(id, time.Hour, cost)
		if got != c.core.ahead(id, time.Hour, cost) {
			t.Fatal("it draws anew")
		}
		if got == other.core.ahead(id, time.Hour, cost) {
			same++
		}
		x := (got.Seconds() - 1) / 0.5 // exponentially distributed, mean 1
		sum += x
		if x > 3 {
			beyond++
		}
	}
	if mean := sum / n; math.Abs(mean-1) > 0.02 {
		t.Errorf("mean %v, want 1", mean)
	}
	if share := float64(beyond) / n; math.Abs(share-math.Exp(-3)) > 0.005 {
		t.Errorf("%v beyond 3, want %v", share, math.Exp(-3))
	}
	if same > 1 {
		t.Errorf("two processes draw the same %d times", same)
	}
}

// The cost of loads travels with the value, smoothed, from process to process, and into the next stub.
func TestCostTravels(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{TTL: 10 * time.Second, StaleWhileRevalidate: time.Hour, LocalTTL: -1}, "A", "B")
		want := early.Cost{}
		for i, d := range []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, 50 * time.Millisecond} {
			p := ps[string("AB"[i%2])]
			_, _ = p.cache.Refresh(background, "k", loads(d, "v"))
			want = want.After(d)
			raw, _ := w.Redis.Get(fullKey)
			h, _, err := record.Open([]byte(raw))
			if got := (early.Cost{Mean: h.Cost, Deviation: h.Deviation}); err != nil || (got.Mean-want.Mean).Abs() > time.Microsecond || (got.Deviation-want.Deviation).Abs() > time.Microsecond {
				t.Errorf("after a load of %v: %v, want %v", d, got, want)
			}
		}
		a := ps["A"]
		a.get(background, "k", loads(time.Minute, "v"))
		time.Sleep(10 * time.Second)
		a.get(background, "k", loads(time.Minute, "v"))
		stopAll(ps)
	})
}

// Background refreshes are bounded; what is due beyond that is loaded when its turn comes.
func TestRefreshesAreBounded(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		c, err := New[string]("user", exact(Options{TTL: time.Minute, StaleWhileRevalidate: time.Hour}))
		if err != nil {
			t.Fatal(err)
		}
		c.core.soon = atOnce
		const keys = 3 * mostRefreshes
		var running, most atomic.Int32
		load := func(ctx context.Context, key string) (string, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			return loads(time.Second, "v")(ctx, key)
		}
		for i := range keys {
			_ = c.Set(background, fmt.Sprint(i), "old")
		}
		time.Sleep(time.Minute)
		ask := func() {
			for i := range keys {
				if _, err := c.GetOrLoad(background, fmt.Sprint(i), load); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
		}
		ask()
		if most.Load() != mostRefreshes {
			t.Errorf("%d loads at a time, want %d", most.Load(), mostRefreshes)
		}
		if s := c.Stats(); s.Refreshes != mostRefreshes || s.RefreshesSkipped != keys-mostRefreshes {
			t.Errorf("%d refreshes, %d skipped", s.Refreshes, s.RefreshesSkipped)
		}
		for range 2 {
			time.Sleep(time.Second)
			synctest.Wait()
			ask()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if s := c.Stats(); s.Loads != keys || s.StaleHits == 0 {
			t.Errorf("%+v", s)
		}
		ask()
		if n := c.core.refreshing.Load(); n != 0 {
			t.Errorf("%d are still counted", n)
		}
		_ = c.Close()
	})
}

// Close ends refreshes under way.
func TestCloseEndsRefreshes(t *testing.T) {
	alike(t, Options{TTL: time.Minute, StaleWhileRevalidate: time.Hour}, func(t *testing.T, p *proc) {
		_ = p.cache.Set(background, "k", "old")
		time.Sleep(time.Minute)
		p.get(background, "k", loads(time.Hour, "v")).must(t, "old", nil, 0)
		synctest.Wait()
		if n := p.cache.core.refreshing.Load(); n != 1 {
			t.Fatalf("%d refreshes", n)
		}
		if err := p.cache.Close(); err != nil || p.cache.core.refreshing.Load() != 0 {
			t.Errorf("%v, %d refreshes", err, p.cache.core.refreshing.Load())
		}
	})
}

// Refresh, one after the other and at once, in memory and with Redis.
func TestRefreshCalls(t *testing.T) {
	alike(t, Options{TTL: time.Minute}, func(t *testing.T, p *proc) {
		_ = p.cache.Set(background, "k", "v0")
		var n atomic.Int32
		load := func(ctx context.Context, key string) (string, error) {
			return loads(time.Second, fmt.Sprint("v", n.Add(1)))(ctx, key)
		}
		refresh := func() *answer {
			return p.call(func() (string, error) { return p.cache.Refresh(background, "k", load) })
		}
		first, second := refresh(), refresh() // one may come when the other's load has begun, and goes round
		p.get(background, "k", nil).must(t, "v0", nil, 0)
		time.Sleep(500 * time.Millisecond)
		late := refresh()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if min(first.value, second.value) != "v1" || max(first.value, second.value) > "v2" || late.value != "v2" {
			t.Errorf("%q, %q, and after a while %q", first.value, second.value, late.value)
		}
		if n.Load() != 2 {
			t.Errorf("%d loads", n.Load())
		}
		p.get(background, "k", nil).must(t, "v2", nil, 0)
		own := errors.New("own")
		if _, err := p.cache.Refresh(background, "k", func(context.Context, string) (string, error) { return "", own }); err != own { //nolint:errorlint // unchanged
			t.Error(err)
		}
		p.get(background, "k", nil).must(t, "v2", nil, 0)
	})
}

// Failures are remembered up to a bound, and the pause does not grow without end.
func TestFailures(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		var fs failures
		for i := range mostFailures + 10 {
			fs.note(fmt.Sprint(i), errLoad, time.Second)
		}
		if len(fs.m) != mostFailures {
			t.Errorf("%d are remembered", len(fs.m))
		}
		fs.forgetAll()
		for i := range 100 {
			want := time.Second << min(i, 4)
			if got := fs.note("k", errLoad, time.Second); got != want {
				t.Fatalf("pause %d: %v, want %v", i, got, want)
			}
			time.Sleep(want - 1)
			if err, yes := fs.last("k"); !yes || !errors.Is(err, errLoad) {
				t.Fatalf("%v %v", err, yes)
			}
			time.Sleep(time.Nanosecond)
			if _, yes := fs.last("k"); yes || !fs.failing("k") {
				t.Fatal("the pause goes on")
			}
		}
		time.Sleep(17 * time.Second)
		if got := fs.note("k", errLoad, time.Second); got != time.Second {
			t.Errorf("after a quiet time: %v", got)
		}
		if got := fs.note("long", errLoad, maxBackoff); got != maxBackoff {
			t.Error(got)
		}
	})
}

// A load that takes far longer than the loads of its key did is taken over: P8.
func TestPatience(t *testing.T) {
	for _, c := range []struct {
		known early.Cost
		want  time.Duration
	}{
		{early.Cost{}, 0},
		{early.Cost{Mean: 10 * time.Millisecond}, 4 * time.Second},
		{early.Cost{Mean: time.Second}, 10 * time.Second},
		{early.Cost{Mean: time.Second, Deviation: time.Second}, 50 * time.Second},
	} {
		c1, err := New[string]("user", Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := c1.core.patience(&flight{known: c.known}); got != c.want {
			t.Errorf("%v: %v, want %v", c.known, got, c.want)
		}
		_ = c1.Close()
	}
}

// Years of virtual time with a subscription would take hours: the digits of a record are tested by themselves.
func TestRecordOfYears(t *testing.T) {
	c := coderFor[string](t, Options{})
	now := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	raw := c.seal("k", life{freshUntil: now + (100 * years).Microseconds(), stale: 10 * years}, nil)
	h, _, err := record.Open(raw)
	if err != nil || h.StaleUntil != now+(110*years).Microseconds() || h.StaleUntil >= 9e15 {
		t.Errorf("%+v, %v", h, err)
	}
}
