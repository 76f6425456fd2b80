package cache_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/gob"
	"encoding/hex"
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

// When Redis is down the cache goes on, each process for itself. NewRedis does not wait for it.
func ExampleNewRedis_down() {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1}) // nobody is there
	defer client.Close()

	rds, err := cache.NewRedis(client, cache.RedisOptions{}) // any client of go-redis; one for each process
	if err != nil {
		panic(err)
	}
	defer rds.Close()
	users, err := cache.New[User]("user", cache.Options{Redis: rds, TTL: 10 * time.Minute})
	if err != nil {
		panic(err)
	}
	defer users.Close()

	u, err := users.GetOrLoad(context.Background(), "42", loadUser)
	fmt.Println(u.Name, err)
	// Output:
	// loading 42
	// Ann <nil>
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
		fmt.Println("Redis does not confirm, it will be repeated:", err)
	}
	u, _ = users.GetOrLoad(ctx, "42", load)
	fmt.Println(u.Name)
	// Output:
	// Ann
	// Anna
}

// Tags find values by what they are made of.
func ExampleCache_DeleteTags() {
	pages, err := cache.New[string]("page", cache.Options{Tags: true})
	if err != nil {
		panic(err)
	}
	defer pages.Close()
	render := func(ctx context.Context, path string) (string, error) {
		fmt.Println("rendering", path)
		cache.LoadFrom(ctx).SetTags("user:42", "layout") // what only the loader knows
		return "<p>Ann</p>", nil
	}

	ctx := context.Background()
	get := func(path string) {
		if _, err := pages.GetOrLoad(ctx, path, render, cache.WithTags("site:en")); err != nil {
			fmt.Println(err)
		}
	}
	get("/ann")
	get("/ann")
	fmt.Println(pages.DeleteTags(ctx, "user:42"))
	get("/ann")
	fmt.Println(pages.Clear(ctx))
	get("/ann")
	// Output:
	// rendering /ann
	// <nil>
	// rendering /ann
	// <nil>
	// rendering /ann
}

// After a write through this process, Set saves the next reader the load. If two writers may overtake each other, Delete is
// the safer choice.
func ExampleCache_Set() {
	users, err := cache.New[User]("user", cache.Options{})
	if err != nil {
		panic(err)
	}
	defer users.Close()
	ctx := context.Background()

	// UPDATE users SET ...; COMMIT
	if err := users.Set(ctx, "42", User{Name: "Anna"}); err != nil {
		fmt.Println("delete it instead:", err)
	}
	u, err := users.GetOrLoad(ctx, "42", loadUser)
	fmt.Println(u.Name, err)
	// Output: Anna <nil>
}

// Get looks and never loads.
func ExampleCache_Get() {
	users, err := cache.New[User]("user", cache.Options{})
	if err != nil {
		panic(err)
	}
	defer users.Close()
	_, ok := users.Get(context.Background(), "42")
	fmt.Println(ok)
	// Output: false
}

// A caller has its own deadline. The load goes on, and the next caller finds its value.
func ExampleCache_GetOrLoad_deadline() {
	users, err := cache.New[User]("user", cache.Options{})
	if err != nil {
		panic(err)
	}
	defer users.Close()
	slow := make(chan struct{})
	load := func(context.Context, string) (User, error) {
		<-slow
		return User{Name: "Ann"}, nil
	}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err = users.GetOrLoad(ctx, "42", load)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))

	close(slow)
	u, err := users.GetOrLoad(context.Background(), "42", load)
	fmt.Println(u.Name, err, users.Stats().Loads, "load")
	// Output:
	// true
	// Ann <nil> 1 load
}

// database stands for whatever a loader needs.
type database struct{ names map[string]string }

func (d *database) user(_ context.Context, id string) (User, error) {
	name, ok := d.names[id]
	if !ok {
		return User{}, cache.ErrNotFound
	}
	return User{Name: name}, nil
}

// A loader is a function: a method of what it needs will do.
func ExampleLoader() {
	users, err := cache.New[User]("user", cache.Options{})
	if err != nil {
		panic(err)
	}
	defer users.Close()
	db := &database{names: map[string]string{"42": "Ann"}}
	u, err := users.GetOrLoad(context.Background(), "42", db.user)
	fmt.Println(u.Name, err)
	_, err = users.GetOrLoad(context.Background(), "43", db.user)
	fmt.Println(err)
	// Output:
	// Ann <nil>
	// cache: not found
}

