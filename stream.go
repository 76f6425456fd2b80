package cache

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/record"
)

// stream is the subscription of one process: wake-ups on a channel of its own, its inbox, and deletions by other
// processes on the channel of everybody. Messages may be lost, late, doubled or foreign: wake-ups are hints, and whoever
// waits looks for itself in the end; when the connection was lost and is back, all of L1 is dropped.
type stream struct {
	r        *Redis
	canWake  bool // scripts' messages reach this subscription
	channels []string
	up       atomic.Bool
	lost     atomic.Bool   // it stood before, and nothing was answered since
	answered chan struct{} // one token: Redis answers again
	stop     context.CancelFunc
	done     chan struct{}

	mu  sync.Mutex
	sub *redis.PubSub // guarded by mu
}

const (
	quiet    = time.Second // without a message, after which a PING asks whether anybody is there
	silences = 3           // after so many the connection is taken for dead: go-redis would not notice in 25 s
	again    = 50 * time.Millisecond
	againMax = 5 * time.Second
)

// Channel names are at least 24 bytes long: go-redis 9.20.1 to 9.21 held back RESP3 pushes of less than 36 bytes.

func (r *Redis) inboxChannel(process string) string { return r.prefix + ":inbox:" + process }

func (r *Redis) everybodyChannel() string { return r.prefix + ":every-process-of-this-cache" }

func newStream(r *Redis, canWake bool) *stream {
	s := &stream{
		r: r, canWake: canWake, channels: []string{r.everybodyChannel()},
		answered: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if canWake { // a Ring listens on the shard of the first channel, and publishes on that of the message's
		s.channels = append(s.channels, r.inboxChannel(r.process))
	}
	return s
}

func (s *stream) start() {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.run(ctx)
}

// wakes reports whether a process that waits will be told.
func (s *stream) wakes() bool { return s.canWake && s.up.Load() }

// close ends the connection and the goroutine.
func (s *stream) close() {
	s.stop()
	s.mu.Lock()
	sub := s.sub
	s.mu.Unlock()
	if sub != nil {
		_ = sub.Close() // or it would listen for a while
	}
	<-s.done
}

func (s *stream) run(ctx context.Context) {
	defer close(s.done)
	pause := again
	for ctx.Err() == nil {
		if s.listen(ctx) {
			pause = again
		}
		if s.up.Swap(false) {
			s.lost.Store(true)
			s.r.deaf()
			s.r.askTime(ctx) // if there is no answer, nobody need wait for one: see ReadyToTrip
		}
		select {
		case <-ctx.Done():
		case <-s.answered:
		case <-time.After(pause):
		}
		pause = min(2*pause, againMax)
	}
}

// hurry ends a pause between two attempts.
func (s *stream) hurry() {
	select {
	case s.answered <- struct{}{}:
	default:
	}
}

// listen subscribes and handles messages until the connection is lost. It reports whether it ever stood. A client
// that panics (a Ring without a shard does, and so may a hook of the user's) has lost it; its subscription is left
// alone then, for it may hold a lock of its own for ever.
func (s *stream) listen(ctx context.Context) (stood bool) {
	defer func() {
		panicked := recover() != nil
		s.mu.Lock()
		sub := s.sub
		s.sub = nil
		s.mu.Unlock()
		if sub != nil && !panicked {
			_ = sub.Close()
		}
	}()
	sub := s.r.client.Subscribe(ctx, s.channels...)
	s.mu.Lock()
	s.sub = sub
	s.mu.Unlock()
	confirmed, silent := 0, 0
	for ctx.Err() == nil {
		msg, err := sub.ReceiveTimeout(ctx, quiet)
		if err != nil {
			var t interface{ Timeout() bool }
			if silent++; !errors.As(err, &t) || !t.Timeout() || silent >= silences || sub.Ping(ctx) != nil {
				return stood
			}
			continue
		}
		silent = 0
		switch m := msg.(type) {
		case *redis.Subscription:
			if confirmed++; confirmed%len(s.channels) == 0 {
				// Also after go-redis has reconnected by itself: what came meanwhile is lost.
				stood = true
				s.lost.Store(false)
				s.up.Store(true)
				s.r.invalidateAll()
			}
		case *redis.Message:
			s.handle(m.Payload)
		}
	}
	return stood
}

const (
	wakeCommitted = 'C'
	wakeAborted   = 'A'
	deleted       = 'D'
)

// handle takes a message apart: kind, 16 bytes of who (a lease's owner, or a process), and per key its length in 8
// digits and the key; a wake-up ends with the record, if it is small. Whatever looks different is ignored.
func (s *stream) handle(m string) {
	if len(m) < 17 {
		return
	}
	kind, who, rest := m[0], m[1:17], m[17:]
	switch kind {
	case wakeCommitted, wakeAborted:
		if key, rec, ok := cutKey(rest); ok {
			w := wake{kind: kind, record: []byte(rec)}
			copy(w.owner[:], who)
			s.r.waiters.tell(key, w)
		}
	case deleted:
		for who != s.r.process {
			key, more, ok := cutKey(rest)
			if !ok {
				return
			}
			s.r.invalidate(key)
			rest = more
		}
	}
}

// deletion is the message about deleted keys.
func (r *Redis) deletion(keys []string) string {
	b := append([]byte{deleted}, r.process...)
	for _, k := range keys {
		n := strconv.Itoa(len(k))
		b = append(b, "00000000"[len(n):]...)
		b = append(b, n...)
		b = append(b, k...)
	}
	return string(b)
}

func cutKey(s string) (key, rest string, ok bool) {
	if len(s) < 8 {
		return "", "", false
	}
	n, err := strconv.ParseUint(s[:8], 10, 32)
	if err != nil || uint64(len(s)-8) < n {
		return "", "", false
	}
	return s[8 : 8+n], s[8+n:], true
}

// wake is a message for those who wait for a lease. The zero kind means: look again.
type wake struct {
	kind   byte
	owner  record.Owner
	record []byte
}

// of reports whether the message brings what was stored under the lease that made us wait. The owner alone does not tell:
// a late copy of its ACQUIRE, executed after a deletion, gives it another lease.
func (w wake) of(lease acquired) bool {
	h, _, err := record.Open(w.record)
	return err == nil && w.owner == lease.holder && h.Fence == lease.fence
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
