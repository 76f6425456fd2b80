package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/bellwether-go/cache/cachehttp"
)

// program is one that runs.
type program struct {
	url  string
	out  *lines
	stop func() // returns when it has ended
}

// start runs the program itself, until it is stopped or the test ends.
func start(t *testing.T, c config) *program {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	p := &program{out: &lines{}}
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, c, io.MultiWriter(p.out, w))
		_ = w.Close()
	}()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(p.stop)
	first, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(<-ended)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	_, address, _ := strings.Cut(first, "http://")
	host, _, _ := strings.Cut(address, "/")
	p.url = "http://" + host
	return p
}

func (p *program) ask(t *testing.T, method, path, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(b))
}

// within polls until f says that it is so.
func within(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline, tick := time.After(10*time.Second), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after 10 s: %s", what)
		}
	}
}

// The program, alone and as two processes that share a database and a Redis.
func TestRun(t *testing.T) {
	server := miniredis.RunT(t)
	file := filepath.Join(t.TempDir(), "products.db")
	for _, c := range []struct {
		name string
		config
		processes int
	}{
		{"memory only", config{addr: "127.0.0.1:0"}, 1},
		{"with Redis", config{addr: "127.0.0.1:0", db: file, redis: server.Addr(), timeout: patience}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var fleet []*program
			for range c.processes {
				fleet = append(fleet, start(t, c.config))
			}
			first, last := fleet[0], fleet[len(fleet)-1]
			for range 3 {
				for _, p := range fleet {
					if status, answer := p.ask(t, "GET", "/products/1", ""); status != 200 || answer != `{"id":"1","name":"Tea","cents":420}` {
						t.Errorf("%d %s", status, answer)
					}
				}
			}
			if n := first.out.count("query") + last.out.count("query"); c.processes > 1 && n != 1 {
				t.Errorf("%d queries, want 1", n)
			}
			if status, answer := last.ask(t, "PUT", "/products/1", `{"name":"Green tea","cents":450}`); status != 204 {
				t.Errorf("%d %s", status, answer)
			}
			if _, answer := last.ask(t, "GET", "/products/1", ""); !strings.Contains(answer, "Green tea") {
				t.Errorf("the process that has changed it says %s", answer)
			}
			within(t, "the other process has not heard of the change", func() bool {
				_, answer := first.ask(t, "GET", "/products/1", "")
				return strings.Contains(answer, "Green tea")
			})
			var page cachehttp.Page
			_, answer := first.ask(t, "GET", "/debug/cache?json=1", "")
			if err := json.Unmarshal([]byte(answer), &page); err != nil || len(page.Caches) != 1 || page.Caches[0].Status.Cache != "product" {
				t.Errorf("%v: %s", err, answer)
			}
		})
	}
}

// A request that is under way when the program is told to end gets its answer.
func TestShutdown(t *testing.T) {
	p := start(t, config{addr: "127.0.0.1:0"})
	begun, proceed := make(chan struct{}), make(chan struct{})
	slow := func() {
		close(begun)
		<-proceed
	}
	beforeCommit.Store(&slow)
	defer beforeCommit.Store(nil)
	var all sync.WaitGroup
	all.Go(func() {
		if status, answer := p.ask(t, "PUT", "/products/1", `{"name":"Green tea","cents":450}`); status != 204 {
			t.Errorf("%d %s", status, answer)
		}
	})
	<-begun
	all.Go(p.stop)
	within(t, "it still listens", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	close(proceed)
	all.Wait()
}
