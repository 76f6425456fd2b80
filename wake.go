package cache

import (
	"sync"

	"github.com/bellwether-go/cache/internal/record"
)

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
