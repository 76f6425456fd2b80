package cache

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/realredis"
)

type countHook struct{ trips []string }

func (h *countHook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, n, a string) (net.Conn, error) { return next(ctx, n, a) }
}
func (h *countHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		s := time.Now()
		err := next(ctx, cmd)
		h.trips = append(h.trips, fmt.Sprint(cmd.Name(), time.Since(s)))
		return err
	}
}
func (h *countHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		s := time.Now()
		err := next(ctx, cmds)
		h.trips = append(h.trips, fmt.Sprint(cmds[0].Name(), len(cmds), time.Since(s)))
		return err
	}
}

func TestScratch(t *testing.T) {
	srv := realredis.Start(t)
	cl := srv.Client(nil)
	h := &countHook{}
	cl.AddHook(h)
	rds, _ := NewRedis(cl, RedisOptions{})
	c, _ := New[string]("user", Options{Redis: rds})
	for r := range 4 {
		var keys []string
		for i := range 1000 {
			keys = append(keys, fmt.Sprint("k", r, "-", i))
		}
		for range 3 {
			h.trips = nil
			s := time.Now()
			m, err := c.GetOrLoadMany(context.Background(), keys, func(ctx context.Context, keys []string) (map[string]string, error) {
				m := map[string]string{}
				for _, k := range keys {
					m[k] = "v" + k
				}
				return m, nil
			})
			fmt.Println(len(m), err, time.Since(s), h.trips)
			if r%2 == 0 {
				c.core.local.dropAll()
			}
		}
	}
	fmt.Printf("%+v\n", c.Stats())
	c.Close()
	rds.Close()
}

func benchMany(b *testing.B, o Options, local bool, fresh bool) {
	c, _ := New[string]("user", o)
	defer c.Close()
	all := make([][]string, 512)
	for j := range all {
		for i := range 1000 {
			all[j] = append(all[j], fmt.Sprint("user-", j, "-", i))
		}
	}
	load := func(ctx context.Context, keys []string) (map[string]string, error) {
		m := make(map[string]string, len(keys))
		for _, k := range keys {
			m[k] = k
		}
		return m, nil
	}
	i := 0
	c.GetOrLoadMany(context.Background(), all[0], load)
	b.ReportAllocs()
	for b.Loop() {
		if fresh {
			i++
		} else if !local {
			c.core.local.dropAll()
		}
		c.GetOrLoadMany(context.Background(), all[i%512], load)
	}
}
func BenchmarkManyHit(b *testing.B)  { benchMany(b, Options{LocalEntries: 100000}, true, false) }
func BenchmarkManyCold(b *testing.B) { benchMany(b, Options{LocalEntries: 100000}, true, true) }
func BenchmarkManyRedisHit(b *testing.B) {
	srv := realredis.Start(b)
	rds, _ := NewRedis(srv.Client(nil), RedisOptions{})
	defer rds.Close()
	benchMany(b, Options{LocalEntries: 100000, Redis: rds}, false, false)
}
func BenchmarkManyRedisCold(b *testing.B) {
	srv := realredis.Start(b)
	rds, _ := NewRedis(srv.Client(nil), RedisOptions{})
	defer rds.Close()
	benchMany(b, Options{LocalEntries: 100000, Redis: rds}, true, true)
}
