package cache

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/early"
	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

// memServer does what the scripts do, without Redis: for the exploration of many schedules, where a server and a client
// would take most of the time. TestMemServer compares it with the scripts. It knows one version and one type.
type memServer struct {
	entries map[string]memEntry
	tags    *memTags               // nil: there are no barriers
	permit  map[string]*memPermits // by what they are for
	given   int64                  // the latest stamp or barrier
	skew    time.Duration          // of its clock
	publish func(channel, message string)

	mu     sync.Mutex
	owners map[record.Owner]string // their names; guarded by mu
}

type memEntry struct {
	raw  []byte
	ends time.Time
}

func newMemServer() *memServer {
	return &memServer{
		entries: make(map[string]memEntry), publish: func(string, string) {}, owners: make(map[record.Owner]string),
	}
}

func (s *memServer) name(o record.Owner) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owners[o]
}

func (s *memServer) now() int64 { return time.Now().Add(s.skew).UnixMicro() }

func (s *memServer) get(key string) []byte {
	e, ok := s.entries[key]
	if ok && !time.Now().Before(e.ends) {
		delete(s.entries, key)
		return nil
	}
	return e.raw
}

// open returns the record under key and what follows it, if there is one of ours.
func (s *memServer) open(key string) (record.Header, []byte, bool) {
	h, rest, err := record.Open(s.get(key))
	return h, rest, err == nil
}

// left is as in record.lua.
func (s *memServer) left(h record.Header) time.Duration {
	left := time.Duration(h.Lease.Until-s.now()) * time.Microsecond
	if h.Lease.Owner == (record.Owner{}) || left <= 0 || left > h.Lease.Duration {
		return 0
	}
	return left
}

// marked tells whether the entry has a failed mark in force.
func (s *memServer) marked(h record.Header) bool {
	left := time.Duration(h.Lease.Until-s.now()) * time.Microsecond
	return h.State != record.Stub && h.Lease.Owner == (record.Owner{}) && s.now() < h.StaleUntil &&
		left > 0 && left <= h.Lease.Duration
}

func (s *memServer) ttl(key string) time.Duration { return time.Until(s.entries[key].ends) }

func (s *memServer) set(key string, raw []byte, ttl time.Duration) {
	s.entries[key] = memEntry{raw, time.Now().Add(ttl)}
}

// change rewrites what lies outside the checksum: the lease, and on a stub the list of those who wait.
func (s *memServer) change(key string, lease record.Lease, rest []byte) {
	e := s.entries[key]
	h := record.Header{State: record.Stub, Lease: lease}
	raw := append(bytes.Clone(e.raw[:record.EntrySize]), record.Append(nil, &h, nil)[record.EntrySize:]...)
	e.raw = append(raw, rest...)
	s.entries[key] = e
}

