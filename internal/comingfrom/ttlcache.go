package comingfrom

import (
	"context"
	"time"

	"github.com/jellydator/ttlcache/v3"
)

func ttl(db *database) *service {
	// [before ttlcache]
	load := func(c *ttlcache.Cache[string, User], id string) *ttlcache.Item[string, User] {
		u, err := db.User(context.Background(), id)
		if err != nil {
			return nil // the error ends here
		}
		return c.Set(id, u, ttlcache.DefaultTTL)
	}
	users := ttlcache.New(
		ttlcache.WithTTL[string, User](10*time.Minute),
		ttlcache.WithCapacity[string, User](10_000),
		ttlcache.WithDisableTouchOnHit[string, User](),
		ttlcache.WithLoader(ttlcache.NewSuppressedLoader(ttlcache.LoaderFunc[string, User](load), nil)),
	)
	go users.Start()
	get := func(id string) (u User, ok bool) {
		if item := users.Get(id); item != nil {
			return item.Value(), true
		}
		return u, false
	}
	changed := func(id string) {
		users.Delete(id)
	}
	// [end]
	orError := func(_ context.Context, id string) (User, error) {
		u, ok := get(id)
		if !ok {
			return User{}, errNoUser
		}
		return u, nil
	}
	return &service{orError, local(changed), users.Stop}
}
