package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

const fullKey = "cache:user:k" // of key "k" in Redis

// fleet starts processes.
func fleet(t *testing.T, w *lab.World, o Options, names ...string) map[string]*proc {
	t.Helper()
	ps := make(map[string]*proc)
	for _, n := range names {
		p := start(t, w, n, o, nil)
		ps[n] = p
	}
	return ps
}

func stopAll(ps map[string]*proc) {
	for _, p := range ps {
		p.stop()
	}
}

// only holds messages of one process and verb.
func only(process, verb string, kind lab.Kind) func(*lab.Message) bool {
	return func(m *lab.Message) bool {
		return m.Kind == kind && (process == "" || m.Process == process) && verbOf(m) == verb
	}
}

// P2 across processes: one load, everybody is woken with its value in the moment it is stored, and nobody polls.
// A miss costs three commands, a waiting process two.
func TestOneLoadInTheFleet(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B", "C")
		defer stopAll(ps)
		before := w.Sent("A") + w.Sent("B") + w.Sent("C")
		var all []*answer
		for range 10 {
			for _, p := range ps {
				all = append(all, p.get(background, "k", loads(300*time.Millisecond, "v")))
			}
		}
		time.Sleep(300 * time.Millisecond)
		for _, a := range all {
			a.must(t, "v", nil, 300*time.Millisecond)
		}
		var s Stats
		for _, p := range ps {
			one := p.cache.Stats()
			s.Loads += one.Loads
			s.Wakes += one.Wakes
			s.Polls += one.Polls
		}
		if s.Loads != 1 || s.Wakes != 2 || s.Polls != 0 {
			t.Errorf("loads %d, wakes %d, polls %d", s.Loads, s.Wakes, s.Polls)
		}
		if n := w.Sent("A") + w.Sent("B") + w.Sent("C") - before; n != 3+2+2 {
			t.Errorf("%d commands", n)
		}
	})
}

// The reply of ACQUIRE is lost: the lease is taken, and the process that took it does not know. go-redis repeats the
// command; ours says so, instead of "somebody has it" (go-redis/redis#2124).
func TestLostReplyOfAcquire(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		w.Hold(only("A", "ACQUIRE", lab.Reply))
		a := p.get(background, "k", loads(0, "v"))
		w.Held()[0].Lose()
		if holder(w, fullKey) == (record.Owner{}) {
			t.Fatal("no lease")
		}
		w.Hold(nil)
		a.must(t, "v", nil, 0)
		if s := p.cache.Stats(); s.LeasesWon != 1 || s.LoadsUnleased != 0 {
			t.Errorf("%+v", s)
		}
		if !w.Redis.Exists(fullKey) {
			t.Error("not stored")
		}
	})
}

// The same with a client that does not repeat: the load runs without a lease, its value is not stored, and the lease
// that nobody knows of is given back at once, so that the next one need not wait for its end.
func TestLostReplyOfAcquireWithoutRetries(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{LocalTTL: -1}, func(o *redis.Options) { o.MaxRetries = -1 })
		defer p.stop()
		w.Hold(only("A", "ACQUIRE", lab.Reply))
		a := p.get(background, "k", loads(0, "v"))
		w.Held()[0].Lose()
		w.Hold(nil)
		a.must(t, "v", nil, 0)
		if w.Redis.Exists(fullKey) {
			t.Error("something is left in Redis")
		}
		p.get(background, "k", loads(0, "v2")).must(t, "v2", nil, 0)
		if s := p.cache.Stats(); s.LoadsUnleased != 1 || s.LeasesWon != 1 || s.RedisErrors != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// Rule 1, ghosts: ACQUIRE times out and is executed later. The load that began before it was answered must not commit.
