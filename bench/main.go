// Bench measures this package beside its peers, all in one process: it plays them in turn, many times over, and prints
// medians, so that what else the machine does meets all of them alike. It is a module of its own, so that nobody else
// needs them.
//
//	go run . [-rounds 15] [-time 50ms] [-run regexp]
//	go run . -growth ../docs/growth
//	go run . -capacity
package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bellwether-go/cache/internal/workers"
)

// contender does something in its own way.
type contender struct {
	name   string
	module string // of what it shows; empty: this repository, or the standard library
	setUp  func() (play player, done func())
}

// player does it, for a while or once, and returns what it took, one number for each column of the contest.
type player func(slice time.Duration) []float64

// contest is what contenders are compared in, by the first column. The first contender is the measure of the others.
type contest struct {
	name       string
	columns    []string
	rounds     int // 0: as many as there are by default
	contenders []contender
}

func main() { workers.Main(program{}, work) }

// program is what runs unless this is a process of a fleet.
type program struct{}

// Run compares.
func (program) Run() int {
	rounds := flag.Int("rounds", 15, "times that each contender is measured")
	slice := flag.Duration("time", 50*time.Millisecond, "how long, each time")
	only := flag.String("run", "", "contests whose names match")
	curves := flag.String("growth", "", "instead, draw how costs grow in files in this `directory`")
	modelled := flag.Bool("capacity", false, "instead, print a model of large fleets")
	flag.Parse()
	if *modelled {
		model(os.Stdout)
		return 0
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	h := new(host)
	defer h.close()
	if *curves != "" {
		if err := growth(h, *curves, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	all := slices.Concat(hits(), many(), herd(), remoteCalls(h), fleets(h), memory(), remoteMemory(h))
	conditions(os.Stdout, all)
	for _, c := range all {
		if match.MatchString(c.name) {
			c.run(os.Stdout, *rounds, *slice)
		}
	}
	return 0
}

// conditions says where it is measured, and what.
func conditions(w io.Writer, all []contest) {
	fmt.Fprintf(w, "%s, %s/%s, %d CPUs", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Replace == nil && slices.ContainsFunc(all, func(c contest) bool { return c.shows(m.Path) }) {
				fmt.Fprintf(w, ", %s %s", m.Path, m.Version)
			}
		}
	}
	fmt.Fprintln(w)
}

func (c *contest) shows(module string) bool {
	return slices.ContainsFunc(c.contenders, func(c contender) bool { return c.module == module })
}

func (c *contest) run(w io.Writer, rounds int, slice time.Duration) {
	rounds = cmp.Or(c.rounds, rounds)
	plays := make([]player, len(c.contenders))
	took := make([][][]float64, len(c.contenders)) // by contender, column and round
	for i, c := range c.contenders {
		play, done := c.setUp()
		defer done()
		play(0) // caches are warm, and code is there
		plays[i] = play
	}
	for i := range took {
		took[i] = make([][]float64, len(c.columns)+1)
	}
	for round := range rounds {
		now := make([][]float64, len(plays))
		for n := range plays {
			i := (n + round) % len(plays)
			runtime.GC()
			now[i] = plays[i](slice)
		}
		for i, columns := range now {
			for n, x := range columns {
				took[i][n+1] = append(took[i][n+1], x)
			}
			took[i][0] = append(took[i][0], columns[0]/now[0][0])
		}
	}
	fmt.Fprintf(w, "\n%s\n", c.name)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\tratio\t%s\t\n", strings.Join(c.columns, "\t"))
	for i, columns := range took {
		fmt.Fprintf(table, "%s\t%.2f\t", c.contenders[i].name, median(columns[0]))
		for _, column := range columns[1:] {
			fmt.Fprintf(table, "%s\t", short(median(column)))
		}
		fmt.Fprintln(table)
	}
	table.Flush()
}

// short has three digits that count, or all that are before the point.
func short(x float64) string {
	switch {
	case x >= 100 || x == math.Trunc(x):
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// each repeats op, which is so many operations, and tells what one of them takes: ns, allocations and bytes.
func each(per int, op func()) player {
	return func(slice time.Duration) []float64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		n := per
		for op(); time.Since(began) < slice; n += per {
			op()
		}
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		ops := float64(n)
		return []float64{
			float64(took.Nanoseconds()) / ops, float64(after.Mallocs-before.Mallocs) / ops,
			float64(after.TotalAlloc-before.TotalAlloc) / ops,
		}
	}
}

var perOperation = []string{"ns", "allocs", "bytes"}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}
