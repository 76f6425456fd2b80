package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

// The lock is given back at nodes too that were silent when they were asked, and at those that vote when nobody wants it any more.
func TestRedlockReleasesAll(t *testing.T) {
	for _, kind := range []lab.Kind{lab.Request, lab.Reply} {
		withJury(t, 3, func(t *testing.T, w *lab.World, j jury) {
			ps := j.fleet(t, w, Options{}, "A")
			defer stopAll(ps)
			j[2].Hold(only("A", "VOTE", kind))
			a := ps["A"].get(background, "k", loads(10*time.Millisecond, "v"))
			time.Sleep(10 * time.Millisecond)
			a.must(t, "v", nil, 10*time.Millisecond)
			j[2].Hold(nil) // within the budget of the command
			if held := j.locks(); held != "" {
				t.Errorf("kind %d: the lock is at nodes %q", kind, held)
			}
			j[2].Hold(only("A", "VOTE", lab.Reply))
			b := ps["A"].get(background, "j", loads(time.Second, "v"))
			time.Sleep(time.Second) // it was given up long ago
			b.must(t, "v", nil, time.Second)
			j[2].Hold(nil)
			synctest.Wait()
			if j[2].Redis.Exists(lockKey("cache:user:j")) {
				t.Error("the lock is at a node that did not answer")
			}
		})
	}
}

// Close, its Redis's too, and the end of the last caller's context end the waiting for a lock.
func TestRedlockWaitingEnds(t *testing.T) {
	for name, end := range map[string]func(p *proc, cancel func()){
		"Close":      func(p *proc, _ func()) { _ = p.cache.Close() },
		"closed":     func(p *proc, _ func()) { _ = p.rds.Close() },
		"cancelled":  func(_ *proc, cancel func()) { cancel() },
		"everything": func(p *proc, cancel func()) { cancel(); _ = p.cache.Close(); _ = p.rds.Close() },
	} {
		withJury(t, 3, func(t *testing.T, w *lab.World, j jury) {
			ps := j.fleet(t, w, Options{CancelAbandoned: true}, "A", "B")
			defer stopAll(ps)
			ps["A"].get(background, "k", loads(10*time.Second, "v"))
			time.Sleep(time.Second)
			w.Redis.FlushAll()
			ctx, cancel := context.WithCancel(background)
			defer cancel()
			b := ps["B"].get(ctx, "k", loads(0, "of B"))
			time.Sleep(time.Second)
			end(ps["B"], cancel)
			if name == "closed" { // at the next look
				time.Sleep(pollMost * 3 / 2)
			}
			synctest.Wait()
			switch {
			case name == "closed":
				b.must(t, "of B", nil, b.took)
			case !b.done || !errors.Is(b.err, ErrClosed) && !errors.Is(b.err, context.Canceled):
				t.Errorf("%s: %v %v", name, b.done, b.err)
			case holder(w, fullKey) != (record.Owner{}):
				t.Errorf("%s: the lease is left", name)
			}
			if held := j.locks(); held != "012" {
				t.Errorf("%s: the lock of A is at nodes %q", name, held)
			}
		})
	}
}

// Votes that are no majority are given back: nobody has the lock by them.
func TestRedlockGivesVotesBack(t *testing.T) {
	withJury(t, 3, func(t *testing.T, w *lab.World, j jury) {
		ps := j.fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		j[2].CutOff("A", false)
		ps["A"].get(background, "k", loads(10*time.Second, "v"))
		time.Sleep(time.Second)
		w.Redis.FlushAll()
		ps["B"].get(background, "k", loads(0, "of B"))
		for range 9 {
			if held := j.locks(); held != "01" {
				t.Errorf("the lock is at nodes %q", held)
			}
			time.Sleep(time.Second)
		}
	})
}

// The lock of a process that is gone is over after a lease.
func TestRedlockOfTheDead(t *testing.T) {
	withJury(t, 3, func(t *testing.T, w *lab.World, j jury) {
		ps := j.fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		ps["A"].get(background, "k", loads(20*time.Second, "v"))
		time.Sleep(10 * time.Second)
		for _, net := range append(j, w) {
			net.CutOff("A", false)
		}
		w.Redis.FlushAll()
		b := ps["B"].get(background, "k", loads(0, "of B"))
		ps["B"].calls.Wait()
		if b.value != "of B" || b.took > 2*time.Second+pollMost*3/2 {
			t.Errorf("B got %q, %v after %v", b.value, b.err, b.took)
		}
	})
}

