package cache

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/maypok86/otter/v2"
)

// The store of the first tier, and what is on the path of a hit: that takes no lock, allocates nothing, and writes only to the
// stripe of a counter.

// memory holds decoded values, in an otter cache without its expiry, loading and statistics.
type memory[V any] struct {
	entries *otter.Cache[string, slot[V]]
	// Writes come one at a time. Otter's writers spin while one of them makes room in its queue, and if that one is preempted each
	// of them does so for a whole time slice: 500 first writes at once took up to 4 s on two processors (BenchmarkFirstWrites).
	mu sync.Mutex
}

// slot is an entry and its value. Both are in otter's own node, with as little besides as a hit has to look at: what counts is
// how many cache lines it touches, and how many words otter copies on the way up.
type slot[V any] struct {
	glance
	value V
}

// glance is what a hit has to know.
type glance struct {
	due         int64 // until then there is nothing to do but serve it; 0 if it is stale
	mark        mark
	*localEntry // nil: there is nothing
}

// mark is the era of an entry's epoch, and flags. An entry of an earlier era is not served, whether or not dropAll found it.
type mark uint64

const (
	negative mark = 1 << iota
	stale
	tagged
	eras mark = 1 << 8
)

func (g glance) is(m mark) bool { return g.mark&m != 0 }

// tier is a memory without the type of its values.
type tier interface {
	// find returns an entry of whatever age, and its value.
	find(key string) (glance, any)
	// glimpse is find without being noticed.
	glimpse(key string) (glance, any)
	// put stores an entry unless l says that it is too late. Nothing happens to the key between the two.
	put(key string, g glance, value any, l *local, since epoch)
	// change changes when an entry is due, to what when says, if that is not 0.
	change(key string, when func(glance) int64)
	remove(key string)
	removeAll()
}

func newMemory[V any](o *Options) *memory[V] {
	var oo otter.Options[string, slot[V]]
	if o.LocalBytes > 0 {
		oo.MaximumWeight = weights
		oo.Weigher = func(_ string, s slot[V]) uint32 { return s.weight }
	} else if o.LocalEntries > 0 {
		oo.MaximumSize = o.LocalEntries
	}
	return &memory[V]{entries: otter.Must(&oo)}
}

func (m *memory[V]) find(key string) (glance, any) {
	s, there := m.entries.GetIfPresent(key)
	if !there || s.is(negative) {
		return s.glance, nil
	}
	return s.glance, s.value
}

func (m *memory[V]) glimpse(key string) (glance, any) {
	e, there := m.entries.GetEntryQuietly(key)
	if !there || e.Value.is(negative) {
		return e.Value.glance, nil
	}
	return e.Value.glance, e.Value.value
}

func (m *memory[V]) put(key string, g glance, value any, l *local, since epoch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries.Compute(key, func(old slot[V], _ bool) (slot[V], otter.ComputeOp) {
		if !l.takes(key, g, old.glance, since) {
			return old, otter.CancelOp
		}
		v, _ := value.(V) // no V only if it is an interface and nil
		return slot[V]{g, v}, otter.WriteOp
	})
}

func (m *memory[V]) change(key string, when func(glance) int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries.ComputeIfPresent(key, func(s slot[V]) (slot[V], otter.ComputeOp) {
		due := when(s.glance)
		if due == 0 {
			return s, otter.CancelOp
		}
		s.due = due
		return s, otter.WriteOp
	})
}

func (m *memory[V]) remove(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries.Invalidate(key)
}

func (m *memory[V]) removeAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries.InvalidateAll()
}

// clock is the time since it was made, monotonic. To read the time takes about as long as all the rest of a hit; so while there are
// hits a timer does it for them.
type clock struct {
	started time.Time
	seen    atomic.Int64 // the time a moment ago; 0: nobody looks
	used    atomic.Bool  // since then
	hits    hits         // the timer has them sampled
	hot     hot          // the timer makes room in its sample

	mu    sync.Mutex
	timer *time.Timer // guarded by mu
}

// clockStep is the time between two looks of the timer.
const clockStep = 10 * time.Millisecond

// now is exact.
func (k *clock) now() int64 { return int64(time.Since(k.started)) }

// before reports whether t is still to come. If the timer is late, because the machine is short of processors, it may be so late.
func (k *clock) before(t int64) bool {
	if seen := k.seen.Load(); seen != 0 && seen+int64(clockStep) < t {
		if !k.used.Load() {
			k.used.Store(true)
		}
		return true
	}
	return k.look(t)
}

// look is before, exactly. It has the timer look from now on.
func (k *clock) look(t int64) bool {
	now := k.now()
	if now >= t {
		return false
	}
	if k.seen.CompareAndSwap(0, max(now, 1)) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.hits.exactly()
		if k.timer == nil {
			k.timer = time.AfterFunc(clockStep, k.tick)
		} else {
			k.timer.Reset(clockStep)
		}
	}
	return true
}

// tick looks at the time, and goes on while there are hits.
func (k *clock) tick() {
	if !k.used.Swap(false) {
		k.hits.exactly()
		k.seen.Store(0)
		return
	}
	k.hits.turn()
	k.hot.left.Store(hotSample)
	k.seen.Store(k.now())
	k.mu.Lock()
	defer k.mu.Unlock()
	k.timer.Reset(clockStep)
}

// hits counts hits: each while there are fewer than often in a step of the clock. An atomic addition takes up to 14 % of a hit
// (BenchmarkHitsCounted), so when there are more they are counted in one of every sampled steps, so many times each. Which one is drawn, so that nothing that
// happens at regular intervals is always counted, or never.
type hits struct {
	weight atomic.Uint64 // how many times a hit is counted now
	sum    adder

	// The timer's.
	before uint64 // the sum when this step began
	busy   bool   // in the last step that counted
	left   uint64 // of the steps of which one counts
	chosen uint64 // it counts with so many left
}

const (
	often   = 10_000
	sampled = 16
)

func (h *hits) add(n uint64) {
	if w := h.weight.Load(); w > 0 {
		h.sum.add(w * n)
	}
}

// hit counts one.
func (k *clock) hit(key string) {
	if w := k.hits.weight.Load(); w > 0 {
		k.hits.sum.add(w)
		k.hot.note(key)
	}
}

// turn ends a step.
func (h *hits) turn() {
	sum := h.sum.load()
	if w := h.weight.Load(); w > 0 {
		h.busy = sum-h.before >= w*often
	}
	h.before = sum
	if h.left == 0 {
		if !h.busy {
			h.exactly()
			return
		}
		h.left, h.chosen = sampled, 1+rand.Uint64N(sampled)
	}
	if h.left == h.chosen {
		h.weight.Store(sampled)
	} else {
		h.weight.Store(0)
	}
	h.left--
}

// exactly has each hit counted from now on.
func (h *hits) exactly() {
	h.before, h.left = h.sum.load(), 0
	h.weight.Store(1)
}

// adder counts exactly, and in several places, so that cores do not wait for each other (as java.util.concurrent.LongAdder).
type adder struct {
	stripes [stripes]struct {
		n atomic.Uint64
		_ [56]byte // the rest of a cache line
	}
}

const stripes = 16

func (c *adder) add(n uint64) {
	var here byte // the stack is the goroutine's
	at := uintptr(unsafe.Pointer(&here))
	c.stripes[(at>>10^at>>14)%stripes].n.Add(n)
}

func (c *adder) load() (n uint64) {
	for i := range c.stripes {
		n += c.stripes[i].n.Load()
	}
	return n
}
