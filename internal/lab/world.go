// Package lab is a network between go-redis clients and a miniredis inside a testing/synctest bubble. Every request,
// reply and push message on it can be held, delivered late, or lost with its connection; the clock is the bubble's.
package lab

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// World is a server, a network, and the processes whose clients use it. All of it must be made and closed in one
// bubble.
type World struct {
	Redis *miniredis.Miniredis

	// Aside, if set before there are clients, tells which messages move by themselves, are not watched and not counted,
	// like handshakes; but not past others on their connection.
	Aside func(*Message) bool

	mu     sync.Mutex
	hold   func(*Message) bool // guarded by mu
	lose   func(*Message) bool // guarded by mu
	parked []*Message          // guarded by mu
	links  map[*link]struct{}  // guarded by mu
	gone   map[string]bool     // processes that are cut off; guarded by mu
	closed bool                // guarded by mu
	frozen bool                // guarded by mu
	sent   map[string]int      // requests delivered, by process; guarded by mu

	conductor
}

// Kind tells what a message is.
type Kind int

// The kinds.
const (
	Request Kind = iota
	Reply
	Push // a published message
)

// Message is something on its way.
type Message struct {
	Process string
	Kind    Kind
	Args    []string // of the request, also on its reply; nil on a push
	Raw     []byte

	w    *World
	link *link
	to   *half
	turn int  // of the conductor, in which it was first seen
	told bool // that it is held
}

// New starts a server. The bubble must end with Close.
func New(t testing.TB) *World {
	t.Helper()
	w := &World{
		Redis: miniredis.NewMiniRedis(),
		links: make(map[*link]struct{}), gone: make(map[string]bool), sent: make(map[string]int),
		conductor: conductor{arrived: make(chan struct{}, 1)},
	}
	w.Redis.ClockTTL(true)
	c, err := w.Redis.Dial() // starts the server without a listener
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	return w
}

// Close ends the server and all connections. Clients must have been closed.
func (w *World) Close() {
	w.Hold(nil)
	w.mu.Lock()
	links := w.links
	w.links, w.closed = make(map[*link]struct{}), true
	w.mu.Unlock()
	for l := range links {
		l.cut()
	}
	w.Redis.Close()
	time.Sleep(time.Minute) // of the bubble: dials that go-redis repeats in the background outlive its Close
	synctest.Wait()
}

// Client returns a client of a process, with go-redis's defaults but for what cannot work in a bubble. set may be nil.
func (w *World) Client(process string, set func(*redis.Options)) *redis.Client {
	o := &redis.Options{
		Addr: "127.0.0.1:1", // not a name: go-redis would resolve it outside the bubble
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			return w.dial(process)
		},
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		PoolSize:                 1000, // an exhausted pool uses timers shared with other bubbles
		MinRetryBackoff:          -1,   // random
		MaxRetryBackoff:          -1,
	}
	if set != nil {
		set(o)
	}
	return redis.NewClient(o)
}

// Hold sets which messages are held back. Handshakes never are. What was held and no longer is, is delivered.
func (w *World) Hold(f func(*Message) bool) {
	w.mu.Lock()
	w.hold = f
	if w.watch != nil { // Play moves what is free now
		w.mu.Unlock()
		return
	}
	var free []*Message
	w.parked = slices.DeleteFunc(w.parked, func(m *Message) bool {
		if f == nil || m.handshake() || !f(m) {
			free = append(free, m)
			return true
		}
		return false
	})
	w.mu.Unlock()
	for _, m := range free {
		m.pass()
	}
}

// Lose sets which messages never arrive: a published one alone, any other with its connection. f is asked once for each message
// but handshakes, and must not use the World.
func (w *World) Lose(f func(*Message) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lose = f
}

// Held waits until nothing moves any more without a tick of the clock, and returns what is held, in order of arrival.
func (w *World) Held() []*Message {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.parked)
}

// Deliver lets a held message go on its way.
func (m *Message) Deliver() {
	m.move()
	synctest.Wait()
}

