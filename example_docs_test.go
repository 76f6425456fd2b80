package cache_test

import (
	"context"
	"log"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache"
)

// Code that the documentation shows and that no example runs. It compiles, and TestGuardCode finds it here.

func _(ctx context.Context, rds *cache.Redis, newest, oldest cache.Secret) error {
	users, err := cache.New[User]("user", cache.Options{Redis: rds, Secrets: []cache.Secret{newest, oldest}})
	if err != nil {
		return err
	}

	u, err := users.GetOrLoad(ctx, "42", loadUser)

	log.Print(u)
	return err
}

func _(ctx context.Context, users *cache.Cache[User], ids []string, loadUsers cache.BatchLoader[User]) (map[string]User, error) {
	found, err := users.GetOrLoadMany(ctx, ids, loadUsers) // func(ctx, ids) (map[string]User, error)

	return found, err
}

func _(client, node1, node2, node3 *redis.Client) error {
	rds, err := cache.NewRedis(client, cache.RedisOptions{
		LockNodes: []cache.Client{node1, node2, node3},
	})
	if err != nil {
		return err
	}
	return rds.Close()
}

func _(rds *cache.Redis) cache.Options {
	return cache.Options{
		Redis: rds,

		MaxLoads: 48,

		OnStuckLoad: func(l cache.StuckLoad) { log.Print(l) },
	}
}
