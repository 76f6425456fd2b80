package cache

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
)

// tripCounter is a hook of go-redis that notes round trips: the name of the first command, and how many there are.
type tripCounter struct {
	mu    sync.Mutex
	trips []string // guarded by mu
}

func (c *tripCounter) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (c *tripCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.note(cmd)
		return next(ctx, cmd)
	}
}

func (c *tripCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.note(cmds...)
		return next(ctx, cmds)
	}
}

func (c *tripCounter) note(cmds ...redis.Cmder) {
	switch name := cmds[0].Name(); name {
	case "hello", "client", "publish", "subscribe", "ping", "time", "cluster", "command": // not about keys
	default:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.trips = append(c.trips, fmt.Sprint(name, " ", len(cmds)))
	}
}

// were checks the round trips, and forgets them.
func (c *tripCounter) were(t *testing.T, want ...string) {
	t.Helper()
	if got := strings.Join(c.take(), ", "); got != strings.Join(want, ", ") {
		t.Errorf("round trips: %s; want %s", got, strings.Join(want, ", "))
	}
}

// take returns the round trips and forgets them.
func (c *tripCounter) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.trips = nil }()
	return c.trips
}

func keysTo(n int) (text string) {
	for i := range n {
		text += fmt.Sprint("k", i, " ")
	}
	return text
}

// However many keys there are, each step takes one round trip, once the first ones have shown that the server is quick.
func TestManyRoundTrips(t *testing.T) {
	for _, tags := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *lab.World) {
			p := start(t, w, "A", Options{LocalTTL: -1, Tags: tags}, nil)
			defer p.stop()
			count := new(tripCounter)
			p.client.AddHook(count)
			const n = 50
			ask := func() {
				t.Helper()
				values, err := p.cache.GetOrLoadMany(background, strings.Fields(keysTo(n)), new(batchOrigin).load)
				if len(values) != n || err != nil {
					t.Fatalf("%d values, %v", len(values), err)
				}
			}
			drop := func() {
				t.Helper()
				for i := range n {
					w.Redis.Del(p.rds.key("user", fmt.Sprint("k", i)))
				}
			}
			ask() // the scripts are loaded first
			if !tags {
				count.were(t, "getrange 32", "getrange 18", "script 1", "evalsha 50", "script 1", "evalsha 50")
				ask()
				count.were(t, "getrange 50")
				drop()
				ask()
				count.were(t, "getrange 50", "evalsha 50", "evalsha 50")
				return
			}
			// With tags, the last command of those that ask for barriers is the proof that the replies belong to them.
			count.were(t, "getrange 65", "getrange 37", "script 1", "evalsha 50", "script 1", "evalsha 50", "script 1", "evalsha 50", "hmget 51")
			ask()
			count.were(t, "getrange 101")
			drop()
			ask()
			count.were(t, "getrange 101", "evalsha 50", "evalsha 50", "evalsha 50", "hmget 51")
		})
	}
}

// A batch is sent in round trips that grow while the server is quick, and shrink when it is not. When one of them gets no
// answer the rest is not sent.
func TestManySlowStart(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		p.get(background, "a", loads(0, "va")).must(t, "va", nil, 0) // the connection is there
		count := new(tripCounter)
		p.client.AddHook(count)
		var takes atomic.Int64 // for a command
		p.client.AddHook(slowPipeline(func(n int) { time.Sleep(time.Duration(takes.Load()) * time.Duration(n)) }))
		send := func(n int, each time.Duration, want string, wantErr error) {
			t.Helper()
			takes.Store(int64(each))
			var err error
			reqs := make([]*request, n)
			for i := range reqs {
				reqs[i] = &request{ctx: background, sends: []sender{get("k", 100)}}
			}
			p.rds.pipeline.sendAll(reqs)
			for i, req := range reqs {
				if req.err != nil {
					err = req.err
				} else if err != nil || len(req.cmds) != 1 || silence(req.cmds[0].Err()) != nil {
					t.Errorf("request %d: %v after %v", i, req.cmds, err)
				}
			}
			if !errors.Is(err, wantErr) {
				t.Errorf("%v, want %v", err, wantErr)
			}
			count.were(t, want)
		}
		send(1000, 0, "getrange 32, getrange 64, getrange 128, getrange 256, getrange 512, getrange 8", nil)
		send(1000, 0, "getrange 1000", nil)
		send(1000, 100*time.Microsecond, "getrange 1000", nil)                                  // 100 ms of 500
		send(1000, 300*time.Microsecond, "getrange 1000", nil)                                  // 300 ms: the next one is half as long
		send(1000, 100*time.Microsecond, "getrange 500, getrange 500", nil)                     // neither quick nor slow
		send(300, 2*time.Millisecond, "getrange 300", context.DeadlineExceeded)                 // 600 ms
		send(100, 2*time.Millisecond, "getrange 32, getrange 32, getrange 32, getrange 4", nil) // 64 ms of 98
		send(100, 4*time.Millisecond, "getrange 32", context.DeadlineExceeded)                  // 128 ms: the rest is not sent
		send(70, 0, "getrange 32, getrange 38", nil)
	})
}

