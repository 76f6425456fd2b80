package cache

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
)

// exitHook ends the goroutine that sends a pipeline.
type exitHook struct{}

func (exitHook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (exitHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return next
}

func (exitHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(context.Context, []redis.Cmder) error { runtime.Goexit(); return nil }
}

// dialPanics panics when a connection is made.
type dialPanics struct{ exitHook }

func (dialPanics) DialHook(redis.DialHook) redis.DialHook {
	return func(context.Context, string, string) (net.Conn, error) { panic("dial hook") }
}

func (dialPanics) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ring is a Ring over addresses in w.
func ring(w *lab.World, addrs map[string]string) *redis.Ring {
	return redis.NewRing(&redis.RingOptions{Addrs: addrs, NewClient: func(o *redis.Options) *redis.Client {
		return w.Client("ring", nil)
	}})
}

func TestRingDown(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		client := ring(w, map[string]string{"one": "127.0.0.1:1"})
		rds, err := NewRedis(client, RedisOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c, _ := New[string]("user", Options{Redis: rds})
		synctest.Wait()
		w.CutOff("ring", false)
		for i := range 20 {
			v, err := c.GetOrLoad(background, fmt.Sprint(i), loads(0, "v"))
			if v != "v" || err != nil {
				t.Error(v, err)
			}
			time.Sleep(time.Second)
		}
		_ = c.Close()
		_ = rds.Close()
		_ = client.Close()
	})
}

// With a Ring deletions are heard too: a subscription listens on the shard on which they are published.
func TestRingEvents(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		one, two := newWorld(t), newWorld(t)
		defer one.Close()
		defer two.Close()
		client := func() *redis.Ring {
			return redis.NewRing(&redis.RingOptions{
				Addrs: map[string]string{"one": "127.0.0.1:1", "two": "127.0.0.1:2"},
				NewClient: func(o *redis.Options) *redis.Client {
					if o.Addr == "127.0.0.1:1" {
						return one.Client("ring", nil)
					}
					return two.Client("ring", nil)
				},
			})
		}
		deaf := 0
		for range 10 {
			ca, cb := client(), client()
			ra, _ := NewRedis(ca, RedisOptions{})
			rb, _ := NewRedis(cb, RedisOptions{})
			a, _ := New[string]("user", Options{Redis: ra})
			b, _ := New[string]("user", Options{Redis: rb})
			synctest.Wait()
			_, _ = b.GetOrLoad(background, "other", loads(0, "")) // b learns the server's time
			_, _ = a.GetOrLoad(background, "k", loads(0, "old"))
			_, _ = b.GetOrLoad(background, "k", loads(0, "old"))
			if err := a.Delete(background, "k"); err != nil {
				t.Error(err)
			}
			time.Sleep(10 * time.Second)
			if !rb.stream.up.Load() {
				t.Error("stream not up")
			}
			if v, _ := b.GetOrLoad(background, "k", loads(0, "new")); v != "new" {
				deaf++
			}
			_ = b.Delete(background, "k", "other")
			for _, c := range []interface{ Close() error }{a, b, ra, rb, ca, cb} {
				_ = c.Close()
			}
		}
		if deaf > 0 {
			t.Errorf("%d of 10 processes did not hear of a deletion for 10 s, their stream being up", deaf)
		}
	})
}

// A hook that calls Goexit: nothing was sent, and Delete says so.
func TestHookGoexit(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		p.client.AddHook(exitHook{})
		if err := p.cache.Delete(background, "k"); err == nil {
			t.Error("nil, and nothing was sent")
		}
	})
}

// A client whose dialer panics is a Redis that is down.
func TestDialerPanics(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		client := w.Client("A", nil)
		client.AddHook(dialPanics{})
		rds, _ := NewRedis(client, RedisOptions{})
		c, _ := New[string]("user", Options{Redis: rds})
		if v, err := c.GetOrLoad(background, "k", loads(0, "v")); v != "v" || err != nil {
			t.Error(v, err)
		}
		time.Sleep(10 * time.Second)
		_ = c.Close()
		_ = rds.Close()
		_ = client.Close()
	})
}
