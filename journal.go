package cache

import (
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bellwether-go/cache/internal/record"
)

// What a cache remembers of what has happened, for Explain and Status. All of it is bounded.

// longestNoted is the longest key, in bytes, that is remembered; of longer ones, so much.
const longestNoted = 1024

func clipped(key string) string {
	if len(key) > longestNoted {
		return strings.Clone(key[:longestNoted])
	}
	return key
}

// recent keeps the last events of a kind.
type recent[E any] struct {
	mu  sync.Mutex
	all []E // guarded by mu
	at  int // of the oldest, once all are there; guarded by mu
}

const lastEvents = 64

func (r *recent[E]) add(e E) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) < lastEvents {
		r.all = append(r.all, e)
		return
	}
	r.all[r.at] = e
	r.at = (r.at + 1) % lastEvents
}

// list returns them, the newest first.
func (r *recent[E]) list() []E {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Concat(r.all[r.at:], r.all[:r.at])
	slices.Reverse(all)
	return all
}

// outcomes are the last miss and the last load of keys, of those that share a place the latest.
type outcomes struct {
	seed maphash.Seed
	mu   sync.Mutex
	all  map[uint16]lastOutcome // guarded by mu
}

type lastOutcome struct {
	key    string
	missed time.Time
	reason reason
	loaded time.Time
	with   string
	took   time.Duration
}

const outcomePlaces = 1024

func (os *outcomes) changes(key string, change func(*lastOutcome)) {
	if len(key) > longestNoted {
		return
	}
	at := uint16(maphash.String(os.seed, key) % outcomePlaces)
	os.mu.Lock()
	defer os.mu.Unlock()
	o := os.all[at]
	if o.key != key {
		o = lastOutcome{key: key}
	}
	change(&o)
	if os.all == nil {
		os.all = make(map[uint16]lastOutcome)
	}
	os.all[at] = o
}

func (os *outcomes) missed(key string, why reason) {
	os.changes(key, func(o *lastOutcome) { o.missed, o.reason = time.Now(), why })
}

func (os *outcomes) loaded(key, with string, took time.Duration) {
	os.changes(key, func(o *lastOutcome) { o.loaded, o.with, o.took = time.Now(), with, took })
}

// becomes says more of a load that is over.
func (os *outcomes) becomes(key, with string) {
	os.changes(key, func(o *lastOutcome) { o.with = with })
}

func (os *outcomes) of(key string) (lastOutcome, bool) {
	at := uint16(maphash.String(os.seed, key) % outcomePlaces)
	os.mu.Lock()
	defer os.mu.Unlock()
	o, ok := os.all[at]
	return o, ok && o.key == key
}

// running are the loads whose loader has been called and has not returned.
type running struct {
	mu  sync.Mutex
	all map[task]time.Time // guarded by mu
}

func (rs *running) begin(t task) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.all == nil {
		rs.all = make(map[task]time.Time)
	}
	rs.all[t] = time.Now()
}

func (rs *running) end(t task) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	delete(rs.all, t)
}

func (rs *running) len() int {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return len(rs.all)
}

func (rs *running) list() map[task]time.Time {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return maps.Clone(rs.all)
}

// age returns since when the key is being loaded; 0 if it is not.
func (rs *running) age(key string) (age time.Duration) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for t, began := range rs.all {
		if t.flight(key) != nil {
			age = max(age, time.Since(began), 1)
		}
	}
	return age
}

// hot tells which keys are asked for most, by a sample: 16 calls in 10 ms at most. It keeps as many counters as the
// space-saving algorithm needs (Metwally, Agrawal, El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data
// Streams", 2005): a key that makes up more than one of so many calls is among them. They are halved now and then, so that what
// was hot is forgotten.
type hot struct {
	left   atomic.Int32 // of the sample
	opened atomic.Int64 // when there was room for a whole one, on local's clock

	mu      sync.Mutex
	halve   time.Time           // guarded by mu
	counts  map[string]*hotness // guarded by mu
	samples uint64              // guarded by mu
}

type hotness struct{ n, over uint64 }

const (
	hotKeys   = 64
	hotSample = 16
	hotLife   = 30 * time.Second
)

// note counts a call, if there is room in the sample. It may be called on the path of a hit.
func (h *hot) note(key string) {
	if h.left.Load() > 0 && h.left.Add(-1) >= 0 && len(key) <= longestNoted {
		h.count(key)
	}
}

// noteAt is note where time is of no concern, at this time of local's clock.
func (h *hot) noteAt(now int64, key string) {
	if last := h.opened.Load(); now-last >= int64(clockStep) && h.opened.CompareAndSwap(last, now) {
		h.left.Store(hotSample)
	}
	h.note(key)
}

func (h *hot) count(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fadeLocked()
	h.samples++
	c := h.counts[key]
	switch {
	case c != nil:
	case h.counts == nil:
		h.counts = make(map[string]*hotness, hotKeys)
		fallthrough
	case len(h.counts) < hotKeys:
		c = new(hotness)
		h.counts[key] = c
	default:
		var least string
		for k, other := range h.counts {
			if c == nil || other.n < c.n {
				least, c = k, other
			}
		}
		delete(h.counts, least)
		h.counts[key], c.over = c, c.n
	}
	c.n++
}

func (h *hot) fadeLocked() {
	now := time.Now()
	if h.halve.IsZero() {
		h.halve = now
	}
	for ; now.Sub(h.halve) >= hotLife; h.halve = h.halve.Add(hotLife) {
		if h.samples == 0 {
			h.halve = now
			break
		}
		h.samples /= 2
		for k, c := range h.counts {
			if c.n, c.over = c.n/2, c.over/2; c.n == 0 {
				delete(h.counts, k)
			}
		}
	}
}

// shares returns what part of the calls each key is that is asked for much, at least.
func (h *hot) shares() map[string]float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fadeLocked()
	shares := make(map[string]float64)
	for k, c := range h.counts {
		if sure := c.n - c.over; sure > 0 {
			shares[k] = float64(sure) / float64(h.samples)
		}
	}
	return shares
}

// waits are the flights that wait for another process.
type waits struct {
	mu  sync.Mutex
	all map[*flight]waitFor // guarded by mu
}

type waitFor struct {
	holder record.Owner
	since  time.Time
}

func (ws *waits) begin(f *flight, holder record.Owner) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.all == nil {
		ws.all = make(map[*flight]waitFor)
	}
	since := time.Now()
	if w, ok := ws.all[f]; ok {
		since = w.since
	}
	ws.all[f] = waitFor{holder, since}
}

func (ws *waits) end(f *flight) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.all, f)
}

func (ws *waits) list() map[*flight]waitFor {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return maps.Clone(ws.all)
}
