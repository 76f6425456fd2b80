package cache

import (
	"context"
	"errors"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"
)

// getMany understands "get-many k,j load=1s without=j fails".
func (s *stage) getMany(a *actor, keys []string, opts map[string]string) {
	floors := make(map[string]int)
	for _, k := range keys {
		floors[k] = s.floor[a.cache.core.name+k]
	}
	s.begin(a, keys[0], opts, func(ctx context.Context, name string) string {
		values, err := a.cache.GetOrLoadMany(ctx, keys, s.batchLoader(a, name, opts))
		var words []string
		for _, k := range slices.Sorted(maps.Keys(values)) {
			if s.version(k, values[k]) < floors[k] {
				s.t.Errorf("%s got %q for %s, which was deleted before", name, values[k], k)
			}
			words = append(words, k+" "+quote(values[k]))
		}
		what := "gets " + strings.Join(words, ", ")
		if words == nil {
			what = "gets nothing"
		}
		var all manyErrors
		errors.As(err, &all)
		for _, err := range all {
			var p *PanicError
			if !errors.Is(err, errOrigin) && !errors.Is(err, ErrClosed) && ctx.Err() == nil && !errors.As(err, &p) {
				s.t.Errorf("%s got an error that is nobody's: %v", name, err)
			}
			what += "; " + err.Error()
		}
		return what
	})
}

// batchLoader reads the origin when it begins, and takes its time then.
func (s *stage) batchLoader(a *actor, name string, opts map[string]string) BatchLoader[string] {
	return func(ctx context.Context, keys []string) (map[string]string, error) {
		note := func(what string) { s.script.note(a, name, name+what) }
		found := make(map[string]string)
		s.script.mu.Lock()
		for _, k := range keys {
			vs := s.values(k)
			found[k] = vs[len(vs)-1]
		}
		s.script.mu.Unlock()
		delete(found, opts["without"])
		which := strings.Join(keys, ", ")
		note(" begins to load " + which)
		switch {
		case has(opts, "hangs"):
			<-s.hung
			return nil, nil
		case has(opts, "load"):
			select {
			case <-time.After(duration(opts["load"])):
			case <-ctx.Done():
				note("'s load of " + which + " is cancelled")
				return nil, ctx.Err()
			}
		}
		switch {
		case has(opts, "panics"):
			panic("at the origin")
		case has(opts, "exits"):
			runtime.Goexit()
		case has(opts, "fails"):
			note("'s load of " + which + " fails")
			return nil, errOrigin
		}
		note(" has loaded " + which)
		return found, nil
	}
}
