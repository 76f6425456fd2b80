package cache_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bellwether-go/cache"
)

// usersByID is a batch loader: one query for all keys. Rows that are not there are left out, and that is cached too. (With
// PostgreSQL, pass the keys as one array: WHERE id = ANY($1).)
func usersByID(ctx context.Context, db *sql.DB, ids []string) (map[string]string, error) {
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	in := strings.TrimSuffix(strings.Repeat("?, ", len(ids)), ", ")
	rows, err := db.QueryContext(ctx, "SELECT id, name FROM users WHERE id IN ("+in+")", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	users := make(map[string]string, len(ids))
	for rows.Next() {
		var id, name string
		if err := rows.Scan(&id, &name); err != nil {
			return users, err // those that were read are kept
		}
		users[id] = name
	}
	return users, rows.Err()
}

// The rows of one query, whoever asks for which of them.
func ExampleCache_GetOrLoadMany() {
	db := openDatabase(map[string]string{"1": "Ann", "2": "Bob", "3": "Eve"}) // which prints queries
	users, err := cache.New[string]("user", cache.Options{})
	if err != nil {
		panic(err)
	}
	defer users.Close()
	load := func(ctx context.Context, ids []string) (map[string]string, error) { return usersByID(ctx, db, ids) }

	ctx := context.Background()
	found, err := users.GetOrLoadMany(ctx, []string{"1", "2", "7"}, load)
	fmt.Println(found, err)
	found, err = users.GetOrLoadMany(ctx, []string{"3", "2", "1", "7"}, load)
	fmt.Println(found, err)
	name, err := users.GetOrLoad(ctx, "3", func(context.Context, string) (string, error) { panic("not called") })
	fmt.Println(name, err)
	// Output:
	// SELECT id, name FROM users WHERE id IN (?, ?, ?) [1 2 7]
	// map[1:Ann 2:Bob] <nil>
	// SELECT id, name FROM users WHERE id IN (?) [3]
	// map[1:Ann 2:Bob 3:Eve] <nil>
	// Eve <nil>
}

// A set that is too large to be in memory at once is taken in parts.
func ExampleCache_GetOrLoadSeq() {
	db := openDatabase(map[string]string{"1": "Ann", "2": "Bob", "3": "Eve"})
	users, err := cache.New[string]("user", cache.Options{MaxBatchKeys: 2})
	if err != nil {
		panic(err)
	}
	defer users.Close()
	load := func(ctx context.Context, ids []string) (map[string]string, error) { return usersByID(ctx, db, ids) }

	ids := slices.Values([]string{"1", "2", "3", "4", "5"}) // of a cursor, or a file
	for part, err := range users.GetOrLoadSeq(context.Background(), ids, load) {
		fmt.Println(part, err)
	}
	// Output:
	// SELECT id, name FROM users WHERE id IN (?, ?) [1 2]
	// map[1:Ann 2:Bob] <nil>
	// SELECT id, name FROM users WHERE id IN (?, ?) [3 4]
	// map[3:Eve] <nil>
	// SELECT id, name FROM users WHERE id IN (?) [5]
	// map[] <nil>
}

// Keys fail one by one, and who asks is told which.
func ExampleLoadError() {
	prices, err := cache.New[int]("price", cache.Options{})
	if err != nil {
		panic(err)
	}
	defer prices.Close()
	load := func(_ context.Context, ids []string) (map[string]int, error) {
		found := make(map[string]int)
		var failed []error
		for i, id := range ids { // as a service answers that reports an error for each of them
			if id == "b" {
				failed = append(failed, &cache.LoadError{Key: id, Err: errors.New("currency unknown")})
				continue
			}
			found[id] = 100 + i
		}
		return found, errors.Join(failed...)
	}

	found, err := prices.GetOrLoadMany(context.Background(), []string{"a", "b", "c"}, load)
	fmt.Println(found, err)
	var failed interface{ Unwrap() []error }
	if errors.As(err, &failed) {
		for _, err := range failed.Unwrap() {
			var of *cache.LoadError
			if errors.As(err, &of) {
				fmt.Println(of.Key, "failed:", of.Err)
			}
		}
	}
	// Output:
	// map[a:100 c:102] cache: a key failed: currency unknown
	// b failed: currency unknown
}
