package resp

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
)

// Counter counts the commands that clients send on connections which it was given, without those with which they begin a
// connection.
type Counter struct{ n atomic.Int64 }

// Sent returns how many there were.
func (c *Counter) Sent() int64 { return c.n.Load() }

// Reset begins anew.
func (c *Counter) Reset() { c.n.Store(0) }

// Dial dials a connection that counts.
func (c *Counter) Dial(ctx context.Context, d *net.Dialer, addr string) (net.Conn, error) {
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &countingConn{Conn: conn, counter: c}, nil
}

type countingConn struct {
	net.Conn
	counter *Counter
	mu      sync.Mutex
	rest    []byte // of a command that is not complete; guarded by mu
}

// handshake reports whether clients begin a connection with this command.
func handshake(command string) bool {
	switch strings.ToLower(command) {
	case "hello", "client", "auth", "select":
		return true
	}
	return false
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.rest = append(c.rest, p...)
	for {
		n, err := Next(c.rest)
		if n == 0 || err != nil {
			break
		}
		if args, err := Args(c.rest[:n]); err == nil && !handshake(args[0]) {
			c.counter.n.Add(1)
		}
		c.rest = c.rest[n:]
	}
	c.mu.Unlock()
	return c.Conn.Write(p)
}
