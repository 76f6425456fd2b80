package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/resp"
	"github.com/bellwether-go/cache/internal/workers"
)

// A stampede in a fleet of real processes.

const (
	fleetProcesses = 8
	fleetCallers   = 200 // in each
	fleetLoading   = 200 * time.Millisecond
	fleetKeys      = 200 // in the second contest: callers ask for one each
	fleetRounds    = 5
	hotKeys        = 10_000 // that caches in memory have room for

	killProcesses = 4
	killCallers   = 50
	killRounds    = 3
	killed        = "killed" // who sets it dies
)

// job is what a process of the fleet does.
type job struct {
	Guard   int
	Redis   string
	Callers int
	Keys    int
	Kill    bool // the first one that loads dies of it, in the middle
}

// account is what it has seen.
type account struct {
	Waited []time.Duration // by its callers
	Loads  int
	Sent   int64 // commands
	Failed string
}

// work is the main function of a process of the fleet.
func work(j job) error {
	var sent resp.Counter
	var mu sync.Mutex
	var a account
	side := redis.NewClient(&redis.Options{Addr: j.Redis})
	defer func() { _ = side.Close() }()
	load := func(ctx context.Context, key string) (user, error) {
		if strings.HasPrefix(key, "warm") {
			return value(key), nil
		}
		mu.Lock()
		a.Loads++
		mu.Unlock()
		if j.Kill && side.SetNX(ctx, killed, 1, 0).Val() {
			time.Sleep(fleetLoading / 2)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		time.Sleep(fleetLoading)
		return value(key), nil
	}
	get, done := guards()[j.Guard].make(j.Redis, &sent, load)
	defer done()
	ctx := context.Background()
	if _, err := get(ctx, fmt.Sprint("warm", os.Getpid())); err != nil { // it is connected
		return err
	}
	a.Waited = make([]time.Duration, j.Callers)
	start := make(chan struct{})
	var all sync.WaitGroup
	for i := range j.Callers {
		all.Go(func() {
			key := fmt.Sprint("user-", i%j.Keys)
			<-start
			began := time.Now()
			u, err := get(ctx, key)
			a.Waited[i] = time.Since(began)
			if err == nil && u.Name != key {
				err = fmt.Errorf("%s is %v", key, u)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				a.Failed = err.Error()
			}
		})
	}
	report, err := workers.Ready()
	if err != nil {
		return err
	}
	sent.Reset()
	close(start)
	all.Wait()
	a.Sent = sent.Sent()
	return report(a)
}

// fleets compares what callers of cold keys wait beyond the load, in many processes, and what that costs.
func fleets(h *host) []contest {
	one := contest{
		name: fmt.Sprintf("%d processes with %d goroutines ask for one cold key, beyond a load of %v",
			fleetProcesses, fleetCallers, fleetLoading),
		columns: []string{"p99 ms", "p50 ms", "loads", "commands sent", "counted by Redis"}, rounds: fleetRounds,
	}
	many := one
	many.name = fmt.Sprintf("%d processes ask for the same %d cold keys at once, beyond a load of %v",
		fleetProcesses, fleetKeys, fleetLoading)
	dead := contest{
		name: fmt.Sprintf("%d processes with %d goroutines ask for one cold key; the one that loads is killed in the middle of its load of %v",
			killProcesses, killCallers, fleetLoading),
		columns: []string{"longest s", "loads", "processes that got errors"}, rounds: killRounds,
	}
	for i, g := range guards() {
		add := func(c *contest, processes int, j job) {
			c.contenders = append(c.contenders, contender{g.name, g.module, func() (player, func()) {
				return func(time.Duration) []float64 { return h.stampede(processes, j) }, func() {}
			}})
		}
		add(&one, fleetProcesses, job{Guard: i, Callers: fleetCallers, Keys: 1})
		add(&many, fleetProcesses, job{Guard: i, Callers: fleetKeys, Keys: fleetKeys})
		if i < 5 { // the others do not wait for each other
			add(&dead, killProcesses, job{Guard: i, Callers: killCallers, Keys: 1, Kill: true})
		}
	}
	return []contest{one, many, dead}
}

// stampede lets processes loose on an empty Redis.
func (h *host) stampede(processes int, j job) []float64 {
	server := h.server()
	client := server.Client(nil)
	ctx := context.Background()
	if err := client.FlushAll(ctx).Err(); err != nil {
		h.Fatal(err)
	}
	j.Redis = server.Addr
	var before, after int
	accounts, errs := workers.Some[account](h, processes, j,
		func() { before = h.processed(client) }, func() { after = h.processed(client) - 1 })
	if len(errs) > 0 && !j.Kill {
		h.Fatal(errs)
	}
	var waited []time.Duration
	var loads, failed int
	var sent int64
	for _, a := range accounts {
		waited = append(waited, a.Waited...)
		loads += a.Loads
		sent += a.Sent
		if a.Failed != "" {
			failed++
		}
	}
	slices.Sort(waited)
	beyond := func(i int) float64 { return float64((waited[i] - fleetLoading).Microseconds()) / 1000 }
	if j.Kill {
		return []float64{waited[len(waited)-1].Seconds(), float64(loads), float64(failed)}
	}
	if failed > 0 {
		h.Fatal(accounts[0].Failed)
	}
	n := len(waited)
	return []float64{beyond(n * 99 / 100), beyond(n / 2), float64(loads), float64(sent), float64(after - before)}
}

// processed is how many commands the server has executed, also inside scripts.
func (h *host) processed(client *redis.Client) int {
	info, err := client.InfoMap(context.Background(), "stats").Result()
	if err != nil {
		h.Fatal(err)
	}
	n, err := strconv.Atoi(info["Stats"]["total_commands_processed"])
	if err != nil {
		h.Fatal(err)
	}
	return n
}
