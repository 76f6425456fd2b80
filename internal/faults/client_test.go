package faults

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"runtime/metrics"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/realredis"
)

// connect returns a client of which all connections go through proxies.
func (w *worker) connect() redis.UniversalClient {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		through, ok := w.Proxies[addr]
		if !ok {
			w.broken("test", "no proxy for %s", addr)
		}
		return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, through)
	}
	switch w.Where {
	case "cluster":
		return redis.NewClusterClient(&redis.ClusterOptions{
			Addrs: w.Addrs, Dialer: dial, Protocol: w.Protocol, ReadTimeout: readTimeout, DialTimeout: dialTimeout,
			ReadOnly: w.Replicas,
		})
	case "sentinel":
		return redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: realredis.SentinelMaster, SentinelAddrs: w.Addrs, Dialer: dial, Protocol: w.Protocol,
			ReadTimeout: readTimeout, DialTimeout: dialTimeout,
		})
	case "ring":
		shards := make(map[string]string)
		for i, addr := range w.Addrs {
			shards[fmt.Sprint("shard", i)] = addr
		}
		return redis.NewRing(&redis.RingOptions{
			Addrs: shards, Dialer: dial, Protocol: w.Protocol, ReadTimeout: readTimeout, DialTimeout: dialTimeout,
			HeartbeatFrequency: 100 * time.Millisecond,
		})
	}
	return redis.NewClient(&redis.Options{
		Addr: w.Addrs[0], Dialer: dial, Protocol: w.Protocol, ReadTimeout: readTimeout, DialTimeout: dialTimeout,
	})
}

const (
	readTimeout = 500 * time.Millisecond
	dialTimeout = 500 * time.Millisecond
)

// watch writes on the board how the process is.
func (w *worker) watch(closed <-chan struct{}) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	heap := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for {
		metrics.Read(heap)
		w.me.heap.Store(int64(heap[0].Value.Uint64()))
		w.me.goroutines.Store(int64(runtime.NumGoroutine()))
		if ring, ok := w.client.(*redis.Ring); ok {
			w.me.shards.Store(int64(ring.Len()))
		}
		select {
		case <-tick.C:
		case <-closed:
			return
		}
	}
}

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}
