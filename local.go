package cache

import (
	"hash/maphash"
	"math"
	"sync/atomic"
	"time"

	"github.com/bellwether-go/cache/internal/early"
)

// local is the first tier: what this process remembers, and for how long.
type local struct {
	clock
	memory tier
	off    bool // nothing is kept
	weigh  func(key string, encoded int) uint32

	// The invalidation epochs. An entry is stored only if its key's epoch has not moved since before the read or
	// the ACQUIRE that produced it. Keys share counters: a false match costs a fill, never a stale value.
	seed   maphash.Seed
	counts [4096]atomic.Uint64
	era    atomic.Uint32
	gaps   atomic.Uint64
	tags   *tagTimes // nil without Options.Tags
}

// tagTimes are the barriers of tags on a clock of this process, which counts their deletions as this process hears of them.
// Tags share counters as keys do.
type tagTimes struct {
	clock atomic.Uint64
	times [4096]atomic.Uint64
}

// localEntry is what memory has under a key besides what a hit looks at. Times are those of local's clock.
type localEntry struct {
	until  int64      // until then it is served without asking Redis
	more   *localMore // nil if it has nothing of it
	asOf   uint64     // on core.ticks: what is of an earlier moment does not replace it
	cost   early.Small
	weight uint32
}

// localMore is what most entries do not have.
type localMore struct {
	barriers []*atomic.Uint64 // of its tags
	at       uint64           // the time on their clock before it was read or loaded
	fresh    int64            // the end of its TTL
	keep     int64            // until then it may be served stale
}

// epoch counts the invalidations of a key, those of everything, and the times after which some may have been missed; and
// those of tags, of which only some concern the key.
type epoch struct {
	era             uint32
	gaps, key, tags uint64
}

// same reports whether nothing has happened between two epochs that concerns the key, tags aside.
func (e epoch) same(other epoch) bool {
	return e.era == other.era && e.gaps == other.gaps && e.key == other.key
}

// weights is what all entries together may weigh.
const weights = 1 << 31

func newLocal(o *Options, memory tier) *local {
	l := &local{clock: clock{started: time.Now()}, memory: memory, seed: maphash.MakeSeed()}
	l.hits.exactly()
	if o.Tags {
		l.tags = new(tagTimes)
	}
	l.off = o.Redis != nil && o.LocalTTL < 0
	if o.LocalBytes > 0 {
		// Both bounds in one: an entry weighs the larger of its shares of them.
		least := uint64(1)
		if o.LocalEntries > 0 {
			least = max(weights/uint64(o.LocalEntries), 1)
		}
		bytes := uint64(o.LocalBytes)
		l.weigh = func(key string, encoded int) uint32 {
			n := uint64(len(key) + encoded + entryOverhead)
			if n >= bytes {
				return math.MaxUint32 // heavier than the cache: not kept
			}
			return uint32(max(uint64(float64(n)/float64(bytes)*weights), least))
		}
	}
	return l
}

// entryOverhead is about what an entry costs in memory besides the bytes of its key and value: with otter 2.4.0 and 200,000
// entries 158 bytes of heap were measured on a 64-bit machine (make bench), and 48 more where entries may be stale.
const entryOverhead = 158

// serves reports whether an entry is fresh, was not invalidated, and need not be refreshed.
func (l *local) serves(g glance) bool { return l.valid(g) && l.before(g.due) }

// valid reports whether an entry was not invalidated.
func (l *local) valid(g glance) bool {
	era := mark(l.era.Load())
	return g.mark&^negative == era*eras || g.mark/eras == era && (g.more == nil || !g.more.outdated())
}

// find returns an entry of whatever age that was not invalidated, and its value.
func (l *local) find(key string) (glance, any) {
	g, value := l.memory.find(key)
	if g.localEntry == nil || !l.valid(g) {
		return glance{}, nil
	}
	return g, value
}

// claim tells one of many callers that find a key due that it is the one that refreshes it: it returns what is to be replaced.
func (l *local) claim(key string) (aged *localEntry) {
	l.memory.change(key, func(g glance) int64 {
		if g.due == 0 || g.due > l.now() || g.due >= g.until {
			return 0
		}
		aged = g.localEntry
		return g.until
	})
	return aged
}