func TestGhostAcquire(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{LocalTTL: -1}, "A", "B")
		defer stopAll(ps)
		w.Hold(only("A", "ACQUIRE", lab.Request))
		version := "old"
		a := ps["A"].get(background, "k", func(context.Context, string) (string, error) {
			v := version
			time.Sleep(time.Second)
			return v, nil
		})
		time.Sleep(100 * time.Millisecond) // past the budget: A loads without a lease
		synctest.Wait()
		version = "new"
		if err := ps["B"].cache.Delete(background, "k"); err != nil {
			t.Fatal(err)
		}
		w.Hold(nil) // the ghost takes a lease
		time.Sleep(900*time.Millisecond + 50*time.Millisecond)
		a.must(t, "old", nil, time.Second+50*time.Millisecond)
		b := ps["B"].get(background, "k", loads(0, "new"))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if !b.done || b.value != "new" || b.took > 2*time.Second+lookSoon {
			t.Errorf("%+v", b)
		}
	})
}

// P8: the holder is gone in mid-load. One of those who wait takes over when its lease ends, the others go on waiting.
func TestHolderDies(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B", "C", "D")
		defer stopAll(ps)
		began := time.Now()
		ps["A"].get(background, "k", loads(time.Hour, ""))
		time.Sleep(150 * time.Millisecond)
		var all []*answer
		for _, n := range []string{"B", "C", "D"} {
			all = append(all, ps[n].get(background, "k", loads(300*time.Millisecond, "v")))
		}
		w.CutOff("A", false)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		for _, a := range all {
			if !a.done || a.err != nil || a.value != "v" || a.took > 2*time.Second-150*time.Millisecond+lookSoon+300*time.Millisecond {
				t.Errorf("%+v", a)
			}
		}
		var loaded, took uint64
		for _, n := range []string{"B", "C", "D"} {
			loaded += ps[n].cache.Stats().Loads
			took += ps[n].cache.Stats().LeasesTakenOver
		}
		if loaded != 1 || took != 1 {
			t.Errorf("%d loads, %d takeovers after %v", loaded, took, time.Since(began))
		}
		_ = ps["A"].cache.Close()
	})
}

// A load ten times as long as the lease: it is renewed, and everybody gets the one value.
func TestLoadOutlivesLease(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		a := ps["A"].get(background, "k", loads(20*time.Second, "v"))
		synctest.Wait()
		b := ps["B"].get(background, "k", loads(0, "other"))
		time.Sleep(20 * time.Second)
		a.must(t, "v", nil, 20*time.Second)
		b.must(t, "v", nil, 20*time.Second)
		if n := ps["A"].cache.Stats().LeasesLost; n != 0 {
			t.Errorf("%d leases lost", n)
		}
	})
}

// P5: a holder that was paused beyond its lease does not replace what a newer one stored. Its own callers get what it
// loaded.
func TestLateHolder(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{LocalTTL: -1}, "A", "B")
		defer stopAll(ps)
		a := ps["A"].get(background, "k", loads(3*time.Second, "late"))
		synctest.Wait()
		w.Hold(only("A", "RENEW", lab.Request)) // as if A were stopped
		b := ps["B"].get(background, "k", loads(0, "v"))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if !a.done || a.value != "late" || a.err != nil {
			t.Errorf("A: %+v", a)
		}
		if !b.done || b.value != "v" || b.err != nil {
			t.Errorf("B: %+v", b)
		}
		if v, ok := ps["B"].cache.Get(background, "k"); v != "v" || !ok {
			t.Errorf("stored: %q", v)
		}
		if s := ps["A"].cache.Stats(); s.CommitsRejected != 1 {
			t.Errorf("%+v", s)
		}
		w.Hold(nil)
	})
}

// A late holder that nobody has displaced may still store its value.
func TestLateHolderAlone(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		w.Hold(only("A", "RENEW", lab.Request))
		a := p.get(background, "k", loads(3*time.Second, "v"))
		time.Sleep(5 * time.Second)
		a.must(t, "v", nil, 3*time.Second)
		if s := p.cache.Stats(); s.CommitsRejected != 0 || !w.Redis.Exists(fullKey) {
			t.Errorf("%+v", s)
		}
		w.Hold(nil)
	})
}