func (s *memServer) acquire(a acquireArgs, inbox string) acquired {
	now := s.now()
	got := acquired{now: now, received: time.Now()}
	h, rest, ok := s.open(a.key)
	stub := ok && h.State == record.Stub
	if ok && h.Lease.Owner == a.owner {
		got.outcome, got.fence, got.stays = won, h.Lease.Fence, h.ID
		return got
	}
	if ok && a.force && !stub && h.ID == a.owner {
		got.outcome, got.fence = won, h.Fence
		return got
	}
	if ok && !a.force {
		if !stub && now < h.FreshUntil && h.ID != a.seen {
			got.outcome, got.record = hit, bytes.Clone(s.get(a.key))
			return got
		}
		left := s.left(h)
		if left > 0 && a.patience > 0 && now-h.Lease.Fence >= a.patience.Microseconds()<<h.Lease.Failures { // it is stuck
			h.Lease.Failures = min(h.Lease.Failures+1, record.MostFailures)
		} else if left > 0 {
			if inbox != "" && !h.Lease.All {
				switch {
				case !stub:
					h.Lease.All = true
				case !bytes.Contains(rest, []byte(inbox)):
					rest = append(bytes.Clone(rest), inbox...)
				}
				s.change(a.key, h.Lease, rest)
			}
			got.outcome, got.holder, got.left, got.fence = busy, h.Lease.Owner, left, h.Lease.Fence
			got.wakes = inbox != ""
			return got
		}
		if a.serving && s.marked(h) {
			got.outcome = later
			return got
		}
	}
	lease := record.Lease{
		Owner: a.owner, Fence: max(now, max(h.Fence, h.Lease.Fence)+1), Until: now + a.lease.Microseconds(),
		Duration: a.lease, All: h.Lease.All,
	}
	if !a.force {
		lease.Failures = h.Lease.Failures
	}
	if !ok {
		lease.Fence = max(now, 1)
	}
	if ok && !stub && !a.force && now < h.StaleUntil {
		got.stays = h.ID
		ttl := s.ttl(a.key)
		s.change(a.key, lease, rest)
		s.set(a.key, s.entries[a.key].raw, max(ttl, a.life))
	} else {
		if !stub {
			rest = nil
		}
		s.set(a.key, append(a.coder.lease(a.key, a.cost, lease), rest...), a.life)
	}
	got.outcome, got.fence = won, lease.Fence
	return got
}

func (s *memServer) commit(c commitArgs) committed {
	h, rest, ok := s.open(c.key)
	switch {
	case !ok:
		return missing
	case h.Lease.Owner == c.owner && h.Lease.Fence == c.fence:
	case h.State != record.Stub && h.ID == c.owner:
		return stored
	default:
		return taken
	}
	entry, _, _ := record.Open(c.record)
	left := time.Duration(entry.StaleUntil-s.now()) * time.Microsecond
	outcome, news := refused, fmt.Sprintf("%016d", s.now())
	if ttl := min(c.life.Truncate(time.Millisecond), (left + time.Millisecond - 1).Truncate(time.Millisecond)); ttl > 0 {
		s.set(c.key, c.record, ttl)
		outcome = stored
		if len(c.record) <= wakeBytes {
			news += string(c.record)
		}
	} else {
		delete(s.entries, c.key)
	}
	s.wake(wakeCommitted, c.key, h, rest, news)
	return outcome
}

func (s *memServer) abort(key string, owner record.Owner, fence int64, pause time.Duration) bool {
	h, rest, ok := s.open(key)
	if !ok || h.Lease.Owner != owner || fence != 0 && h.Lease.Fence != fence {
		return false
	}
	life := (time.Duration(h.StaleUntil-s.now()) * time.Microsecond).Truncate(time.Millisecond)
	if h.State == record.Stub || life <= 0 || pause < 0 {
		delete(s.entries, key)
	} else {
		lease := record.Lease{Fence: h.Lease.Fence, Failures: h.Lease.Failures}
		if pause > 0 {
			lease.Duration = pause << lease.Failures
			lease.Until = s.now() + lease.Duration.Microseconds()
			lease.Failures = min(lease.Failures+1, record.MostFailures)
		}
		s.change(key, lease, rest)
		s.set(key, s.entries[key].raw, life)
	}
	s.wake(wakeAborted, key, h, rest, "")
	return true
}

func (s *memServer) renew(key string, owner record.Owner, fence int64, lease, life time.Duration) bool {
	h, rest, ok := s.open(key)
	if !ok || h.Lease.Owner != owner || h.Lease.Fence != fence {
		return false
	}
	h.Lease.Until, h.Lease.Duration = s.now()+lease.Microseconds(), lease
	ttl := s.ttl(key)
	s.change(key, h.Lease, rest)
	s.set(key, s.entries[key].raw, max(ttl, life))
	return true
}

