package faults

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// newSoak is a plan for hours: four processes that nobody kills, so that what they leave behind adds up.
func newSoak(where string, lasts time.Duration) *plan {
	p := &plan{where: where, seed: 6 * rand.Uint64N(1_000_000), lasts: lasts} // even: many keys at once, too
	for i, local := range []time.Duration{-1, -1, 400 * time.Millisecond, 10 * time.Second} {
		p.workers = append(p.workers, job{
			Where: where, Seed: p.seed, Name: i, Protocol: 2 + i%2, TTL: 10 * time.Second, Tags: true, Stale: true, LocalTTL: local,
			Abandon: i == 1,
		})
	}
	rng := rand.New(rand.NewPCG(p.seed, 0))
	const pause = 3 * time.Second
	p.track(rng, ofWhere[where], 50*time.Millisecond, pause)
	p.track(rng, append(slices.Clone(ofNetwork), "process SIGSTOP"), 50*time.Millisecond, pause)
	return p
}

// level is what a process has at a moment.
type level struct{ goroutines, connections, heap, resident float64 }

// reading is what the fleet has at a moment, and has done until then.
type reading struct {
	levels             []level // by process
	calls, loads, dups float64
}

func (f *fleet) reading() (r reading) {
	for i, m := range f.members {
		w := &f.board.workers[m.Slot]
		l := level{goroutines: float64(w.goroutines.Load()), heap: float64(w.heap.Load())}
		for _, p := range f.proxies[i] {
			l.connections += float64(p.Clients())
		}
		statm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", m.cmd.Process.Pid))
		var size, resident float64
		_, _ = fmt.Sscan(string(statm), &size, &resident)
		l.resident = resident * float64(os.Getpagesize())
		r.levels = append(r.levels, l)
		r.calls += float64(w.calls.Load())
		r.loads += float64(w.loads.Load())
		r.dups += float64(w.duplicates.Load())
	}
	return r
}

// curve is a line of the table: what happened in a part of the time.
type curve struct {
	level              // medians, of the process that has most
	calls, loads, dups float64
}

const curves = 30

// soaked makes curves of readings.
func soaked(rs []reading) (cs []curve) {
	for i := range curves {
		last := len(rs) - 1
		part := rs[i*last/curves : (i+1)*last/curves+1]
		first, until := part[0], part[len(part)-1]
		c := curve{calls: until.calls - first.calls, loads: until.loads - first.loads, dups: until.dups - first.dups}
		for w := range first.levels {
			of := func(field func(level) float64) float64 {
				var all []float64
				for _, r := range part {
					all = append(all, field(r.levels[w]))
				}
				return median(all)
			}
			c.goroutines = max(c.goroutines, of(func(l level) float64 { return l.goroutines }))
			c.connections = max(c.connections, of(func(l level) float64 { return l.connections }))
			c.heap = max(c.heap, of(func(l level) float64 { return l.heap }))
			c.resident = max(c.resident, of(func(l level) float64 { return l.resident }))
		}
		cs = append(cs, c)
	}
	return cs
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// drift compares the last third of a soak with the second quarter of its time: the first is for warming up.
func drift(cs []curve, of func(curve) float64) (before, after float64) {
	var a, b []float64
	for i, c := range cs {
		switch {
		case i >= curves/4 && i < curves/2:
			a = append(a, of(c))
		case i >= 2*curves/3:
			b = append(b, of(c))
		}
	}
	return median(a), median(b)
}

// TestSoak is TestFaults for as long as CACHE_SOAK says, and sees whether anything grows.
func TestSoak(t *testing.T) {
	lasts, err := time.ParseDuration(cmp.Or(os.Getenv("CACHE_SOAK"), "0"))
	if err != nil || lasts == 0 {
		t.Skipf("SKIPPED: it is for hours: CACHE_SOAK=30m (%v)", err)
	}
	f := newFleet(t, newSoak(cmp.Or(os.Getenv("CACHE_SOAK_ON"), "one"), lasts))
	over := make(chan []reading)
	end := make(chan struct{})
	go func() {
		var rs []reading
		tick := time.NewTicker(max(lasts/3000, 100*time.Millisecond))
		defer tick.Stop()
		for {
			rs = append(rs, f.reading())
			select {
			case <-tick.C:
			case <-end:
				over <- rs
				return
			}
		}
	}()
	f.play()
	close(end)
	cs := soaked(<-over)
	f.check()
	for _, b := range f.broken {
		t.Error(b)
	}
	var b strings.Builder
	b.WriteString("| minutes | goroutines | connections | live heap, MB | resident, MB | calls | loads | duplicates per 1,000 loads |\n" +
		"|---|---|---|---|---|---|---|---|\n")
	for i, c := range cs {
		fmt.Fprintf(&b, "| %.1f | %.0f | %.0f | %.1f | %.1f | %.0f | %.0f | %.0f |\n", lasts.Minutes()*float64(i+1)/curves,
			c.goroutines, c.connections, c.heap/1e6, c.resident/1e6, c.calls, c.loads, c.duplicates())
	}
	t.Logf("%s\n%s\n%s", f.plan.where, b.String(), f.result())
	for _, flat := range []struct {
		what  string
		of    func(curve) float64
		slack float64 // that is no drift, besides a quarter
	}{
		{"goroutines", func(c curve) float64 { return c.goroutines }, 20},
		{"connections", func(c curve) float64 { return c.connections }, 10},
		{"live heap", func(c curve) float64 { return c.heap }, 2e6},
		{"resident memory", func(c curve) float64 { return c.resident }, 10e6},
		{"duplicates per 1,000 loads", curve.duplicates, 20},
	} {
		before, after := drift(cs, flat.of)
		t.Logf("%s: median %.0f in the second quarter, %.0f in the last third", flat.what, before, after)
		if after > before*1.25+flat.slack {
			t.Errorf("%s: from %.0f to %.0f", flat.what, before, after)
		}
	}
}

func (c curve) duplicates() float64 { return 1000 * c.dups / max(c.loads, 1) }
