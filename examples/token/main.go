// Token has the processes of a fleet share one access token (OAuth 2.0, client credentials): one of them fetches it, it is replaced
// before it ends while calls go on, and it is dropped everywhere when it is refused. In Redis it is encrypted.
//
//	go run ./token
//
// It brings the company that issues tokens, and a Redis; with -redis 127.0.0.1:6379 it uses a real one.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache"
)

func main() {
	log.SetFlags(0)
	addr := flag.String("redis", "", "`host:port`; without one the program brings a Redis of its own")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop)
	if err := start(ctx, *addr, os.Getenv("TOKEN_SECRET"), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// start makes what processes have: each its own connection to Redis, and all the same secret, in hexadecimal. A real one comes from where
// you keep secrets; without one this is for nobody but the processes of this run.
func start(ctx context.Context, addr, hexSecret string, stdout io.Writer) error {
	if addr == "" {
		server, err := miniredis.Run()
		if err != nil {
			return err
		}
		defer server.Close()
		addr = server.Addr()
	}
	secret, prefix := make(cache.Secret, 32), "company"
	if hexSecret == "" {
		_, _ = rand.Read(secret) // it does not fail
		prefix += "-" + rand.Text()
	} else if b, err := hex.DecodeString(hexSecret); err != nil {
		return errors.New("TOKEN_SECRET is not hexadecimal") // the error of hex would show a part of it
	} else {
		secret = b
	}
	var fleet []*cache.Redis
	for i := range 3 {
		client := redis.NewClient(&redis.Options{Addr: addr})
		defer func() { _ = client.Close() }()
		rds, err := cache.NewRedis(client, cache.RedisOptions{Prefix: prefix, Process: fmt.Sprint("process ", i), Timeout: time.Second})
		if err != nil {
			return err
		}
		defer func() { _ = rds.Close() }()
		fleet = append(fleet, rds)
	}
	return run(ctx, &company{lifetime: 3 * time.Second, out: stdout}, time.Second, fleet, secret, stdout)
}

// run has processes call the company.
func run(ctx context.Context, co *company, margin time.Duration, fleet []*cache.Redis, secret cache.Secret, stdout io.Writer) (err error) {
	var sources []*source
	for _, rds := range fleet {
		s, err := newSource(co, margin, rds, secret)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.tokens.Close()) }()
		sources = append(sources, s)
	}

	fmt.Fprintln(stdout, "All processes call at the same time:")
	if err := callAll(ctx, sources, 5); err != nil {
		return err
	}
	x, err := sources[len(sources)-1].tokens.Explain(ctx, clientID)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "  %v; in Redis %d bytes, encrypted: %v\n", co, x.Redis.Bytes, x.Redis.Sealed)

	fmt.Fprintln(stdout, "The token is revoked:")
	co.revoke()
	for _, s := range sources {
		if err := callAll(ctx, []*source{s}, 5); err != nil {
			return err
		}
	}
	fmt.Fprintf(stdout, "  %v\n", co)

	fmt.Fprintf(stdout, "A token lives for %v. %v of calls:\n", co.lifetime, 3*co.lifetime)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(3 * co.lifetime); time.Now().Before(end); <-tick.C {
		if err := callAll(ctx, sources, 1); err != nil {
			return err
		}
	}
	fmt.Fprintf(stdout, "  %v\n", co)
	return nil
}

// callAll has each process call the company's API n times at the same time.
func callAll(ctx context.Context, sources []*source, n int) error {
	var all sync.WaitGroup
	errs := make([]error, len(sources)*n)
	for i := range errs {
		all.Go(func() { errs[i] = call(ctx, sources[i%len(sources)]) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func call(ctx context.Context, s *source) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, apiURL, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: s}).Do(req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		err = errors.New("the API answers " + resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}
