package loaderctx

import (
	"context"

	"github.com/bellwether-go/cache"
)

// There is no fix where it would not compile or mean something else.

func shadowed(ctx context.Context, users *cache.Cache[User]) {
	users.GetOrLoad(ctx, "1", func(own context.Context, id string) (User, error) {
		if own := "shadow"; own != "" {
			return query(ctx, own) // want `loader uses ctx of its caller`
		}
		return query(own, id)
	})
}

func declaredWithin(ctx context.Context, users *cache.Cache[User]) {
	users.GetOrLoad(ctx, "1", func(_ context.Context, id string) (User, error) {
		ctx := context.WithValue(ctx, id, id) // want `loader uses ctx of its caller`
		return query(ctx, id)
	})
}

func anotherMeaning(request context.Context, ctx string, users *cache.Cache[User]) {
	users.GetOrLoad(request, ctx, func(_ context.Context, id string) (User, error) {
		return query(request, ctx) // want `loader uses request of its caller`
	})
}

func onlyUse(users *cache.Cache[User], from func() context.Context) {
	ctx := from()
	users.GetOrLoad(nil, "1", func(own context.Context, id string) (User, error) {
		return query(ctx, id) // want `loader uses ctx of its caller`
	})
}
