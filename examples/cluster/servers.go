package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const slots = 16384

// startCluster starts n masters that share the slots, and returns their addresses when all of them know of all. stop ends them; it is to
// be called after an error too.
func startCluster(ctx context.Context, n int, dir string) (nodes []string, stop func(), err error) {
	var ended sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	stop = func() {
		cancel()
		ended.Wait()
	}
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, stop, fmt.Errorf("this example needs a redis-server: %w", err)
	}
	var clients []*redis.Client
	defer func() {
		for _, c := range clients {
			_ = c.Close()
		}
	}()
	for i := range n {
		port, bus := freePort(), freePort()
		home := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(home, 0o700); err != nil {
			return nil, stop, err
		}
		var out bytes.Buffer                     // read when it has ended
		server := exec.CommandContext(ctx, path, // killed when ctx ends
			"--port", port, "--bind", "127.0.0.1", "--dir", home, "--save", "", "--appendonly", "no",
			"--cluster-enabled", "yes", "--cluster-port", bus)
		server.Stdout, server.Stderr = &out, &out
		if err := server.Start(); err != nil {
			return nil, stop, err
		}
		over := make(chan error, 1)
		ended.Go(func() {
			_ = server.Wait() // killed: that is how it ends
			over <- errors.New(out.String())
		})
		addr := net.JoinHostPort("127.0.0.1", port)
		client := redis.NewClient(&redis.Options{Addr: addr})
		clients, nodes = append(clients, client), append(nodes, addr)
		if err := until(ctx, over, func() bool { return answers(addr) && client.Ping(ctx).Err() == nil }); err != nil {
			return nil, stop, fmt.Errorf("redis-server at %s does not start: %w", addr, err)
		}
		if err := client.ClusterAddSlotsRange(ctx, i*slots/n, (i+1)*slots/n-1).Err(); err != nil {
			return nil, stop, err
		}
		if i > 0 {
			if err := clients[0].Do(ctx, "CLUSTER", "MEET", "127.0.0.1", port, bus).Err(); err != nil {
				return nil, stop, err
			}
		}
	}
	for _, c := range clients {
		known := func() bool {
			info, err := c.ClusterInfo(ctx).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_size:%d\r", n))
		}
		if err := until(ctx, nil, known); err != nil {
			return nil, stop, fmt.Errorf("the cluster does not come about: %w", err)
		}
	}
	return nodes, stop, nil
}

// freePort returns a port on which nobody listens. It is below those that clients get, one of which could take it in the meantime.
func freePort() string {
	for {
		port := strconv.Itoa(10_000 + rand.IntN(20_000))
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port)); err == nil {
			_ = l.Close()
			return port
		}
	}
}

// answers looks whether somebody listens. (A client of Redis would log that nobody does.)
func answers(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// until looks until it is so, something is over, or ctx has ended.
func until(ctx context.Context, over <-chan error, so func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case err := <-over:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