// P4 across processes: B deletes while A loads. The old value is not stored; a call of A that starts after the deletion
// does not get it; A's memory does not keep it.
func TestDeleteByAnotherDuringLoad(t *testing.T) {
	for _, told := range []bool{true, false} {
		t.Run(fmt.Sprintf("told=%v", told), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *lab.World) {
				ps := fleet(t, w, Options{}, "A", "B")
				defer stopAll(ps)
				var version atomic.Value
				version.Store("old")
				load := func(context.Context, string) (string, error) {
					v := version.Load().(string)
					time.Sleep(time.Second)
					return v, nil
				}
				first := ps["A"].get(background, "k", load)
				time.Sleep(500 * time.Millisecond)
				version.Store("new")
				if !told { // the message about the deletion is late: the rejected COMMIT alone must do
					w.Hold(func(m *lab.Message) bool { return m.Kind == lab.Push })
				}
				if err := ps["B"].cache.Delete(background, "k"); err != nil {
					t.Fatal(err)
				}
				second := ps["A"].get(background, "k", load)
				time.Sleep(5 * time.Second)
				synctest.Wait()
				first.must(t, "old", nil, time.Second)
				if !second.done || second.value != "new" {
					t.Errorf("%+v", second)
				}
				s := ps["A"].cache.Stats()
				if s.CommitsRejected != 1 || s.Loads != 2 {
					t.Errorf("%+v", s)
				}
				if !told && s.Rounds != 1 {
					t.Errorf("%d rounds", s.Rounds)
				}
				w.Hold(nil)
			})
		})
	}
}

// P4: a deletion and a Set reach the memory of another process with one message.
func TestInvalidationOfOtherMemories(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		for _, p := range ps {
			p.get(background, "k", loads(0, "1")).must(t, "1", nil, 0)
		}
		if err := ps["A"].cache.Delete(background, "k"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		ps["B"].get(background, "k", loads(0, "2")).must(t, "2", nil, 0)
		ps["A"].get(background, "k", nil).must(t, "2", nil, 0)
		if err := ps["B"].cache.Set(background, "k", "3"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		ps["A"].get(background, "k", nil).must(t, "3", nil, 0)
		sent := w.Sent("B")
		ps["B"].get(background, "k", nil).must(t, "3", nil, 0)
		if n := w.Sent("B") - sent; n != 0 {
			t.Errorf("Set did not fill its own memory: %d commands", n)
		}
	})
}

// A plain DEL by anything else is an invalidation too: for Redis and for the load under way.
func TestDeleteByAnyTool(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{LocalTTL: -1}, nil)
		defer p.stop()
		a := p.get(background, "k", loads(time.Second, "old"))
		time.Sleep(500 * time.Millisecond)
		w.Redis.Del(fullKey)
		time.Sleep(500 * time.Millisecond)
		a.must(t, "old", nil, time.Second)
		if w.Redis.Exists(fullKey) {
			t.Error("the old value was stored")
		}
	})
}

// A loader's error gives the lease back: those who wait in other processes take over at once, one by one, and report
// their own loader's error only.
func TestErrorFreesTheLease(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		errA := errors.New("A's origin is down")
		a := ps["A"].get(background, "k", func(context.Context, string) (string, error) {
			time.Sleep(time.Second)
			return "", errA
		})
		synctest.Wait()
		b := ps["B"].get(background, "k", loads(time.Second, "v"))
		time.Sleep(2 * time.Second)
		a.must(t, "", errA, time.Second)
		b.must(t, "v", nil, 2*time.Second)
	})
}

// Wake-ups are lost: those who wait find the value by looking.
func TestLostWakeUps(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		w.Hold(func(m *lab.Message) bool { return m.Kind == lab.Push })
		ps["A"].get(background, "k", loads(300*time.Millisecond, "v"))
		synctest.Wait()
		b := ps["B"].get(background, "k", loads(0, "other"))
		time.Sleep(2*time.Second + lookSoon)
		synctest.Wait()
		if !b.done || b.value != "v" {
			t.Errorf("%+v", b)
		}
		for _, m := range w.Held() {
			m.Lose()
		}
		w.Hold(nil)
	})
}

