package cache

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/realredis"
)

// What tags and events cost. Read ratios of one run: docs/invalidation.md does.

// BenchmarkHit is a hit in memory and in Redis, without tags, in a cache that has none although it could, and with.
func BenchmarkHit(b *testing.B) {
	s := realredis.Start(b)
	for _, tier := range []string{"memory", "redis"} {
		for _, tags := range []int{-1, 0, 1, 5} {
			name, o := fmt.Sprintf("%s/%d-tags", tier, tags), Options{Tags: tags >= 0}
			if tags < 0 {
				name = tier + "/off"
			}
			if tier == "redis" {
				o.LocalTTL = -1
			}
			b.Run(name, func(b *testing.B) {
				client := s.Client(nil)
				r, err := NewRedis(client, RedisOptions{Prefix: fmt.Sprint("hit", tags), Timeout: time.Second})
				if err != nil {
					b.Fatal(err)
				}
				defer r.Close()
				o.Redis = r
				c, err := New[string]("user", o)
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				if err := r.learnTime(background); err != nil {
					b.Fatal(err)
				}
				var co []CallOption
				if tags > 0 {
					co = []CallOption{WithTags(manyKeys(tags, "tag")...)}
				}
				load := constant("v")
				if _, err := c.GetOrLoad(background, "k", load, co...); err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					if _, err := c.GetOrLoad(background, "k", load, co...); err != nil {
						b.Fatal(err)
					}
				}
				if n := c.Stats().Loads; n > 1 {
					b.Errorf("%d loads", n)
				}
			})
		}
	}
}

// BenchmarkEvents deletes keys of which nobody knows, one in each message and many, while others listen.
func BenchmarkEvents(b *testing.B) {
	s := realredis.Start(b)
	for _, listeners := range []int{0, 10, 100} {
		for _, keys := range []int{1, 50} {
			b.Run(fmt.Sprintf("%d-listeners/%d-keys", listeners, keys), func(b *testing.B) {
				deleter := benchRedis(b, s)
				c, err := New[string]("user", Options{Redis: deleter})
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				for range listeners {
					r := benchRedis(b, s)
					l, err := New[string]("user", Options{Redis: r})
					if err != nil {
						b.Fatal(err)
					}
					defer l.Close()
				}
				names := manyKeys(keys, "k")
				before := cpu(b, s)
				n := 0
				for b.Loop() {
					if err := c.Delete(background, names...); err != nil {
						b.Fatal(err)
					}
					n += keys
				}
				b.ReportMetric(float64((cpu(b, s)-before).Nanoseconds())/float64(n), "server-ns/key")
			})
		}
	}
}

// BenchmarkDeleteInParallel shows how events are gathered.
func BenchmarkDeleteInParallel(b *testing.B) {
	s := realredis.Start(b)
	r := benchRedis(b, s)
	c, err := New[string]("user", Options{Redis: r})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for _, goroutines := range []int{1, 16, 128} {
		b.Run(fmt.Sprint(goroutines, "-goroutines"), func(b *testing.B) {
			r.events.mu.Lock()
			before := r.events.number
			r.events.mu.Unlock()
			var n atomic.Int64
			b.SetParallelism(goroutines)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := c.Delete(background, fmt.Sprint(n.Add(1))); err != nil {
						b.Error(err)
					}
				}
			})
			r.events.mu.Lock()
			defer r.events.mu.Unlock()
			b.ReportMetric(float64(r.events.number-before)/float64(n.Load()), "messages/key")
		})
	}
}

func benchRedis(b *testing.B, s *realredis.Server) *Redis {
	b.Helper()
	client := s.Client(func(o *redis.Options) { o.PoolSize = 100 })
	r, err := NewRedis(client, RedisOptions{Timeout: 10 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.Close() })
	for deadline := time.Now().Add(10 * time.Second); !r.stream.wakes(); {
		if time.Now().After(deadline) {
			b.Fatal("no subscription")
		}
	}
	return r
}

// cpu is the processor time that the server has used.
func cpu(b *testing.B, s *realredis.Server) time.Duration {
	b.Helper()
	info, err := s.Client(nil).InfoMap(background, "cpu").Result()
	if err != nil {
		b.Fatal(err)
	}
	total := time.Duration(0)
	for _, name := range []string{"used_cpu_sys", "used_cpu_user"} {
		var seconds float64
		if _, err := fmt.Sscan(info["CPU"][name], &seconds); err != nil {
			b.Fatal(err)
		}
		total += time.Duration(seconds * float64(time.Second))
	}
	return total
}
