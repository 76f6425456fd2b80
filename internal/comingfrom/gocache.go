package comingfrom

import (
	"context"
	"time"

	"github.com/patrickmn/go-cache"
)

func goCache(db *database) *service {
	// [before go-cache]
	users := cache.New(10*time.Minute, time.Minute)
	get := func(ctx context.Context, id string) (User, error) {
		if u, ok := users.Get(id); ok {
			return u.(User), nil
		}
		u, err := db.User(ctx, id)
		if err == nil {
			users.Set(id, u, cache.DefaultExpiration)
		}
		return u, err
	}
	changed := func(id string) {
		users.Delete(id)
	}
	// [end]
	return &service{get, local(changed), func() {}}
}
