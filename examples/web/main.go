// Web is a web service with a database behind a cache. Nothing else is needed to try it:
//
//	go run ./web
//	curl http://127.0.0.1:8080/products/1
//	curl -X PUT -d '{"name":"Green tea","cents":450}' http://127.0.0.1:8080/products/1
//
// Several of them share what they load with -redis 127.0.0.1:6379, a -db FILE that is the same for all, and an -addr for each.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	_ "modernc.org/sqlite"

	"github.com/bellwether-go/cache"
)

// config is what the flags say.
type config struct {
	addr, db, redis string
	timeout         time.Duration // of Redis, for tests on slow machines; 0: the default
}

func main() {
	log.SetFlags(0)
	var c config
	flag.StringVar(&c.addr, "addr", "127.0.0.1:8080", "where to listen, as `host:port`")
	flag.StringVar(&c.db, "db", "", "the `file` of the database; without one it ends with the program")
	flag.StringVar(&c.redis, "redis", "", "`host:port` of the Redis that several of these share; without one the cache is this one's memory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait
	if err := run(ctx, c, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends. What was opened is closed in the opposite order: whoever is asked comes after those who ask.
func run(ctx context.Context, c config, stdout io.Writer) (err error) {
	if c.db == "" {
		dir, err := os.MkdirTemp("", "products")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		c.db = filepath.Join(dir, "products.db")
	}
	db, err := open(ctx, c.db)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	var rds *cache.Redis
	if c.redis != "" {
		client := redis.NewClient(&redis.Options{Addr: c.redis})
		defer func() { err = errors.Join(err, client.Close()) }()
		if rds, err = cache.NewRedis(client, cache.RedisOptions{Prefix: "shop", Timeout: c.timeout}); err != nil { // it does not wait for the server
			return err
		}
		defer func() { err = errors.Join(err, rds.Close()) }()
	}
	products, err := newProducts(rds)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, products.Close()) }() // it says if deletions got lost

	s := &shop{db: db, products: products, log: log.New(stdout, "", 0)}
	return serve(ctx, c.addr, s.handler(), stdout)
}

// serve serves until ctx ends, and then as long as requests are under way.
func serve(ctx context.Context, addr string, handler http.Handler, stdout io.Writer) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadTimeout: 5 * time.Second, WriteTimeout: 2 * patience, IdleTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Fprintf(stdout, "listening on http://%s/products/1, the cache is at /debug/cache\n", listener.Addr())
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*patience)
	defer cancel()
	return server.Shutdown(grace)
}

// open opens the database, and puts something into a new one. Readers do not wait for a writer (WAL), writers wait for each other.
func open(ctx context.Context, file string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", file+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}
