package main

import (
	"context"
	"fmt"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/viccon/sturdyc"

	"github.com/bellwether-go/cache"
)

// Calls for many keys, in one process.

const (
	batchKeys = 1000
	batches   = 500     // of different keys, so that those which are loaded have long been evicted
	capacity  = 100_000 // entries
)

type user struct {
	Name string
	Age  int
}

func loadUsers(_ context.Context, keys []string) (map[string]user, error) {
	users := make(map[string]user, len(keys))
	for _, k := range keys {
		users[k] = user{k, 42}
	}
	return users, nil
}

// many compares calls for many keys: of what is in memory, of what is not, and of what is half there.
func many() []contest {
	all := make([][]string, batches)
	for b := range all {
		for k := range batchKeys {
			all[b] = append(all[b], fmt.Sprintf("user-%d-%d", b, k))
		}
	}
	half := make([][]string, batches) // the first half of each was in the batch before
	for b := range half {
		half[b] = append(append(half[b], all[b][:batchKeys/2]...), all[(b+1)%batches][:batchKeys/2]...)
	}
	var cs []contest
	for _, c := range []struct {
		name string
		keys [][]string
	}{
		{"1,000 keys at once, in memory, per key", all[:1]},
		{"1,000 keys at once, not in memory, per key", all},
		{"1,000 keys at once, half of them in memory, per key", half},
	} {
		cs = append(cs, contest{name: c.name, columns: perOperation, contenders: []contender{
			{"this package", "", func() (player, func()) { return ours(c.keys) }},
			{"otter BulkGet", "github.com/maypok86/otter/v2", func() (player, func()) { return otters(c.keys) }},
			{"sturdyc GetOrFetchBatch", "github.com/viccon/sturdyc", func() (player, func()) { return sturdycs(c.keys) }},
		}})
	}
	return cs
}

// inTurn calls f with one batch after the other.
func inTurn(batches [][]string, f func(ctx context.Context, keys []string) (map[string]user, error)) player {
	ctx := context.Background()
	n := 0
	return each(batchKeys, func() {
		users, err := f(ctx, batches[n%len(batches)])
		if err != nil || len(users) != batchKeys {
			panic(fmt.Sprintf("got %d values, %v", len(users), err))
		}
		n++
	})
}

func ours(batches [][]string) (player, func()) {
	c, err := cache.New[user]("user", cache.Options{TTL: time.Hour, LocalEntries: capacity})
	if err != nil {
		panic(err)
	}
	return inTurn(batches, func(ctx context.Context, keys []string) (map[string]user, error) {
		return c.GetOrLoadMany(ctx, keys, loadUsers)
	}), func() { _ = c.Close() }
}

func otters(batches [][]string) (player, func()) {
	c := otter.Must(&otter.Options[string, user]{
		MaximumSize: capacity, ExpiryCalculator: otter.ExpiryWriting[string, user](time.Hour),
	})
	loader := otter.BulkLoaderFunc[string, user](loadUsers)
	return inTurn(batches, func(ctx context.Context, keys []string) (map[string]user, error) {
		return c.BulkGet(ctx, keys, loader)
	}), func() { c.StopAllGoroutines() }
}

func sturdycs(batches [][]string) (player, func()) {
	const shards, evicted = 64, 10 // percent
	c := sturdyc.New[user](capacity, shards, time.Hour, evicted)
	return inTurn(batches, func(ctx context.Context, keys []string) (map[string]user, error) {
		return c.GetOrFetchBatch(ctx, keys, c.BatchKeyFn("user"), loadUsers)
	}), func() {}
}
