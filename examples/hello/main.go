package main

import (
	"context"
	"fmt"
	"time"

	"github.com/bellwether-go/cache"
)

type User struct{ Name string }

// loadUser stands for a slow query.
func loadUser(_ context.Context, id string) (User, error) {
	fmt.Println("loading", id)
	return User{Name: "Ann"}, nil
}

func main() {
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
}
