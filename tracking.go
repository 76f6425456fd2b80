package cache

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/push"
)

// tracker returns a client like the user's whose only connection will be the subscription, on which the server also says
// which keys under our prefix were written, deleted, evicted or have expired, by whomever (server-assisted client-side
// caching in broadcasting mode: https://redis.io/docs/latest/develop/reference/client-side-caching/).
func (r *Redis) tracker(user *redis.Client) *redis.Client {
	o := *user.Options()
	o.Protocol = 3
	o.PushNotificationProcessor = nil
	o.MinIdleConns = 0
	theirs := o.OnConnect
	o.OnConnect = func(ctx context.Context, cn *redis.Conn) error {
		if theirs != nil {
			if err := theirs(ctx, cn); err != nil {
				return err
			}
		}
		err := cn.Do(ctx, "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", r.prefix+":").Err()
		var refused redis.Error
		if errors.As(err, &refused) {
			return nil
		}
		return err
	}
	c := redis.NewClient(&o)
	_ = c.RegisterPushNotificationHandler("invalidate", tracked{r}, true) // fails only for a name that is taken
	return c
}

// tracked is told by the server what has changed.
type tracked struct{ r *Redis }

// HandlePushNotification drops keys from L1. Flights go on: every step of a lease writes to the key, and what they bring is
// not given to calls that began after a deletion, nor kept.
func (t tracked) HandlePushNotification(_ context.Context, _ push.NotificationHandlerContext, n []any) error {
	if len(n) < 2 || n[1] == nil { // FLUSHALL, FLUSHDB
		t.r.invalidateAll()
		return nil
	}
	keys, _ := n[1].([]any)
	for _, k := range keys {
		full, _ := k.(string)
		if name, key, ok := t.r.split(full); ok && name != "" {
			t.r.each(name, func(c *core) { c.local.drop(key) })
		}
	}
	return nil
}
