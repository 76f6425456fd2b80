package cache

import (
	"errors"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

// A lease on a value that is still there: the value stays readable, its life is lengthened to cover the lease and given
// back by ABORT, and COMMIT replaces it.
func TestRefresh(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{TTL: 10 * time.Second}, nil)
		defer p.stop()
		s := p.rds.store
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		raw, _ := w.Redis.Get(fullKey)
		h, _, err := record.Open([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		args := func(o byte) acquireArgs {
			return acquireArgs{
				key: fullKey, owner: record.Owner{o}, seen: h.ID, lease: 2 * time.Second, life: time.Minute,
				coder: p.cache.core.coder,
			}
		}
		acquire := func(a acquireArgs, want outcome) acquired {
			t.Helper()
			got, err := s.acquire(background, a)
			if err != nil || got.outcome != want {
				t.Errorf("%+v, %v; want %v", got, err, want)
			}
			return got
		}
		first := acquire(args(1), won)
		if got := acquire(args(2), busy); got.holder != (record.Owner{1}) || got.left != 2*time.Second {
			t.Errorf("%+v", got)
		}
		unseen := args(3)
		unseen.seen = record.Owner{}
		acquire(unseen, hit)
		if v, ok := p.cache.Get(background, "k"); v != "v" || !ok || w.Redis.TTL(fullKey) != time.Minute {
			t.Errorf("%q, TTL %v", v, w.Redis.TTL(fullKey))
		}

		if mine, err := s.abort(background, fullKey, record.Owner{2}, first.fence, 0); mine || err != nil {
			t.Errorf("another's: %v, %v", mine, err)
		}
		if mine, err := s.abort(background, fullKey, record.Owner{1}, first.fence+1, 0); mine || err != nil {
			t.Errorf("another tenure's: %v, %v", mine, err)
		}
		if mine, err := s.abort(background, fullKey, record.Owner{1}, first.fence, 0); !mine || err != nil {
			t.Errorf("%v, %v", mine, err)
		}
		if ttl := w.Redis.TTL(fullKey); ttl != 10*time.Second {
			t.Errorf("TTL %v", ttl)
		}

		second := acquire(args(4), won)
		if second.fence <= first.fence {
			t.Errorf("fence %d after %d", second.fence, first.fence)
		}
		commit := func(o byte, fence int64, want committed) {
			t.Helper()
			rec := p.cache.core.coder.seal(fullKey, life{
				owner: record.Owner{o}, fence: fence, freshUntil: second.now + 1e6,
			}, []byte("\xa2v2"))
			got, err := s.commit(background, commitArgs{fullKey, record.Owner{o}, fence, rec, time.Second})
			if err != nil || got != want {
				t.Errorf("%v, %v; want %v", got, err, want)
			}
		}
		commit(1, first.fence, taken)
		commit(4, second.fence-1, taken)
		commit(4, second.fence, stored)
		commit(4, second.fence, stored) // already
		if ttl := w.Redis.TTL(fullKey); ttl != time.Second {
			t.Errorf("TTL %v", ttl)
		}
		if mine, err := s.renew(background, fullKey, record.Owner{4}, second.fence, time.Second, time.Minute); mine || err != nil {
			t.Errorf("a lease that is over was renewed: %v, %v", mine, err)
		}
		w.Redis.Del(fullKey)
		commit(4, second.fence, missing)
	})
}

// A value whose end has passed while it was kept for a refresh becomes a stub; a COMMIT that comes after its own end
// stores nothing.
func TestPastTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{TTL: time.Second}, nil)
		defer p.stop()
		s, cd := p.rds.store, p.cache.core.coder
		p.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		raw, _ := w.Redis.Get(fullKey)
		a := acquireArgs{
			key: fullKey, owner: record.Owner{1}, seen: entryID(t, raw), lease: 10 * time.Second, life: time.Minute,
			coder: cd,
		}
		got, err := s.acquire(background, a)
		if err != nil || got.outcome != won {
			t.Fatalf("%+v, %v", got, err)
		}
		time.Sleep(time.Second)
		if _, ok := p.cache.Get(background, "k"); ok {
			t.Error("served after its end")
		}
		if mine, err := s.abort(background, fullKey, record.Owner{1}, got.fence, 0); !mine || err != nil || w.Redis.Exists(fullKey) {
			t.Errorf("%v, %v", mine, err)
		}
		if got, err = s.acquire(background, a); err != nil || got.outcome != won {
			t.Fatalf("%+v, %v", got, err)
		}
		rec := cd.seal(fullKey, life{owner: record.Owner{1}, fence: got.fence, freshUntil: got.now}, []byte("\xa1v"))
		out, err := s.commit(background, commitArgs{fullKey, record.Owner{1}, got.fence, rec, time.Second})
		if err != nil || out != refused || w.Redis.Exists(fullKey) {
			t.Errorf("%v, %v", out, err)
		}
	})
}