// Wake-ups for others, malformed, doubled and early ones are harmless.
func TestStrangeMessages(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		a := ps["A"].get(background, "k", loads(300*time.Millisecond, "v"))
		synctest.Wait()
		b := ps["B"].get(background, "k", loads(0, "other"))
		synctest.Wait()
		foreign := "C" + strings.Repeat("x", 16) + "00000012" + fullKey + "not a record"
		for range 10 {
			for _, m := range []string{
				"", "?", "C", "D", foreign, foreign[:20], "A" + foreign[1:], "D0123456789abcdef99999999x",
				"C" + strings.Repeat("x", 16) + "-0000001k", strings.Repeat("D", 1<<20),
			} {
				w.Redis.Publish(ps["B"].rds.inboxChannel(ps["B"].rds.process), m)
				w.Redis.Publish(ps["B"].rds.everybodyChannel(), m)
			}
			synctest.Wait()
		}
		time.Sleep(300 * time.Millisecond)
		a.must(t, "v", nil, 300*time.Millisecond)
		b.must(t, "v", nil, 300*time.Millisecond)
	})
}

// SCRIPT FLUSH at any time costs a round trip and nothing else.
func TestScriptFlush(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{LocalTTL: -1}, nil)
		defer p.stop()
		for i := range 3 {
			key := fmt.Sprint(i)
			a := p.get(background, key, loads(time.Second, "v"))
			time.Sleep(500 * time.Millisecond)
			if err := p.client.ScriptFlush(background).Err(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond)
			a.must(t, "v", nil, time.Second)
			if !w.Redis.Exists("cache:user:" + key) {
				t.Error("not stored")
			}
		}
	})
}

