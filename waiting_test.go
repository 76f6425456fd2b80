package cache

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// held loads when it is let to.
func held(let <-chan struct{}) Loader[string] {
	return func(_ context.Context, key string) (string, error) {
		<-let
		return "v" + key, nil
	}
}

// wait is how many callers wait.
func wait(p *proc) int {
	fs := p.cache.core.flights
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.room.waiting
}

// No more calls wait than there may be; whoever returns makes room.
func TestMaxWaiting(t *testing.T) {
	alike(t, Options{MaxWaiting: 3}, func(t *testing.T, p *proc) {
		let := make(chan struct{})
		if _, err := p.cache.GetOrLoad(background, "there", func(context.Context, string) (string, error) { return "v", nil }); err != nil {
			t.Error(err)
		}
		ctx, leaves := context.WithCancel(background)
		in := []*answer{p.get(background, "a", held(let)), p.get(background, "a", held(let)), p.get(ctx, "b", held(let))}
		synctest.Wait()
		full := func() {
			t.Helper()
			out := []*answer{p.get(background, "a", held(let)), p.get(background, "c", held(let)), p.get(background, "a", held(let), WithoutStale())}
			synctest.Wait()
			for _, a := range out {
				if !a.done || !errors.Is(a.err, ErrOverloaded) || a.took != 0 {
					t.Errorf("%+v", a)
				}
			}
			if v, err := p.cache.GetOrLoad(background, "there", nil); v != "v" || err != nil {
				t.Errorf("from memory: %q, %v", v, err)
			}
		}
		full()
		leaves()
		synctest.Wait()
		in[2] = p.get(background, "c", held(let))
		synctest.Wait()
		full()
		close(let)
		p.calls.Wait()
		for i, a := range in {
			if want := []string{"va", "va", "vc"}[i]; a.value != want || a.err != nil {
				t.Errorf("%+v", a)
			}
		}
		if n := wait(p); n != 0 {
			t.Errorf("%d are counted when all have left", n)
		}
		if n := p.cache.Stats().CallsTurnedAway; n != 6 {
			t.Errorf("%d were turned away", n)
		}
	})
}

// Many may wait, but not for one key.
func TestMaxWaitingPerKey(t *testing.T) {
	alike(t, Options{MaxWaitingPerKey: 2}, func(t *testing.T, p *proc) {
		let := make(chan struct{})
		var in []*answer
		for _, key := range []string{"a", "b", "a", "b", "c"} {
			in = append(in, p.get(background, key, held(let)))
			synctest.Wait()
		}
		out := p.get(background, "a", held(let))
		synctest.Wait()
		if !errors.Is(out.err, ErrOverloaded) {
			t.Errorf("%+v", out)
		}
		close(let)
		p.calls.Wait()
		for _, a := range in {
			if a.err != nil {
				t.Errorf("%+v", a)
			}
		}
	})
}

// What is stale is served to those who may not wait, if that is allowed after an error; not to those who want none.
func TestTurnedAwayWithStale(t *testing.T) {
	alike(t, Options{MaxWaiting: 1, TTL: time.Second, LocalTTL: time.Minute, StaleIfError: time.Minute}, func(t *testing.T, p *proc) {
		let := make(chan struct{})
		if _, err := p.cache.GetOrLoad(background, "a", func(context.Context, string) (string, error) { return "old", nil }); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		p.get(background, "b", held(let))
		synctest.Wait()
		stale, no, strict := p.get(background, "a", held(let)), p.get(background, "c", held(let)), p.get(background, "a", held(let), WithoutStale())
		synctest.Wait()
		if stale.value != "old" || stale.err != nil || !errors.Is(no.err, ErrOverloaded) || !errors.Is(strict.err, ErrOverloaded) {
			t.Errorf("%+v, %+v, %+v", stale, no, strict)
		}
		if n := p.cache.Stats().StaleHits; n != 1 {
			t.Errorf("%d stale hits", n)
		}
		close(let)
		p.calls.Wait()
		time.Sleep(2 * time.Minute)
		let = make(chan struct{})
		p.get(background, "b", held(let))
		synctest.Wait()
		late := p.get(background, "a", held(let))
		synctest.Wait()
		if !errors.Is(late.err, ErrOverloaded) {
			t.Errorf("too old to be served: %+v", late)
		}
		close(let)
		p.calls.Wait()
	})
}

// Each key of a batch counts, but the batch is let in or turned away as a whole: one of more keys than may wait succeeds too.
func TestMaxWaitingOfBatch(t *testing.T) {
	alike(t, Options{MaxWaiting: 3}, func(t *testing.T, p *proc) {
		let := make(chan struct{})
		many := func(keys ...string) (found map[string]string, err error) {
			return p.cache.GetOrLoadMany(background, keys, func(_ context.Context, keys []string) (map[string]string, error) {
				<-let
				values := map[string]string{}
				for _, k := range keys {
					values[k] = "v" + k
				}
				return values, nil
			})
		}
		p.get(background, "a", held(let))
		synctest.Wait()
		p.calls.Go(func() {
			if found, err := many("b", "b", "c", "d", "c"); len(found) != 3 || found["d"] != "vd" || err != nil {
				t.Errorf("%v, %v", found, err)
			}
		})
		synctest.Wait()
		if n := wait(p); n != 4 {
			t.Errorf("%d wait", n)
		}
		found, err := many("d", "e")
		var of *LoadError
		if len(found) != 0 || !errors.Is(err, ErrOverloaded) || !errors.As(err, &of) {
			t.Errorf("%v, %v", found, err)
		}
		close(let)
		p.calls.Wait()
		if n := wait(p); n != 0 {
			t.Errorf("%d are counted when all have left", n)
		}
	})
}

// A loader that needs another key is let in: others wait for it.
func TestLoadersAreLetIn(t *testing.T) {
	alike(t, Options{MaxWaiting: 1, MaxWaitingPerKey: 1}, func(t *testing.T, p *proc) {
		v, err := p.cache.GetOrLoad(background, "a", func(ctx context.Context, _ string) (string, error) {
			return p.cache.GetOrLoad(ctx, "b", func(context.Context, string) (string, error) { return "v", nil })
		})
		if v != "v" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
	})
}
