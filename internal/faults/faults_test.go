package faults

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(workerVariable); spec != "" {
		if err := work(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	redis.SetLogger(quiet{})
	os.Exit(m.Run())
}

// plans are those to be played, which CACHE_FAULTS names, as in "7", "1-100", "cluster:1-30 ring:2", or a few.
func plans(t *testing.T) (found []*plan) {
	t.Helper()
	for names := range strings.FieldsSeq(cmp.Or(os.Getenv("CACHE_FAULTS"), "1-4 cluster:1 sentinel:1 ring:1")) {
		where, seeds, ok := strings.Cut(names, ":")
		if !ok {
			where, seeds = "one", names
		}
		first, last, several := strings.Cut(seeds, "-")
		a, err := strconv.ParseUint(first, 10, 32)
		b := a
		if err == nil && several {
			b, err = strconv.ParseUint(last, 10, 32)
		}
		if err != nil || !slices.Contains(wheres, where) {
			t.Fatalf("CACHE_FAULTS has %q: %v", names, err)
		}
		for s := a; s <= b; s++ {
			found = append(found, newPlan(where, s))
		}
	}
	return found
}

// TestFaults plays plans and holds what callers saw against the promises. A plan that breaks one is printed, and
// CACHE_FAULTS=its name plays it again, though not with the same timing.
func TestFaults(t *testing.T) {
	results := make(map[string][]*result)
	for _, p := range plans(t) {
		ok := t.Run(p.name(), func(t *testing.T) {
			f := newFleet(t, p)
			f.play()
			f.check()
			if len(f.broken) > 0 {
				t.Errorf("%v\n%s", p, strings.Join(f.broken, "\n"))
			} else {
				t.Log(p)
			}
			r := f.result()
			t.Log(r)
			results[p.where] = append(results[p.where], r)
		})
		if !ok && testing.Verbose() {
			t.Logf("plan %s failed", p.name())
		}
	}
	if testing.Verbose() {
		for where, rs := range results {
			t.Logf("%s\n%s", where, table(rs))
		}
	}
}

// result is what a plan showed.
type result struct {
	faults map[string]int
	broken map[string]int // by promise
	boardSums
}

type boardSums struct {
	calls, updates, unconfirmed, loads, duplicates uint64
	own, ended, panics, abandoned                  uint64
	memoryStale, lostStale, unjudged               uint64
	failovers                                      int // that nobody had planned
	memoryOldest, longestWait, latestEnded         time.Duration
	recovery                                       time.Duration
	replicaStale                                   uint64
	replicaOldest                                  time.Duration
}

func (f *fleet) result() *result {
	r := &result{faults: make(map[string]int), broken: make(map[string]int)}
	for _, b := range f.broken {
		r.broken[b[:strings.IndexAny(b, " :")]]++
	}
	maps.Copy(r.faults, f.played)
	for i := range f.board.workers {
		w := &f.board.workers[i]
		r.add(&boardSums{
			w.calls.Load(), w.updates.Load(), w.unconfirmed.Load(), w.loads.Load(), w.duplicates.Load(),
			w.own.Load(), w.ended.Load(), w.panics.Load(), w.abandoned.Load(), w.memoryStale.Load(), w.lostStale.Load(),
			w.unjudged.Load(), 0,
			time.Duration(w.memoryOldest.Load()), time.Duration(w.longestWait.Load()), time.Duration(w.latestEnded.Load()),
			f.recovery, w.replicaStale.Load(), time.Duration(w.replicaOldest.Load()),
		})
	}
	r.failovers = f.own
	return r
}

func (s *boardSums) add(o *boardSums) {
	s.calls += o.calls
	s.updates += o.updates
	s.unconfirmed += o.unconfirmed
	s.loads += o.loads
	s.duplicates += o.duplicates
	s.own += o.own
	s.ended += o.ended
	s.panics += o.panics
	s.abandoned += o.abandoned
	s.memoryStale += o.memoryStale
	s.lostStale += o.lostStale
	s.unjudged += o.unjudged
	s.failovers += o.failovers
	s.memoryOldest = max(s.memoryOldest, o.memoryOldest)
	s.longestWait = max(s.longestWait, o.longestWait)
	s.latestEnded = max(s.latestEnded, o.latestEnded)
	s.recovery = max(s.recovery, o.recovery)
	s.replicaStale += o.replicaStale
	s.replicaOldest = max(s.replicaOldest, o.replicaOldest)
}

func (r *result) String() string { return table([]*result{r}) }

// table sums results up, as docs/reliability.md has it.
func table(results []*result) string {
	var s boardSums
	kinds := make(map[string]int)
	broken := make(map[string]int)
	faults, others := 0, 0
	for _, r := range results {
		s.add(&r.boardSums)
		for p, n := range r.broken {
			broken[p] += n
		}
		for k, n := range r.faults {
			kinds[k] += n
			faults += n
		}
	}
	ms := func(d time.Duration) string { return d.Round(time.Millisecond).String() }
	var b strings.Builder
	row := func(what string, value any) { fmt.Fprintf(&b, "| %s | %v |\n", what, value) }
	b.WriteString("| | |\n|---|---|\n")
	row("plans", len(results))
	row("faults", faults)
	for _, k := range slices.SortedFunc(maps.Keys(kinds), func(a, b string) int {
		return cmp.Or(kinds[b]-kinds[a], strings.Compare(a, b))
	}) {
		row("... "+k, kinds[k])
	}
	row("calls", s.calls)
	row("changes of the origin, each with `Delete`, `DeleteTags` or `Set`", s.updates)
	row("... that were not confirmed", s.unconfirmed)
	row("loads", s.loads)
	row("... while another process was loading the same version", s.duplicates)
	row("errors of the loader's own, returned unchanged", s.own)
	row("panics of the loader's", s.panics)
	row("ends of a caller's own context", s.ended)
	row("loads that did not see the end of their context in time", s.abandoned)
	row("**errors that P3 forbids**", broken["P3"])
	row("**values older than a confirmed deletion** (P4, P5)", broken["P4"])
	row("**things left behind** (P9)", broken["P9"])
	for p, n := range broken {
		if p != "P3" && p != "P4" && p != "P9" {
			others += n
		}
	}
	row("**other promises broken**", others)
	row("values older than a deletion, from another process's memory before it heard of it", s.memoryStale)
	row("... at most, after the deletion was confirmed", ms(s.memoryOldest))
	row("values older than a deletion that a failover or a restart with an old snapshot has lost", s.lostStale)
	row("values while such a fault lasted, of which nothing is promised", s.unjudged)
	if s.replicaStale > 0 {
		row("values older than a deletion where replicas are read", s.replicaStale)
		row("... at most, after the deletion was confirmed", ms(s.replicaOldest))
	}
	if s.failovers > 0 {
		row("failovers that were not planned: this machine was busy", s.failovers)
	}
	row("longest call", ms(s.longestWait))
	row("latest return after a caller's deadline", ms(s.latestEnded))
	row("longest time from the last fault until a cold key was loaded once again", ms(s.recovery))
	return b.String()
}
