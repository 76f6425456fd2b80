package comingfrom

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/golang/groupcache"
)

// group can be called once in a process.
func group(self string, processes []string, db *database) *service {
	version := db.version
	// [before groupcache]
	pool := groupcache.NewHTTPPool(self) // handles /_groupcache/ of http.DefaultServeMux
	pool.Set(processes...)               // again whenever one comes or goes
	users := groupcache.NewGroup("user", 64<<20, groupcache.GetterFunc(
		func(ctx context.Context, key string, dest groupcache.Sink) error {
			id, _, _ := strings.Cut(key, "@")
			u, err := db.User(ctx, id)
			if err != nil {
				return err
			}
			b, _ := json.Marshal(u)
			return dest.SetBytes(b)
		}))
	get := func(ctx context.Context, id string) (u User, err error) {
		var b []byte
		key := fmt.Sprint(id, "@", version()) // nothing can be deleted: what has changed needs another key
		if err = users.Get(ctx, key, groupcache.AllocatingByteSliceSink(&b)); err == nil {
			err = json.Unmarshal(b, &u)
		}
		return u, err
	}
	// [end]
	return &service{get, local(func(string) {}), func() {}}
}
