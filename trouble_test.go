package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

// refusing makes the server answer these commands and verbs with an error; the function it returns ends that.
func refusing(w *lab.World, text string, commands ...string) (accept func()) {
	w.Redis.Server().SetPreHook(func(c *server.Peer, cmd string, args ...string) bool {
		verb := verbOf(&lab.Message{Args: append([]string{cmd}, args...)})
		refused := slices.Contains(commands, cmd) || slices.Contains(commands, verb)
		if refused {
			c.WriteError(text)
		}
		return refused
	})
	return func() { w.Redis.Server().SetPreHook(nil) }
}

// P3: whatever is wrong with Redis, callers get their value.
func TestRedisTrouble(t *testing.T) {
	all := []string{"GETRANGE", "EVAL", "EVALSHA", "SET", "WATCH", "UNLINK", "PUBLISH", "TIME"}
	for _, c := range []struct {
		name    string
		text    string
		refused []string
	}{
		{"loading", "LOADING Redis is loading the dataset in memory", all},
		{"read-only", "READONLY You can't write against a read only replica.", all[1:]},
		{"out of memory", "OOM command not allowed when used memory > 'maxmemory'.", all[1:]},
		{"cluster down", "CLUSTERDOWN The cluster is down", all},
		{"try again", "TRYAGAIN Multiple keys request during rehashing of slot", all},
		{"misconf", "MISCONF Redis is configured to save RDB snapshots", all[1:]},
		{"no permission at all", "NOPERM this user has no permissions to run the 'eval' command", all},
		{"no scripts and no WATCH", "NOPERM this user has no permissions to run the 'eval' command", all[1:]},
		{"master down", "MASTERDOWN Link with MASTER is down", all},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *lab.World) {
				p := start(t, w, "A", Options{}, func(o *redis.Options) { o.MaxRetries = -1 })
				defer p.stop()
				refusing(w, c.text, c.refused...)
				var all []*answer
				for range 5 {
					all = append(all, p.get(background, "k", loads(time.Second, "v")))
				}
				time.Sleep(time.Second)
				for _, a := range all {
					a.must(t, "v", nil, time.Second)
				}
				p.get(background, "k", nil).must(t, "v", nil, 0) // it rests in memory
				if s := p.cache.Stats(); s.Loads != 1 || s.LoadsUnleased != 1 {
					t.Errorf("%+v", s)
				}
				if err := p.cache.Set(background, "k", "x"); err == nil {
					t.Error("Set says that it stored")
				}
			})
		})
	}
}

// P3, P8: Redis does not answer at all. The first calls wait for their budget, then the breaker opens, and calls are
// those of a memory cache. When Redis is back, so is the fleet's cache.
func TestFrozenRedis(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		w.Freeze(true)
		for i := range 20 {
			a := p.get(background, fmt.Sprint(i), loads(0, "v"))
			time.Sleep(200 * time.Millisecond)
			synctest.Wait()
			budget := 50 * time.Millisecond
			if i >= trips && i%5 != 0 { // once in a second somebody looks
				budget = 0
			}
			if !a.done || a.err != nil || a.value != "v" || i < trips && a.took != budget || a.took > 50*time.Millisecond {
				t.Errorf("call %d: %+v", i, a)
			}
		}
		ctx, cancel := context.WithTimeout(background, 10*time.Millisecond)
		defer cancel()
		if err := p.cache.Delete(ctx, "1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Delete: %v", err)
		}
		if err := p.cache.Delete(background, "2"); err == nil {
			t.Error("Delete says that it deleted")
		}
		w.Freeze(false)
		time.Sleep(10 * time.Second)
		p.get(background, "new", loads(0, "v")).must(t, "v", nil, 0)
		if !w.Redis.Exists("cache:user:new") {
			t.Error("Redis is not used again")
		}
	})
}

// P3: Redis is down from the beginning, and comes back. NewRedis does not wait for it.
func TestRedisDown(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		w.CutOff("A", false)
		p := &proc{t: t, w: w, name: "A", client: w.Client("A", nil)}
		p.rds, _ = NewRedis(p.client, RedisOptions{})
		p.cache, _ = New[string]("user", Options{Redis: p.rds})
		defer p.stop()
		for i := range 10 {
			a := p.get(background, fmt.Sprint(i), loads(100*time.Millisecond, "v"))
			time.Sleep(time.Second)
			synctest.Wait()
			if !a.done || a.value != "v" || a.err != nil || a.took > 150*time.Millisecond {
				t.Errorf("call %d: %+v", i, a)
			}
		}
		w.CutOff("A", true)
		time.Sleep(10 * time.Second)
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		if !w.Redis.Exists(fullKey) || !p.rds.stream.wakes() {
			t.Error("Redis is not used again")
		}
	})
}

