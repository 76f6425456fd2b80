package cache

import (
	"container/heap"
	"context"
	cryptorand "crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// What bounds the loads of all keys together: see Options.MaxLoads.

const (
	permitDigits = 16                    // of a permit's number
	permitIdle   = 50 * time.Millisecond // how long one is kept that is not used, for the next load
)

// limits are the limiters of a cache.
type limits struct {
	c   *core
	who string // names them in Redis: the process, and the cache in it

	mu        sync.Mutex
	m         map[string]*limiter // by what Options.LimitBy says; guarded by mu
	number    uint64              // of the last permit that was wanted; guarded by mu
	processes int                 // that have or want some, by the last answer; at least 1; guarded by mu
	closed    bool                // guarded by mu
	asks      sync.WaitGroup      // Redis; Add under mu while not closed, or by close
}

// limiter lets loads run while there are permits. What is in it is guarded by limits.mu.
//
// A process keeps as many permits as are its share, and takes and gives those above it with each load: then whoever waits
// longest in the fleet gets them, and is told. All of a process are renewed by one command.
type limiter struct {
	*limits
	name    string
	queue   tickets
	running int           // loads
	peak    int           // the most of them at a time, since the last renewal
	held    []string      // numbers of permits
	wanted  []string      // ... that Redis has in its queue
	back    []string      // ... that are to be given back
	share   int           // of all permits
	others  bool          // want some, by the last answer
	cut     bool          // Redis did not answer the last time
	asking  bool          // it is being asked
	ends    time.Duration // until the next permit ends that is not renewed, by the last answer
	renewed time.Duration // when it was asked, on the clock of Redis.clock.local
	poll    time.Duration // the pause between two looks, where nobody tells us
	timer   *time.Timer   // for the next command; nil: none is needed
	next    time.Duration // when that is
}

// ticket is a load that is to begin.
type ticket struct {
	l       *limiter
	flights []*flight
	callers int    // that wait for it
	came    uint64 // in this order
	place   int    // in the queue; -1: it is not there
	begins  chan struct{}
	err     error // it does not begin; set before begins is closed
	lent    bool  // it begins under another load's permit; set before begins is closed
}

// tickets are a heap: first those that most callers wait for or, with Options.FairLoads, those that came first; last those
// for nobody.
type tickets struct {
	fair bool
	all  []*ticket
	came uint64
}

func (q *tickets) Len() int { return len(q.all) }

func (q *tickets) Less(i, j int) bool {
	a, b := q.all[i], q.all[j]
	switch {
	case a.callers == b.callers, q.fair && a.callers > 0 && b.callers > 0:
		return a.came < b.came
	}
	return a.callers > b.callers
}

func (q *tickets) Swap(i, j int) {
	q.all[i], q.all[j] = q.all[j], q.all[i]
	q.all[i].place, q.all[j].place = i, j
}

func (q *tickets) Push(x any) {
	t := x.(*ticket)
	q.came++
	t.came, t.place = q.came, len(q.all)
	q.all = append(q.all, t)
}

func (q *tickets) Pop() any {
	last := len(q.all) - 1
	t := q.all[last]
	q.all[last] = nil
	q.all, t.place = q.all[:last], -1
	return t
}

// order is what Redis is told of the best ticket.
func (q *tickets) order() string {
	switch {
	case q.fair:
		return ""
	case len(q.all) == 0:
		return "0"
	}
	return fmt.Sprint(q.all[0].callers)
}

func newLimits(c *core) *limits {
	var id [8]byte
	_, _ = cryptorand.Read(id[:]) // never fails
	ls := &limits{c: c, m: make(map[string]*limiter), who: hex.EncodeToString(id[:]), processes: 1}
	ls.number = rand.Uint64N(1e15) // a message names only the number, and may be for another cache of this name
	if c.redis != nil {
		ls.who = c.redis.process + ls.who
	}
	return ls
}

// by is the limit under which a key is loaded.
func (ls *limits) by(key string) (name string) {
	defer func() {
		if recover() != nil {
			name = ""
		}
	}()
	if ls.c.opts.LimitBy != nil {
		name = ls.c.opts.LimitBy(key)
	}
	return name[:min(len(name), 1000)]
}

// parts are flights by what limits their loads, each in their order.
func (ls *limits) parts(flights []*flight) (parts [][]*flight) {
	if ls.c.opts.LimitBy == nil || ls.c.opts.MaxLoads == 0 {
		return [][]*flight{flights}
	}
	at := make(map[string]int)
	for _, f := range flights {
		name := ls.by(f.key)
		i, known := at[name]
		if !known {
			i = len(parts)
			at[name], parts = i, append(parts, nil)
		}
		parts[i] = append(parts[i], f)
	}
	return parts
}

// take blocks until a load for these flights may begin, or is not to; then there is an error. It renews the leases meanwhile.
// Who has taken leaves the limiter.
func (ls *limits) take(ctx context.Context, flights []*flight, leases *renewals) (*limiter, error) {
	if ls.c.opts.MaxLoads == 0 {
		return nil, nil
	}
	name := ls.by(flights[0].key)
	t := ls.queues(name, flights)
	defer func() {
		for _, f := range flights {
			f.ticket.Store(nil)
		}
	}()
	for {
		select {
		case <-t.begins:
			if t.lent {
				return nil, nil
			}
			return t.l, t.err
		case <-leases.due:
			leases.begin()
		case held := <-leases.answer:
			if !leases.end(held) && t.withdraw(ErrLeaseLost) {
				return nil, ErrLeaseLost
			}
		case <-ctx.Done():
			if err := context.Cause(ctx); t.withdraw(err) {
				return nil, err
			}
		}
	}
}

// queues gives flights a ticket. One that nobody wants any more, and would have to wait, does not begin.
func (ls *limits) queues(name string, flights []*flight) *ticket {
	fs := ls.c.flights
	fs.mu.Lock()
	defer fs.mu.Unlock()
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.m[name]
	if l == nil {
		l = &limiter{limits: ls, name: name, queue: tickets{fair: ls.c.opts.FairLoads}}
		l.share = ls.c.opts.MaxLoads / ls.processes
		ls.m[name] = l
	}
	t := &ticket{l: l, flights: flights, begins: make(chan struct{})}
	wanted := false
	for _, f := range flights {
		t.callers += int(f.callers)
		wanted = wanted || f.callers > 0 || f.kind == unasked
	}
	heap.Push(&l.queue, t)
	for _, f := range flights {
		if f.lent {
			t.lendLocked()
		}
	}
	if l.moveLocked(); t.place < 0 {
		return t
	}
	ls.c.stats.queued.Add(1)
	if !wanted {
		t.withdrawLocked(errAbandoned)
	}
	for _, f := range flights {
		if f.ticket.Store(t); !wanted {
			fs.removeLocked(f)
		}
	}
	return t
}

// inside reports whether a call by the loader of t, or nil, is made by a loader of this cache, at whatever depth. That lends its
// permit to what it waits for: otherwise loaders could wait for each other.
func (ls *limits) inside(t task) bool {
	for ; t != nil; t = t.caller() {
		if t.owner() == ls.c {
			return true
		}
	}
	return false
}

func (t *ticket) lendLocked() {
	if t.place >= 0 {
		heap.Remove(&t.l.queue, t.place)
		t.lent = true
		close(t.begins)
	}
}

// lends has a load begin that waits; t may be nil.
func (t *ticket) lends() {
	if t == nil {
		return
	}
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	t.lendLocked()
	t.l.moveLocked()
}

// joined counts a caller more, or one less, that waits for a load that waits. t may be nil.
func (t *ticket) joined(n int) {
	if t == nil {
		return
	}
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	if t.place >= 0 {
		t.callers += n
		heap.Fix(&t.l.queue, t.place)
	}
}

// withdraw reports whether the load was still waiting. Now it does not begin. t may be nil.
func (t *ticket) withdraw(err error) bool {
	if t == nil {
		return false
	}
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	return t.withdrawLocked(err)
}

func (t *ticket) withdrawLocked(err error) bool {
	if t.place < 0 {
		return false
	}
	heap.Remove(&t.l.queue, t.place)
	if t.err = err; errors.Is(err, errAbandoned) {
		t.l.c.stats.dropped.Add(1)
	}
	close(t.begins)
	t.l.moveLocked()
	return true
}

// leave gives a permit back. l may be nil.
func (l *limiter) leave() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	if len(l.held) > l.share && !l.cut { // it goes to whoever waits longest
		l.giveLocked(max(len(l.held)-1, l.running))
	}
	if l.admitLocked(); l.others && l.running < len(l.held) {
		l.giveLocked(l.running)
	}
	l.moveLocked()
}

