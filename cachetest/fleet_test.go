package cachetest_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/cachetest"
)

// TestMain keeps go-redis quiet, which logs each connection that a test breaks.
func TestMain(m *testing.M) {
	redis.SetLogger(quiet{})
	m.Run()
}

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// The examples hold.
func TestExamples(outer *testing.T) {
	for name, example := range map[string]func(){"Run": ExampleRun, "Crash": ExampleProcess_Crash} {
		outer.Run(name, func(inner *testing.T) {
			t = inner
			example()
		})
	}
}

// rig is a fleet whose processes have a client each that does not repeat commands, and a key with the value 1.
func rig(t *testing.T, f func(fleet *cachetest.Fleet, a, b *redis.Client)) {
	t.Helper()
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		once := func(o *redis.Options) { o.MaxRetries, o.DialerRetries = -1, 1 }
		a, b := fleet.Process(0).Client(once), fleet.Process(1).Client(once)
		if err := a.Set(fleet.T.Context(), "n", 1, time.Hour).Err(); err != nil {
			fleet.T.Fatal(err)
		}
		f(fleet, a, b)
	})
}

// incr adds 1, and returns what there is then.
func incr(fleet *cachetest.Fleet, c *redis.Client) (int64, error) {
	return c.Incr(fleet.T.Context(), "n").Result()
}

// Each fault does what its doc says to those whom it is about, and to nobody else; and it ends.
func TestFaults(t *testing.T) {
	rig(t, func(fleet *cachetest.Fleet, a, b *redis.Client) {
		is := func(c *redis.Client, want int64) {
			fleet.T.Helper()
			if n, err := incr(fleet, c); n != want || err != nil {
				fleet.T.Errorf("%d, %v, want %d", n, err, want)
			}
		}
		fails := func(c *redis.Client, within time.Duration) {
			fleet.T.Helper()
			began := time.Now()
			n, err := incr(fleet, c)
			if took := time.Since(began); err == nil || took > within {
				fleet.T.Errorf("%d, %v after %v, want an error within %v", n, err, took, within)
			}
		}
		p := fleet.Process(0)

		fleet.Redis.Down()
		fails(a, 0)
		fails(b, 0)
		fleet.Redis.Up()
		is(a, 2)
		is(b, 3)

		fleet.Redis.Hang()
		fails(a, 5*time.Second) // the client's time-out
		fleet.Redis.Continue()
		fleet.Settle()
		is(b, 4) // the connection was given up, and with it the command

		fleet.Redis.Refuse("READONLY You can't write against a read only replica.")
		if _, err := incr(fleet, a); err == nil || !strings.HasPrefix(err.Error(), "READONLY") {
			fleet.T.Error(err)
		}
		fleet.Redis.Refuse("")
		is(a, 5)

		p.Partition()
		fails(a, 0)
		is(b, 6)
		fleet.Redis.Down()
		fleet.Redis.Up() // which does not end the partition
		fails(a, 0)
		fails(b, 0) // on the connection that was broken
		p.Heal()
		is(a, 7)

		p.DropNextReply()
		is(b, 8) // it is nobody else's
		fails(a, 0)
		is(a, 10) // it was executed
		p.DropNextRequest()
		p.DropNextRequest()
		fails(a, 0)
		fails(a, 0)
		is(a, 11)

		p.Disconnect()
		fails(a, 0)
		is(a, 12)

		p.Pause()
		done := make(chan struct{})
		go func() {
			is(a, 14)
			close(done)
		}()
		fleet.Settle()
		is(b, 13)
		time.Sleep(time.Second)
		p.Resume()
		<-done

		fleet.Redis.Restart()
		fails(a, 0)
		fails(b, 0)
		is(a, 1)

		p.Crash()
		fails(a, 0)
		p.Heal() // which is no way back
		fails(a, 0)
		is(b, 2)
	})
}

func TestMessages(t *testing.T) {
	rig(t, func(fleet *cachetest.Fleet, a, b *redis.Client) {
		sub := a.Subscribe(fleet.T.Context(), "news")
		defer func() { _ = sub.Close() }()
		if _, err := sub.Receive(fleet.T.Context()); err != nil {
			fleet.T.Fatal(err)
		}
		fleet.Process(0).DropNextMessage()
		for _, text := range []string{"lost", "heard"} {
			if err := b.Publish(fleet.T.Context(), "news", text).Err(); err != nil {
				fleet.T.Fatal(err)
			}
		}
		if m, err := sub.ReceiveMessage(fleet.T.Context()); err != nil || m.Payload != "heard" {
			fleet.T.Errorf("%v, %v", m, err)
		}
	})
}

