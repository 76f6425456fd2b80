package loaderctx

import (
	"context"
	"net/http"
	"os"
	"os/signal"
	"testing"
	"time"

	"github.com/bellwether-go/cache"
)

// None of these is reported.

var process = context.Background()

func own(ctx context.Context, users *cache.Cache[User]) {
	users.GetOrLoad(ctx, "1", func(ctx context.Context, id string) (User, error) { return query(ctx, id) })
	users.GetOrLoad(ctx, "1", func(ctx context.Context, id string) (User, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		func() { query(ctx, id) }()
		again := ctx
		return query(again, id)
	})
	users.GetOrLoad(ctx, "1", func(c context.Context, id string) (User, error) {
		load := func(ctx context.Context) (User, error) { return query(ctx, id) }
		return load(c)
	})
	users.GetOrLoad(ctx, "1", query)
	users.GetOrLoad(ctx, "1", nil)
}

func fromRoots(ctx context.Context, users *cache.Cache[User], t *testing.T, tb testing.TB, s *service) {
	root := context.Background()
	root = context.WithValue(root, "a", "b")
	cancelled, cancel := context.WithCancel(root)
	defer cancel()
	detached := context.WithoutCancel(ctx)
	signalled, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	test, test2, base := t.Context(), tb.Context(), s.base
	var late context.Context
	late = context.TODO()
	template, _ := http.NewRequest(http.MethodGet, "http://127.0.0.1/", nil)
	users.GetOrLoad(ctx, "1", func(_ context.Context, id string) (User, error) {
		for _, ctx := range []context.Context{context.Background(), process, http.DefaultClient.Jar.(context.Context)} {
			query(ctx, id)
		}
		query(root, id)
		query(cancelled, id)
		query(detached, id)
		query(signalled, id)
		query(test, id)
		query(test2, id)
		query(base, id)
		query(late, id)
		query(s.base, id)
		return query(template.Context(), id)
	})
}

// What the loader gives a variable is its own.
func handedOut(ctx context.Context, users *cache.Cache[User]) {
	var seen, replaced context.Context
	replaced = ctx
	users.GetOrLoad(ctx, "1", func(ctx context.Context, id string) (User, error) {
		seen, replaced = ctx, ctx
		return query(replaced, id)
	})
	query(seen, "1")
}

// These are no loaders.
func others(ctx context.Context, users *cache.Cache[User], load func(func(context.Context, string) (User, error))) {
	load(func(_ context.Context, id string) (User, error) { return query(ctx, id) })
	either := func(_ context.Context, id string) (User, error) { return query(ctx, id) }
	either = query
	users.GetOrLoad(ctx, "1", either) // which of them is not known
	replaced := func(_ context.Context, id string) (User, error) { return query(ctx, id) }
	func(f *func(context.Context, string) (User, error)) { *f = query }(&replaced)
	users.GetOrLoad(ctx, "1", replaced)
	mine := wrapped{ctx}
	users.GetOrLoad(ctx, "1", func(_ ctxType, id string) (User, error) { return query(mine, id) }) // what it is is not known
}

type ctxType = context.Context

type wrapped struct{ context.Context }
