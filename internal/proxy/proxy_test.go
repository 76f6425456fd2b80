package proxy

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

var background = context.Background()

// setUp returns a client whose one connection goes through a proxy.
func setUp(t *testing.T) (*Proxy, *redis.Client) {
	t.Helper()
	m := miniredis.RunT(t)
	p := Start(t, m.Addr())
	c := redis.NewClient(&redis.Options{
		Addr: p.Addr, PoolSize: 1, MaxRetries: -1, ReadTimeout: 300 * time.Millisecond, DialTimeout: 300 * time.Millisecond,
	})
	t.Cleanup(func() { _ = c.Close() })
	if err := c.Set(background, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	return p, c
}

func get(c *redis.Client) string {
	v, err := c.Get(background, "k").Result()
	if err != nil {
		return "error"
	}
	return v
}

func TestCut(t *testing.T) {
	p, c := setUp(t)
	p.Cut()
	_ = get(c) // go-redis may find the dead connection
	if v := get(c); v != "v" {
		t.Errorf("after a cut: %s", v)
	}
	p.Refuse(true)
	if v := get(c); v != "error" {
		t.Errorf("while it refuses: %s", v)
	}
	p.Refuse(false)
	if v := get(c); v != "v" {
		t.Errorf("after it refused: %s", v)
	}
}

func TestHalfOpen(t *testing.T) {
	p, c := setUp(t)
	p.HalfOpen()
	if v := get(c); v != "error" {
		t.Errorf("on a half-open connection: %s", v)
	}
	if v := get(c); v != "v" {
		t.Errorf("on a new one: %s", v)
	}
	if n := p.Clients(); n != 1 { // though the server believes that there are two
		t.Errorf("%d clients", n)
	}
}

func TestDelayAndTrickle(t *testing.T) {
	p, c := setUp(t)
	p.Delay(20 * time.Millisecond)
	began := time.Now()
	if v := get(c); v != "v" || time.Since(began) < 40*time.Millisecond {
		t.Errorf("%s after %v", v, time.Since(began))
	}
	p.Delay(0)
	p.Trickle(true)
	long := strings.Repeat("x", 5000)
	_ = c.Set(background, "k", long, 0)
	if v := get(c); v != long {
		t.Errorf("byte by byte: %d bytes", len(v))
	}
}

func TestTamper(t *testing.T) {
	p, c := setUp(t)
	var mode atomic.Value
	var seen atomic.Int32
	p.Tamper(func(command []string, reply []byte) []byte {
		if command[0] != "get" {
			return reply
		}
		seen.Add(1)
		switch mode.Load() {
		case "lose":
			return nil
		case "repeat":
			return append(append([]byte(nil), reply...), reply...)
		case "replace":
			return []byte("+OK\r\n")
		}
		return reply
	})
	for _, want := range []struct{ mode, value string }{
		{"", "v"}, {"replace", "OK"}, {"lose", "error"}, {"repeat", "v"}, {"", "v"},
	} {
		mode.Store(want.mode)
		if v := get(c); v != want.value {
			t.Errorf("%q: %s, want %s", want.mode, v, want.value)
		}
	}
	if seen.Load() != 5 {
		t.Errorf("%d replies seen", seen.Load())
	}
	mode.Store("lose") // in a pipeline, what follows moves up
	cmds, err := c.Pipelined(background, func(pipe redis.Pipeliner) error {
		pipe.Get(background, "k")
		pipe.Set(background, "k", "w", 0)
		return nil
	})
	if err == nil || cmds[0].(*redis.StringCmd).Val() != "OK" {
		t.Errorf("%v, %v", cmds[0], err)
	}
	p.Tamper(nil)
	if v := get(c); v != "w" {
		t.Errorf("in the end: %s", v)
	}
}
