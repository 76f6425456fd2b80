// Package loaderctx has loaders that use contexts.
package loaderctx

import (
	"context"
	"net/http"
	"time"

	"github.com/bellwether-go/cache"
)

type User struct{ Name string }

type usersByID = cache.Loader[User]

type batch = cache.BatchLoader[*User]

func query(ctx context.Context, id string) (User, error) { return User{id}, ctx.Err() }

func queryAll(ctx context.Context, ids []string) (map[string]User, error) { return nil, ctx.Err() }

func captured(ctx context.Context, users *cache.Cache[User]) {
	users.GetOrLoad(ctx, "1", func(own context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller; a load is shared by callers and outlives them: use the loader's own context`
	})
	users.Refresh(ctx, "1", func(_ context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	}, cache.WithTags("a"))
	users.GetOrLoad(ctx, "1", func(context.Context, string) (User, error) {
		return query(ctx, "1") // want `loader uses ctx of its caller`
	})
	users.GetOrLoadMany(ctx, nil, func(c context.Context, ids []string) (map[string]User, error) {
		return queryAll(ctx, ids) // want `loader uses ctx of its caller`
	})
	for range users.GetOrLoadSeq(ctx, nil, func(c context.Context, ids []string) (map[string]User, error) {
		return queryAll(ctx, ids) // want `loader uses ctx of its caller`
	}) {
		continue
	}
	users.GetOrLoad(ctx, "1", (func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	}))
}

// Once for each variable, and one fix for all of its uses.
func twice(outer context.Context, users *cache.Cache[User]) {
	timed, cancel := context.WithTimeout(outer, time.Second)
	defer cancel()
	users.GetOrLoad(timed, "1", func(ctx context.Context, id string) (User, error) {
		if timed.Err() != nil { // want `loader uses timed of its caller`
			return User{}, timed.Err()
		}
		go query(outer, id) // want `loader uses outer of its caller`
		return query(ctx, id)
	})
}

func request(w http.ResponseWriter, r *http.Request, users *cache.Cache[User]) {
	id := r.PathValue("id")
	users.GetOrLoad(r.Context(), id, func(ctx context.Context, id string) (User, error) {
		return query(r.Context(), id) // want `loader uses r.Context\(\) of its caller`
	})
	users.GetOrLoad(r.Context(), id, func(_ context.Context, id string) (User, error) {
		return query(r.Context(), id) // want `loader uses r.Context\(\) of its caller`
	})
}

type other struct{ ctx string }

// Fields are in no scope, and may have the name that the parameter gets.
func fields(request context.Context, users *cache.Cache[User]) {
	users.GetOrLoad(request, "1", func(_ context.Context, id string) (User, error) {
		return query(request, other{ctx: id}.ctx) // want `loader uses request of its caller`
	})
}

// Whatever makes a literal a loader.
func ways(ctx context.Context, users *cache.Cache[User]) (usersByID, error) {
	_ = cache.Loader[User](func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	})
	_ = batch(func(c context.Context, ids []string) (map[string]*User, error) {
		return nil, ctx.Err() // want `loader uses ctx of its caller`
	})
	var declared cache.Loader[User] = func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	}
	declared = func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	}
	load := func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	}
	users.GetOrLoad(ctx, "1", load)
	var later func(context.Context, string) (User, error)
	later = func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	}
	users.GetOrLoad(ctx, "1", later)
	get := users.GetOrLoad // a method value
	get(ctx, "1", func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	})
	(*cache.Cache[User]).GetOrLoad(users, ctx, "1", func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	})
	_ = struct{ load usersByID }{func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	}}
	_ = map[string]*struct{ load usersByID }{"a": {load: func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	}}}
	many := append([]usersByID(nil), func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	})
	first := make(chan usersByID, 1)
	first <- func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	}
	use(declared, many[0], func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	})
	return func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	}, nil
}

func use(...cache.Loader[User]) {}

// Generic code, and caches behind an interface or in a struct.
func generic[V any](ctx context.Context, c *cache.Cache[V], load func(context.Context, string) (V, error)) (V, error) {
	return c.GetOrLoad(ctx, "1", func(c context.Context, id string) (V, error) {
		return load(ctx, id) // want `loader uses ctx of its caller`
	})
}

type getter interface {
	GetOrLoad(ctx context.Context, key string, loader cache.Loader[User], opts ...cache.CallOption) (User, error)
}

type service struct {
	*cache.Cache[User]
	base context.Context
}

func (s *service) get(ctx context.Context, users getter) {
	users.GetOrLoad(ctx, "1", func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	})
	s.GetOrLoad(ctx, "1", func(c context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	})
}

// A loader that calls a cache is a caller for the loader in it.
func nested(ctx context.Context, users *cache.Cache[User], names *cache.Cache[string]) {
	users.GetOrLoad(ctx, "1", func(one context.Context, id string) (User, error) {
		name, err := names.GetOrLoad(one, id, func(two context.Context, id string) (string, error) {
			if ctx.Err() != nil { // want `loader uses ctx of its caller`
				return "", nil
			}
			u, err := query(one, id) // want `loader uses one of its caller`
			return u.Name, err
		})
		return User{name}, err
	})
}

// Contexts that come from somewhere.
func origins(ctx context.Context, users *cache.Cache[User], given any) {
	mixed := context.Background()
	if ctx != nil {
		mixed = ctx
	}
	timed, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	asserted := given.(context.Context)
	valued := context.WithValue(ctx, "a", "b")
	walked := context.Background()
	for _, walked = range []context.Context{ctx} {
		walked.Err()
	}
	users.GetOrLoad(ctx, "1", func(c context.Context, id string) (User, error) {
		query(mixed, id)    // want `loader uses mixed of its caller`
		query(timed, id)    // want `loader uses timed of its caller`
		query(asserted, id) // want `loader uses asserted of its caller`
		query(valued, id)   // want `loader uses valued of its caller`
		query(walked, id)   // want `loader uses walked of its caller`
		return User{}, nil
	})
	for _, each := range []context.Context{ctx} {
		users.GetOrLoad(each, "1", func(c context.Context, id string) (User, error) {
			return query(each, id) // want `loader uses each of its caller`
		})
	}
}
