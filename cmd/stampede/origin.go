package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// origin is the slow thing that caches stand in front of: one server for the whole fleet, which counts. A process has
// one connection to it. A request is a line "number key", the answer "number value of key", so that the price of the
// protocol does not hide that of the loads.
type origin struct {
	listener net.Listener
	load     time.Duration

	mu    sync.Mutex
	began time.Time            // of the count; guarded by mu
	loads int                  // since then; guarded by mu
	now   int                  // under way; guarded by mu
	peak  int                  // guarded by mu
	curve []level              // of now; guarded by mu
	first func(process string) // called once, in the middle of the first load; guarded by mu
}

// level is how many loads are under way from a time on.
type level struct {
	at    time.Duration
	loads int
}

func newOrigin(load time.Duration) (*origin, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &origin{listener: l, load: load}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go o.serve(conn)
		}
	}()
	return o, nil
}

func (o *origin) addr() string { return o.listener.Addr().String() }
func (o *origin) close()       { _ = o.listener.Close() }

// reset starts a new count, and arranges for first to be called.
func (o *origin) reset(first func(process string)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.began, o.loads, o.peak, o.curve, o.first = time.Now(), 0, 0, nil, first
}

// change is called with mu held.
func (o *origin) change(by int) {
	o.now += by
	o.peak = max(o.peak, o.now)
	o.curve = append(o.curve, level{time.Since(o.began), o.now})
}

// history returns the most loads that were under way at a time in each of n equal parts of the time until now, and how long that is.
func (o *origin) history(n int) (most []int, took time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	most, took = make([]int, n), time.Since(o.began)
	last, part := 0, 0
	for _, l := range append(slices.Clip(o.curve), level{took, 0}) {
		for upTo := min(int(l.at*time.Duration(n)/max(took, 1)), n-1); part < upTo; {
			part++
			most[part] = last
		}
		last = l.loads
		most[part] = max(most[part], last)
	}
	return most, took
}

func (o *origin) counts() (loads, now, peak int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.loads, o.now, o.peak
}

// serve answers one process. Its first line says which it is.
func (o *origin) serve(conn net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // ends the loads of a process that is gone
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	if !lines.Scan() {
		return
	}
	process := lines.Text()
	var mu sync.Mutex // of conn's writes
	for lines.Scan() {
		number, key, _ := strings.Cut(lines.Text(), " ")
		go func() {
			if o.run(ctx, process) {
				mu.Lock()
				defer mu.Unlock()
				fmt.Fprintf(conn, "%s value of %s\n", number, key)
			}
		}()
	}
}

// run is one load.
func (o *origin) run(ctx context.Context, process string) bool {
	o.mu.Lock()
	o.loads++
	o.change(1)
	first := o.first
	o.first = nil
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		o.change(-1)
		o.mu.Unlock()
	}()
	rest := o.load
	if first != nil {
		if !pause(ctx, o.load/2) {
			return false
		}
		rest -= o.load / 2
		first(process)
	}
	return pause(ctx, rest)
}

// originClient is a process's connection to the origin.
type originClient struct {
	conn net.Conn

	mu      sync.Mutex
	number  int
	waiting map[string]chan string // guarded by mu; closed and nil when the connection is lost
}

func dialOrigin(addr, process string) (*originClient, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &originClient{conn: conn, waiting: make(map[string]chan string)}
	if _, err := fmt.Fprintln(conn, process); err != nil {
		return nil, err
	}
	go func() {
		lines := bufio.NewScanner(conn)
		for lines.Scan() {
			number, value, _ := strings.Cut(lines.Text(), " ")
			c.mu.Lock()
			if ch := c.waiting[number]; ch != nil {
				ch <- value
				delete(c.waiting, number)
			}
			c.mu.Unlock()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, ch := range c.waiting {
			close(ch)
		}
		c.waiting = nil
	}()
	return c, nil
}

var errOriginGone = errors.New("the origin is gone")

func (c *originClient) load(ctx context.Context, key string) (string, error) {
	ch := make(chan string, 1)
	c.mu.Lock()
	if c.waiting == nil {
		c.mu.Unlock()
		return "", errOriginGone
	}
	c.number++
	number := fmt.Sprint(c.number)
	c.waiting[number] = ch
	_, err := fmt.Fprintf(c.conn, "%s %s\n", number, key)
	c.mu.Unlock()
	if err != nil {
		return "", err
	}
	select {
	case v, ok := <-ch:
		if !ok {
			return "", errOriginGone
		}
		return v, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// pause reports whether it was not cut short.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