// A node whose clock is set back would keep a lock for longer than it can be.
func TestRedlockNodesClockSetBack(t *testing.T) {
	withJury(t, 3, func(t *testing.T, w *lab.World, j jury) {
		ps := j.fleet(t, w, Options{}, "A")
		defer stopAll(ps)
		for _, node := range j {
			_ = node.Redis.Set(lockKey(fullKey), strings.Repeat("x", 16)+"2000")
			node.Redis.SetTTL(lockKey(fullKey), 2001*time.Millisecond)
		}
		ps["A"].get(background, "k", loads(0, "v")).returns(t, "v", 0)
		ps["A"].wantLocks(1, 0, 0, 0)
		for _, node := range j {
			_ = node.Redis.Set("cache:born", fmt.Sprint(time.Now().Add(time.Hour).UnixMicro())) // in the future, now
		}
		ps["A"].get(background, "j", loads(0, "v")).returns(t, "v", 0)
		ps["A"].wantLocks(1, 0, 1, 0)
		time.Sleep(2 * time.Second)
		ps["A"].get(background, "l", loads(0, "v")).returns(t, "v", 0)
		ps["A"].wantLocks(2, 0, 1, 0)
	})
}

// When the majority is lost in mid-load, the load goes on, and the lock is counted as lost; a majority that is back has it again.
func TestRedlockLost(t *testing.T) {
	withJury(t, 3, func(t *testing.T, w *lab.World, j jury) {
		ps := j.fleet(t, w, Options{}, "A")
		defer stopAll(ps)
		a := ps["A"].get(background, "k", loads(20*time.Second, "v"))
		time.Sleep(time.Second)
		j[0].CutOff("A", false)
		j[1].CutOff("A", false)
		time.Sleep(4 * time.Second)
		ps["A"].wantLocks(1, 0, 0, 1)
		j[0].CutOff("A", true)
		time.Sleep(4 * time.Second)
		if held := j.locks(); held != "02" {
			t.Errorf("the lock is at nodes %q", held)
		}
		time.Sleep(11 * time.Second)
		a.must(t, "v", nil, 20*time.Second)
		ps["A"].wantLocks(1, 0, 0, 1)
	})
}

// Who waits for the lock keeps its lease, and starts over if that is lost; ends with Close; and waits no longer than for a lease.
func TestRedlockWaits(t *testing.T) {
	withJury(t, 3, func(t *testing.T, w *lab.World, j jury) {
		ps := j.fleet(t, w, Options{LoadTimeout: 20 * time.Second}, "A", "B", "C")
		defer stopAll(ps)
		hang := func(ctx context.Context, _ string) (string, error) { <-ctx.Done(); return "", ctx.Err() }
		alone := newOwner()
		go func() { // somebody who never gives it back
			for range 100 {
				for _, n := range ps["C"].rds.lock.nodes {
					_, _ = n.vote(background, fullKey, alone, 2*time.Second)
				}
				time.Sleep(time.Second)
			}
		}()
		synctest.Wait()
		a := ps["A"].get(background, "k", loads(0, "v"))
		time.Sleep(10 * time.Second)
		first := holder(w, fullKey)
		if first == (record.Owner{}) {
			t.Error("who waits for the lock has lost its lease")
		}
		w.Redis.Del(fullKey)
		time.Sleep(time.Second)
		if second := holder(w, fullKey); second == first || second == (record.Owner{}) {
			t.Error("it has not started over")
		}
		time.Sleep(12 * time.Second)
		a.must(t, "v", nil, 22*time.Second) // LoadTimeout and a lease
		b := ps["B"].get(background, "k2", hang)
		ctx, cancel := context.WithCancel(background)
		c := ps["C"].get(ctx, "k", loads(0, "v"), WithoutStale())
		time.Sleep(time.Second)
		cancel()
		_ = ps["B"].cache.Close()
		synctest.Wait()
		if !errors.Is(b.err, ErrClosed) || c.err != nil {
			t.Errorf("%v, %v", b.err, c.err)
		}
		time.Sleep(time.Minute)
	})
}
