package cacheprom_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/cacheprom"
	"github.com/bellwether-go/cache/cachetest"
)

// What Prometheus scrapes of a cache in memory.
func TestCollector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		metrics := cacheprom.New(cacheprom.Options{})
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(metrics)
		c, err := cache.New[int]("user", cache.Options{Backoff: -1, Observer: metrics.Observer()})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		metrics.Add(c)
		ctx := context.Background()
		load := func(context.Context, string) (int, error) {
			time.Sleep(20 * time.Millisecond)
			return 1, nil
		}
		for range 3 {
			if _, err := c.GetOrLoad(ctx, "k", load); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.GetOrLoad(ctx, "l", func(context.Context, string) (int, error) { return 0, errors.New("down") }); err == nil {
			t.Error("no error")
		}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP cache_hits_total Answers that needed no load, by the tier that had them; those of Redis may each be for many calls.
# TYPE cache_hits_total counter
cache_hits_total{cache="user",tier="memory"} 2
cache_hits_total{cache="user",tier="redis"} 0
# HELP cache_loads_total Keys for which a loader was called.
# TYPE cache_loads_total counter
cache_loads_total{cache="user"} 2
# HELP cache_redis_up 1 while Redis answers, or there is none; 0 while the cache goes on without.
# TYPE cache_redis_up gauge
cache_redis_up{cache="user"} 1
# HELP cache_callers_waiting Calls that wait for Redis, for another process or for a load.
# TYPE cache_callers_waiting gauge
cache_callers_waiting{cache="user"} 0
`), "cache_hits_total", "cache_loads_total", "cache_redis_up", "cache_callers_waiting"); err != nil {
			t.Error(err)
		}
		w := httptest.NewRecorder()
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/metrics", nil))
		for _, want := range []string{
			`cache_misses_total{cache="user",reason="absent"} 2`, `cache_loads_troubled_total{cache="user",kind="error"} 1`,
			`cache_load_duration_seconds_bucket{background="false",cache="user",outcome="value",le="0.016"} 0`,
			`cache_load_duration_seconds_bucket{background="false",cache="user",outcome="value",le="0.032"} 1`,
			`cache_load_duration_seconds_count{background="false",cache="user",outcome="error"} 1`,
		} {
			if !strings.Contains(w.Body.String(), want+"\n") {
				t.Errorf("no %s in %s", want, w.Body)
			}
		}
		if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
			t.Error(problems, err)
		}
		metrics.Remove(c)
		if n, err := testutil.GatherAndCount(registry, "cache_hits_total"); n != 0 || err != nil {
			t.Error(n, err)
		}
	})
}

// Waits, wake-ups, and Redis that is gone, in a fleet.
func TestFleet(t *testing.T) {
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		t, ctx := fleet.T, context.Background()
		metrics := cacheprom.New(cacheprom.Options{Namespace: "shop_cache"})
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(metrics)
		var caches []*cache.Cache[int]
		for _, p := range fleet.Processes() {
			o := cache.Options{Redis: p.Redis()}
			if len(caches) == 1 {
				o.Observer = metrics.Observer()
			}
			c, err := cache.New[int]("user", o)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			caches = append(caches, c)
		}
		metrics.Add(caches[1])
		fleet.Settle()
		load := func(context.Context, string) (int, error) {
			time.Sleep(time.Second)
			return 1, nil
		}
		go func() { _, _ = caches[0].GetOrLoad(ctx, "k", load) }()
		fleet.Settle()
		if _, err := caches[1].GetOrLoad(ctx, "k", load); err != nil {
			t.Error(err)
		}
		fleet.Redis.Down()
		time.Sleep(10 * time.Second)
		if _, err := caches[1].GetOrLoad(ctx, "l", load); err != nil {
			t.Error(err)
		}
		w := httptest.NewRecorder()
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/metrics", nil))
		for _, want := range []string{
			`shop_cache_waits_total{cache="user",event="woken"} 1`, `shop_cache_misses_total{cache="user",reason="leased"} 1`,
			`shop_cache_wake_latency_seconds_count{cache="user"} 1`, `shop_cache_wait_duration_seconds_sum{cache="user",ended="woken"} 1`,
			`shop_cache_redis_up{cache="user"} 0`, `shop_cache_events_up{cache="user"} 0`,
		} {
			if !strings.Contains(w.Body.String(), want+"\n") {
				t.Errorf("no %s in %s", want, w.Body)
			}
		}
	})
}
