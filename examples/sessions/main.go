// Sessions keeps the sessions of a web service in a database, behind a cache that its processes share: who logs out at one of them is
// logged out at all.
//
//	go run ./sessions
//
// It brings two processes of a service, as parts of itself, and a Redis; with -redis 127.0.0.1:6379 it uses a real one.
package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	_ "modernc.org/sqlite"

	"github.com/bellwether-go/cache"
)

func main() {
	log.SetFlags(0)
	addr := flag.String("redis", "", "`host:port`; without one the program brings a Redis of its own")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop)
	if err := start(ctx, *addr, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// start makes what processes have: each its own connection to Redis.
func start(ctx context.Context, addr string, stdout io.Writer) error {
	if addr == "" {
		server, err := miniredis.Run()
		if err != nil {
			return err
		}
		defer server.Close()
		addr = server.Addr()
	}
	prefix := "sessions-" + rand.Text() // the database is new, so what another run has left in Redis is nothing to us
	var fleet []*cache.Redis
	for range 2 {
		client := redis.NewClient(&redis.Options{Addr: addr})
		defer func() { _ = client.Close() }()
		rds, err := cache.NewRedis(client, cache.RedisOptions{Prefix: prefix, Timeout: time.Second})
		if err != nil {
			return err
		}
		defer func() { _ = rds.Close() }()
		fleet = append(fleet, rds)
	}
	return run(ctx, fleet, stdout)
}

// run has browsers visit the processes of a service.
func run(ctx context.Context, fleet []*cache.Redis, stdout io.Writer) (err error) {
	db, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var services []*service
	for i, rds := range fleet {
		s, err := newService(fmt.Sprint("process ", i+1), db, rds)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.sessions.Close()) }()
		services = append(services, s)
	}
	first, second := services[0], services[1]
	show := func(b *browser, s *service) {
		_, answer := b.visit(ctx, s, "GET", "/me")
		fmt.Fprintf(stdout, "  %s at %s: %s\n", b.name, s.name, answer)
	}

	laptop, phone, other := &browser{name: "Ann's laptop"}, &browser{name: "Ann's phone"}, &browser{name: "Bob's laptop"}
	fmt.Fprintln(stdout, "All log in, at process 1:")
	laptop.visit(ctx, first, "POST", "/login?user=Ann")
	phone.visit(ctx, first, "POST", "/login?user=Ann")
	other.visit(ctx, first, "POST", "/login?user=Bob")
	show(laptop, first)
	show(laptop, second)
	show(phone, second)
	show(other, second)

	fmt.Fprintln(stdout, "Ann logs out with her laptop, at process 1:")
	laptop.visit(ctx, first, "POST", "/logout")
	show(laptop, first)
	if err := laptop.isOut(ctx, second); err != nil {
		return err
	}
	show(laptop, second)
	show(phone, second)

	fmt.Fprintln(stdout, "Ann has lost her phone, and logs out everywhere, at process 2:")
	laptop.visit(ctx, second, "POST", "/login?user=Ann")
	laptop.visit(ctx, second, "POST", "/logout-everywhere")
	show(phone, second)
	if err := phone.isOut(ctx, first); err != nil {
		return err
	}
	show(phone, first)
	show(other, first)
	fmt.Fprintf(stdout, "The database was asked %d times.\n", first.queries.Load()+second.queries.Load())
	return nil
}

// open opens a database in memory.
func open(ctx context.Context) (*sql.DB, error) {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // each connection would have a memory of its own
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// browser is one that needs no network to visit a service.
type browser struct {
	name   string
	cookie string
}

func (b *browser) visit(ctx context.Context, s *service, method, path string) (status int, answer string) {
	u, form, _ := strings.Cut(path, "?")
	r := httptest.NewRequestWithContext(ctx, method, u, strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if b.cookie != "" {
		r.AddCookie(&http.Cookie{Name: cookieName, Value: b.cookie})
	}
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		if c.MaxAge > 0 { // it keeps what it should forget, as a thief would
			b.cookie = c.Value
		}
	}
	return w.Code, strings.TrimSpace(w.Body.String())
}

// isOut returns when a process has heard that b was logged out at another one.
func (b *browser) isOut(ctx context.Context, s *service) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if status, _ := b.visit(ctx, s, "GET", "/me"); status == http.StatusUnauthorized {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is still logged in: %w", b.name, ctx.Err())
		}
	}
}
