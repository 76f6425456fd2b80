package main

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"time"

	"github.com/bellwether-go/cache/internal/early"
)

// roundTrip is what a command takes; Redis executes it after half of it.
const roundTrip = 500 * time.Microsecond

// conditions are what a strategy has to cope with: requests for one hot key, as a Poisson process.
type conditions struct {
	rate      float64 // requests per second of all processes
	processes int
	ttl       time.Duration
	mean      time.Duration // of a load's time, which is log-normal
	sigma     float64
}

// counts are what came of it. Requests that change nothing are not simulated: they are counted by their expected number,
// which makes 100,000 requests per second as cheap as one.
type counts struct {
	loads   int
	peak    int           // the most loads at a time
	blocked float64       // seconds, of all requests, that they waited for a load
	stale   float64       // requests that were answered with an expired value
	oldest  time.Duration // the longest that a value was expired when it was served
}

// value is what a load brings. It is not changed.
type value struct {
	loaded time.Duration
	expiry time.Duration
	last   time.Duration // what its load took
	cost   early.Cost
}

// event is something that happens at a time; of two at the same time the one planned first.
type event struct {
	at   time.Duration
	rank int
	do   func()
}

type queue []*event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].rank < q[j].rank
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*event)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return e
}

// world is the fleet, its Redis and its clock. Everything happens in one goroutine.
type world struct {
	conditions
	strategy
	rng    *rand.Rand
	now    time.Duration
	queue  queue
	rank   int
	counts counts

	running int // loads
	// What Redis holds of the key:
	stored  *value
	leased  bool
	waiting []*process // whom the next commit wakes
}

func newWorld(c conditions, s strategy, seed uint64) *world {
	w := &world{conditions: c, strategy: s, rng: rand.New(rand.NewPCG(seed, 0))}
	for range c.processes {
		(&process{world: w}).expect()
	}
	return w
}

// warmUp is the number of TTLs that are not counted: the first loads, of which nobody knows the cost.
const warmUp = 10

// simulate runs a fleet for a number of TTLs, or until the loads are so many that more of them add nothing, and returns
// for how many it ran.
func simulate(c conditions, s strategy, seed uint64, cycles int) (ttls float64, n counts) {
	const enough = 500_000
	w := newWorld(c, s, seed)
	w.run(warmUp*c.ttl, math.MaxInt)
	w.counts = counts{peak: w.running}
	begin := w.now
	w.run(time.Duration(warmUp+cycles)*c.ttl, enough)
	return float64(w.now-begin) / float64(c.ttl), w.counts
}

// run lets time pass until end, or up to the end of the TTL in which the loads have reached a number.
func (w *world) run(end time.Duration, loads int) {
	for w.now < end && w.counts.loads < loads {
		stop := min(end, w.now+w.ttl)
		for len(w.queue) > 0 && w.queue[0].at <= stop {
			e := heap.Pop(&w.queue).(*event)
			w.now = e.at
			e.do()
		}
		w.now = stop
	}
}

func (w *world) at(t time.Duration, do func()) {
	w.rank++
	heap.Push(&w.queue, &event{t, w.rank, do})
}

func (w *world) after(d time.Duration, do func()) { w.at(w.now+d, do) }

// command lets Redis execute something, and goes on with the reply.
func (w *world) command(execute, then func()) {
	w.after(roundTrip/2, func() {
		execute()
		w.after(roundTrip/2, then)
	})
}

// get goes on with the value in Redis, nil when there is none. Redis keeps it as long as it may be served.
func (w *world) get(then func(*value)) {
	var v *value
	w.command(func() {
		if w.stored != nil && w.now < w.stored.expiry+w.stale {
			v = w.stored
		}
	}, func() { then(v) })
}

// load goes on with a new value once it is in Redis.
func (w *world) load(known early.Cost, then func(*value)) {
	w.counts.loads++
	w.running++
	w.counts.peak = max(w.counts.peak, w.running)
	took := w.loadTime()
	w.after(took, func() {
		w.running--
		ttl := time.Duration(float64(w.ttl) * (1 - w.jitter*w.rng.Float64()))
		v := &value{loaded: w.now, expiry: w.now + ttl, last: took, cost: known.After(took)}
		w.command(func() { w.commit(v) }, func() { then(v) })
	})
}

func (w *world) commit(v *value) {
	w.stored, w.leased = v, false
	for _, p := range w.waiting {
		w.after(roundTrip/2, func() { p.adopt(v) })
	}
	w.waiting = nil
}

func (w *world) loadTime() time.Duration {
	return time.Duration(float64(w.mean) * math.Exp(w.sigma*w.rng.NormFloat64()-w.sigma*w.sigma/2))
}

// share is the rate of the requests to one process, in requests per second.
func (w *world) share() float64 { return w.rate / float64(w.processes) }

// gap is the time to the next request to a process, from any time on: a Poisson process has no memory.
func (w *world) gap() time.Duration { return seconds(w.rng.ExpFloat64() / w.share()) }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// serveExpired counts the requests that a process answers with an expired value from one time to another.
func (w *world) serveExpired(v *value, from, to time.Duration) {
	if from = max(from, v.expiry); to <= from {
		return
	}
	w.counts.stale += w.share() * (to - from).Seconds()
	if last := to - w.gap(); last >= from { // the last one before to, also without a memory
		w.counts.oldest = max(w.counts.oldest, last-v.expiry)
	}
}
