package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/bellwether-go/cache"
)

// many is GetOrLoadMany for some keys, with a loader that takes d and may fail, for all of them or for one.
func (w *worker) many(ctx context.Context, rng *rand.Rand, d time.Duration) {
	is := rng.Perm(hotKeys + setKeys + 1)[:2+rng.IntN(6)] // the last one is absentKey
	accident := rng.IntN(1000)
	asked := make(map[string]question)
	var keys []string
	for _, i := range is {
		keys = append(keys, keyName(i))
		asked[keyName(i)] = w.asks(i)
	}
	first := asked[keys[0]]
	values, err := w.cache.GetOrLoadMany(ctx, keys, func(ctx context.Context, keys []string) (map[string]value, error) {
		found := make(map[string]value)
		for _, key := range keys {
			i := asked[key].i
			k := &w.board.keys[i]
			k.loads.Add(1)
			w.me.loads.Add(1)
			version := k.version.Load()
			defer w.loading(k, version)()
			if w.Tags {
				cache.LoadFrom(ctx).ForKey(key).SetTags(tagName(i))
			}
			if i != absentKey {
				found[key] = value{key, version, make([]byte, 100)}
			}
		}
		switch {
		case accident < 20:
			return nil, errOrigin
		case accident < 25:
			panic("boom")
		case accident < 45:
			return found, &cache.LoadError{Key: keys[0], Err: errOrigin}
		}
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, errOrigin
		}
		return found, nil
	})
	w.me.calls.Add(1)
	w.waited(ctx, first.at, first.stopped)
	failed := make(map[string]bool)
	for _, err := range each(err) {
		var le *cache.LoadError
		if errors.As(err, &le) {
			failed[le.Key] = true
		}
		var p *cache.PanicError
		switch {
		case errors.Is(err, errOrigin):
			w.me.own.Add(1)
		case ctx.Err() != nil && errors.Is(err, ctx.Err()):
			w.me.ended.Add(1)
		case errors.As(err, &p) && p.Value == "boom":
			w.me.panics.Add(1)
		case errors.Is(err, context.DeadlineExceeded) && strings.Contains(err.Error(), "load abandoned"):
			w.me.abandoned.Add(1)
		default:
			w.broken("P3", "GetOrLoadMany(%v): %v", keys, err)
		}
	}
	for _, key := range keys {
		v, ok := values[key]
		switch {
		case ok:
			q := asked[key]
			q.answered(v)
		case !failed[key] && ctx.Err() == nil && key != keyName(absentKey):
			w.broken("P3", "GetOrLoadMany(%v): nothing for %s, and no error", keys, key)
		}
	}
	for key := range values {
		if !slices.Contains(keys, key) {
			w.broken("P10", "GetOrLoadMany(%v): a value for %s", keys, key)
		}
	}
}

// each returns the errors of a call for many keys.
func each(err error) []error {
	if err == nil {
		return nil
	}
	all, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{fmt.Errorf("not as documented: %w", err)}
	}
	return all.Unwrap()
}
