package lab

import (
	"bytes"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/bellwether-go/cache/internal/resp"
)

// half is one direction of a connection: an unbounded buffer, for a pipeline over net.Pipe would block both ends.
type half struct {
	mu       sync.Mutex
	buf      []byte        // guarded by mu
	err      error         // guarded by mu
	deadline time.Time     // guarded by mu
	wake     chan struct{} // one token: something has changed
}

func newHalf() *half { return &half{wake: make(chan struct{}, 1)} }

// change does f under the lock and wakes the reader.
func (h *half) change(f func()) {
	h.mu.Lock()
	f()
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *half) push(b []byte)           { h.change(func() { h.buf = append(h.buf, b...) }) }
func (h *half) setDeadline(t time.Time) { h.change(func() { h.deadline = t }) }

func (h *half) fail(err error) {
	h.change(func() {
		if h.err == nil {
			h.err = err
		}
	})
}

func (h *half) read(p []byte) (int, error) {
	for {
		h.mu.Lock()
		n, err, deadline := copy(p, h.buf), h.err, h.deadline
		h.buf = h.buf[n:]
		h.mu.Unlock()
		switch {
		case n > 0:
			return n, nil
		case err != nil:
			return 0, err
		}
		var expired <-chan time.Time
		if !deadline.IsZero() {
			left := time.Until(deadline)
			if left <= 0 {
				return 0, os.ErrDeadlineExceeded
			}
			t := time.NewTimer(left)
			defer t.Stop()
			expired = t.C
		}
		select {
		case <-h.wake:
		case <-expired:
		}
	}
}

// link is a connection. What is written is cut into messages, which pass through the World.
type link struct {
	w        *World
	process  string
	toServer *half
	toClient *half

	mu      sync.Mutex
	dead    bool       // guarded by mu
	silent  bool       // half open; guarded by mu
	request []byte     // not complete; guarded by mu
	reply   []byte     // not complete; guarded by mu
	asked   [][]string // requests without a reply yet; guarded by mu
}

// errReset is what a client sees of a cut connection: a net.Error, which go-redis repeats like the real one.
var errReset error = &net.OpError{Op: "read", Net: "lab", Err: os.NewSyscallError("read", syscall.ECONNRESET)}

func (w *World) dial(process string) (net.Conn, error) {
	l := &link{w: w, process: process, toServer: newHalf(), toClient: newHalf()}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone[process] || w.closed {
		return nil, &net.OpError{Op: "dial", Net: "lab", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	w.links[l] = struct{}{}
	w.Redis.Server().ServeConn(serverEnd{l})
	return clientEnd{l}, nil
}

func (l *link) cut() {
	l.mu.Lock()
	l.dead = true
	l.mu.Unlock()
	l.toClient.fail(errReset)
	l.toServer.fail(io.EOF)
	l.w.mu.Lock()
	delete(l.w.links, l)
	l.w.parked = slices.DeleteFunc(l.w.parked, func(m *Message) bool { return m.link == l })
	l.w.mu.Unlock()
}

type (
	clientEnd struct{ *link }
	serverEnd struct{ *link }
	address   string
)

func (a address) Network() string { return "lab" }
func (a address) String() string  { return string(a) }

func (c clientEnd) Read(p []byte) (int, error)        { return c.toClient.read(p) }
func (c clientEnd) Close() error                      { c.cut(); return nil }
func (c clientEnd) LocalAddr() net.Addr               { return address(c.process) }
func (c clientEnd) RemoteAddr() net.Addr              { return address("server") }
func (c clientEnd) SetDeadline(t time.Time) error     { c.toClient.setDeadline(t); return nil }
func (clientEnd) SetWriteDeadline(time.Time) error    { return nil }
func (c clientEnd) SetReadDeadline(t time.Time) error { return c.SetDeadline(t) }

func (s serverEnd) Read(p []byte) (int, error)        { return s.toServer.read(p) }
func (s serverEnd) Close() error                      { s.cut(); return nil }
func (s serverEnd) LocalAddr() net.Addr               { return address("server") }
func (s serverEnd) RemoteAddr() net.Addr              { return address(s.process) }
func (s serverEnd) SetDeadline(t time.Time) error     { s.toServer.setDeadline(t); return nil }
func (serverEnd) SetWriteDeadline(time.Time) error    { return nil }
func (s serverEnd) SetReadDeadline(t time.Time) error { return s.SetDeadline(t) }

func (c clientEnd) Write(p []byte) (int, error) {
	return c.link.write(p, &c.request, func(raw []byte) *Message {
		args, err := resp.Args(raw)
		if err != nil {
			panic("lab: client sent no request: " + err.Error())
		}
		c.asked = append(c.asked, args)
		return &Message{Kind: Request, Args: args, to: c.toServer}
	})
}

func (s serverEnd) Write(p []byte) (int, error) {
	return s.link.write(p, &s.reply, func(raw []byte) *Message {
		m := &Message{Kind: Reply, to: s.toClient}
		if raw[0] == '>' && !bytes.Contains(raw[:min(len(raw), 40)], []byte("subscribe\r\n")) {
			m.Kind = Push
			return m
		}
		if raw[0] == '>' && (len(s.asked) == 0 || s.asked[0][0] != "subscribe") {
			m.Args = []string{"subscribe"} // the second acknowledgement of one request
			return m
		}
		if len(s.asked) > 0 {
			m.Args, s.asked = s.asked[0], s.asked[1:]
		}
		return m
	})
}

// write cuts p into messages, made by parse, and emits them.
func (l *link) write(p []byte, rest *[]byte, parse func(raw []byte) *Message) (int, error) {
	l.mu.Lock()
	if l.dead {
		l.mu.Unlock()
		return 0, errReset
	}
	if l.silent {
		l.mu.Unlock()
		return len(p), nil
	}
	*rest = append(*rest, p...)
	var found []*Message
	for len(*rest) > 0 {
		n, err := resp.Next(*rest)
		if err != nil {
			panic("lab: " + err.Error())
		}
		if n == 0 {
			break
		}
		raw := append([]byte(nil), (*rest)[:n]...)
		*rest = (*rest)[n:]
		m := parse(raw)
		m.Process, m.Raw, m.w, m.link = l.process, raw, l.w, l
		found = append(found, m)
	}
	l.mu.Unlock()
	for _, m := range found {
		l.w.emit(m)
	}
	return len(p), nil
}