// granted is called when this process was told that it has a permit.
func (ls *limits) granted(name, number string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.m[name]
	if l == nil || ls.closed { // it ends by itself
		return
	}
	if i := slices.Index(l.wanted, number); i >= 0 {
		l.wanted = slices.Delete(l.wanted, i, i+1)
		l.held = append(l.held, number)
		l.moveLocked()
	}
}

// roomLocked is how many loads may run here.
func (l *limiter) roomLocked() int {
	switch {
	case l.c.redis == nil:
		return l.c.opts.MaxLoads
	case l.cut && !l.c.opts.StrictLoads:
		return max(l.share, 1)
	}
	return len(l.held)
}

// giveLocked gives back what is held beyond n permits.
func (l *limiter) giveLocked(n int) {
	n = min(n, len(l.held))
	l.back = append(l.back, l.held[n:]...)
	l.held = l.held[:n]
}

// moveLocked lets loads begin, and has Redis asked for more permits if some have to wait.
func (l *limiter) moveLocked() {
	l.admitLocked()
	switch {
	case l.asking:
	case l.c.redis != nil && (len(l.back) > 0 || l.lackLocked() != len(l.wanted)):
		l.askLocked()
	default:
		l.restLocked()
	}
}

func (l *limiter) admitLocked() {
	for l.running < l.roomLocked() && l.queue.Len() > 0 {
		t := heap.Pop(&l.queue).(*ticket)
		l.running++
		close(t.begins)
	}
	l.peak = max(l.peak, l.running)
}

// close gives all permits back, when no loads are left.
func (ls *limits) close() {
	ls.mu.Lock()
	ls.closed = true
	for _, l := range ls.m {
		l.giveLocked(0)
		l.moveLocked()
	}
	ls.mu.Unlock()
	ls.asks.Wait()
}
