package comingfrom

import (
	"context"
	"time"

	"github.com/go-redis/cache/v9"
	"github.com/redis/go-redis/v9"
)

func goRedisCache(client *redis.Client, db *database) *service {
	// [before go-redis/cache]
	users := cache.New(&cache.Options{
		Redis:      client,
		LocalCache: cache.NewTinyLFU(10_000, time.Minute),
	})
	get := func(ctx context.Context, id string) (u User, err error) {
		err = users.Once(&cache.Item{
			Ctx:   ctx,
			Key:   "user:" + id,
			Value: &u,
			TTL:   10 * time.Minute,
			Do:    func(*cache.Item) (any, error) { return db.User(ctx, id) },
		})
		return u, err
	}
	changed := func(ctx context.Context, id string) error {
		return users.Delete(ctx, "user:"+id)
	}
	// [end]
	return &service{get, changed, func() {}}
}
