package lab

import (
	"cmp"
	"slices"
	"strings"
	"testing/synctest"
	"time"
)

// conductor moves messages one at a time, in an order that depends on nothing but the messages, so that the same
// program plays the same way each time.
type conductor struct {
	watch   func(m *Message, held bool) // nil: messages move by themselves; guarded by World.mu
	arrived chan struct{}               // one token: a message was parked
	turn    int                         // used by Play alone
}

// Conduct makes the World deterministic: from now on messages move only within Play. watch is called for each request,
// reply and push message that is about to be delivered, and once for each that Hold's function holds back; at that
// moment nothing else runs. Nil gives the messages back to themselves.
func (w *World) Conduct(watch func(m *Message, held bool)) {
	w.mu.Lock()
	w.watch = watch
	w.mu.Unlock()
	if watch == nil {
		w.Freeze(false)
	}
}

// Play moves messages for d of the bubble's time, and until none can be moved any more.
func (w *World) Play(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for over := d <= 0; ; {
		synctest.Wait()
		if m := w.next(); m != nil {
			m.move()
			continue
		}
		if over {
			return
		}
		select {
		case <-w.arrived:
		case <-timer.C:
			over = true
		}
	}
}

// move delivers a message and tells who watches.
func (m *Message) move() {
	m.take()
	if watch := m.w.watch; watch != nil && !m.handshake() {
		watch(m, false)
	}
	m.pass()
}

// Arrived returns a channel that gets a token when a message waits that did not before.
func (w *World) Arrived() <-chan struct{} { return w.arrived }

// next returns the message to be moved.
func (w *World) next() *Message {
	if free := w.Waiting(); len(free) > 0 {
		return free[0]
	}
	return nil
}

// Waiting returns the messages that could be moved now, if the World is conducted, and the next one first. Those that came
// first are first; among those that came while nothing was moved, replies come before pushes and requests, and then
// names decide. A held message holds up what comes behind it on its connection.
func (w *World) Waiting() []*Message {
	w.mu.Lock()
	if w.frozen {
		w.mu.Unlock()
		return nil
	}
	w.turn++
	blocked := make(map[*half]bool)
	var free, held []*Message
	for _, m := range w.parked {
		if m.turn == 0 {
			m.turn = w.turn
		}
		switch {
		case blocked[m.to]:
			continue
		case !m.handshake() && w.hold != nil && w.hold(m):
			if !m.told {
				m.told = true
				held = append(held, m)
			}
		default:
			free = append(free, m)
		}
		blocked[m.to] = true
	}
	w.mu.Unlock()
	slices.SortStableFunc(held, order)
	for _, m := range held {
		w.watch(m, true)
	}
	slices.SortStableFunc(free, order)
	return free
}

func order(a, b *Message) int {
	rank := map[Kind]int{Reply: 0, Push: 1, Request: 2}
	return cmp.Or(
		cmp.Compare(a.turn, b.turn),
		cmp.Compare(rank[a.Kind], rank[b.Kind]),
		strings.Compare(a.Process, b.Process),
		slices.Compare(a.Args[:min(len(a.Args), 4)], b.Args[:min(len(b.Args), 4)]), // later ones are random
	)
}