// slowPipeline is a hook of go-redis that makes a pipeline of n commands take its time.
type slowPipeline func(n int)

func (slowPipeline) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (slowPipeline) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (slow slowPipeline) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		slow(len(cmds))
		return next(ctx, cmds)
	}
}

// A server that has lost the scripts is given them again, once for all keys.
func TestManyScriptsLost(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		count := new(tripCounter)
		o := new(batchOrigin)
		p.many(background, "a b", o.load).must(t, "a=va b=vb", 0)
		if err := p.client.ScriptFlush(background).Err(); err != nil {
			t.Fatal(err)
		}
		p.client.AddHook(count)
		p.many(background, "c d e", o.load).must(t, "c=vc d=vd e=ve", 0)
		count.were(t, "getrange 3", "evalsha 3", "script 1", "evalsha 3", "evalsha 3", "script 1", "evalsha 3")
		if s := p.cache.Stats(); s.LeasesWon != 5 || s.LoadsUnleased != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Without Redis, and with one that fails in the middle, the loader is called once all the same.
func TestManyWithoutRedis(t *testing.T) {
	for _, verb := range []string{"GETRANGE", "ACQUIRE", "COMMIT"} {
		bubble(t, func(t *testing.T, w *lab.World) {
			p := start(t, w, "A", Options{LocalTTL: -1}, func(o *redis.Options) { o.MaxRetries = -1 })
			defer p.stop()
			o := new(batchOrigin)
			p.many(background, "x", o.load).must(t, "x=vx", 0) // the scripts are there
			w.Hold(only("", verb, lab.Request))
			a := p.many(background, "a b c", o.load)
			time.Sleep(time.Minute)
			fails(t, a.must(t, "a=va b=vb c=vc", p.rds.timeout+2*p.rds.timeout/pipelineShare), nil)
			o.was(t, "x", "a b c")
			if s := p.cache.Stats(); (s.LoadsUnleased == 3) == (verb == "COMMIT") {
				t.Errorf("%s: %+v", verb, s)
			}
			w.Hold(nil)
		})
	}
}

// Leases are renewed while a batch loads. One that is lost is no trouble for the others.
func TestManyRenewals(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{Lease: time.Second}, nil)
		defer p.stop()
		count := new(tripCounter)
		o := &batchOrigin{takes: 3 * time.Second}
		a := p.many(background, "a b c", o.load)
		synctest.Wait()
		p.client.AddHook(count)
		time.Sleep(1500 * time.Millisecond)
		w.Redis.Del("cache:user:b")
		time.Sleep(1500 * time.Millisecond)
		fails(t, a.must(t, "a=va b=vb c=vc", 3*time.Second), nil)
		if s := p.cache.Stats(); s.LeasesLost != 1 || s.CommitsRejected != 1 || s.LeasesWon != 3 {
			t.Errorf("%+v", s)
		}
		if !w.Redis.Exists("cache:user:a") || w.Redis.Exists("cache:user:b") {
			t.Error("what was deleted is not to be stored")
		}
		trips := count.take()
		renewals := 0
		for _, trip := range trips[:len(trips)-1] { // the last one commits
			n := 0
			if _, err := fmt.Sscanf(trip, "evalsha %d", &n); err != nil && !strings.HasPrefix(trip, "eval") && !strings.HasPrefix(trip, "script") {
				t.Errorf("%q", trips)
			}
			renewals++
		}
		if renewals > 18 {
			t.Errorf("%d round trips to renew three leases eight times", renewals)
		}
	})
}

// A deletion in the middle of a batch concerns its key only.
func TestManyDeletion(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		o := &batchOrigin{takes: time.Second}
		a := p.many(background, "a b", o.load)
		synctest.Wait()
		if err := p.cache.Delete(background, "b"); err != nil {
			t.Fatal(err)
		}
		after := p.many(background, "b a", o.load) // joins for a, and must not have the old b
		time.Sleep(2 * time.Second)
		fails(t, a.must(t, "a=va b=vb", time.Second), nil)
		fails(t, after.must(t, "a=va b=vb", time.Second), nil)
		o.was(t, "a b", "b")
		p.many(background, "a b", o.load).must(t, "a=va b=vb", 0)
		o.was(t)
	})
}