// One call may have a TTL of its own.
func ExampleWithTTL() {
	users, err := cache.New[User]("user", cache.Options{TTL: time.Hour})
	if err != nil {
		panic(err)
	}
	defer users.Close()
	ctx := context.Background()
	_, _ = users.GetOrLoad(ctx, "guest", loadUser, cache.WithTTL(-1)) // not stored
	_, ok := users.Get(ctx, "guest")
	fmt.Println(ok)
	// Output:
	// loading guest
	// false
}

// New tells everything that is wrong with its options.
func ExampleNew_mistakes() {
	_, err := cache.New[User]("user:v2", cache.Options{TTL: -1, Lease: 48 * time.Hour})
	fmt.Println(err)
	// Output:
	// cache: name "user:v2": want letters, digits and - _ . / only
	// cache: Options.TTL is -1ns: want 1ms to 100 years
	// cache: Options.Lease is 48h0m0s: want 1ms to 1h
}

// The memory tier is bounded by entries, by bytes, or by both.
func ExampleOptions_memory() {
	pages, err := cache.New[[]byte]("page", cache.Options{
		LocalEntries: 1000,
		LocalBytes:   64 << 20,
		TTL:          time.Minute,
	})
	fmt.Println(pages != nil, err)
	// Output: true <nil>
}

// When stored values cannot be read as V any more, raise the version: while a deploy is under way, new processes
// replace the entries of old ones, and old ones leave the new entries alone.
func ExampleOptions_version() {
	type UserV2 struct{ First, Last string }
	users, err := cache.New[UserV2]("user", cache.Options{Version: 2, Codec: cache.JSON{}})
	fmt.Println(users != nil, err)
	// Output: true <nil>
}

// When others can write to your Redis, keep them from changing what your callers get: give all processes a secret of 32
// random bytes. To replace it, list the new one after the old one, then before it, then alone.
func ExampleSecret() {
	old, err := hex.DecodeString("8c0ee1d0f8a40ed1ad0a3ae65b8b9f5f2b9f5c3c4d7f0f8e3b1d5a6c7e8f9012") // from where you keep secrets
	if err != nil {
		panic(err)
	}
	newest := make(cache.Secret, 32)
	_, _ = rand.Read(newest)
	users, err := cache.New[User]("user", cache.Options{Secrets: []cache.Secret{newest, old}})
	fmt.Println(users != nil, err)
	fmt.Println(newest)
	// Output:
	// true <nil>
	// (secret)
}

// A panic in a loader reaches its callers as an error, and the key is free at once.
func ExamplePanicError() {
	users, err := cache.New[User]("user", cache.Options{})
	if err != nil {
		panic(err)
	}
	defer users.Close()
	_, err = users.GetOrLoad(context.Background(), "42", func(context.Context, string) (User, error) {
		panic("nil map")
	})
	var p *cache.PanicError
	if errors.As(err, &p) {
		fmt.Println(err, len(p.Stack) > 0)
	}
	// Output: cache: loader panicked: nil map true
}

// gobCodec is a Codec of one's own.
type gobCodec struct{}

func (gobCodec) Name() string { return "gob" }

func (gobCodec) Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

func (gobCodec) Unmarshal(data []byte, v any) error {
	return gob.NewDecoder(bytes.NewReader(data)).Decode(v)
}

// Any encoding can be used; its name keeps entries of different ones apart.
func ExampleCodec() {
	users, err := cache.New[User]("user", cache.Options{Codec: gobCodec{}})
	fmt.Println(users != nil, err)
	// Output: true <nil>
}

// Stats are for dashboards: loads against hits, and what became of leases.
func ExampleCache_Stats() {
	users, err := cache.New[User]("user", cache.Options{})
	if err != nil {
		panic(err)
	}
	defer users.Close()
	for range 5 {
		_, _ = users.GetOrLoad(context.Background(), "42", loadUser)
	}
	s := users.Stats()
	fmt.Println(s.Loads, s.LocalHits)
	// Output:
	// loading 42
	// 1 4
}
