// Package comingfrom has the code of docs/coming-from.md: what other libraries do with a user of a database, and what this one does. It is
// a module of its own, for their sake. A region of a file here, from // [name] to // [end], is the block of the page under <!-- name -->:
// TestPage compares them, and go test -run TestPage . -rewrite writes the regions into the page. The page is outside of the module, so
// that go test does not see that it has changed: -count=1.
package comingfrom

import (
	"context"
	"errors"
	"sync"
)

// User is what is cached.
type User struct{ Name string }

var errNoUser = errors.New("no such user")

// database stands for a slow one.
type database struct {
	mu      sync.Mutex
	names   map[string]string
	changes int
	queries int
}

// User is one query.
func (d *database) User(_ context.Context, id string) (User, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queries++
	name, ok := d.names[id]
	if !ok {
		return User{}, errNoUser
	}
	return User{Name: name}, nil
}

func (d *database) rename(id, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[id] = name
	d.changes++
}

// version changes with every change.
func (d *database) version() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changes
}

func (d *database) asked() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.queries
}

// service is what reads a user, and says that one has changed.
type service struct {
	get     func(ctx context.Context, id string) (User, error)
	changed func(ctx context.Context, id string) error
	close   func()
}

// local is for the libraries whose deletion is in memory.
func local(changed func(id string)) func(context.Context, string) error {
	return func(_ context.Context, id string) error {
		changed(id)
		return nil
	}
}
