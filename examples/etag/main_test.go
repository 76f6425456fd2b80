package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache"
)

// wire is a network in memory, for time in a bubble stands still while something waits for a real one.
type wire struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newWire() *wire {
	w := &wire{conns: make(chan net.Conn), closed: make(chan struct{})}
	w.close = sync.OnceFunc(func() { close(w.closed) })
	return w
}

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.closed:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error   { w.close(); return nil }
func (w *wire) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

func (w *wire) client() *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		select {
		case w.conns <- theirs:
			return ours, nil
		case <-w.closed:
			return nil, net.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial}}
}

const want = `Two calls, one request:
    request: GET /rate -> 200
  /rate: 1.08
  /rate: 1.08
Its max-age is over, and nothing has changed:
    request: GET /rate, If-None-Match: "1.08" -> 304
  /rate: 1.08
  /rate: 1.08
Over again, and it has changed:
    request: GET /rate, If-None-Match: "1.08" -> 200
  /rate: 1.09
  /rate: 1.09
Over again, and the API is down:
    request: GET /rate, If-None-Match: "1.09" -> 503
  /rate: 1.09
  /rate: 1.09
What is not to be stored is asked for each time:
    request: GET /account -> 200
  /account: 5 EUR
    request: GET /account -> 200
  /account: 5 EUR
That there is nothing is remembered:
    request: GET /nothing -> 404
  /nothing: not found
  /nothing: not found
`

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		var out strings.Builder
		if err := run(t.Context(), w, w.client(), &out); err != nil {
			t.Error(err)
		}
		if out.String() != want {
			t.Errorf("it prints:\n%s", out.String())
		}
	})
}

// Whoever asks often never waits for a whole request, for what is due is asked about in the background; and it is sent once.
func TestOftenAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests strings.Builder
		api := &origin{out: &requests, rate: "1.08"}
		c, err := newClient("http://api", &http.Client{Transport: slow{api}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.documents.Close()
		if _, err := c.get(t.Context(), "/rate"); err != nil {
			t.Fatal(err)
		}
		end := time.Now().Add(60 * maxAge)
		for time.Now().Before(end) {
			began := time.Now()
			body, err := c.get(t.Context(), "/rate")
			if took := time.Since(began); body != "1.08" || err != nil || took >= latency {
				t.Fatalf("%q, %v after %v", body, err, took)
			}
			time.Sleep(2 * time.Millisecond)
		}
		synctest.Wait()
		got := requests.String()
		if n := strings.Count(got, "-> 200"); n != 1 {
			t.Errorf("the document was sent %d times", n)
		}
		if n := strings.Count(got, "-> 304"); n < 60 || n > 90 {
			t.Errorf("%d requests with If-None-Match, want one for each max-age or a few more", n)
		}
	})
}

func TestError(t *testing.T) {
	api := &origin{out: &strings.Builder{}, down: true}
	c, err := newClient("http://api", &http.Client{Transport: slow{api}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.documents.Close()
	if _, err := c.get(t.Context(), "/rate"); err == nil || errors.Is(err, cache.ErrNotFound) {
		t.Errorf("nothing to serve, and the API is down: %v", err)
	}
}

func TestFreshness(t *testing.T) {
	for _, c := range []struct {
		header string
		ttl    time.Duration
		store  bool
	}{
		{"", 0, true},
		{"public, max-age=60", time.Minute, true},
		{"Max-Age=60", time.Minute, true},
		{`max-age="60"`, time.Minute, true},
		{"max-age=0", time.Millisecond, true},
		{"max-age=-1", time.Millisecond, true},
		{"max-age=99999999999999999999", time.Millisecond, true},
		{"max-age=60, no-cache", time.Millisecond, true},
		{"no-cache, max-age=60", time.Millisecond, true},
		{"max-age=60, no-store", time.Minute, false},
		{"private", 0, false},
	} {
		if ttl, store := freshness(http.Header{"Cache-Control": {c.header}}); ttl != c.ttl || store != c.store {
			t.Errorf("%q: %v, %v", c.header, ttl, store)
		}
	}
	if ttl, store := freshness(http.Header{"Cache-Control": {"max-age=60", "no-store"}}); ttl != time.Minute || store {
		t.Errorf("two headers: %v, %v", ttl, store)
	}
}

const latency = 20 * time.Millisecond

// slow is an API without a network.
type slow struct{ http.Handler }

func (s slow) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-time.After(latency):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Result(), nil
}
