// Package proxy stands between Redis clients and a server on loopback and does to their connections what networks and
// faulty clients do: it cuts them, leaves them half open, delays them, hands them on byte by byte, and loses, repeats or
// replaces single replies. It is for tests.
package proxy

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/resp"
)

// Proxy is a listener on loopback. It ends with its test. Its methods may be called at any time.
type Proxy struct {
	Addr string

	server   string
	listener net.Listener
	running  sync.WaitGroup
	closing  chan struct{}

	mu      sync.Mutex
	links   map[*link]struct{} // guarded by mu
	refuse  bool               // guarded by mu
	delay   time.Duration      // guarded by mu
	trickle bool               // guarded by mu
	tamper  Tamper             // guarded by mu
}

// Tamper is given each reply and the command it answers, and returns what the client gets instead; nothing if the reply
// is to be lost. It is called by several goroutines at once. Messages of a subscription do not pass through it.
type Tamper func(command []string, reply []byte) []byte

// Start starts a proxy for the server at an address.
func Start(t testing.TB, server string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		Addr: l.Addr().String(), server: server, listener: l,
		closing: make(chan struct{}), links: make(map[*link]struct{}),
	}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *Proxy) close() {
	close(p.closing)
	_ = p.listener.Close()
	p.Cut()
	p.running.Wait()
}

// Cut ends all connections at once.
func (p *Proxy) Cut() {
	for _, l := range p.all() {
		l.end()
	}
}

// HalfOpen makes the connections there are silent: both sides believe that they stand, and nothing passes any more.
func (p *Proxy) HalfOpen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.mute = true
	}
}

// Refuse ends all connections, and new ones as soon as they are made, until it is called with false.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	p.refuse = on
	p.mu.Unlock()
	if on {
		p.Cut()
	}
}

// Delay holds everything back for d, in each direction.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Trickle hands replies on one byte at a time.
func (p *Proxy) Trickle(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trickle = on
}

// Tamper sets what is done to replies; nil for nothing.
func (p *Proxy) Tamper(f Tamper) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tamper = f
}

// Clients returns the number of connections that clients hold.
func (p *Proxy) Clients() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for l := range p.links {
		if !l.left {
			n++
		}
	}
	return n
}

func (p *Proxy) all() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*link, 0, len(p.links))
	for l := range p.links {
		all = append(all, l)
	}
	return all
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	p.mu.Lock()
	refuse := p.refuse
	p.mu.Unlock()
	if refuse {
		return
	}
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	l := &link{p: p, client: client, server: server}
	p.mu.Lock()
	p.links[l] = struct{}{}
	refuse = p.refuse
	p.mu.Unlock()
	select {
	case <-p.closing: // close has not seen this link
		refuse = true
	default:
	}
	if refuse {
		l.end()
	}
	var both sync.WaitGroup
	both.Go(l.requests)
	both.Go(l.replies)
	both.Wait()
	l.end()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// link is a connection of a client and the one to the server that belongs to it.
type link struct {
	p              *Proxy
	client, server net.Conn

	mute  bool       // guarded by Proxy.mu
	left  bool       // the client has; guarded by Proxy.mu
	asked [][]string // commands without a reply yet; guarded by Proxy.mu
}

// end cuts the connection: the client sees a reset.
func (l *link) end() {
	for _, c := range []net.Conn{l.client, l.server} {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

// muted reports whether nothing passes any more, and waits for what delays it otherwise.
func (l *link) muted() bool {
	l.p.mu.Lock()
	mute, delay := l.mute, l.p.delay
	l.p.mu.Unlock()
	if !mute && delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-l.p.closing:
		}
	}
	return mute
}

// requests hands on what the client sends, and remembers what it asked.
func (l *link) requests() {
	l.pump(l.client, func(raw []byte) bool {
		if args, err := resp.Args(raw); err == nil {
			l.p.mu.Lock()
			l.asked = append(l.asked, args)
			l.p.mu.Unlock()
		}
		return l.send(l.server, raw, false)
	})
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	l.left = true
}

// replies hands on what the server answers.
func (l *link) replies() {
	l.pump(l.server, func(raw []byte) bool {
		l.p.mu.Lock()
		tamper, trickle := l.p.tamper, l.p.trickle
		var command []string
		if raw[0] != '>' && len(l.asked) > 0 {
			command, l.asked = l.asked[0], l.asked[1:]
		}
		l.p.mu.Unlock()
		if tamper != nil && command != nil {
			raw = tamper(command, raw)
		}
		return l.send(l.client, raw, trickle)
	})
}

// pump hands on messages until its side ends, which ends the other one, unless the link is half open.
func (l *link) pump(from net.Conn, handle func(message []byte) bool) {
	var rest []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if l.muted() {
			if err != nil { // the other side does not hear of it
				return
			}
			continue
		}
		rest = append(rest, buf[:n]...)
		for len(rest) > 0 {
			k, bad := resp.Next(rest)
			if bad != nil {
				k = len(rest) // not RESP: as it is
			}
			if k == 0 {
				break
			}
			message := rest[:k:k]
			if rest = rest[k:]; !handle(message) {
				l.end()
				return
			}
		}
		if err != nil {
			l.end()
			return
		}
	}
}

func (l *link) send(to net.Conn, raw []byte, trickle bool) bool {
	if !trickle {
		_, err := to.Write(raw)
		return err == nil
	}
	for i := range raw {
		if _, err := to.Write(raw[i : i+1]); err != nil {
			return false
		}
	}
	return true
}