// wake tells those who wait for h's holder; rest is the list of them, if h is a stub.
func (s *memServer) wake(kind byte, key string, h record.Header, rest []byte, rec string) {
	message := fmt.Sprintf("%c%s%08d%s%s", kind, h.Lease.Owner[:], len(key), key, rec)
	if h.Lease.All {
		s.publish(everybody, message)
		return
	}
	for ; h.State == record.Stub && len(rest) >= 16; rest = rest[16:] {
		s.publish(string(rest[:16]), message)
	}
}

// TestMemServer does the same at random to a memServer and to the scripts, and compares what they answer and leave.
func TestMemServer(t *testing.T) {
	for seed := range uint64(20) {
		bubble(t, func(t *testing.T, w *lab.World) {
			p := start(t, w, "A", Options{Lease: time.Second}, nil)
			defer p.stop()
			scripts, mem := p.rds.store, newMemServer()
			rng := rand.New(rand.NewPCG(seed, 0))
			fences := map[record.Owner]int64{}
			for step := range 60 {
				o := record.Owner{byte('1' + rng.IntN(4))}
				var got, want any
				var err error
				op := rng.IntN(7)
				switch op {
				case 0, 1:
					a := acquireArgs{
						key: fullKey, owner: o, lease: time.Second, life: time.Minute, coder: p.cache.core.coder,
						force: rng.IntN(5) == 0, serving: rng.IntN(2) == 0, quiet: rng.IntN(3) == 0,
						patience: time.Duration(rng.IntN(3)) * 500 * time.Millisecond,
						cost:     early.Cost{Mean: time.Duration(rng.IntN(3)) * time.Second},
					}
					if h, _, ok := mem.open(fullKey); ok && rng.IntN(2) == 0 {
						a.seen = h.ID
					}
					var g acquired
					g, err = scripts.acquire(background, a)
					inbox := p.rds.process
					if a.quiet {
						inbox = ""
					}
					m := mem.acquire(a, inbox)
					if m.outcome == won {
						fences[o] = m.fence
					}
					g.received, m.received = time.Time{}, time.Time{}
					got, want = fmt.Sprintf("%+v", g), fmt.Sprintf("%+v", m)
				case 2:
					now := time.Now()
					c := commitArgs{key: fullKey, owner: o, fence: fences[o], life: 3 * time.Second}
					c.record = p.cache.core.coder.seal(fullKey, life{
						owner: o, fence: fences[o], stamp: now.UnixMicro(), freshUntil: now.Add(2 * time.Second).UnixMicro(),
						stale: time.Second,
					}, []byte{1})
					got, err = scripts.commit(background, c)
					want = mem.commit(c)
				case 3:
					fence := fences[o]
					if rng.IntN(2) == 0 {
						fence = 0
					}
					pause := []time.Duration{drop, 0, 500 * time.Millisecond}[rng.IntN(3)]
					got, err = scripts.abort(background, fullKey, o, fence, pause)
					want = mem.abort(fullKey, o, fence, pause)
				case 4:
					got, err = scripts.renew(background, fullKey, o, fences[o], time.Second, time.Minute)
					want = mem.renew(fullKey, o, fences[o], time.Second, time.Minute)
				case 5:
					err = scripts.delete(background, []string{fullKey})
					delete(mem.entries, fullKey)
				case 6:
					time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
				}
				if err != nil || got != want {
					t.Fatalf("seed %d, step %d, op %d: the scripts say %v, %v; memServer %v", seed, step, op, got, err, want)
				}
				raw, _ := w.Redis.Get(fullKey)
				if left := mem.get(fullKey); raw != string(left) {
					t.Fatalf("seed %d, step %d, op %d: the scripts leave %q, memServer %q", seed, step, op, raw, left)
				}
				if raw != "" && w.Redis.TTL(fullKey) != mem.ttl(fullKey) {
					t.Fatalf("seed %d, step %d, op %d: TTL %v and %v", seed, step, op, w.Redis.TTL(fullKey), mem.ttl(fullKey))
				}
			}
		})
	}
}
