package comingfrom

import (
	"context"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"golang.org/x/sync/singleflight"
)

func lru(db *database) *service {
	// [before golang-lru]
	users := expirable.NewLRU[string, User](10_000, nil, 10*time.Minute)
	var flights singleflight.Group
	get := func(ctx context.Context, id string) (User, error) {
		if u, ok := users.Get(id); ok {
			return u, nil
		}
		u, err, _ := flights.Do(id, func() (any, error) {
			u, err := db.User(ctx, id)
			if err == nil {
				users.Add(id, u)
			}
			return u, err
		})
		return u.(User), err
	}
	changed := func(id string) {
		users.Remove(id)
	}
	// [end]
	return &service{get, local(changed), func() {}}
}