// refusing makes the server answer some commands with an error.
func refusing(w *lab.World, text string, commands ...string) {
	w.Redis.Server().SetPreHook(func(c *server.Peer, cmd string, _ ...string) bool {
		for _, refused := range commands {
			if strings.EqualFold(cmd, refused) {
				c.WriteError(text)
				return true
			}
		}
		return false
	})
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

// The reply of SET NX is lost, and the client repeats it: the stub that is there is ours.
func TestNativeLostReply(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		refusing(w, "ERR unknown command 'evalsha', with args beginning with:", "EVAL", "EVALSHA")
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		w.Hold(only("A", "SET", lab.Reply))
		a := p.get(background, "k", loads(0, "v"))
		w.Held()[0].Lose()
		w.Hold(nil)
		a.must(t, "v", nil, 0)
		if s := p.cache.Stats(); s.LoadsUnleased != 0 || !w.Redis.Exists(fullKey) {
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

// Versions: a higher one replaces a lower one; a lower one, and another type, leave the entry alone and keep what they
// load in memory. So old and new processes do not wipe each other's entries in a loop.
func TestVersionsAndTypes(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		one := start(t, w, "old", Options{Version: 1}, nil)
		defer one.stop()
		two := start(t, w, "new", Options{Version: 2}, nil)
		defer two.stop()
		numbers, err := New[int]("user", Options{Redis: two.rds, Version: 2})
		if err != nil {
			t.Fatal(err)
		}
		defer numbers.Close()
		one.get(background, "k", loads(0, "v1")).must(t, "v1", nil, 0)
		two.get(background, "k", loads(0, "v2")).must(t, "v2", nil, 0)
		before, _ := w.Redis.Get(fullKey)
		one.cache.core.invalidate("k")
		one.get(background, "k", loads(0, "v1")).must(t, "v1", nil, 0)
		one.get(background, "k", nil).must(t, "v1", nil, 0)
		n, err := numbers.GetOrLoad(background, "k", func(context.Context, string) (int, error) { return 7, nil })
		if n != 7 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if err := one.cache.Set(background, "k", "x"); err == nil {
			t.Error("a lower version has replaced a higher one")
		}
		if after, _ := w.Redis.Get(fullKey); after != before {
			t.Error("the entry has changed")
		}
		two.cache.core.invalidate("k")
		two.get(background, "k", nil).must(t, "v2", nil, 0)
		if s := one.cache.Stats(); s.OtherEntries == 0 || s.Unreadable != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Whatever the loader returns comes back equal, from memory and from Redis: nothing in a value is a marker.
func TestMarkersInValues(t *testing.T) {
	o, _ := Options{}.withDefaults()
	stub := string(newCoder[string](&o).lease(fullKey, record.Lease{Owner: record.Owner{1}}))
	for _, v := range []string{
		"", "\x00", "S", "N", "*", "bw1S", "rueidisid:x", "not found", "null", "\xc0", stub, strings.Repeat("\x00", 100000),
	} {
		bubble(t, func(t *testing.T, w *lab.World) {
			ps := fleet(t, w, Options{}, "A", "B")
			defer stopAll(ps)
			ps["A"].get(background, "k", loads(0, v)).must(t, v, nil, 0)
			ps["A"].get(background, "k", nil).must(t, v, nil, 0)
			ps["B"].get(background, "k", nil).must(t, v, nil, 0)
			if n := ps["A"].cache.Stats().Loads; n != 1 {
				t.Errorf("%q: %d loads", v[:min(len(v), 20)], n)
			}
		})
	}
}

// P9: closing a cache in mid-load gives its leases back, so that others take over at once.
func TestCloseFreesTheLease(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		a := ps["A"].get(background, "k", loads(time.Hour, ""))
		synctest.Wait()
		b := ps["B"].get(background, "k", loads(0, "v"))
		time.Sleep(100 * time.Millisecond)
		_ = ps["A"].cache.Close()
		a.must(t, "", ErrClosed, 100*time.Millisecond)
		b.must(t, "v", nil, 100*time.Millisecond)
	})
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

// P8: a holder that renews for ever does not keep others waiting for ever.
func TestBoundedWaiting(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		slow := start(t, w, "A", Options{LoadTimeout: time.Hour}, nil)
		defer slow.stop()
		quick := start(t, w, "B", Options{LoadTimeout: 3 * time.Second}, nil)
		defer quick.stop()
		slow.get(background, "k", loads(30*time.Minute, "late"))
		synctest.Wait()
		b := quick.get(background, "k", loads(0, "v"))
		time.Sleep(6 * time.Second)
		b.must(t, "v", nil, 3*time.Second+2*time.Second)
		if s := quick.cache.Stats(); s.WaitTimeouts != 1 {
			t.Errorf("%+v", s)
		}
		_ = slow.cache.Close()
	})
}

// Stream lost and back: the memory is dropped at both, so what was missed meanwhile cannot stay.
func TestStreamLoss(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		ps["A"].get(background, "k", loads(0, "old")).must(t, "old", nil, 0)
		w.CutOff("A", false)
		synctest.Wait()
		if err := ps["B"].cache.Set(background, "k", "new"); err != nil {
			t.Fatal(err)
		}
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

// Many callers and keys on all paths at once, for the race detector; loads are counted per key.
func TestCrowd(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B", "C")
		defer stopAll(ps)
		var count sync.Map
		for i := range 300 {
			for _, p := range ps {
				key := fmt.Sprint(i % 30)
				p.get(background, key, func(context.Context, string) (string, error) {
					n, _ := count.LoadOrStore(key, new(atomic.Int32))
					n.(*atomic.Int32).Add(1)
					time.Sleep(10 * time.Millisecond)
					return key, nil
				})
			}
		}
		for _, p := range ps {
			p.calls.Wait()
		}
		count.Range(func(key, n any) bool {
			if n := n.(*atomic.Int32).Load(); n != 1 {
				t.Errorf("key %v: %d loads", key, n)
			}
			return true
		})
	})
}
