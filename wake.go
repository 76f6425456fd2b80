package cache

import (
	"errors"
	"sync"
	"time"

	"github.com/bellwether-go/cache/internal/record"
)

// wake is a message for those who wait for a lease. The zero kind means: look again.
type wake struct {
	kind   byte
	owner  record.Owner
	record []byte
	at     int64 // of the server's clock, us; 0: not known
}

// of reports whether the message brings what was stored under the lease that made us wait. The owner alone does not tell:
// a late copy of its ACQUIRE, executed after a deletion, gives it another lease.
func (w wake) of(lease acquired) bool {
	h, _, err := record.Open(w.record)
	return err == nil && w.owner == lease.holder && h.Fence == lease.fence
}

// sinceStored returns how long ago the message was sent, by the server's clock; 0 if that is not known.
func (r *Redis) sinceStored(w wake) time.Duration {
	early, late, known := r.clock.now()
	if !known || w.at == 0 {
		return 0
	}
	return max(time.Duration((early+late)/2-w.at)*time.Microsecond, 0)
}

// waiter is a flight that waits for another process.
type waiter struct {
	key  string
	news chan wake
}

// waiters are the flights of this process that wait, by their key in Redis.
type waiters struct {
	mu sync.Mutex
	m  map[string][]*waiter // guarded by mu
}

func (ws *waiters) register(key string) *waiter {
	w := &waiter{key: key, news: make(chan wake, 4)}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.m == nil {
		ws.m = make(map[string][]*waiter)
	}
	ws.m[key] = append(ws.m[key], w)
	return w
}

func (ws *waiters) unregister(w *waiter) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	rest := ws.m[w.key][:0]
	for _, other := range ws.m[w.key] {
		if other != w {
			rest = append(rest, other)
		}
	}
	if clear(ws.m[w.key][len(rest):]); len(rest) == 0 {
		delete(ws.m, w.key)
	} else {
		ws.m[w.key] = rest
	}
}

// tell passes a wake-up on. A waiter with four of them unread will look at the record anyway, and needs no fifth.
func (ws *waiters) tell(key string, news wake) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, w := range ws.m[key] {
		select {
		case w.news <- news:
		default:
		}
	}
}

// lookAgain makes the waiters for a key look at its record, or all waiters if key is "".
func (ws *waiters) lookAgain(key string) {
	if key != "" {
		ws.tell(key, wake{})
		return
	}
	ws.mu.Lock()
	keys := make([]string, 0, len(ws.m))
	for k := range ws.m {
		keys = append(keys, k)
	}
	ws.mu.Unlock()
	for _, k := range keys {
		ws.tell(k, wake{})
	}
}

// patience is how long another process may hold a lease, renewing it, until one of those who wait takes it over: until its
// load must be stuck, by what loads of the key have taken; 0 if that is not known. Only one takes over: all that wait would
// be the stampede on an origin that has become slow. And the next one waits for twice as long.
func (c *core) patience(f *flight) time.Duration {
	if known := f.known.Bound(); known > 0 && c.opts.MaxLoads == 0 { // otherwise the load may wait for its turn
		return max(stuck*known, 2*c.opts.Lease)
	}
	return 0
}

// waiting is what a flight remembers of its waiting from one holder to the next.
type waiting struct {
	w        *waiter
	patience time.Time
	began    bool
	since    time.Time     // when it began
	poll     time.Duration // the last pause
	woken    bool          // with the value
	latency  time.Duration // then: since it was stored
}

// ended is how waiting has ended that has brought something.
func (w *waiting) ended() string {
	if w.woken {
		return "woken"
	}
	return "found"
}

// wait waits for the holder's value: woken, or by looking. It returns a result; or nothing if the lease may be free,
// with what it has read and, if that was not readable, errUnreadable; or another error if Redis does not answer.
// since and asOf were taken before the ACQUIRE that named the holder.
func (c *core) wait(f *flight, w *waiting, got acquired, since epoch, asOf uint64) (*result, []byte, error) {
	ends, last := time.Now().Add(got.left), w.patience
	if p := c.patience(f); p > 0 && time.Until(last) > p {
		last = time.Now().Add(p)
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if got.wakes && c.redis.stream.wakes() {
			w.poll = c.opts.Lease / 2
		} else {
			w.poll = min(max(2*w.poll, pollFirst), pollMost)
		}
		next := w.poll/2 + c.redis.spread(w.poll) // +-50 %
		if rest := time.Until(ends) + c.redis.spread(lookSoon); rest < next {
			next = max(rest, lookSoon)
		}
		next = max(min(next, time.Until(last)), 0)
		var bell <-chan struct{}
		if f.batch == nil {
			timer.Reset(next)
		} else {
			bell = f.batch.sleep(&f.company, next)
		}
		var news wake
		select {
		case news = <-w.w.news:
		case <-timer.C:
		case <-bell:
		case <-f.ctx.Done():
		}
		f.back()
		if f.ctx.Err() != nil || !time.Now().Before(last) {
			return nil, nil, nil
		}
		switch {
		case news.kind == wakeAborted && news.owner == got.holder:
			return nil, nil, nil
		case news.kind == wakeCommitted && news.of(got):
			if e, _ := c.use(f, news.record, since, asOf, false, nil); e != nil {
				if res := c.settle(f, e); res != nil {
					c.stats.wakes.Add(1)
					w.woken, w.latency = true, c.redis.sinceStored(news)
					return res, nil, nil
				}
			}
		}
		c.stats.polls.Add(1)
		res, raw, err := c.look(f)
		switch {
		case res != nil:
			return res, nil, nil
		case err != nil && !replaceable(err) && !errors.Is(err, errOther):
			return nil, nil, err
		}
		left, held := c.leaseLeft(f.full, raw, got.holder)
		if !held {
			if !replaceable(err) {
				err = nil
			}
			return nil, raw, err
		}
		ends = time.Now().Add(left)
	}
}

// leaseLeft returns how long the holder's lease in raw has to go, and whether it is in force.
func (c *core) leaseLeft(key string, raw []byte, holder record.Owner) (time.Duration, bool) {
	h, _, err := c.coder.header(key, raw)
	if err != nil || h.Lease.Owner != holder {
		return 0, false
	}
	if h.Lease.Until == 0 { // written without scripts: it is in force while it is there
		return h.Lease.Duration, true
	}
	_, now, known := c.redis.clock.now()
	left := time.Duration(h.Lease.Until-now) * time.Microsecond
	return left, known && left > 0 && left <= h.Lease.Duration
}
