// Package cacheotel exports what caches do as OpenTelemetry metrics and traces:
//
//	telemetry, err := cacheotel.New(cacheotel.Options{})
//	users, err := cache.New[User]("user", cache.Options{Redis: rds, Observer: telemetry.Observer()})
//	telemetry.Add(users)
//	defer telemetry.Close()
//
// There is one span for each call of a loader, a child of the span of the call that began it, with links to the spans of the other
// calls that waited for it, and nothing for a hit, unless HitEvents is set. Counters are read from Stats when they are collected; so a
// hit costs nothing more than without. docs/observing.md lists the metrics.
package cacheotel

import (
	"context"
	"errors"
	"sync"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/internal/metrics"
)

const scope = "github.com/bellwether-go/cache/cacheotel"

// Source is a cache: *cache.Cache[V] for any V.
type Source interface {
	Name() string
	Stats() cache.Stats
	Status() cache.Status
}

// Options of a Telemetry. The zero value is ready to use.
type Options struct {
	// MeterProvider and TracerProvider. Default: the global ones.
	MeterProvider  metric.MeterProvider
	TracerProvider trace.TracerProvider

	// Key is what spans and events show of a key, which may be nobody else's business. Nil: nothing.
	Key func(string) string

	// HitEvents adds an event to the span of each call that is answered without a load. It takes time on the path of a hit in
	// memory, also where nothing is recorded.
	HitEvents bool
}

// Telemetry exports caches. It is safe for concurrent use.
type Telemetry struct {
	o            Options
	tracer       trace.Tracer
	loads        metric.Float64Histogram
	waits        metric.Float64Histogram
	latency      metric.Float64Histogram
	registration metric.Registration

	mu      sync.Mutex
	sources map[Source]struct{} // guarded by mu
}

// New makes a Telemetry, whose metrics are there from now on. Its errors are those of the MeterProvider.
func New(o Options) (*Telemetry, error) {
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	if o.TracerProvider == nil {
		o.TracerProvider = otel.GetTracerProvider()
	}
	t := &Telemetry{o: o, tracer: o.TracerProvider.Tracer(scope), sources: make(map[Source]struct{})}
	m := o.MeterProvider.Meter(scope)
	var errs []error
	histogram := func(name, help string) metric.Float64Histogram {
		h, err := m.Float64Histogram("cache."+name, metric.WithUnit("s"), metric.WithDescription(help),
			metric.WithExplicitBucketBoundaries(.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30))
		errs = append(errs, err)
		return h
	}
	t.loads = histogram("load.duration", "How long loaders took.")
	t.waits = histogram("wait.duration", "How long flights waited for another process.")
	t.latency = histogram("wake.latency", "From the moment a value was stored until a flight that waited for it in another process had it.")
	gauge := func(name, unit, help string) metric.Float64ObservableGauge {
		g, err := m.Float64ObservableGauge("cache."+name, metric.WithUnit(unit), metric.WithDescription(help))
		errs = append(errs, err)
		return g
	}
	up := gauge("redis.up", "1", "1 while Redis answers, or there is none; 0 while the cache goes on without.")
	events := gauge("events.up", "1", "1 while the subscription to other processes' deletions stands.")
	lag := gauge("events.lag", "s", "What the last message of this process took to come back to it, or has taken so far.")
	instruments := []metric.Observable{up, events, lag}
	all := metrics.All()
	counters := make([]metric.Int64Observable, len(all))
	for i, one := range all {
		unit, help := metric.WithUnit(one.Unit), metric.WithDescription(one.Help)
		var err error
		if one.Gauge {
			counters[i], err = m.Int64ObservableUpDownCounter("cache."+one.Name, unit, help)
		} else {
			counters[i], err = m.Int64ObservableCounter("cache."+one.Name, unit, help)
		}
		errs = append(errs, err)
		instruments = append(instruments, counters[i])
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	truth := map[bool]float64{true: 1}
	var err error
	t.registration, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, source := range t.all() {
			name := attribute.String("cache.name", source.Name())
			stats, now := source.Stats(), source.Status()
			for i, one := range all {
				for _, p := range one.Parts {
					attrs := []attribute.KeyValue{name}
					if one.Label != "" {
						attrs = append(attrs, attribute.String("cache."+one.Label, p.Label))
					}
					o.ObserveInt64(counters[i], int64(p.Of(&stats)), metric.WithAttributes(attrs...)) //nolint:gosec // counters
				}
			}
			of := metric.WithAttributes(name)
			o.ObserveFloat64(up, truth[!now.Redis.CutOff], of)
			o.ObserveFloat64(events, truth[now.Redis.Events || !now.Redis.Used], of)
			o.ObserveFloat64(lag, now.Redis.Lag.Seconds(), of)
		}
		return nil
	}, instruments...)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Close ends the metrics that are read from caches.
