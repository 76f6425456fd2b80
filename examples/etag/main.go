// Etag is a client of an HTTP API, with a cache that does what the API's headers say: max-age is how long an answer is fresh, then
// its ETag is asked about, no-store is obeyed, and what has been fetched is served while the API is down.
//
//	go run ./etag
//
// It brings a little API of its own, and shows the requests that reach it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/bellwether-go/cache"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	if err := run(ctx, listener, &http.Client{Timeout: 5 * time.Second}, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run starts an API on listener, and uses it.
func run(ctx context.Context, listener net.Listener, web *http.Client, stdout io.Writer) (err error) {
	api := &origin{out: stdout, rate: "1.08"}
	server := &http.Server{Handler: api, ReadHeaderTimeout: time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		web.CloseIdleConnections()
		err = errors.Join(err, server.Close())
		if end := <-served; !errors.Is(end, http.ErrServerClosed) {
			err = errors.Join(err, end)
		}
	}()
	c, err := newClient("http://"+listener.Addr().String(), web)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.documents.Close()) }()

	show := func(title, path string) {
		fmt.Fprintln(stdout, title)
		for range 2 {
			body, err := c.get(ctx, path)
			switch {
			case errors.Is(err, cache.ErrNotFound):
				body = "not found"
			case err != nil:
				body = "error: " + err.Error()
			}
			fmt.Fprintf(stdout, "  %s: %s\n", path, body)
		}
	}
	show("Two calls, one request:", "/rate")
	if err := pause(ctx, maxAge); err != nil {
		return err
	}
	show("Its max-age is over, and nothing has changed:", "/rate")
	api.set("1.09", false)
	if err := pause(ctx, maxAge); err != nil {
		return err
	}
	show("Over again, and it has changed:", "/rate")
	api.set("1.09", true)
	if err := pause(ctx, maxAge); err != nil {
		return err
	}
	show("Over again, and the API is down:", "/rate")
	api.set("1.09", false)
	show("What is not to be stored is asked for each time:", "/account")
	show("That there is nothing is remembered:", "/nothing")
	return nil
}

// pause waits a little longer than d.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d + d/10):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
