package cache

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
)

// tellsAll is a hook that panics, and a Codec that panics or fails, with all they know.
type tellsAll struct{}

func (tellsAll) DialHook(next redis.DialHook) redis.DialHook { return next }
func (tellsAll) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(_ context.Context, cmd redis.Cmder) error { panic(cmd.String()) }
}

func (tellsAll) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(_ context.Context, cmds []redis.Cmder) error { panic(cmds[0].String()) }
}
func (tellsAll) Name() string                  { return "tells all" }
func (tellsAll) Marshal(v any) ([]byte, error) { panic(v) }
func (tellsAll) Unmarshal([]byte, any) error   { return nil }

// No error of ours shows a key or a value, whatever those say that it comes from.
func TestPrivacy(t *testing.T) {
	const key, value = "key-of-ann", "value-of-ann"
	hidden := func(t *testing.T, errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err == nil {
				t.Error("no error")
			} else if s := err.Error(); strings.Contains(s, "-of-ann") || strings.Contains(s, "secret") {
				t.Errorf("%q", s)
			}
		}
	}
	both := func(c *Cache[string]) []error {
		return []error{c.Delete(background, key), c.Set(background, key, value)}
	}
	for name, text := range map[string]string{
		"unknown command": "ERR unknown command 'unlink', with args beginning with: 'cache:user:" + key + "' '" + value + "' ",
		"no permission":   "NOPERM No permissions to access a key",
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *lab.World) {
				p := start(t, w, "A", Options{}, nil)
				defer p.stop()
				refusing(w, text, "UNLINK", "EVAL", "EVALSHA", "WATCH")
				errs := both(p.cache)
				hidden(t, errs...)
				var answer redis.Error
				if !errors.As(errs[0], &answer) || answer.Error() != text {
					t.Errorf("what it wraps is %v", answer)
				}
			})
		})
	}
	t.Run("reply that is not understood", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *lab.World) {
			p := start(t, w, "A", Options{}, func(o *redis.Options) { o.MaxRetries = -1 })
			defer p.stop()
			w.Hold(only("A", "UNLINK", lab.Reply))
			errs := make(chan error, 1)
			go func() { errs <- p.cache.Delete(background, key) }()
			m := w.Held()[0]
			m.Raw = []byte("+" + value + "\r\n")
			m.Deliver()
			w.Hold(nil)
			hidden(t, <-errs)
		})
	})
	t.Run("hook", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *lab.World) {
			p := start(t, w, "A", Options{}, nil)
			defer p.stop()
			p.client.AddHook(tellsAll{})
			hidden(t, both(p.cache)...)
		})
	})
	t.Run("codec", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *lab.World) {
			p := start(t, w, "A", Options{Codec: tellsAll{}}, nil)
			defer p.stop()
			hidden(t, p.cache.Set(background, key, value))
		})
	})
	t.Run("down", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *lab.World) {
			p := start(t, w, "A", Options{}, nil)
			defer p.stop()
			w.CutOff("A", false)
			errs := both(p.cache)
			hidden(t, errs...)
			var opErr *net.OpError
			if !errors.As(errs[0], &opErr) && !errors.Is(errs[0], context.DeadlineExceeded) {
				t.Errorf("it wraps %v", errs[0])
			}
		})
	})
	t.Run("limits", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *lab.World) {
			p := start(t, w, "A", Options{MaxValueBytes: 5}, nil)
			defer p.stop()
			long := strings.Repeat(key, MaxKeyBytes)
			hidden(t, p.cache.Set(background, key, value), p.cache.Set(background, long, "v"))
		})
	})
}
