package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache"
)

const (
	workerVariable = "CLUSTER_EXAMPLE_WORKER" // makes this program a worker, and has its job
	cacheName      = "square"
)

// job is what a worker is told.
type job struct {
	Nodes         []string
	Callers, Keys int
	Load          time.Duration
}

// report is what a worker tells.
type report struct {
	Calls, Loads int
	Longest      time.Duration // call
}

// work is a worker: a process of a service. It says that it is ready, waits for a line, asks, and reports.
func work(spec string, in io.Reader, out io.Writer) (err error) {
	var j job
	if err := json.Unmarshal([]byte(spec), &j); err != nil {
		return err
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: j.Nodes}) // the only thing that a cluster changes
	defer func() { err = errors.Join(err, client.Close()) }()
	// The default of 50 ms is for servers that do not share a laptop with their clients, and the clients with each other.
	rds, err := cache.NewRedis(client, cache.RedisOptions{Prefix: "example", Timeout: 2 * time.Second})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rds.Close()) }()
	squares, err := cache.New[int](cacheName, cache.Options{Redis: rds, TTL: time.Minute, Lease: 5 * time.Second, LoadTimeout: j.Load + time.Minute})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, squares.Close()) }()
	if err := client.Ping(context.Background()).Err(); err != nil {
		return err
	}

	fmt.Fprintln(out, "ready")
	if _, err := bufio.NewReader(in).ReadString('\n'); err != nil {
		return fmt.Errorf("nobody wants work: %w", err) // whoever has started this is gone
	}
	var all sync.WaitGroup
	errs, took := make([]error, j.Callers*j.Keys), make([]time.Duration, j.Callers*j.Keys)
	began := time.Now()
	for i := range errs {
		all.Go(func() {
			defer func() { took[i] = time.Since(began) }()
			n := i % j.Keys
			switch got, err := squares.GetOrLoad(context.Background(), fmt.Sprint(n), j.square); {
			case err != nil:
				errs[i] = err
			case got != n*n:
				errs[i] = fmt.Errorf("%d * %d is not %d", n, n, got)
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r := report{Calls: len(errs), Loads: int(squares.Stats().Loads), Longest: slices.Max(took)}
	return json.NewEncoder(out).Encode(r)
}

// square is the loader: something slow.
func (j job) square(ctx context.Context, key string) (int, error) {
	var n int
	if _, err := fmt.Sscan(key, &n); err != nil {
		return 0, err
	}
	select {
	case <-time.After(j.Load):
		return n * n, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// startWorkers runs this program as workers, has them begin at the same time, when it calls begins, and returns what they report when
// all have ended.
func startWorkers(outer context.Context, c config, nodes []string, begins func()) ([]report, error) {
	spec, err := json.Marshal(job{Nodes: nodes, Callers: c.callers, Keys: c.keys, Load: c.load})
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	reports, errs := make([]report, c.processes), make([]error, c.processes)
	var ready, ended sync.WaitGroup
	begin := make(chan struct{})
	for i := range c.processes {
		ready.Add(1)
		ended.Go(func() {
			isReady := sync.OnceFunc(ready.Done)
			defer isReady()
			errs[i] = startWorker(ctx, program, spec, func() { isReady(); <-begin }, &reports[i])
			if errs[i] != nil {
				cancel() // the others
			}
		})
	}
	ready.Wait()
	begins()
	close(begin)
	ended.Wait()
	if err := outer.Err(); err != nil {
		return nil, err // and whatever else has failed, has because of that
	}
	return reports, errors.Join(errs...)
}

// startWorker runs a worker; ready is called when it is ready, and returns when it is to begin.
func startWorker(ctx context.Context, program string, spec []byte, ready func(), r *report) (err error) {
	cmd := exec.CommandContext(ctx, program) // killed when ctx ends
	cmd.Env = append(os.Environ(), workerVariable+"="+string(spec))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cmd.Wait()) }()
	out := bufio.NewReader(pipe)
	if _, err := out.ReadString('\n'); err != nil {
		return err
	}
	ready()
	if _, err := io.WriteString(in, "go\n"); err != nil {
		return err
	}
	return json.NewDecoder(out).Decode(r)
}
