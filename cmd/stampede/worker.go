package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/vmihailenco/msgpack/v5"
	"golang.org/x/sync/singleflight"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/cachehttp"
	"github.com/bellwether-go/cache/internal/resp"
)

// workerVariable makes a process a worker: it holds a job.
const workerVariable = "STAMPEDE_WORKER"

// job is what one process of the fleet does in one mode.
type job struct {
	Mode     string
	Redis    string
	Prefix   string
	Origin   string
	Callers  int
	Keys     int
	MaxLoads int
	Page     bool // to be served, until the parent ends
	Timeout  time.Duration
	Lease    time.Duration
}

// outcome is what it found.
type outcome struct {
	Micros   []int64 // latency of each call
	Commands int64   // sent to Redis, without the handshake of a connection
	Errors   int
	First    string // one of the errors
}

const (
	wordReady = "ready"
	wordGo    = "go"
	ttl       = time.Minute
)

// work is the main function of a worker: it says that it is ready, waits for the start, and reports. It ends when the
// parent does, for its standard input ends then.
func work(spec string) error {
	signal.Ignore(os.Interrupt) // the parent ends the fleet
	var j job
	if err := json.Unmarshal([]byte(spec), &j); err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	via, err := j.connect()
	if err != nil {
		return err
	}
	defer via.close()
	ready := wordReady
	if j.Page {
		page, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		ready += " " + page.Addr().String()
		server := http.Server{Handler: cachehttp.Handler(via.sources...), ReadHeaderTimeout: patience}
		go func() { _ = server.Serve(page) }()
	}

	start := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	var out outcome
	callers := max(j.Callers, j.Keys)
	out.Micros = make([]int64, callers)
	for i := range callers {
		wg.Go(func() {
			key := strconv.Itoa(i % j.Keys)
			<-start
			began := time.Now()
			v, err := via.get(context.Background(), key)
			out.Micros[i] = time.Since(began).Microseconds()
			if err == nil && v != "value of "+key {
				err = fmt.Errorf("wrong value %q for key %q", v, key)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				out.Errors++
				out.First = err.Error()
			}
		})
	}
	fmt.Println(ready)
	if line, err := in.ReadString('\n'); err != nil || line != wordGo+"\n" {
		return errors.New("no start")
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		os.Exit(1)
	}()
	via.commands.Reset()
	close(start)
	wg.Wait()
	out.Commands = via.commands.Sent()
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil || !j.Page {
		return err
	}
	select {} // until the parent ends
}

// protection is a cache in front of the origin, for one mode.
type protection struct {
	get      func(ctx context.Context, key string) (string, error)
	commands *resp.Counter
	sources  []cachehttp.Source // what a page can show of it
	close    func()
}

// connect builds the mode. The modes share the client, the format, the TTL and the origin; they differ in protection.
func (j *job) connect() (p protection, err error) {
	p.commands = new(resp.Counter)
	client := redis.NewClient(&redis.Options{
		Addr: j.Redis,
		Dialer: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return p.commands.Dial(ctx, new(net.Dialer), addr)
		},
	})
	if err := client.Ping(context.Background()).Err(); err != nil {
		return p, err
	}
	from, err := dialOrigin(j.Origin, strconv.Itoa(os.Getpid()))
	if err != nil {
		return p, err
	}
	load := from.load
	aside := func(ctx context.Context, key string) (string, error) {
		full := j.Prefix + ":" + key
		var v string
		b, err := client.Get(ctx, full).Bytes()
		if err == nil {
			return v, msgpack.Unmarshal(b, &v)
		}
		if !errors.Is(err, redis.Nil) {
			return "", err
		}
		if v, err = load(ctx, key); err != nil {
			return "", err
		}
		if b, err = msgpack.Marshal(v); err != nil {
			return "", err
		}
		return v, client.Set(ctx, full, b, ttl).Err()
	}
	p.get = aside
	p.close = func() { _ = client.Close() }
	switch j.Mode {
	case "none":
		return p, nil
	case "singleflight":
		var group singleflight.Group
		p.get = func(ctx context.Context, key string) (string, error) {
			v, err, _ := group.Do(key, func() (any, error) { return aside(ctx, key) })
			s, _ := v.(string)
			return s, err
		}
		return p, nil
	}
	rds, err := cache.NewRedis(client, cache.RedisOptions{Prefix: j.Prefix, Timeout: j.Timeout})
	if err != nil {
		return p, err
	}
	c, err := cache.New[string]("demo", cache.Options{Redis: rds, TTL: ttl, Lease: j.Lease, MaxLoads: j.MaxLoads})
	if err != nil {
		return p, err
	}
	p.get = func(ctx context.Context, key string) (string, error) { return c.GetOrLoad(ctx, key, load) }
	p.sources = []cachehttp.Source{c}
	p.close = func() {
		_ = c.Close()
		_ = rds.Close()
		_ = client.Close()
	}
	return p, nil
}