// Lose cuts the connection of a held message, which never arrives.
func (m *Message) Lose() {
	m.take()
	m.link.cut()
	synctest.Wait()
}

// Drop takes a held message away. Its connection stands.
func (m *Message) Drop() { m.take() }

// Twice delivers a held message two times.
func (m *Message) Twice() {
	m.to.push(m.Raw)
	m.Deliver()
}

// Copy executes a held request without its client: as if it had been sent before, and been late.
func (m *Message) Copy() {
	c := m.w.Client("ghost of "+m.Process, nil)
	args := make([]any, len(m.Args))
	for i, a := range m.Args {
		args[i] = a
	}
	_ = c.Do(context.Background(), args...).Err()
	_ = c.Close()
}

// Command is the name of the request, in upper case.
func (m *Message) Command() string {
	if len(m.Args) == 0 {
		return ""
	}
	return strings.ToUpper(m.Args[0])
}

func (m *Message) take() {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	i := slices.Index(m.w.parked, m)
	if i < 0 {
		panic("lab: this message is not held")
	}
	m.w.parked = slices.Delete(m.w.parked, i, i+1)
}

func (m *Message) pass() {
	if m.Kind == Request && !m.handshake() {
		m.w.mu.Lock()
		m.w.sent[m.Process]++
		m.w.mu.Unlock()
	}
	m.to.push(m.Raw)
}

// Sent returns how many commands of a process have reached the server.
func (w *World) Sent(process string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent[process]
}

// CutOff makes the server unreachable for a process, and cuts its connections: as it is after a crash of the process,
// or of the server. With back, it is reachable again.
func (w *World) CutOff(process string, back bool) {
	w.mu.Lock()
	w.gone[process] = !back
	w.mu.Unlock()
	if !back {
		w.Break(process)
	}
}

// Break cuts the connections of a process, which may make new ones at once.
func (w *World) Break(process string) {
	for _, l := range w.linksOf(process) {
		l.cut()
	}
}

// HalfOpen makes the connections that a process has silent: both sides believe that they stand, and nothing passes any
// more. New ones work.
func (w *World) HalfOpen(process string) {
	for _, l := range w.linksOf(process) {
		l.mu.Lock()
		l.silent = true
		l.mu.Unlock()
	}
}

func (w *World) linksOf(process string) (links []*link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.links {
		if l.process == process {
			links = append(links, l)
		}
	}
	return links
}

// Freeze makes the server silent, as a stopped process is: connections stand, nothing is answered. Thawing delivers what
// has come meanwhile.
func (w *World) Freeze(on bool) {
	w.mu.Lock()
	w.frozen = on
	var free []*Message
	if !on && w.watch == nil {
		free, w.parked = w.parked, nil
	}
	w.mu.Unlock()
	for _, m := range free {
		m.pass()
	}
}

// handshake are the commands that begin a connection or keep it.
var handshake = map[string]bool{
	"HELLO": true, "CLIENT": true, "AUTH": true, "SELECT": true, "PING": true, "SUBSCRIBE": true, "UNSUBSCRIBE": true,
}

func (m *Message) handshake() bool {
	return m.Kind != Push && handshake[m.Command()] || m.w.Aside != nil && m.w.Aside(m)
}

// emit passes a message on or parks it.
func (w *World) emit(m *Message) {
	w.mu.Lock()
	if w.lose != nil && !m.handshake() && w.lose(m) {
		w.mu.Unlock()
		if m.Kind != Push {
			m.link.cut()
		}
		return
	}
	behind := w.Aside != nil && w.Aside(m) && slices.ContainsFunc(w.parked, func(other *Message) bool { return other.to == m.to })
	if w.frozen || behind || !m.handshake() && (w.watch != nil || w.hold != nil && w.hold(m)) {
		w.parked = append(w.parked, m)
		w.mu.Unlock()
		select {
		case w.arrived <- struct{}{}:
		default:
		}
		return
	}
	w.mu.Unlock()
	m.pass()
}