func TestStepClock(t *testing.T) {
	rig(t, func(fleet *cachetest.Fleet, a, _ *redis.Client) {
		for _, step := range []time.Duration{10 * time.Minute, -20 * time.Minute, 10 * time.Minute} {
			before := a.Time(fleet.T.Context()).Val()
			fleet.Redis.StepClock(step)
			time.Sleep(time.Second)
			if got := a.Time(fleet.T.Context()).Val().Sub(before); got != step+time.Second {
				fleet.T.Errorf("%v, want %v and a second", got, step)
			}
		}
		if ttl := a.PTTL(fleet.T.Context(), "n").Val(); ttl > time.Hour || ttl < 30*time.Minute {
			fleet.T.Errorf("TTL %v", ttl)
		}
	})
}

// Commands are counted without those that belong to connections.
func TestCommands(t *testing.T) {
	rig(t, func(fleet *cachetest.Fleet, a, b *redis.Client) {
		_, _ = incr(fleet, b)
		_, _ = incr(fleet, b)
		if x, y, all := fleet.Process(0).Commands(), fleet.Process(1).Commands(), fleet.Redis.Commands(); x != 1 || y != 2 || all != 3 {
			fleet.T.Errorf("%d and %d, %d", x, y, all)
		}
		if v, err := fleet.Redis.Server().Get("n"); v != "3" || err != nil {
			fleet.T.Errorf("%q, %v", v, err)
		}
	})
}

// A cache goes through all of it without an error, and hears of deletions again.
func TestCacheUnderFaults(t *testing.T) {
	cachetest.Run(t, 3, func(fleet *cachetest.Fleet) {
		var version atomic.Int64
		caches := map[*cachetest.Process]*cache.Cache[int64]{}
		for _, p := range fleet.Processes() {
			c, err := cache.New[int64]("n", cache.Options{Redis: p.Redis(), TTL: time.Minute, LocalTTL: time.Minute})
			if err != nil {
				fleet.T.Fatal(err)
			}
			fleet.T.Cleanup(func() { _ = c.Close() })
			caches[p] = c
		}
		load := func(context.Context, string) (int64, error) { return version.Load(), nil }
		first := fleet.Process(0)
		for _, fault := range []struct{ begin, end func() }{
			{func() {}, func() {}},
			{fleet.Redis.Down, fleet.Redis.Up},
			{fleet.Redis.Hang, fleet.Redis.Continue},
			{fleet.Redis.Restart, func() {}},
			{func() { fleet.Redis.Refuse("OOM command not allowed") }, func() { fleet.Redis.Refuse("") }},
			{func() { fleet.Redis.StepClock(-time.Hour) }, func() { fleet.Redis.StepClock(time.Hour) }},
			{first.Pause, first.Resume},
			{first.Partition, first.Heal},
			{first.DropNextReply, first.DropNextRequest},
			{first.Disconnect, first.DropNextMessage},
			{fleet.Process(2).Crash, func() {}},
		} {
			fault.begin()
			fleet.Each(func(p *cachetest.Process) {
				if _, err := caches[p].GetOrLoad(fleet.T.Context(), "k", load); err != nil {
					fleet.T.Error(err)
				}
			})
			fault.end()
			time.Sleep(time.Minute)

			version.Add(1)
			if err := caches[fleet.Process(1)].Delete(fleet.T.Context(), "k"); err != nil {
				fleet.T.Error(err)
			}
			time.Sleep(5 * time.Second)
			for _, p := range fleet.Processes()[:2] {
				if n, err := caches[p].GetOrLoad(fleet.T.Context(), "k", load); n != version.Load() || err != nil {
					fleet.T.Errorf("%v: %d, %v, want %d", p, n, err, version.Load())
				}
			}
		}
	})
}

// A process has one cache.Redis, and as many clients as it asks for.
func TestProcesses(t *testing.T) {
	cachetest.Run(t, 3, func(fleet *cachetest.Fleet) {
		var n atomic.Int64
		fleet.Each(func(p *cachetest.Process) {
			time.Sleep(time.Second)
			n.Add(1)
			r, c := p.Redis(), p.Client()
			if p.Redis() != r || p.Client() == c {
				fleet.T.Error("want one cache.Redis, and many clients")
			}
		})
		if n.Load() != 3 || len(fleet.Processes()) != 3 || fleet.Process(2).String() != "process 2" {
			fleet.T.Error(n.Load(), fleet.Processes())
		}
	})
}

// Redis comes back as the test ends, while go-redis dials in the background: that finds no server, and no remains of one.
func TestUpInTheEnd(t *testing.T) {
	for range 20 {
		cachetest.Run(t, 1, func(fleet *cachetest.Fleet) {
			c, err := cache.New[int]("user", cache.Options{Redis: fleet.Process(0).Redis()})
			if err != nil {
				fleet.T.Fatal(err)
			}
			fleet.T.Cleanup(func() { _ = c.Close() })
			fleet.Redis.Down()
			if _, err := c.GetOrLoad(fleet.T.Context(), "k", func(context.Context, string) (int, error) { return 1, nil }); err != nil {
				fleet.T.Error(err)
			}
			fleet.Redis.Up()
		})
	}
}