// Where scripts are forbidden the lease is made of plain commands, and loads are still collapsed across processes. The
// value survives a holder's death, a lost reply, and a deletion like with scripts.
func TestNativeForm(t *testing.T) {
	const noScripts = "NOPERM this user has no permissions to run the 'evalsha' command"
	bubble(t, func(t *testing.T, w *lab.World) {
		refusing(w, noScripts, "EVAL", "EVALSHA")
		ps := fleet(t, w, Options{LocalTTL: -1}, "A", "B", "C")
		defer stopAll(ps)
		var all []*answer
		for range 3 {
			for _, p := range ps {
				all = append(all, p.get(background, "k", loads(5*time.Second, "v")))
			}
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		var n uint64
		for _, p := range ps {
			n += p.cache.Stats().Loads
		}
		for _, a := range all {
			if !a.done || a.value != "v" || a.err != nil || a.took > 5*time.Second+2*pollMost {
				t.Errorf("%+v", a)
			}
		}
		if n != 1 {
			t.Errorf("%d loads", n)
		}
		if ttl := w.Redis.TTL(fullKey); ttl <= 0 || ttl > 5*time.Minute {
			t.Errorf("TTL %v", ttl)
		}

		// A deletion in mid-load: the old value is not stored.
		if err := ps["A"].cache.Delete(background, "k"); err != nil {
			t.Fatal(err)
		}
		a := ps["A"].get(background, "k", loads(time.Second, "old"))
		time.Sleep(500 * time.Millisecond)
		w.Redis.Del(fullKey)
		time.Sleep(500 * time.Millisecond)
		a.must(t, "old", nil, time.Second)
		if w.Redis.Exists(fullKey) {
			t.Error("the old value was stored")
		}

		// An error gives the lease back.
		own := errors.New("down")
		ps["A"].get(background, "k", func(context.Context, string) (string, error) { return "", own }).must(t, "", own, 0)
		if w.Redis.Exists(fullKey) {
			t.Error("the lease is left")
		}

		// The holder dies: its stub expires.
		ps["A"].get(background, "k", loads(time.Hour, ""))
		synctest.Wait()
		w.CutOff("A", false)
		b := ps["B"].get(background, "k", loads(0, "v2"))
		time.Sleep(2*time.Second + 2*pollMost)
		synctest.Wait()
		b.must(t, "v2", nil, b.took)
		_ = ps["A"].cache.Close()

		// Set takes over whatever is there; garbage is replaced.
		if err := ps["B"].cache.Set(background, "k", "v3"); err != nil {
			t.Fatal(err)
		}
		ps["C"].get(background, "k", nil).must(t, "v3", nil, 0)
		_ = w.Redis.Set(fullKey, "garbage")
		ps["C"].get(background, "k", loads(0, "v4")).must(t, "v4", nil, 0)
		ps["B"].get(background, "k", nil).must(t, "v4", nil, 0)
	})
}

// The reply of the transaction is lost: the load runs without a lease, and the stub that may be there is given back.
func TestNativeLostReply(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		refusing(w, "ERR unknown command 'evalsha', with args beginning with:", "EVAL", "EVALSHA")
		p := start(t, w, "A", Options{LocalTTL: -1}, nil)
		defer p.stop()
		w.Hold(only("A", "EXEC", lab.Reply))
		a := p.get(background, "k", loads(0, "v"))
		w.Held()[0].Lose()
		w.Hold(nil)
		a.must(t, "v", nil, 0)
		if s := p.cache.Stats(); s.LoadsUnleased != 1 || w.Redis.Exists(fullKey) {
			t.Errorf("%+v", s)
		}
		p.get(background, "k", loads(0, "v2")).must(t, "v2", nil, 0)
		if s := p.cache.Stats(); s.LoadsUnleased != 1 || !w.Redis.Exists(fullKey) {
			t.Errorf("%+v", s)
		}
	})
}

