// Package cachelog writes what a cache does to a slog.Logger:
//
//	users, err := cache.New[User]("user", cache.Options{Redis: rds, Observer: cachelog.New(logger, cachelog.Options{})})
//
// What somebody should look at is a warning or an error, what explains it is an information, and each miss, load and deletion is for
// debugging. Of each message only so many are written in a time, so that an outage does not fill a disk; the first one after that says
// how many were not.
package cachelog

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/bellwether-go/cache"
)

// Options of an observer. The zero value is ready to use.
type Options struct {
	// Key is what is written of a key or a tag, which may be nobody else's business. Nil: nothing is.
	Key func(string) string

	// Every and Most bound how many of each message of a cache are written: Most in each time of Every. Negative Most: no bound.
	// Default: 10 in 10 seconds.
	Every time.Duration
	Most  int
}

// New returns an Observer that writes to a logger, which must be safe for concurrent use, as slog's are. Messages and their levels:
//
//   - error: "load panicked", "load abandoned" (after LoadTimeout);
//   - warning: "load failed", "lease lost", "gave up waiting for another process", "value not confirmed", "Redis cut off",
//     "events lost", "messages missed, memory dropped";
//   - information: "lease taken over", "value rejected" (it was deleted or taken over meanwhile), "Redis back", "events back";
//   - debug: "miss", "loaded", "not found", "deleted", "load without a lease", and every other change of a lease.
//
// Attributes are cache, key (see Options.Key), keys (how many, of a batch), reason, error, took (a duration), process and from.
// An error is the loader's own, and its text is written.
func New(logger *slog.Logger, o Options) cache.Observer {
	if o.Every <= 0 {
		o.Every = 10 * time.Second
	}
	if o.Most == 0 {
		o.Most = 10
	}
	l := &log{logger: logger, o: o, counts: make(map[kind]*count)}
	return cache.Observer{Miss: l.miss, Load: l.load, Lease: l.lease, Deletion: l.deletion, Redis: l.redis}
}

type log struct {
	logger *slog.Logger
	o      Options

	mu     sync.Mutex
	counts map[kind]*count // guarded by mu
}

// kind is what is counted together.
type kind struct{ cache, message string }

type count struct {
	since      time.Time
	n, skipped int
}

// write writes a message, unless there were too many of them.
func (l *log) write(ctx context.Context, level slog.Level, message, cache string, attrs ...slog.Attr) {
	if !l.logger.Enabled(ctx, level) {
		return
	}
	skipped, ok := l.counted(kind{cache, message})
	if !ok {
		return
	}
	if skipped > 0 {
		attrs = append(attrs, slog.Int("skipped", skipped))
	}
	l.logger.LogAttrs(ctx, level, message, append([]slog.Attr{slog.String("cache", cache)}, attrs...)...)
}

// counted counts a message, and returns whether it is to be written, and how many before it were not.
func (l *log) counted(k kind) (skipped int, ok bool) {
	if l.o.Most < 0 {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counts[k]
	if c == nil {
		c = &count{since: time.Now()}
		l.counts[k] = c
	}
	if now := time.Now(); now.Sub(c.since) >= l.o.Every {
		c.since, c.n = now, 0
	}
	if c.n++; c.n > l.o.Most {
		c.skipped++
		return 0, false
	}
	skipped, c.skipped = c.skipped, 0
	return skipped, true
}

// with adds a key, or what is to be written of it.
func (l *log) with(name, key string, attrs ...slog.Attr) []slog.Attr {
	if l.o.Key != nil && key != "" {
		attrs = append([]slog.Attr{slog.String(name, l.o.Key(key))}, attrs...)
	}
	return attrs
}

func (l *log) miss(ctx context.Context, e cache.Lookup) {
	l.write(ctx, slog.LevelDebug, "miss", e.Cache, l.with("key", e.Key, slog.String("reason", e.Reason))...)
}

func (l *log) load(ctx context.Context, _ cache.LoadEvent) (context.Context, func(cache.LoadEvent)) {
	return ctx, func(e cache.LoadEvent) {
		level, message := slog.LevelDebug, "loaded"
		switch e.Outcome {
		case "not found":
			message = "not found"
		case "error":
			level, message = slog.LevelWarn, "load failed"
		case "panic":
			level, message = slog.LevelError, "load panicked"
		case "abandoned":
			level, message = slog.LevelError, "load abandoned"
		}
		attrs := []slog.Attr{slog.Duration("took", e.Took)}
		if e.Err != nil && level > slog.LevelDebug {
			attrs = append(attrs, slog.String("error", e.Err.Error()))
		}
		if len(e.Keys) > 1 {
			attrs = append(attrs, slog.Int("keys", len(e.Keys)))
		} else {
			attrs = l.with("key", e.Keys[0], attrs...)
		}
		l.write(ctx, level, message, e.Cache, attrs...)
	}
}

func (l *log) lease(ctx context.Context, e cache.LeaseEvent) {
	level, message := slog.LevelDebug, "lease "+e.What
	switch e.What {
	case "lost":
		level = slog.LevelWarn
	case "gave up":
		level, message = slog.LevelWarn, "gave up waiting for another process"
	case "unconfirmed":
		level, message = slog.LevelWarn, "value not confirmed"
	case "taken over":
		level = slog.LevelInfo
	case "rejected":
		level, message = slog.LevelInfo, "value rejected"
	case "none":
		message = "load without a lease"
	}
	attrs := []slog.Attr{slog.Duration("took", e.Took)}
	if e.Process != "" {
		attrs = append(attrs, slog.String("process", e.Process))
	}
	l.write(ctx, level, message, e.Cache, l.with("key", e.Key, attrs...)...)
}

func (l *log) deletion(e cache.DeletionEvent) {
	from := slog.String("from", e.From)
	if e.What == "missed" {
		l.write(context.Background(), slog.LevelWarn, "messages missed, memory dropped", e.Cache, from)
		return
	}
	l.write(context.Background(), slog.LevelDebug, "deleted", e.Cache, l.with(e.What, e.Name, from)...)
}

func (l *log) redis(e cache.RedisEvent) {
	level, message := slog.LevelInfo, e.What
	switch e.What {
	case "cut off":
		level, message = slog.LevelWarn, "Redis cut off"
	case "back":
		message = "Redis back"
	case "events lost":
		level = slog.LevelWarn
	}
	l.write(context.Background(), level, message, e.Cache)
}
