// Package cacheprom exports what caches do as Prometheus metrics:
//
//	metrics := cacheprom.New(cacheprom.Options{})
//	prometheus.MustRegister(metrics)
//	users, err := cache.New[User]("user", cache.Options{Redis: rds, Observer: metrics.Observer()})
//	metrics.Add(users)
//
// Counters are read when they are scraped, from Stats; so a hit costs nothing more than without. docs/observing.md lists the metrics.
package cacheprom

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/internal/metrics"
)

// Source is a cache: *cache.Cache[V] for any V.
type Source interface {
	Name() string
	Stats() cache.Stats
	Status() cache.Status
}

// Options of a Collector. The zero value is ready to use.
type Options struct {
	// Namespace begins the names of metrics. Default: "cache".
	Namespace string

	// Buckets are those of the histograms, in seconds. Default: 1 ms to 65 s, each twice the one before.
	Buckets []float64
}

// Collector is a prometheus.Collector of all caches that it was given. It is safe for concurrent use.
type Collector struct {
	stats   []stat
	up      *prometheus.Desc
	events  *prometheus.Desc
	lag     *prometheus.Desc
	loads   *prometheus.HistogramVec
	waits   *prometheus.HistogramVec
	latency *prometheus.HistogramVec

	mu      sync.Mutex
	sources map[Source]struct{} // guarded by mu
}

// stat is a metric that is in Stats.
type stat struct {
	metrics.Metric
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// New makes a Collector, which is to be registered.
func New(o Options) *Collector {
	if o.Namespace == "" {
		o.Namespace = "cache"
	}
	if o.Buckets == nil {
		o.Buckets = prometheus.ExponentialBuckets(0.001, 2, 17)
	}
	describe := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(o.Namespace+"_"+name, help, []string{"cache"}, nil)
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: o.Namespace, Name: name, Help: help, Buckets: o.Buckets,
		}, append([]string{"cache"}, labels...))
	}
	c := &Collector{
		up:      describe("redis_up", "1 while Redis answers, or there is none; 0 while the cache goes on without."),
		events:  describe("events_up", "1 while the subscription to other processes' deletions stands."),
		lag:     describe("events_lag_seconds", "What the last message of this process took to come back to it, or has taken so far."),
		loads:   histogram("load_duration_seconds", "How long loaders took.", "outcome", "background"),
		waits:   histogram("wait_duration_seconds", "How long flights waited for another process.", "ended"),
		latency: histogram("wake_latency_seconds", "From the moment a value was stored until a flight that waited for it in another process had it."),
		sources: make(map[Source]struct{}),
	}
	for _, m := range metrics.All() {
		name, kind, labels := strings.ReplaceAll(m.Name, ".", "_"), prometheus.GaugeValue, []string{"cache"}
		if !m.Gauge {
			name, kind = name+"_total", prometheus.CounterValue
		}
		if m.Label != "" {
			labels = append(labels, m.Label)
		}
		c.stats = append(c.stats, stat{m, prometheus.NewDesc(o.Namespace+"_"+name, m.Help, labels, nil), kind})
	}
	return c
}

// Observer is what measures loads and waits; it is for any number of caches.
func (c *Collector) Observer() cache.Observer {
	return cache.Observer{
		Load: func(ctx context.Context, _ cache.LoadEvent) (context.Context, func(cache.LoadEvent)) {
			return ctx, func(e cache.LoadEvent) {
				background := "false"
				if e.Background {
					background = "true"
				}
				c.loads.WithLabelValues(e.Cache, e.Outcome, background).Observe(e.Took.Seconds())
			}
		},
		Lease: func(_ context.Context, e cache.LeaseEvent) {
			switch e.What {
			case "woken":
				c.latency.WithLabelValues(e.Cache).Observe(e.Latency.Seconds())
				fallthrough
			case "found", "gave up":
				c.waits.WithLabelValues(e.Cache, e.What).Observe(e.Took.Seconds())
			case "taken over":
				if e.Took > 0 {
					c.waits.WithLabelValues(e.Cache, e.What).Observe(e.Took.Seconds())
				}
			}
		},
	}
}

// Add exports a cache from now on. Two caches of one name would be the same metrics twice, which Prometheus refuses.
func (c *Collector) Add(s Source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sources[s] = struct{}{}
}

// Remove ends what Add has begun. What was measured of loads stays.
func (c *Collector) Remove(s Source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sources, s)
}

// Describe is for prometheus.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, s := range c.stats {
		ch <- s.desc
	}
	ch <- c.up
	ch <- c.events
	ch <- c.lag
	c.loads.Describe(ch)
	c.waits.Describe(ch)
	c.latency.Describe(ch)
}

// Collect is for prometheus.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	sources := make([]Source, 0, len(c.sources))
	for s := range c.sources {
		sources = append(sources, s)
	}
	c.mu.Unlock()
	truth := map[bool]float64{true: 1}
	for _, source := range sources {
		name, all, now := source.Name(), source.Stats(), source.Status()
		for _, s := range c.stats {
			for _, p := range s.Parts {
				labels := []string{name}
				if s.Label != "" {
					labels = append(labels, p.Label)
				}
				ch <- prometheus.MustNewConstMetric(s.desc, s.kind, float64(p.Of(&all)), labels...)
			}
		}
		ch <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, truth[!now.Redis.CutOff], name)
		ch <- prometheus.MustNewConstMetric(c.events, prometheus.GaugeValue, truth[now.Redis.Events || !now.Redis.Used], name)
		ch <- prometheus.MustNewConstMetric(c.lag, prometheus.GaugeValue, now.Redis.Lag.Round(time.Microsecond).Seconds(), name)
	}
	c.loads.Collect(ch)
	c.waits.Collect(ch)
	c.latency.Collect(ch)
}
