// Bench measures this package beside its peers, all in one process: it plays them in turn, many times over, and prints
// medians, so that what else the machine does meets all of them alike. It is a module of its own, so that nobody else
// needs them.
//
//	go run . [-rounds 15] [-time 50ms] [-run regexp]
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"text/tabwriter"
	"time"
)

// contender does something in its own way.
type contender struct {
	name   string
	module string                    // of what it shows; empty: this repository
	setUp  func() (op, close func()) // op is measured; it may be called again and again
}

// contest is what contenders are compared in. The first one is the measure of the others.
type contest struct {
	name       string
	per        int // operations that a call of op counts for
	contenders []contender
}

func main() {
	rounds := flag.Int("rounds", 15, "times that each contender is measured")
	slice := flag.Duration("time", 50*time.Millisecond, "how long, each time")
	only := flag.String("run", "", "contests whose names match")
	flag.Parse()
	match, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	conditions(os.Stdout)
	for _, c := range contests() {
		if match.MatchString(c.name) {
			c.run(os.Stdout, *rounds, *slice)
		}
	}
}

func contests() []contest { return many() }

// conditions says where it is measured, and what.
func conditions(w io.Writer) {
	fmt.Fprintf(w, "%s, %s/%s, %d CPUs", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Replace == nil && slices.ContainsFunc(contests(), func(c contest) bool { return c.shows(m.Path) }) {
				fmt.Fprintf(w, ", %s %s", m.Path, m.Version)
			}
		}
	}
	fmt.Fprintln(w)
}

func (c *contest) shows(module string) bool {
	return slices.ContainsFunc(c.contenders, func(c contender) bool { return c.module == module })
}

// result is what one operation costs.
type result struct{ ns, allocs, bytes float64 }

func (c *contest) run(w io.Writer, rounds int, slice time.Duration) {
	type player struct {
		op    func()
		close func()
		took  []result
	}
	players := make([]player, len(c.contenders))
	for i, c := range c.contenders {
		players[i].op, players[i].close = c.setUp()
		players[i].op() // caches are warm, and code is there
	}
	for round := range rounds {
		for i := range players {
			p := &players[(i+round)%len(players)]
			p.took = append(p.took, measure(p.op, slice, c.per))
		}
	}
	fmt.Fprintf(w, "\n%s\n", c.name)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tns\tratio\tallocs\tbytes\t")
	var first float64
	for i := range players {
		ns := median(players[i].took, func(r result) float64 { return r.ns })
		if i == 0 {
			first = ns
		}
		fmt.Fprintf(table, "%s\t%.0f\t%.2f\t%.1f\t%.0f\t\n", c.contenders[i].name, ns, ns/first,
			median(players[i].took, func(r result) float64 { return r.allocs }),
			median(players[i].took, func(r result) float64 { return r.bytes }))
		players[i].close()
	}
	table.Flush()
}

// measure calls op for a while.
func measure(op func(), slice time.Duration, per int) result {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	n := 0
	for time.Since(began) < slice {
		op()
		n += per
	}
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	ops := float64(n)
	return result{
		ns:     float64(took.Nanoseconds()) / ops,
		allocs: float64(after.Mallocs-before.Mallocs) / ops,
		bytes:  float64(after.TotalAlloc-before.TotalAlloc) / ops,
	}
}

func median(all []result, of func(result) float64) float64 {
	values := make([]float64, len(all))
	for i, r := range all {
		values[i] = of(r)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
