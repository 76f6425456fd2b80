package comingfrom

import (
	"context"
	"sync"

	"golang.org/x/sync/singleflight"
)

func mutex(db *database) *service {
	// [before a map with a mutex]
	var mu sync.RWMutex
	var flights singleflight.Group
	users := make(map[string]User)
	get := func(ctx context.Context, id string) (User, error) {
		mu.RLock()
		u, ok := users[id]
		mu.RUnlock()
		if ok {
			return u, nil
		}
		v, err, _ := flights.Do(id, func() (any, error) {
			u, err := db.User(ctx, id)
			if err == nil {
				mu.Lock()
				users[id] = u
				mu.Unlock()
			}
			return u, err
		})
		return v.(User), err
	}
	changed := func(id string) {
		mu.Lock()
		delete(users, id)
		mu.Unlock()
	}
	// [end]
	return &service{get, local(changed), func() {}}
}