// The list of those who wait: each once, 32 of them, then everybody. It survives a takeover.
func TestWaiterList(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		acquire := func(owner byte, inbox string) acquired {
			t.Helper()
			p.rds.process = inbox
			got, err := p.rds.store.acquire(background, acquireArgs{
				key: fullKey, owner: record.Owner{owner}, lease: 2 * time.Second, life: time.Minute, coder: p.cache.core.coder,
			})
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		list := func() (int, bool) {
			raw, _ := w.Redis.Get(fullKey)
			h, waiting, err := record.Open([]byte(raw))
			if err != nil {
				t.Fatal(err)
			}
			return len(waiting) / 16, h.Lease.All
		}
		acquire(1, "inbox-0000000000")
		for i := range 31 {
			for range 2 {
				acquire(2, "inbox-00000000"+string(rune('a'+i/10))+string(rune('0'+i%10)))
			}
		}
		if n, all := list(); n != 31 || all {
			t.Errorf("%d, %v", n, all)
		}
		time.Sleep(2 * time.Second)
		if got := acquire(3, "inbox-taken-over"); got.outcome != won {
			t.Errorf("%+v", got)
		}
		acquire(4, "inbox-the-32nd--")
		if n, all := list(); n != 32 || all {
			t.Errorf("%d, %v", n, all)
		}
		acquire(4, "inbox-the-33rd--")
		if n, all := list(); n != 32 || !all {
			t.Errorf("%d, %v", n, all)
		}
	})
}

// Replies of another shape, as a client that mixes up replies would give, are errors like any other.
func TestStrangeReplies(t *testing.T) {
	for _, reply := range [][]any{
		nil,
		{},
		{"WON"},
		{"WON", int64(1)},
		{"WON", int64(1), nil},
		{int64(1)},
		{"HIT", int64(1)},
		{"BUSY", int64(1), "short", int64(1)},
		{"BUSY", int64(1), "0123456789abcdef"},
		{"BUSY", int64(1), "0123456789abcdef", int64(1), int64(2)},
		{"BUSY", int64(1), "0123456789abcdef", int64(1), int64(-2), int64(1)},
		{"NONSENSE", int64(1)},
		{[]any{}, int64(1)},
	} {
		if got, err := parseAcquired(reply); !errors.Is(err, errReply) {
			t.Errorf("%v: %+v, %v", reply, got, err)
		}
	}
	got, err := parseAcquired([]any{"BUSY", int64(1), "0123456789abcdef", int64(2000), int64(3), int64(1)})
	if err != nil || got.outcome != busy || got.left != 2*time.Millisecond || string(got.holder[:]) != "0123456789abcdef" {
		t.Errorf("%+v, %v", got, err)
	}
}

// The estimate of the server's clock: bounds narrow with every reply, and a jump is believed.
func TestServerClock(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		k := serverClock{started: time.Now()}
		if _, _, known := k.now(); known {
			t.Error("known")
		}
		server := func() int64 { return time.Now().Add(time.Hour).UnixMicro() }
		reply := func(there, back time.Duration) {
			sent := time.Now()
			time.Sleep(there)
			now := server()
			time.Sleep(back)
			k.observe(sent, time.Now(), now)
		}
		check := func(early, late time.Duration) {
			t.Helper()
			e, l, known := k.now()
			from, to := time.Duration(server()-e)*time.Microsecond, time.Duration(l-server())*time.Microsecond
			if !known || from != early || to != late {
				t.Errorf("known %v, early by %v, late by %v, want %v and %v", known, from, to, early, late)
			}
		}
		reply(30*time.Millisecond, 10*time.Millisecond)
		check(10*time.Millisecond, 30*time.Millisecond)
		reply(5*time.Millisecond, 50*time.Millisecond)
		check(10*time.Millisecond+27*time.Microsecond, 5*time.Millisecond)
		reply(20*time.Millisecond, 0) // says nothing new about the late side
		check(0, 5*time.Millisecond+10*time.Microsecond)
		k.observe(time.Now(), time.Now(), server()-time.Minute.Microseconds())
		check(time.Minute, -time.Minute)
	})
}

// entryID reads the id of the entry in raw.
func entryID(t *testing.T, raw string) record.Owner {
	t.Helper()
	h, _, err := record.Open([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return h.ID
}