func (t *Telemetry) Close() error { return t.registration.Unregister() }

// Add exports a cache from now on. Caches of one name cannot be told apart.
func (t *Telemetry) Add(s Source) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sources[s] = struct{}{}
}

// Remove ends what Add has begun.
func (t *Telemetry) Remove(s Source) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sources, s)
}

func (t *Telemetry) all() []Source {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Source, 0, len(t.sources))
	for s := range t.sources {
		all = append(all, s)
	}
	return all
}

// Observer makes spans, and measures loads and waits; it is for any number of caches.
func (t *Telemetry) Observer() cache.Observer {
	o := cache.Observer{Load: t.load, Lease: t.lease}
	if t.o.HitEvents {
		o.Hit = t.hit
	}
	return o
}

// with adds what is to be seen of a key.
func (t *Telemetry) with(key string, attrs ...attribute.KeyValue) []attribute.KeyValue {
	if t.o.Key != nil {
		attrs = append(attrs, attribute.String("cache.key", t.o.Key(key)))
	}
	return attrs
}

func (t *Telemetry) hit(ctx context.Context, e cache.Lookup) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	span.AddEvent("cache.hit", trace.WithAttributes(t.with(e.Key, attribute.String("cache.name", e.Cache),
		attribute.String("cache.tier", e.Tier), attribute.Bool("cache.stale", e.Stale))...))
}

func (t *Telemetry) load(ctx context.Context, e cache.LoadEvent) (context.Context, func(cache.LoadEvent)) {
	attrs := []attribute.KeyValue{
		attribute.String("cache.name", e.Cache), attribute.Bool("cache.background", e.Background), attribute.Bool("cache.leased", e.Leased),
	}
	if len(e.Keys) > 1 {
		attrs = append(attrs, attribute.Int("cache.keys", len(e.Keys)))
	} else {
		attrs = t.with(e.Keys[0], attrs...)
	}
	ctx, span := t.tracer.Start(ctx, "cache.load "+e.Cache, trace.WithAttributes(attrs...))
	return ctx, func(e cache.LoadEvent) {
		for _, caller := range e.Callers {
			if link := trace.LinkFromContext(caller); link.SpanContext.IsValid() {
				span.AddLink(link)
			}
		}
		span.SetAttributes(attribute.String("cache.outcome", e.Outcome))
		switch e.Outcome {
		case "value", "not found":
		default:
			span.RecordError(e.Err)
			span.SetStatus(codes.Error, e.Outcome)
		}
		span.End()
		t.loads.Record(ctx, e.Took.Seconds(), metric.WithAttributes(attribute.String("cache.name", e.Cache),
			attribute.String("cache.outcome", e.Outcome), attribute.Bool("cache.background", e.Background)))
	}
}

func (t *Telemetry) lease(ctx context.Context, e cache.LeaseEvent) {
	name := attribute.String("cache.name", e.Cache)
	switch e.What {
	case "woken":
		t.latency.Record(ctx, e.Latency.Seconds(), metric.WithAttributes(name))
	case "found", "gave up", "taken over":
	default:
		return
	}
	if e.Took > 0 {
		t.waits.Record(ctx, e.Took.Seconds(), metric.WithAttributes(name, attribute.String("cache.ended", e.What)))
	}
}
