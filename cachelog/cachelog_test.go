package cachelog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache"
)

func logger(b *bytes.Buffer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// Each event has its level and its message.
func TestMessages(t *testing.T) {
	var b bytes.Buffer
	ob := New(logger(&b, slog.LevelDebug), Options{Key: strings.ToUpper, Most: -1})
	ctx := context.Background()
	ob.Miss(ctx, cache.Lookup{Cache: "user", Key: "k", Reason: "absent"})
	for _, outcome := range []string{"value", "not found", "error", "panic", "abandoned"} {
		_, end := ob.Load(ctx, cache.LoadEvent{})
		e := cache.LoadEvent{Cache: "user", Keys: []string{"k"}, Took: time.Second, Outcome: outcome}
		if outcome != "value" {
			e.Err = errors.New("boom")
		}
		end(e)
	}
	_, end := ob.Load(ctx, cache.LoadEvent{})
	end(cache.LoadEvent{Cache: "user", Keys: []string{"k", "l"}, Took: time.Second, Outcome: "value"})
	for _, what := range []string{"won", "taken over", "stored", "lost", "rejected", "unconfirmed", "gave up", "none"} {
		ob.Lease(ctx, cache.LeaseEvent{Cache: "user", Key: "k", What: what, Process: "p", Took: time.Second})
	}
	for _, what := range []string{"key", "tag", "all", "missed"} {
		ob.Deletion(cache.DeletionEvent{Cache: "user", What: what, Name: "n", From: "p"})
	}
	for _, what := range []string{"cut off", "back", "events lost", "events back"} {
		ob.Redis(cache.RedisEvent{Cache: "user", What: what})
	}
	const want = `level=DEBUG msg=miss cache=user key=K reason=absent
level=DEBUG msg=loaded cache=user key=K took=1s
level=DEBUG msg="not found" cache=user key=K took=1s
level=WARN msg="load failed" cache=user key=K took=1s error=boom
level=ERROR msg="load panicked" cache=user key=K took=1s error=boom
level=ERROR msg="load abandoned" cache=user key=K took=1s error=boom
level=DEBUG msg=loaded cache=user took=1s keys=2
level=DEBUG msg="lease won" cache=user key=K took=1s process=p
level=INFO msg="lease taken over" cache=user key=K took=1s process=p
level=DEBUG msg="lease stored" cache=user key=K took=1s process=p
level=WARN msg="lease lost" cache=user key=K took=1s process=p
level=INFO msg="value rejected" cache=user key=K took=1s process=p
level=WARN msg="value not confirmed" cache=user key=K took=1s process=p
level=WARN msg="gave up waiting for another process" cache=user key=K took=1s process=p
level=DEBUG msg="load without a lease" cache=user key=K took=1s process=p
level=DEBUG msg=deleted cache=user key=N from=p
level=DEBUG msg=deleted cache=user tag=N from=p
level=DEBUG msg=deleted cache=user all=N from=p
level=WARN msg="messages missed, memory dropped" cache=user from=p
level=WARN msg="Redis cut off" cache=user
level=INFO msg="Redis back" cache=user
level=WARN msg="events lost" cache=user
level=INFO msg="events back" cache=user
`
	if got := b.String(); got != want {
		t.Errorf("%s; want %s", got, want)
	}
}

// Of each message so many are written, and then how many were not; a key is not written unless it is asked for.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		c, err := cache.New[int]("user", cache.Options{Backoff: -1, Observer: New(logger(&b, slog.LevelInfo), Options{Most: 2})})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for i := range 7 {
			if i == 5 {
				time.Sleep(10 * time.Second)
			}
			_, _ = c.GetOrLoad(context.Background(), "secret", func(context.Context, string) (int, error) { return 0, fmt.Errorf("%d", i) })
		}
		const want = `level=WARN msg="load failed" cache=user took=0s error=0
level=WARN msg="load failed" cache=user took=0s error=1
level=WARN msg="load failed" cache=user took=0s error=5 skipped=3
level=WARN msg="load failed" cache=user took=0s error=6
`
		if got := b.String(); got != want {
			t.Errorf("%s; want %s", got, want)
		}
	})
}