// Without channels: those who wait poll, with growing pauses, and Delete still works.
func TestWithoutChannels(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		refusing(w, "NOPERM this user has no permissions to access one of the channels used as arguments",
			"SUBSCRIBE", "PUBLISH")
		ps := make(map[string]*proc)
		for _, n := range []string{"A", "B"} {
			p := &proc{t: t, w: w, name: n, client: w.Client(n, nil)}
			p.rds, _ = NewRedis(p.client, RedisOptions{})
			p.cache, _ = New[string]("user", Options{Redis: p.rds})
			ps[n] = p
		}
		defer stopAll(ps)
		ps["A"].get(background, "k", loads(time.Second, "v"))
		synctest.Wait()
		sent := w.Sent("B")
		b := ps["B"].get(background, "k", loads(0, "other"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !b.done || b.value != "v" || b.took > time.Second+2*pollMost {
			t.Errorf("%+v", b)
		}
		if n := w.Sent("B") - sent; n > 20 {
			t.Errorf("%d commands", n)
		}
		if err := ps["A"].cache.Delete(background, "k"); err != nil {
			t.Error(err)
		}
		if w.Redis.Exists(fullKey) {
			t.Error("not deleted")
		}
	})
}

// P10: what is not ours, or damaged, is a miss and is replaced.
func TestUnreadable(t *testing.T) {
	o, _ := Options{}.withDefaults()
	cd := newCoder[string](&o)
	good := cd.seal(fullKey, life{owner: record.Owner{1}, freshUntil: time.Now().Add(1000 * time.Hour).UnixMicro()}, []byte("\xa1v"))
	damaged := func(at int) string {
		b := []byte(string(good))
		b[at] ^= 1
		return string(b)
	}
	other := cd.seal("cache:user:other", life{owner: record.Owner{1}, freshUntil: 1 << 52}, []byte("\xa1v"))
	hostile := cd.seal(fullKey, life{owner: record.Owner{1}, freshUntil: 1 << 52}, []byte("\xdd\x7f\xff\xff\xff"))
	for name, put := range map[string]func(*lab.World){
		"text":           func(w *lab.World) { _ = w.Redis.Set(fullKey, "hello") },
		"one byte":       func(w *lab.World) { _ = w.Redis.Set(fullKey, "b") },
		"cut short":      func(w *lab.World) { _ = w.Redis.Set(fullKey, string(good[:len(good)-1])) },
		"header only":    func(w *lab.World) { _ = w.Redis.Set(fullKey, string(good[:record.Size])) },
		"flipped state":  func(w *lab.World) { _ = w.Redis.Set(fullKey, damaged(3)) },
		"flipped time":   func(w *lab.World) { _ = w.Redis.Set(fullKey, damaged(80)) },
		"flipped value":  func(w *lab.World) { _ = w.Redis.Set(fullKey, damaged(len(good)-1)) },
		"of another key": func(w *lab.World) { _ = w.Redis.Set(fullKey, string(other)) },
		"hostile value":  func(w *lab.World) { _ = w.Redis.Set(fullKey, string(hostile)) },
		"too large":      func(w *lab.World) { _ = w.Redis.Set(fullKey, strings.Repeat("x", 9<<20)) },
		"a list":         func(w *lab.World) { _, _ = w.Redis.Lpush(fullKey, "x") },
		"a hash":         func(w *lab.World) { w.Redis.HSet(fullKey, "f", "x") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *lab.World) {
				ps := fleet(t, w, Options{LocalTTL: -1}, "A", "B")
				defer stopAll(ps)
				put(w)
				if _, ok := ps["A"].cache.Get(background, "k"); ok {
					t.Error("Get found something")
				}
				if s := ps["A"].cache.Stats(); s.Unreadable+s.RedisErrors != 1 { // a list is refused by the server
					t.Errorf("%+v", s)
				}
				a := ps["A"].get(background, "k", loads(time.Second, "v"))
				b := ps["B"].get(background, "k", loads(time.Second, "v"))
				time.Sleep(time.Second)
				a.must(t, "v", nil, time.Second)
				b.must(t, "v", nil, time.Second)
				if n := ps["A"].cache.Stats().Loads + ps["B"].cache.Stats().Loads; n != 1 {
					t.Errorf("%d loads", n)
				}
				ps["A"].get(background, "k", nil).must(t, "v", nil, 0)
			})
		})
	}
}

// A closed Redis is one that is down.
func TestClosedRedis(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		_ = p.rds.Close()
		_ = p.rds.Close()
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		if err := p.cache.Delete(background, "k"); err == nil {
			t.Error("Delete says that it deleted")
		}
	})
}

