package cachetest_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/cachetest"
)

var t *testing.T // of your test function

// A repository of a program, with its cache: what is to be tested.
type users struct {
	cache *cache.Cache[string]
	query cache.Loader[string]
}

func newUsers(fleet *cachetest.Fleet, r *cache.Redis, query cache.Loader[string]) *users {
	c, err := cache.New[string]("user", cache.Options{Redis: r, TTL: time.Minute, Lease: 2 * time.Second})
	if err != nil {
		fleet.T.Fatal(err)
	}
	fleet.T.Cleanup(func() { _ = c.Close() })
	return &users{c, query}
}

func (u *users) name(ctx context.Context, id string) (string, error) {
	return u.cache.GetOrLoad(ctx, id, u.query)
}

// When a deploy has emptied the cache, three processes ask the database once.
func ExampleRun() {
	cachetest.Run(t, 3, func(fleet *cachetest.Fleet) {
		var queries atomic.Int64
		query := func(context.Context, string) (string, error) {
			queries.Add(1)
			time.Sleep(time.Second) // a slow database, in virtual time
			return "Ada", nil
		}
		fleet.Each(func(p *cachetest.Process) {
			u := newUsers(fleet, p.Redis(), query)
			if name, err := u.name(context.Background(), "42"); name != "Ada" || err != nil {
				fleet.T.Errorf("%v: %q, %v", p, name, err)
			}
		})
		if n := queries.Load(); n != 1 {
			fleet.T.Errorf("%d queries, want 1", n)
		}
	})
}

// The process that asks the database dies. Another one takes over when its lease has ended, and no caller notices more than a
// delay.
func ExampleProcess_Crash() {
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		query := func(context.Context, string) (string, error) {
			time.Sleep(time.Second)
			return "Ada", nil
		}
		dying := newUsers(fleet, fleet.Process(0).Redis(), query)
		other := newUsers(fleet, fleet.Process(1).Redis(), query)

		go func() { _, _ = dying.name(context.Background(), "42") }()
		fleet.Settle() // until its query runs
		fleet.Process(0).Crash()

		began := time.Now()
		name, err := other.name(context.Background(), "42")
		if name != "Ada" || err != nil {
			fleet.T.Errorf("%q, %v", name, err)
		}
		if took := time.Since(began); took > 4*time.Second {
			fleet.T.Errorf("it took %v: want the rest of a lease of 2s, a query of 1s, and no more than one to notice", took)
		}
	})
}
