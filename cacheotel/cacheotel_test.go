package cacheotel_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/cacheotel"
)

// There is one span for each load, a child of the call that began it, with links to those that waited; an event for each hit
// on the span of its call; and nothing else.
func TestSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		recorder := tracetest.NewSpanRecorder()
		provider := trace.NewTracerProvider(trace.WithSpanProcessor(recorder))
		telemetry, err := cacheotel.New(cacheotel.Options{
			TracerProvider: provider, MeterProvider: metric.NewMeterProvider(), Key: strings.ToUpper, HitEvents: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer telemetry.Close()
		c, err := cache.New[int]("user", cache.Options{Backoff: -1, Observer: telemetry.Observer()})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		tracer := provider.Tracer("test")
		call := func(name string, load cache.Loader[int]) {
			ctx, span := tracer.Start(t.Context(), name)
			defer span.End()
			_, _ = c.GetOrLoad(ctx, "k", load)
		}
		load := func(ctx context.Context, _ string) (int, error) {
			_, span := tracer.Start(ctx, "query")
			defer span.End()
			time.Sleep(time.Second)
			return 1, nil
		}
		for _, name := range []string{"first", "second", "third"} {
			go call(name, load)
			synctest.Wait()
		}
		time.Sleep(2 * time.Second)
		call("hit", load)
		if err := c.Delete(t.Context(), "k"); err != nil {
			t.Error(err)
		}
		call("failing", func(context.Context, string) (int, error) { return 0, errors.New("down") })
		synctest.Wait()

		spans := make(map[string]trace.ReadOnlySpan)
		names := make(map[string]string) // by span
		for _, s := range recorder.Ended() {
			name := s.Name()
			for spans[name] != nil {
				name += " again"
			}
			spans[name] = s
			names[s.SpanContext().SpanID().String()] = name
		}
		if got := len(spans); got != 8 {
			t.Errorf("%d spans: %v", got, names)
		}
		loaded := spans["cache.load user"]
		if p := names[loaded.Parent().SpanID().String()]; p != "first" {
			t.Errorf("its parent is %s", p)
		}
		if p := names[spans["query"].Parent().SpanID().String()]; p != "cache.load user" {
			t.Errorf("the parent of the query is %s", p)
		}
		var links []string
		for _, l := range loaded.Links() {
			links = append(links, names[l.SpanContext.SpanID().String()])
		}
		if !slices.Equal(links, []string{"second", "third"}) {
			t.Errorf("links to %v", links)
		}
		set := attribute.NewSet(loaded.Attributes()...)
		if got, want := set.Encoded(attribute.DefaultEncoder()), "cache.background=false,cache.key=K,cache.leased=false,cache.name=user,cache.outcome=value"; got != want {
			t.Errorf("attributes %s; want %s", got, want)
		}
		if took := loaded.EndTime().Sub(loaded.StartTime()); took != time.Second {
			t.Errorf("it took %v", took)
		}
		if e := spans["hit"].Events(); len(e) != 1 || e[0].Name != "cache.hit" {
			t.Errorf("events %v", e)
		}
		if e := spans["first"].Events(); len(e) != 0 {
			t.Errorf("events of a miss: %v", e)
		}
		failed := spans["cache.load user again"]
		if s := failed.Status(); s.Code != codes.Error || s.Description != "error" || len(failed.Events()) != 1 {
			t.Errorf("%+v %v", s, failed.Events())
		}
	})
}

// What a reader collects.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader := metric.NewManualReader()
		telemetry, err := cacheotel.New(cacheotel.Options{MeterProvider: metric.NewMeterProvider(metric.WithReader(reader))})
		if err != nil {
			t.Fatal(err)
		}
		c, err := cache.New[int]("user", cache.Options{Observer: telemetry.Observer()})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		telemetry.Add(c)
		for range 3 {
			if _, err := c.GetOrLoad(t.Context(), "k", func(context.Context, string) (int, error) {
				time.Sleep(30 * time.Millisecond)
				return 1, nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		collect := func() map[string]string {
			var all metricdata.ResourceMetrics
			if err := reader.Collect(t.Context(), &all); err != nil {
				t.Fatal(err)
			}
			found := make(map[string]string)
			note := func(name string, set attribute.Set, value any) {
				found[name+" "+set.Encoded(attribute.DefaultEncoder())] = fmt.Sprint(value)
			}
			for _, scope := range all.ScopeMetrics {
				for _, m := range scope.Metrics {
					if m.Unit == "" || m.Description == "" || !strings.HasPrefix(m.Name, "cache.") {
						t.Errorf("%+v", m)
					}
					switch d := m.Data.(type) {
					case metricdata.Sum[int64]:
						for _, p := range d.DataPoints {
							note(m.Name, p.Attributes, p.Value)
						}
					case metricdata.Gauge[float64]:
						for _, p := range d.DataPoints {
							note(m.Name, p.Attributes, p.Value)
						}
					case metricdata.Histogram[float64]:
						for _, p := range d.DataPoints {
							note(m.Name, p.Attributes, p.Sum)
						}
					default:
						t.Errorf("%s is a %T", m.Name, d)
					}
				}
			}
			return found
		}
		found := collect()
		for name, want := range map[string]string{
			"cache.hits cache.name=user,cache.tier=memory":                                   "2",
			"cache.misses cache.name=user,cache.reason=absent":                               "1",
			"cache.loads cache.name=user":                                                    "1",
			"cache.load.duration cache.background=false,cache.name=user,cache.outcome=value": "0.03",
			"cache.redis.up cache.name=user":                                                 "1",
			"cache.callers.waiting cache.name=user":                                          "0",
		} {
			if found[name] != want {
				t.Errorf("%s is %q, want %q", name, found[name], want)
			}
		}
		telemetry.Remove(c)
		if found := collect(); found["cache.loads cache.name=user"] != "" {
			t.Error("a cache that was removed is there")
		}
		if err := telemetry.Close(); err != nil {
			t.Error(err)
		}
	})
}
