// Cluster is a fleet on one machine: it starts a Redis Cluster of three masters, and some processes of itself that all ask for the same
// keys at the same time, and counts who has loaded what.
//
//	go run ./cluster
//
// It needs a redis-server in PATH, 7.0 or newer, and nothing else; and stops whatever it has started, also on Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"
)

// config is what the flags say.
type config struct {
	masters, processes, callers, keys int
	load                              time.Duration // what one takes
}

func main() {
	log.SetFlags(0)
	if spec, ok := os.LookupEnv(workerVariable); ok {
		if err := work(spec, os.Stdin, os.Stdout); err != nil {
			log.Fatal("worker: ", err)
		}
		return
	}
	c := config{masters: 3}
	flag.IntVar(&c.processes, "processes", 4, "how many ask")
	flag.IntVar(&c.callers, "callers", 10, "goroutines in each that ask for each key")
	flag.IntVar(&c.keys, "keys", 60, "how many are asked for")
	flag.DurationVar(&c.load, "load", 100*time.Millisecond, "how long one takes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, c, os.Stdout)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

// run does it all. The processes that it starts end with it, whatever happens, unless it is killed (kill -9) itself.
func run(ctx context.Context, c config, stdout io.Writer) (err error) {
	if min(c.processes, c.callers, c.keys) < 1 {
		return errors.New("there has to be one of each at least")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute+c.load)
	defer cancel()
	dir, err := os.MkdirTemp("", "cluster")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	nodes, stop, err := startCluster(ctx, c.masters, dir)
	defer stop()
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "a Redis Cluster of %d masters: %s\n", c.masters, strings.Join(nodes, " "))
	fmt.Fprintf(stdout, "%d processes, in each of which %d callers ask for each of %d keys; a load takes %v\n", c.processes, c.callers, c.keys, c.load)

	reports, err := startWorkers(ctx, c, nodes, func() { fmt.Fprint(stdout, "all are ready, and begin\n\n") })
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "process\tcalls\tloads\tlongest call\t")
	loads := 0
	for i, r := range reports {
		fmt.Fprintf(table, "%d\t%d\t%d\t%v\t\n", i+1, r.Calls, r.Loads, r.Longest.Round(time.Millisecond))
		loads += r.Loads
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\n%d loads for %d keys. A cache in the memory of each process would make %d, none at all %d.\n",
		loads, c.keys, c.keys*c.processes, c.keys*c.processes*c.callers)
	return where(ctx, nodes, stdout)
}

// where prints how the cluster has spread the keys.
func where(ctx context.Context, nodes []string, stdout io.Writer) error {
	for _, addr := range nodes {
		client := redis.NewClient(&redis.Options{Addr: addr})
		keys, err := client.Keys(ctx, "*"+cacheName+":*").Result() // never in production: KEYS stops a server for as long as it looks
		if err = errors.Join(err, client.Close()); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s has %d of the keys\n", addr, len(keys))
	}
	return nil
}