// Stream lost and back: what is in memory is used for the rest of its LocalTTL, what is on its way is not stored, and when the
// stream is back memory is dropped, so that what was missed meanwhile cannot stay.
func TestStreamLoss(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		const life = 20 * time.Second
		ps := fleet(t, w, Options{LoadTimeout: time.Minute, LocalTTL: life}, "A", "B")
		defer stopAll(ps)
		a := ps["A"].cache
		ps["A"].get(background, "k", loads(0, "old")).must(t, "old", nil, 0)
		filled := time.Now()
		slow := ps["A"].get(background, "slow", loads(time.Second, "loaded before the loss"))
		synctest.Wait()
		w.CutOff("A", false)
		for i := range 20 { // until the breaker is open
			ps["A"].get(background, fmt.Sprint(i), loads(0, "v"))
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		slow.must(t, "loaded before the loss", nil, slow.took)
		if _, ok := a.core.local.get("slow"); ok {
			t.Error("a load that began before the loss was stored")
		}
		ps["A"].get(background, "new", loads(0, "alone")).must(t, "alone", nil, 0)
		if _, ok := a.core.local.get("new"); !ok {
			t.Error("not a memory cache while it is cut off")
		}
		if err := ps["B"].cache.Set(background, "k", "new"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(filled.Add(life - time.Millisecond)))
		ps["A"].get(background, "k", nil).must(t, "old", nil, 0)
		time.Sleep(time.Millisecond)
		newer := ps["A"].get(background, "k", loads(0, "newer"))
		time.Sleep(time.Second)
		synctest.Wait()
		newer.must(t, "newer", nil, newer.took)
		w.CutOff("A", true)
		time.Sleep(10 * time.Second)
		ps["A"].get(background, "k", loads(0, "loaded")).must(t, "new", nil, 0)
	})
}

// A silent partition of the subscription is noticed within three seconds.
func TestSilentPartition(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		time.Sleep(10 * time.Second)
		if !p.rds.stream.wakes() {
			t.Error("down without a reason")
		}
		w.Freeze(true)
		time.Sleep(silences*quiet + time.Second)
		synctest.Wait()
		if p.rds.stream.wakes() {
			t.Error("still taken for alive")
		}
		w.Freeze(false)
		time.Sleep(10 * time.Second)
		if !p.rds.stream.wakes() {
			t.Error("not back")
		}
	})
}

// Connections of a pool that are half open, as behind a firewall that has forgotten them, are found one by one. It must
// not take the breaker's pace.
func TestHalfOpenPool(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		const connections = 40
		p := start(t, w, "A", Options{LocalTTL: -1}, func(o *redis.Options) { o.ReadTimeout = 500 * time.Millisecond })
		defer p.stop()
		w.Hold(only("A", "GET", lab.Reply))
		for range connections {
			p.calls.Go(func() { _ = p.client.Get(background, "k").Err() })
		}
		synctest.Wait()
		w.Hold(nil)
		synctest.Wait()
		if n := p.client.PoolStats().IdleConns; n < connections {
			t.Fatalf("%d connections", n)
		}
		w.HalfOpen("A")
		began, last := time.Now(), time.Now()
		for i := range 100 {
			before := p.cache.Stats().LoadsUnleased
			a := p.get(background, fmt.Sprint(i), loads(0, "v"))
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if a.must(t, "v", nil, a.took); p.cache.Stats().LoadsUnleased > before {
				last = time.Now()
			}
		}
		if took := last.Sub(began); took > 8*time.Second {
			t.Errorf("Redis is used again after %v", took)
		} else {
			t.Log(took)
		}
	})
}

// A stream that cannot come back does not make the breaker open at each failure, while Redis answers commands.
func TestStreamGone(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{LocalTTL: -1}, nil)
		defer p.stop()
		refusing(w, "NOPERM this user has no permissions to access one of the channels used as arguments", "SUBSCRIBE")
		w.Break("A")
		time.Sleep(time.Second)
		if p.rds.stream.wakes() {
			t.Fatal("the stream is back")
		}
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		w.Freeze(true)
		a := p.get(background, "k2", loads(0, "v"))
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		a.must(t, "v", nil, a.took)
		if p.rds.cutOff() {
			t.Error("one failure has opened the breaker")
		}
		w.Freeze(false)
		time.Sleep(time.Second)
	})
}
