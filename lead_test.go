package cache

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/bellwether-go/cache/internal/lab"
)

// exiting is a value that ends the goroutine which decodes it.
type exiting struct{ text string }

func (e exiting) EncodeMsgpack(enc *msgpack.Encoder) error { return enc.EncodeString(e.text) }
func (e *exiting) DecodeMsgpack(*msgpack.Decoder) error    { runtime.Goexit(); return nil }

// A value is decoded in the goroutine of the call that looks for it. If it ends that, others do not wait for ever.
func TestDecoderExits(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		c, err := New[exiting]("exiting", exact(Options{Redis: p.rds, LocalTTL: -1}))
		if err != nil {
			t.Fatal(err)
		}
		load := func(context.Context, string) (exiting, error) { return exiting{"v"}, nil }
		if v, err := c.GetOrLoad(background, "k", load); v.text != "v" || err != nil {
			t.Fatalf("%v, %v", v, err)
		}
		w.Hold(only("A", "GETRANGE", lab.Reply))
		returned, exited := false, make(chan struct{})
		go func() {
			defer close(exited)
			_, _ = c.GetOrLoad(background, "k", load)
			returned = true
		}()
		synctest.Wait()
		joined := make(chan error)
		go func() {
			_, err := c.GetOrLoad(background, "k", load)
			joined <- err
		}()
		synctest.Wait()
		w.Hold(nil)
		var panicked *PanicError
		if err := <-joined; !errors.As(err, &panicked) || !panicked.Goexit {
			t.Errorf("%v", err)
		}
		if <-exited; returned {
			t.Error("the call that decodes has returned")
		}
		if err := c.Close(); err != nil { // it does not wait for anything
			t.Error(err)
		}
		p.stop()
	})
}

// A Get that was cancelled leaves its read alone: what that finds later is nobody's. (The race detector looks.)
func TestGetCancelledBeforeItsRead(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{LocalTTL: -1}, nil)
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		w.Hold(only("A", "GETRANGE", lab.Reply))
		ctx, cancel := context.WithCancel(background)
		returned := make(chan bool)
		go func() {
			v, ok := p.cache.Get(ctx, "k")
			returned <- ok || v != ""
		}()
		synctest.Wait()
		cancel()
		if <-returned {
			t.Error("it has a value")
		}
		time.Sleep(time.Second) // in which the read gives up
		w.Hold(nil)
		p.stop()
	})
}

// What waited for a trip that took too long goes on with another worker, and the one that was left behind ends when its trip does.
func TestWorkerLeftBehind(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{LocalTTL: -1}, nil)
		defer p.stop()
		w.Freeze(true)
		for n := range 20 { // more than go at a time
			p.get(background, strconv.Itoa(n), loads(0, "v"))
		}
		time.Sleep(200 * time.Millisecond)
		w.Freeze(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		pl := &p.rds.pipeline
		pl.mu.Lock()
		defer pl.mu.Unlock()
		if pl.running != 0 || pl.gathered != 0 {
			t.Errorf("%d workers run, %d have gathered", pl.running, pl.gathered)
		}
	})
}

// A load whose callers have left while it was looked for in Redis is not begun, if Options.CancelAbandoned says so.
func TestAbandonedBeforeItsRead(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{LocalTTL: -1, CancelAbandoned: true}, nil)
		defer p.stop()
		p.get(background, "other", loads(0, "v")).must(t, "v", nil, 0)
		w.Hold(only("A", "GETRANGE", lab.Reply))
		ctx, cancel := context.WithCancel(background)
		a := p.get(ctx, "k", func(context.Context, string) (string, error) {
			t.Error("it is loaded")
			return "v", nil
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		if !a.done || !errors.Is(a.err, context.Canceled) {
			t.Errorf("%+v", a)
		}
		w.Hold(nil)
		synctest.Wait()
	})
}