// Keys of a batch that another process is loading are waited for; when that one dies, what it leaves is loaded by few calls.
func TestManyHolderDies(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		const n = 40
		dead := &batchOrigin{takes: time.Hour}
		ctx, cancel := context.WithCancel(background)
		ps["A"].many(ctx, keysTo(n), dead.load)
		synctest.Wait()
		o := new(batchOrigin)
		b := ps["B"].many(background, "x "+keysTo(n), o.load)
		time.Sleep(time.Second)
		o.was(t, "x")
		w.CutOff("A", false)
		cancel()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if !b.done || len(b.values) != n+1 || b.err != nil || b.took > 3*time.Second {
			t.Errorf("%d values, %v after %v", len(b.values), b.err, b.took)
		}
		if len(o.calls) > 4 {
			t.Errorf("%d calls of the loader for what was taken over: %q", len(o.calls), o.calls)
		}
		_ = ps["A"].cache.Close()
	})
}

// Values that are due are loaded anew by one call of the loader, in the background: those in memory, those found in Redis,
// and stale ones.
func TestManyRefresh(t *testing.T) {
	alike(t, Options{TTL: time.Minute, StaleWhileRevalidate: time.Hour}, func(t *testing.T, p *proc) {
		o := new(batchOrigin)
		p.many(background, "a b", o.load).must(t, "a=va b=vb", 0)
		p.many(background, "c", o.load).must(t, "c=vc", 0)
		time.Sleep(2 * time.Minute)
		o.values = map[string]string{"a": "1", "b": "2", "c": "3", "d": "4"}
		o.takes = time.Second
		o.calls = nil
		p.many(background, "a d b", o.load) // d is waited for
		fails(t, p.many(background, "a c b", o.load).must(t, "a=va b=vb c=vc", 0), nil)
		synctest.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		if len(o.calls) > 3 {
			t.Errorf("loaded %q", o.calls)
		}
		time.Sleep(10 * time.Millisecond) // what was read just before it was stored is looked at again
		o.calls = nil                     // nobody loads now
		fails(t, p.many(background, "a b c d", o.load).must(t, "a=1 b=2 c=3 d=4", 0), nil)
		o.was(t)
		if s := p.cache.Stats(); s.Refreshes != 3 || s.Loads != 7 {
			t.Errorf("%+v", s)
		}
	})
}

func TestManyEarlyRefresh(t *testing.T) {
	alike(t, Options{TTL: time.Minute, EarlyRefresh: 0.5}, func(t *testing.T, p *proc) {
		p.cache.core.chance = func(uint64) float64 { return 0.5 }
		o := &batchOrigin{takes: time.Second}
		a := p.many(background, "a b c", o.load)
		time.Sleep(time.Second)
		a.must(t, "a=va b=vb c=vc", time.Second)
		time.Sleep(time.Minute - time.Second)
		o.calls = nil
		for range 2 {
			fails(t, p.many(background, "c b a", o.load).must(t, "a=va b=vb c=vc", 0), nil)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		o.was(t, "c b a")
		if s := p.cache.Stats(); s.Refreshes != 3 || s.StaleHits != 0 || s.LocalHits != 6 {
			t.Errorf("%+v", s)
		}
	})
}

// What the loader says of one key, and of all.
func TestManyLoadFrom(t *testing.T) {
	alike(t, Options{TTL: time.Hour, Tags: true, StaleIfError: time.Hour}, func(t *testing.T, p *proc) {
		var previous []string
		load := func(ctx context.Context, keys []string) (map[string]string, error) {
			l := LoadFrom(ctx)
			l.SetTTL(time.Minute)
			l.SetTags("all")
			l.ForKey("b").SetTags("of-b")
			l.ForKey("b").SetTTL(10 * time.Second)
			l.ForKey("c").NoStore()
			l.ForKey("other").SetTTL(1)
			values := make(map[string]string)
			for _, k := range keys {
				old, ok := Previous[string](ctx, k)
				previous = append(previous, fmt.Sprint(k, old, ok))
				values[k] = "v" + k
			}
			if _, ok := Previous[string](ctx); ok {
				t.Error("of which key?")
			}
			return values, nil
		}
		ask := func(keys, loaded string) {
			t.Helper()
			previous = nil
			values, err := p.cache.GetOrLoadMany(background, strings.Fields(keys), load)
			if len(values) != len(strings.Fields(keys)) || err != nil {
				t.Fatalf("%v, %v", values, err)
			}
			if got := strings.Join(previous, " "); got != loaded {
				t.Errorf("%s: loaded %s, want %s", keys, got, loaded)
			}
		}
		ask("a b c", "afalse bfalse cfalse")
		ask("a b c", "cfalse")
		if err := p.cache.DeleteTags(background, "of-b"); err != nil {
			t.Fatal(err)
		}
		ask("a b", "bfalse")
		time.Sleep(10 * time.Second)
		ask("a b", "bvbtrue")
		time.Sleep(50 * time.Second)
		ask("a b", "avatrue bvbtrue")
		if err := p.cache.DeleteTags(background, "all"); err != nil {
			t.Fatal(err)
		}
		ask("a b", "afalse bfalse")
	})
}