// rearm makes a fresh entry due again after a refresh has failed.
func (l *local) rearm(key string, pause time.Duration) {
	l.memory.change(key, func(g glance) int64 {
		if g.is(stale) || !l.valid(g) {
			return 0
		}
		return min(l.now()+int64(pause), g.until)
	})
}

// takes reports whether an entry replaces old: not if its key was invalidated since, nor if old is newer.
func (l *local) takes(key string, g, old glance, since epoch) bool {
	return l.epoch(key).same(since) && (old.localEntry == nil || old.mark/eras != g.mark/eras || old.asOf <= g.asOf)
}

func (l *local) barrier(tag string) *atomic.Uint64 {
	return &l.tags.times[maphash.String(l.seed, tag)%uint64(len(l.tags.times))]
}

// outdated reports whether one of the tags was deleted since.
func (m *localMore) outdated() bool {
	for _, b := range m.barriers {
		if b.Load() > m.at {
			return true
		}
	}
	return false
}

// outdated reports whether one of these tags was deleted since.
func (l *local) outdated(tags []string, since epoch) bool {
	for _, t := range tags {
		if l.barrier(t).Load() > since.tags {
			return true
		}
	}
	return false
}

// dropTags invalidates what carries one of these tags and was read or loaded before.
func (l *local) dropTags(tags []string) {
	if l.tags == nil {
		return
	}
	now := l.tags.clock.Add(1)
	for _, t := range tags {
		for b := l.barrier(t); ; {
			was := b.Load()
			if was >= now || b.CompareAndSwap(was, now) {
				break
			}
		}
	}
}

// epoch is to be taken before the read or the ACQUIRE whose result fill is to store.
func (l *local) epoch(key string) epoch {
	e := epoch{era: l.era.Load(), gaps: l.gaps.Load(), key: l.count(key).Load()}
	if l.tags != nil {
		e.tags = l.tags.clock.Load()
	}
	return e
}

func (l *local) count(key string) *atomic.Uint64 {
	return &l.counts[maphash.String(l.seed, key)%uint64(len(l.counts))]
}

// filling is what memory is to keep. Times are from now.
type filling struct {
	value           any
	negative, stale bool
	tags            []string
	encoded         int // size
	cost            early.Cost
	asOf            uint64
	serve, due      time.Duration // see localEntry
	fresh, keep     time.Duration // see localMore; keep 0: not stale
}

// fill stores an entry unless the key was invalidated since. The check and the store are one step for
// drop: it either comes first and is seen here, or waits for the entry and removes it.
func (l *local) fill(key string, since epoch, f *filling) {
	if l.off || f.serve <= 0 {
		return
	}
	now := l.now()
	e := &localEntry{until: now + int64(f.serve), cost: f.cost.Pack(), asOf: f.asOf}
	g := glance{mark: mark(since.era) * eras, localEntry: e}
	if f.negative {
		g.mark |= negative
	}
	if f.stale {
		g.mark |= stale
	} else {
		g.due = now + int64(min(f.due, f.serve))
	}
	if len(f.tags) > 0 || f.keep > 0 {
		e.more = &localMore{at: since.tags, fresh: now + int64(f.fresh), keep: now + int64(f.keep)}
		for _, t := range f.tags {
			e.more.barriers = append(e.more.barriers, l.barrier(t))
		}
	}
	if len(f.tags) > 0 {
		g.mark |= tagged
	}
	if l.weigh != nil {
		if e.weight = l.weigh(key, f.encoded); e.weight == math.MaxUint32 {
			return
		}
	}
	l.memory.put(key, g, f.value, l, since)
}

// drop invalidates a key and returns the epoch that begins with it.
func (l *local) drop(key string) epoch {
	began := epoch{era: l.era.Load(), gaps: l.gaps.Load(), key: l.count(key).Add(1)}
	if l.tags != nil {
		began.tags = l.tags.clock.Load()
	}
	l.memory.remove(key)
	return began
}

// gap says that invalidations may be missed from now on: what is on its way is not stored. What is here stays, for no
// longer than it would anyway.
func (l *local) gap() { l.gaps.Add(1) }

// dropAll invalidates everything.
func (l *local) dropAll() {
	l.era.Add(1)
	l.memory.removeAll()
}
