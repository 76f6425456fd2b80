package comingfrom

import (
	"context"
	"errors"
	"time"

	"github.com/viccon/sturdyc"
)

func sturdy(db *database) *service {
	// [before sturdyc]
	users := sturdyc.New[User](10_000, 10, time.Hour, 10,
		sturdyc.WithEarlyRefreshes(8*time.Minute, 9*time.Minute, 10*time.Minute, time.Second),
		sturdyc.WithMissingRecordStorage(),
	)
	get := func(ctx context.Context, id string) (User, error) {
		return users.GetOrFetch(ctx, "user-"+id, func(ctx context.Context) (User, error) {
			u, err := db.User(ctx, id)
			if errors.Is(err, errNoUser) {
				err = sturdyc.ErrNotFound
			}
			return u, err
		})
	}
	changed := func(id string) {
		users.Delete("user-" + id)
	}
	// [end]
	return &service{get, local(changed), func() {}}
}
