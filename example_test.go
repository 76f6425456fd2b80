package cache_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache"
)

type User struct{ Name string }

// loadUser stands for a slow query.
func loadUser(_ context.Context, id string) (User, error) {
	fmt.Println("loading", id)
	return User{Name: "Ann"}, nil
}

func Example() {
	users, err := cache.New[User]("user", cache.Options{TTL: 10 * time.Minute})
	if err != nil {
		panic(err)
	}
	defer users.Close()

	ctx := context.Background()
	for range 3 {
		u, err := users.GetOrLoad(ctx, "42", loadUser)
		fmt.Println(u.Name, err)
	}
	// Output:
	// loading 42
	// Ann <nil>
	// Ann <nil>
	// Ann <nil>
}

// With Redis, processes share values and loads. The calls stay the same.
func ExampleNewRedis() {
	server, err := miniredis.Run() // a real one in production
	if err != nil {
		panic(err)
	}
	defer server.Close()

	ctx := context.Background()
	for process := range 2 {
		client := redis.NewClient(&redis.Options{Addr: server.Addr()})
		rds, err := cache.NewRedis(client, cache.RedisOptions{Prefix: "shop", Timeout: time.Second})
		if err != nil {
			panic(err)
		}
		users, err := cache.New[User]("user", cache.Options{Redis: rds, TTL: 10 * time.Minute})
		if err != nil {
			panic(err)
		}
		u, err := users.GetOrLoad(ctx, "42", loadUser)
		fmt.Println("process", process, u.Name, err)
		_ = users.Close()
		_ = rds.Close()
		_ = client.Close()
	}
	// Output:
	// loading 42
	// process 0 Ann <nil>
	// process 1 Ann <nil>
}

// A loader that wraps ErrNotFound has the answer cached, so that keys that do not exist do not reach the origin.
func ExampleErrNotFound() {
	users, err := cache.New[User]("user", cache.Options{NegativeTTL: time.Minute})
	if err != nil {
		panic(err)
	}
	defer users.Close()
	for range 2 {
		_, err := users.GetOrLoad(context.Background(), "7", func(context.Context, string) (User, error) {
			return User{}, fmt.Errorf("no such user: %w", cache.ErrNotFound)
		})
		fmt.Println(errors.Is(err, cache.ErrNotFound))
	}
	fmt.Println(users.Stats().Loads, "load")
	// Output:
	// true
	// true
	// 1 load
}

// Delete after the change is committed: no call that starts later gets the old value.
func ExampleCache_Delete() {
	users, err := cache.New[User]("user", cache.Options{})
	if err != nil {
		panic(err)
	}
	defer users.Close()
	ctx := context.Background()
	name := "Ann"
	load := func(context.Context, string) (User, error) { return User{Name: name}, nil }

	u, _ := users.GetOrLoad(ctx, "42", load)
	fmt.Println(u.Name)
	name = "Anna" // UPDATE users SET ...; COMMIT
	if err := users.Delete(ctx, "42"); err != nil {
		fmt.Println("delete again:", err)
	}
	u, _ = users.GetOrLoad(ctx, "42", load)
	fmt.Println(u.Name)
	// Output:
	// Ann
	// Anna
}
