package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/redis/go-redis/v9"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/bellwether-go/cache"
)

// How costs grow: with the number of keys, of callers, of processes, and with the size of values.

// curve is a cost over something that grows.
type curve struct {
	file, title, x, y string
	lines             []string
	at                []float64
	values            [][]float64 // by line
}

const (
	growthRounds  = 5
	growthLookups = 100_000
	growthCallers = 50 // in each process
)

// growth measures all curves, draws them in files in dir, and prints their tables.
func growth(h *host, dir string, w io.Writer) error {
	for _, measure := range []func(*host) curve{growingKeys, growingCallers, growingProcesses, growingValues} {
		c := measure(h)
		c.table(w)
		if err := c.draw(dir); err != nil {
			return err
		}
	}
	return nil
}

// add measures something several times for each line in turn, and keeps the medians.
func (c *curve) add(at float64, measures ...func() float64) {
	took := make([][]float64, len(measures))
	for range growthRounds {
		for i, measure := range measures {
			took[i] = append(took[i], measure())
		}
	}
	if c.values == nil {
		c.values = make([][]float64, len(c.lines))
	}
	c.at = append(c.at, at)
	for i := range took {
		c.values[i] = append(c.values[i], median(took[i]))
	}
}

// timed is how many of a unit each of n operations takes.
func timed(unit time.Duration, n int, op func()) float64 {
	began := time.Now()
	op()
	return float64(time.Since(began)) / float64(unit) / float64(n)
}

func growingKeys(*host) curve {
	c := curve{
		file: "keys", title: "a hit in memory, uniform, 1 goroutine", x: "keys", y: "ns",
		lines: []string{"this package", "otter with a TTL"},
	}
	ctx := context.Background()
	for n := 1000; n <= 10_000_000; n *= 10 {
		key := func(i int) string { return fmt.Sprint("user-", i) }
		ours, err := cache.New[int]("n", cache.Options{TTL: ttl, LocalEntries: 2 * n})
		if err != nil {
			panic(err)
		}
		load := func(context.Context, string) (int, error) { return 1, nil }
		for i := range n {
			_, _ = ours.GetOrLoad(ctx, key(i), load)
		}
		theirs := otter.Must(&otter.Options[string, int]{
			MaximumSize: 2 * n, ExpiryCalculator: otter.ExpiryWriting[string, int](ttl),
		})
		for i := range n {
			theirs.Set(key(i), 1)
		}
		asked := make([]string, growthLookups)
		for i := range asked {
			asked[i] = key(rand.IntN(n))
		}
		found := func(get func(string) bool) func() float64 {
			return func() float64 {
				return timed(time.Nanosecond, growthLookups, func() {
					for _, k := range asked {
						if !get(k) {
							panic(k + " is not there")
						}
					}
				})
			}
		}
		c.add(float64(n), found(func(k string) bool {
			_, err := ours.GetOrLoad(ctx, k, nil)
			return err == nil
		}), found(func(k string) bool {
			_, ok := theirs.GetIfPresent(k)
			return ok
		}))
		_ = ours.Close()
		theirs.StopAllGoroutines()
	}
	return c
}

func growingCallers(*host) curve {
	c := curve{
		file: "callers", title: fmt.Sprintf("callers of one cold key in one process, beyond a load of %v", loading), x: "callers", y: "us each",
		lines: []string{"this package", "map, RWMutex and singleflight"},
	}
	made := collapsers()
	for n := 1; n <= 100_000; n *= 10 {
		var measures []func() float64
		for _, i := range []int{1, 0} {
			o := new(origin)
			get, done := made[i].make(o)
			defer done()
			round := 0
			measures = append(measures, func() float64 {
				round++
				return o.rush(fmt.Sprint(n, "-", round), get, n)[0] * 1000 / float64(n)
			})
		}
		c.add(float64(n), measures...)
	}
	return c
}

func growingProcesses(h *host) curve {
	c := curve{
		file: "processes", title: fmt.Sprintf("one cold key for real processes with %d callers, a load of %v", growthCallers, fleetLoading),
		x: "processes", y: "see the lines",
		lines: []string{"commands sent by each", "commands executed by Redis, for each", "p99 beyond the load, ms", "loads"},
	}
	for n := 1; n <= 64; n *= 2 {
		rows := make([][]float64, growthRounds)
		for i := range rows {
			rows[i] = h.stampede(n, job{Callers: growthCallers, Keys: 1}) // p99, p50, loads, sent, counted
		}
		next := make([]int, len(c.lines))
		column := func(line, i int, per float64) func() float64 {
			return func() float64 {
				next[line]++
				return rows[next[line]-1][i] / per
			}
		}
		c.add(float64(n), column(0, 3, float64(n)), column(1, 4, float64(n)), column(2, 0, 1), column(3, 2, 1))
	}
	return c
}

func growingValues(h *host) curve {
	c := curve{
		file: "values", title: "values in Redis, 1 goroutine", x: "bytes", y: "us",
		lines: []string{"hit, this package", "hit, go-redis GET and msgpack", "load and store, this package", "store, go-redis SET and msgpack"},
	}
	ctx := context.Background()
	addr := h.server().Addr
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	rds, err := cache.NewRedis(client, cache.RedisOptions{Timeout: 10 * time.Second})
	if err != nil {
		panic(err)
	}
	defer rds.Close()
	ours, err := cache.New[[]byte]("value", cache.Options{Redis: rds, TTL: ttl, LocalTTL: -1, CompressAbove: -1})
	if err != nil {
		panic(err)
	}
	defer ours.Close()
	const times = 200
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	for n := 100; n <= 1_000_000; n *= 10 {
		text := make([]byte, n)
		for i := range text {
			text[i] = byte(rand.Uint32())
		}
		load := func(context.Context, string) ([]byte, error) { return text, nil }
		hot := fmt.Sprint("hot-", n)
		_, err := ours.GetOrLoad(ctx, hot, load)
		must(err)
		set := func(key string) {
			b, err := msgpack.Marshal(text)
			must(err)
			must(client.Set(ctx, key, b, ttl).Err())
		}
		set("plain:" + hot)
		cold, stores := 0, 0
		c.add(float64(n), func() float64 {
			return timed(time.Microsecond, times, func() {
				for range times {
					_, err := ours.GetOrLoad(ctx, hot, load)
					must(err)
				}
			})
		}, func() float64 {
			return timed(time.Microsecond, times, func() {
				for range times {
					b, err := client.Get(ctx, "plain:"+hot).Bytes()
					must(err)
					var v []byte
					must(msgpack.Unmarshal(b, &v))
				}
			})
		}, func() float64 {
			return timed(time.Microsecond, times, func() {
				for range times {
					cold++
					_, err := ours.GetOrLoad(ctx, fmt.Sprint("cold-", n, "-", cold%50), load, cache.WithTTL(time.Millisecond))
					must(err)
				}
			})
		}, func() float64 {
			return timed(time.Microsecond, times, func() {
				for range times {
					stores++
					set(fmt.Sprint("plain:cold-", n, "-", stores%50))
				}
			})
		})
	}
	return c
}

func (c *curve) table(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n\n| %s | %s |\n|%s\n", c.title, c.x, strings.Join(c.lines, " | "), strings.Repeat("---|", len(c.lines)+1))
	for i, at := range c.at {
		fmt.Fprintf(w, "| %.0f |", at)
		for _, line := range c.values {
			fmt.Fprintf(w, " %s |", short(line[i]))
		}
		fmt.Fprintln(w)
	}
}
