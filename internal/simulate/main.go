// Simulate compares strategies against stampedes, for one hot key of a fleet, and prints the tables of docs/freshness.md:
// loads, waiting and expired answers. It takes a minute.
//
//	go run ./internal/simulate
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// study is what is asked for.
type study struct {
	ttl    time.Duration
	seed   uint64
	cycles int
}

// fleet is how many requests meet how many processes.
type fleet struct {
	rate      float64
	processes int
}

func main() {
	var s study
	flag.DurationVar(&s.ttl, "ttl", time.Minute, "of each value")
	flag.Uint64Var(&s.seed, "seed", 1, "of all that is random: the same one prints the same tables")
	flag.IntVar(&s.cycles, "cycles", 10_000, "for how many TTLs each cell is simulated")
	flag.Parse()
	if s.ttl <= 0 || s.cycles <= 0 {
		fmt.Fprintln(os.Stderr, "-ttl and -cycles must be positive")
		os.Exit(2)
	}
	s.print(os.Stdout)
}

func (s study) print(out io.Writer) {
	fmt.Fprintf(out, "Simulated for %s TTLs, or half a million loads: one key with a TTL of %g s, requests as a Poisson process, "+
		"spread evenly over processes with a memory each, one Redis with a round trip of %g ms, and log-normal load times "+
		"(sigma 0.2). A cell is the loads per TTL / the seconds, of all requests of a TTL together, that they waited for "+
		"loads; waiting for nothing but Redis does not count. StaleWhileRevalidate is %g s; its second line is the share of "+
		"requests that were answered with an expired value, and for how long one had been expired at most.\n",
		thousands(float64(s.cycles)), s.ttl.Seconds(), roundTrip.Seconds()*1000, whileRevalidating().stale.Seconds())
	fleets := []fleet{{1, 1}, {1, 100}, {1e3, 10}, {1e5, 1}, {1e5, 100}}
	for _, mean := range []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second} {
		fmt.Fprintln(out)
		s.printFleets(out, mean, fleets)
	}
	fmt.Fprintf(out, "\nThe same with a heavy tail, 10,000 requests/s and 100 processes: loads take 0.5 s in the mean, but sigma is 1, so "+
		"that half of them take less than 0.3 s, and one in a hundred more than 3.1 s.\n\n")
	s.printTail(out)
}

func (s study) printFleets(out io.Writer, mean time.Duration, fleets []fleet) {
	header := []string{fmt.Sprintf("loads of %g s", mean.Seconds())}
	for _, f := range fleets {
		header = append(header, fmt.Sprintf("%s/s, %s", thousands(f.rate), plural(f.processes, "process", "es")))
	}
	row(out, header...)
	row(out, strings.Split("---"+strings.Repeat(" ---", len(fleets)), " ")...)
	for _, does := range strategies() {
		cells := []string{does.name}
		expired := []string{"its expired answers"}
		for _, f := range fleets {
			c := conditions{f.rate, f.processes, s.ttl, mean, 0.2}
			ttls, n := simulate(c, does, s.seed, s.cycles)
			cells = append(cells, fmt.Sprintf("%s / %s", digits(float64(n.loads)/ttls), digits(n.blocked/ttls)))
			expired = append(expired, n.expired(c, ttls))
		}
		row(out, cells...)
		if does.stale > 0 {
			row(out, expired...)
		}
	}
}

func (s study) printTail(out io.Writer) {
	row(out, "heavy tail", "loads", "most at a time", "seconds waited", "expired answers")
	row(out, "---", "---", "---", "---", "---")
	for _, does := range strategies() {
		c := conditions{1e4, 100, s.ttl, 500 * time.Millisecond, 1}
		ttls, n := simulate(c, does, s.seed, s.cycles)
		row(out, does.name, digits(float64(n.loads)/ttls), thousands(float64(n.peak)), digits(n.blocked/ttls), n.expired(c, ttls))
	}
}

func row(out io.Writer, cells ...string) { fmt.Fprintf(out, "| %s |\n", strings.Join(cells, " | ")) }

// expired says how many requests were answered with an expired value, and for how long it had been expired.
func (n counts) expired(c conditions, ttls float64) string {
	if n.stale == 0 {
		return "none"
	}
	oldest := "< 1 ms"
	switch {
	case n.oldest >= time.Second:
		oldest = fmt.Sprintf("%.0f s", n.oldest.Seconds())
	case n.oldest >= time.Millisecond:
		oldest = fmt.Sprintf("%d ms", n.oldest.Milliseconds())
	}
	return fmt.Sprintf("%s %%, %s", digits(100*n.stale/(ttls*c.ttl.Seconds()*c.rate)), oldest)
}

// digits shows what another seed would show as well.
func digits(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x < 0.01:
		return "< 0.01"
	case x < 2:
		return fmt.Sprintf("%.2f", x)
	case x < 10:
		return fmt.Sprintf("%.1f", x)
	}
	unit := 1.0
	for x/unit >= 100 {
		unit *= 10
	}
	return thousands(float64(int(x/unit+0.5)) * unit)
}

// thousands shows a whole number with commas.
func thousands(x float64) string {
	s := fmt.Sprintf("%.0f", x)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s%s", n, one, more)
}
