package comingfrom

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache"
)

func afterGoRedisCache(client *redis.Client, db *database) (*service, error) {
	// [after go-redis/cache]
	rds, err := cache.NewRedis(client, cache.RedisOptions{}) // one for each process
	if err != nil {
		return nil, err
	}
	users, err := cache.New[User]("user", cache.Options{
		Redis:        rds,
		TTL:          10 * time.Minute,
		LocalEntries: 10_000,
		LocalTTL:     time.Minute,
	})
	if err != nil {
		return nil, err
	}
	get := func(ctx context.Context, id string) (User, error) {
		return users.GetOrLoad(ctx, id, db.User)
	}
	changed := func(ctx context.Context, id string) error {
		return users.Delete(ctx, id)
	}
	// [end]
	return &service{get, changed, closing(users, rds)}, nil
}

func afterSturdyc(db *database) (*service, error) {
	// [after sturdyc]
	users, err := cache.New[User]("user", cache.Options{
		LocalEntries: 10_000,
		TTL:          10 * time.Minute,
		StaleIfError: 50 * time.Minute,
	})
	if err != nil {
		return nil, err
	}
	get := func(ctx context.Context, id string) (User, error) {
		return users.GetOrLoad(ctx, id, func(ctx context.Context, id string) (User, error) {
			u, err := db.User(ctx, id)
			if errors.Is(err, errNoUser) {
				err = cache.ErrNotFound
			}
			return u, err
		})
	}
	changed := func(ctx context.Context, id string) error {
		return users.Delete(ctx, id)
	}
	// [end]
	return &service{get, changed, closing(users, nil)}, nil
}

func afterOtter(db *database) (*service, error) {
	// [after otter]
	users, err := cache.New[User]("user", cache.Options{
		LocalEntries: 10_000,
		TTL:          10 * time.Minute,
	})
	if err != nil {
		return nil, err
	}
	get := func(ctx context.Context, id string) (User, error) {
		return users.GetOrLoad(ctx, id, db.User)
	}
	changed := func(ctx context.Context, id string) error {
		return users.Delete(ctx, id)
	}
	// [end]
	return &service{get, changed, closing(users, nil)}, nil
}

func afterTTLCache(db *database) (*service, error) {
	// [after ttlcache]
	users, err := cache.New[User]("user", cache.Options{
		TTL:          10 * time.Minute,
		LocalEntries: 10_000,
	})
	if err != nil {
		return nil, err
	}
	get := func(ctx context.Context, id string) (User, error) {
		return users.GetOrLoad(ctx, id, db.User)
	}
	changed := func(ctx context.Context, id string) error {
		return users.Delete(ctx, id)
	}
	// [end]
	return &service{get, changed, closing(users, nil)}, nil
}

func afterLRU(db *database) (*service, error) {
	// [after golang-lru]
	users, err := cache.New[User]("user", cache.Options{LocalEntries: 10_000, TTL: 10 * time.Minute})
	if err != nil {
		return nil, err
	}
	get := func(ctx context.Context, id string) (User, error) {
		return users.GetOrLoad(ctx, id, db.User)
	}
	changed := func(ctx context.Context, id string) error {
		return users.Delete(ctx, id)
	}
	// [end]
	return &service{get, changed, closing(users, nil)}, nil
}

func afterGoCache(db *database) (*service, error) {
	// [after go-cache]
	users, err := cache.New[User]("user", cache.Options{TTL: 10 * time.Minute})
	if err != nil {
		return nil, err
	}
	get := func(ctx context.Context, id string) (User, error) {
		return users.GetOrLoad(ctx, id, db.User)
	}
	changed := func(ctx context.Context, id string) error {
		return users.Delete(ctx, id)
	}
	// [end]
	return &service{get, changed, closing(users, nil)}, nil
}

func afterGroupcache(client *redis.Client, db *database) (*service, error) {
	// [after groupcache]
	rds, err := cache.NewRedis(client, cache.RedisOptions{}) // one for each process
	if err != nil {
		return nil, err
	}
	users, err := cache.New[User]("user", cache.Options{Redis: rds, TTL: time.Hour, LocalBytes: 64 << 20})
	if err != nil {
		return nil, err
	}
	get := func(ctx context.Context, id string) (User, error) {
		return users.GetOrLoad(ctx, id, db.User)
	}
	changed := func(ctx context.Context, id string) error {
		return users.Delete(ctx, id)
	}
	// [end]
	return &service{get, changed, closing(users, rds)}, nil
}

func afterAside(address string, db *database) (*service, error) {
	// [after rueidisaside]
	client := redis.NewClient(&redis.Options{Addr: address})
	rds, err := cache.NewRedis(client, cache.RedisOptions{Tracking: true})
	if err != nil {
		return nil, err
	}
	users, err := cache.New[User]("user", cache.Options{Redis: rds, TTL: 10 * time.Minute, Codec: cache.JSON{}})
	if err != nil {
		return nil, err
	}
	get := func(ctx context.Context, id string) (User, error) {
		return users.GetOrLoad(ctx, id, db.User)
	}
	changed := func(ctx context.Context, id string) error {
		return users.Delete(ctx, id)
	}
	// [end]
	end := closing(users, rds)
	return &service{get, changed, func() { end(); _ = client.Close() }}, nil
}

func afterMutex(db *database) (*service, error) {
	// [after a map with a mutex]
	users, err := cache.New[User]("user", cache.Options{})
	if err != nil {
		return nil, err
	}
	get := func(ctx context.Context, id string) (User, error) {
		return users.GetOrLoad(ctx, id, db.User)
	}
	changed := func(ctx context.Context, id string) error {
		return users.Delete(ctx, id)
	}
	// [end]
	return &service{get, changed, closing(users, nil)}, nil
}

func closing(users *cache.Cache[User], rds *cache.Redis) func() {
	return func() {
		_ = users.Close()
		if rds != nil {
			_ = rds.Close()
		}
	}
}
