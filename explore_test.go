package cache

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/explore"
	"github.com/bellwether-go/cache/internal/lab"
)

// spaces are what TestExplore plays completely. docs/exploration.md says what they hold, and has their numbers.
var spaces = []space{
	{name: "cold", at: explore.Some, processes: 3, callers: 1},
	{name: "cold, a fault", at: explore.Some, processes: 2, callers: 1, faults: 1, kinds: "fail repeat late evict crash cancel close error panic"},
	{name: "callers", at: explore.Some, processes: 2, callers: 2, local: true},
	{name: "deletion of what is remembered", at: explore.Some, processes: 2, callers: 1, local: true, warm: true, writes: 1, writer: "A"},
	{name: "tags", at: explore.Some, processes: 1, callers: 1, local: true, tags: true, writes: 1, writer: "A"},
	{name: "tags lost", at: explore.Some, processes: 1, callers: 1, local: true, warm: true, forgotten: true, tags: true, faults: 1, kinds: "barriers evict"},
	{name: "abandoned", at: explore.Some, processes: 1, callers: 2, abandoned: true, faults: 1, kinds: "cancel"},
	{name: "batches", at: explore.Some, processes: 2, batches: 2, callers: 1},
	{name: "batch and single key", at: explore.Some, processes: 2, batches: 1, callers: 1},
	{name: "permits", at: explore.Some, processes: 2, callers: 1, limit: 1, used: 2},
	{name: "locks", at: explore.Some, processes: 2, callers: 1, nodes: 3, faults: 1, kinds: "evict"},
	{name: "real: cold", at: explore.Some, real: true, processes: 3, callers: 1},
	{name: "real: a fault", at: explore.Some, real: true, processes: 2, callers: 1, faults: 1, kinds: "repeat late evict crash"},

	{name: "three processes, two faults", at: explore.Complete, processes: 3, callers: 1, faults: 2, kinds: "fail late evict crash"},
	{name: "three processes, each fault", at: explore.Complete, processes: 3, callers: 1, faults: 1, kinds: "repeat slow pause stream close cancel error panic"},
	{name: "two processes, two faults", at: explore.Complete, processes: 2, callers: 1, faults: 2, kinds: "fail repeat late evict crash close cancel error"},
	{name: "restarts", at: explore.Complete, processes: 2, callers: 1, local: true, faults: 1, kinds: "restart stream"},
	{name: "failovers", at: explore.Complete, processes: 2, callers: 1, local: true, faults: 1, kinds: "failover"},
	{name: "deletion and failover", at: explore.Complete, processes: 1, callers: 1, local: true, writes: 1, writer: "W", faults: 1, kinds: "failover"},
	{name: "callers, each fault", at: explore.Complete, processes: 2, callers: 2, faults: 1, kinds: "crash close cancel error panic"},
	{name: "abandoned twice", at: explore.Complete, processes: 1, callers: 2, abandoned: true, faults: 2, kinds: "cancel"},
	{name: "deletion, each fault", at: explore.Complete, processes: 1, callers: 1, local: true, writes: 1, writer: "W", faults: 1, kinds: "fail repeat late evict stream restart"},
	{name: "deletion by another", at: explore.Complete, processes: 1, callers: 2, local: true, writes: 1, writer: "W"},
	{name: "deletion during reads", at: explore.Complete, processes: 1, callers: 2, warm: true, writes: 1, writer: "W"},
	{name: "deletion during reads into memory", at: explore.Complete, processes: 1, callers: 2, local: true, warm: true, forgotten: true, writes: 1, writer: "W"},
	{name: "deletion by who reads", at: explore.Complete, processes: 1, callers: 1, local: true, warm: true, forgotten: true, writes: 1, writer: "A", faults: 1, kinds: "fail repeat late stream"},
	{name: "deletion during loads", at: explore.Complete, processes: 2, callers: 1, writes: 1, writer: "A"},
	{name: "deletion by the caller, each fault", at: explore.Complete, processes: 1, callers: 1, local: true, writes: 1, writer: "A", faults: 1, kinds: "fail repeat late evict stream error panic"},
	{name: "two deletions", at: explore.Complete, processes: 1, callers: 1, writes: 2, writer: "A"},
	{name: "refresh, each fault", at: explore.Complete, processes: 2, warm: true, refreshes: 2, faults: 1, kinds: "fail repeat late evict crash error"},
	{name: "refresh and callers", at: explore.Complete, processes: 2, callers: 1, warm: true, refreshes: 1},
	{name: "refresh and deletion", at: explore.Complete, processes: 1, local: true, warm: true, refreshes: 1, writes: 1, writer: "W", faults: 1, kinds: "fail repeat late evict"},
	{name: "stale", at: explore.Complete, processes: 2, callers: 1, warm: true, stale: true, faults: 1, kinds: "fail repeat late evict crash close cancel error panic"},
	{name: "stale, deletion", at: explore.Complete, processes: 1, callers: 1, warm: true, stale: true, writes: 1, writer: "W", faults: 1, kinds: "fail late evict error"},
	{name: "stale if error", at: explore.Complete, processes: 2, callers: 1, warm: true, stale: true, ifError: true, faults: 2, kinds: "error"},
	{name: "stale if error, each fault", at: explore.Complete, processes: 2, callers: 1, warm: true, stale: true, ifError: true, faults: 1, kinds: "fail repeat late evict crash close cancel panic"},
	{name: "stale if error, deletion", at: explore.Complete, processes: 1, callers: 1, warm: true, stale: true, ifError: true, writes: 1, writer: "W", faults: 1, kinds: "error late fail"},
	{name: "stale if error, tags", at: explore.Complete, processes: 1, callers: 1, tags: true, warm: true, stale: true, ifError: true, writes: 1, writer: "W", faults: 1, kinds: "error"},
	{name: "real: stale", at: explore.Complete, real: true, processes: 2, callers: 1, warm: true, stale: true, faults: 1, kinds: "fail late error"},
	{name: "batches, a fault", at: explore.Complete, processes: 2, batches: 2, callers: 1, faults: 1, kinds: "evict cancel error panic"},
	{name: "batch and single key, each fault", at: explore.Complete, processes: 2, batches: 1, callers: 1, faults: 1, kinds: "fail repeat late evict crash close cancel error panic"},
	{name: "batches and memory", at: explore.Complete, processes: 2, batches: 2, callers: 1, local: true},
	{name: "batches of two callers", at: explore.Complete, processes: 1, batches: 1, callers: 2},
	{name: "batch, deletion", at: explore.Complete, processes: 1, batches: 1, callers: 1, local: true, writes: 1, writer: "W", faults: 1, kinds: "fail evict"},
	{name: "batches, stale", at: explore.Complete, processes: 2, batches: 2, callers: 1, warm: true, stale: true},
	{name: "batches, abandoned", at: explore.Long, processes: 1, batches: 1, callers: 2, abandoned: true, faults: 1, kinds: "cancel"},
	{name: "real: batches", at: explore.Complete, real: true, processes: 2, batches: 2, callers: 1},
	{name: "tags, deleted by another", at: explore.Complete, processes: 1, callers: 1, local: true, tags: true, writes: 1, writer: "W"},
	{name: "tags, each fault", at: explore.Complete, processes: 1, callers: 1, local: true, tags: true, writes: 1, writer: "A", faults: 1, kinds: "fail repeat late evict barriers stream restart error"},
	{name: "tags, reads into memory", at: explore.Complete, processes: 1, callers: 1, local: true, warm: true, forgotten: true, tags: true, writes: 1, writer: "W", faults: 1, kinds: "fail late evict barriers stream"},
	{name: "tags, callers", at: explore.Complete, processes: 1, callers: 2, tags: true, writes: 1, writer: "W"},
	{name: "tags, callers in memory", at: explore.Complete, processes: 1, callers: 2, local: true, tags: true, writes: 1, writer: "W", faults: 1, kinds: "barriers"},
	{name: "tags, remembered", at: explore.Complete, processes: 2, callers: 1, local: true, warm: true, tags: true, writes: 1, writer: "A"},
	{name: "tags, two writes", at: explore.Complete, processes: 1, callers: 1, local: true, tags: true, writes: 2, writer: "W"},
	{name: "clear, each fault", at: explore.Complete, processes: 1, callers: 1, local: true, tags: true, clear: true, writes: 1, writer: "A", faults: 1, kinds: "fail late barriers stream"},
	{name: "deletion of what all remember", at: explore.Complete, processes: 3, callers: 1, local: true, warm: true, writes: 1, writer: "A"},
	{name: "deletion and memories of two processes", at: explore.Complete, processes: 2, callers: 1, local: true, writes: 1, writer: "A"},
	{name: "locks, each fault", at: explore.Complete, processes: 2, callers: 1, nodes: 3, faults: 1, kinds: "late:vote lost slow expire node crash close error"},
	{name: "locks, votes lost and forgotten", at: explore.Complete, processes: 2, callers: 1, nodes: 3, faults: 2, kinds: "evict node lost:vote"},
	{name: "locks, the lease cannot be had", at: explore.Complete, processes: 2, callers: 1, nodes: 3, faults: 2, kinds: "lost:acquire"},
	{name: "permits, each fault", at: explore.Complete, processes: 2, callers: 1, limit: 1, used: 2, faults: 1, kinds: "fail late evict drop twice stream crash close cancel error panic"},
	{name: "permits, three processes", at: explore.Complete, processes: 3, callers: 1, limit: 2, used: 3},
	{name: "real: permits", at: explore.Complete, real: true, processes: 2, callers: 1, limit: 1, used: 2},
	{name: "real: tags", at: explore.Complete, real: true, processes: 1, callers: 1, local: true, tags: true, writes: 1, writer: "W"},
	{name: "real: three processes, a fault", at: explore.Complete, real: true, processes: 3, callers: 1, faults: 1, kinds: "late crash"},
	{name: "real: callers", at: explore.Complete, real: true, processes: 2, callers: 2, local: true},
	{name: "real: each fault", at: explore.Complete, real: true, processes: 2, callers: 1, faults: 1, kinds: "fail late evict restart crash close cancel error panic"},
	{name: "real: refresh", at: explore.Complete, real: true, processes: 2, warm: true, refreshes: 2, faults: 1, kinds: "fail late evict error"},
	{name: "real: deletion", at: explore.Complete, real: true, processes: 1, callers: 1, local: true, writes: 1, writer: "W"},

	{name: "three processes, two faults with retries", at: explore.Long, processes: 3, callers: 1, faults: 2, kinds: "fail repeat late evict crash"},
	{name: "three processes, three faults", at: explore.Long, processes: 3, callers: 1, faults: 3, kinds: "fail late evict crash"},
	{name: "two processes, two of each fault", at: explore.Long, processes: 2, callers: 1, faults: 2, kinds: "fail repeat late slow pause evict crash close cancel error panic"},
	{name: "callers and memory, a fault", at: explore.Long, processes: 2, callers: 2, local: true, faults: 1, kinds: "fail late crash close cancel error"},
	{name: "locks, two faults", at: explore.Long, processes: 2, callers: 1, nodes: 3, faults: 2, kinds: "evict slow node lost:vote late:vote"},
	{name: "locks, three processes", at: explore.Long, processes: 3, callers: 1, nodes: 3, faults: 1, kinds: "evict node"},
	{name: "locks, three faults", at: explore.Long, processes: 2, callers: 1, nodes: 3, faults: 3, kinds: "evict node lost:vote"},
	{name: "locks and failovers", at: explore.Long, processes: 2, callers: 1, nodes: 3, faults: 1, kinds: "fail repeat late refuse failover restart stream cancel panic"},
	{name: "stale, callers and deletion", at: explore.Long, processes: 1, callers: 2, warm: true, stale: true, writes: 1, writer: "W"},
	{name: "stale if error, callers and deletion", at: explore.Long, processes: 1, callers: 2, warm: true, stale: true, ifError: true, writes: 1, writer: "W", faults: 1, kinds: "error"},
	{name: "stale, callers, memory and deletion", at: explore.Long, processes: 1, callers: 2, local: true, warm: true, stale: true, writes: 1, writer: "W"},
	{name: "stale if error, memory and deletion", at: explore.Long, processes: 1, callers: 2, local: true, warm: true, stale: true, ifError: true, writes: 1, writer: "W", faults: 1, kinds: "error"},
	{name: "batches, crashes", at: explore.Long, processes: 2, batches: 2, callers: 1, faults: 1, kinds: "crash close"},
	{name: "batch, deletion, late commands", at: explore.Long, processes: 1, batches: 1, callers: 1, local: true, writes: 1, writer: "W", faults: 1, kinds: "late"},
	{name: "batches, lost replies", at: explore.Long, processes: 2, batches: 2, callers: 1, faults: 1, kinds: "fail"},
	{name: "batches, late commands", at: explore.Long, processes: 2, batches: 2, callers: 1, faults: 1, kinds: "late"},
	{name: "refreshes and callers", at: explore.Long, processes: 2, callers: 1, warm: true, refreshes: 2},
	{name: "refresh, deletion, a caller", at: explore.Long, processes: 1, callers: 1, warm: true, refreshes: 1, writes: 1, writer: "W"},
	{name: "deletion, memory, two processes", at: explore.Long, processes: 2, callers: 1, local: true, writes: 1, writer: "W"},
	{name: "deletion by a caller", at: explore.Long, processes: 1, callers: 2, writes: 1, writer: "A"},
	{name: "deletion by a caller, a lost reply", at: explore.Long, processes: 1, callers: 2, writes: 1, writer: "A", faults: 1, kinds: "fail:commit"},
	{name: "deletion by another, a fault", at: explore.Long, processes: 1, callers: 2, writes: 1, writer: "W", faults: 1, kinds: "fail:commit late:acquire late:commit"},
	{name: "tags, two processes", at: explore.Long, processes: 2, callers: 1, local: true, tags: true, writes: 1, writer: "W"},
	{name: "clear, two processes", at: explore.Long, processes: 2, callers: 1, local: true, tags: true, clear: true, writes: 1, writer: "A"},
	{name: "tags, remembered, each fault", at: explore.Long, processes: 2, callers: 1, local: true, warm: true, tags: true, writes: 1, writer: "A", faults: 1, kinds: "fail late evict barriers stream"},
	{name: "deletion of what all remember, a fault", at: explore.Long, processes: 3, callers: 1, local: true, warm: true, writes: 1, writer: "A", faults: 1, kinds: "stream late"},
	{name: "real: tags of two processes", at: explore.Long, real: true, processes: 2, callers: 1, local: true, tags: true, writes: 1, writer: "A"},
	{name: "real: slow and paused", at: explore.Long, real: true, processes: 2, callers: 1, faults: 1, kinds: "slow pause"},
	{name: "real: deletion during reads", at: explore.Long, real: true, processes: 1, callers: 2, warm: true, writes: 1, writer: "W"},
	{name: "real: deletion during loads", at: explore.Long, real: true, processes: 2, callers: 1, writes: 1, writer: "A"},
	{name: "real: deletion of what is remembered", at: explore.Long, real: true, processes: 2, callers: 1, local: true, warm: true, writes: 1, writer: "A"},
}

// TestExplore plays all schedules of the spaces, each in a process of its own where there is much to play.
func TestExplore(t *testing.T) {
	level := explore.At(t, explore.Some)
	here := os.Getenv("CACHE_EXPLORE_HERE") != "" // in this process
	var queue []*apart
	for i := range spaces {
		sp := &spaces[i]
		if sp.at > level {
			continue
		}
		t.Run(strings.ReplaceAll(sp.name, " ", "-"), func(t *testing.T) {
			if here || sp.at == explore.Some {
				exploreSpace(t, sp)
				return
			}
			a := newApart(t)
			queue = append(queue, a)
			t.Parallel() // which waits for the end of TestExplore
			a.report(t)
		})
	}
	runApart(queue) // those that take longest come first
}

// runApart starts as many as there are processors, in this order.
func runApart(queue []*apart) {
	todo := make(chan *apart, len(queue))
	for _, a := range queue {
		todo <- a
	}
	close(todo)
	for range runtime.NumCPU() {
		go func() {
			for a := range todo {
				a.out, a.err = a.cmd.CombinedOutput()
				close(a.done)
			}
		}()
	}
}

// apart is a test that runs in a process of its own: one that uses one processor and collects little garbage plays twice
// as much.
type apart struct {
	cmd  *exec.Cmd
	done chan struct{}
	out  []byte
	err  error
}

func newApart(t *testing.T) *apart {
	timeout := time.Duration(0)
	if deadline, ok := t.Deadline(); ok {
		timeout = time.Until(deadline)
	}
	a := &apart{done: make(chan struct{})}
	a.cmd = exec.Command(os.Args[0], "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v",
		"-test.timeout="+timeout.String())
	a.cmd.Env = append(os.Environ(), "CACHE_EXPLORE_HERE=1", "GOMAXPROCS=1", "GOGC=1000")
	return a
}

// report waits for its end, and returns how often each kind of fault has happened.
func (a *apart) report(t *testing.T) map[string]int {
	t.Helper()
	<-a.done
	if a.err != nil {
		t.Fatalf("%v\n%s", a.err, a.out)
	}
	explored := false
	seen := map[string]int{}
	for line := range strings.Lines(string(a.out)) {
		if _, numbers, ok := strings.Cut(line, "explored: "); ok {
			t.Log(strings.TrimSpace(numbers))
			explored = true
			words := strings.Split(numbers, "; ")
			for word := range strings.SplitSeq(strings.TrimSpace(words[len(words)-1]), ", ") {
				kind, text, _ := strings.Cut(word, " ")
				seen[kind], _ = strconv.Atoi(text)
			}
		}
	}
	if !explored {
		t.Errorf("nothing was explored:\n%s", a.out)
	}
	return seen
}

// count adds to the file that CACHE_COUNTS names how many schedules were played to their end.
func count(t *testing.T, where, what string, n int) {
	name := os.Getenv("CACHE_COUNTS")
	if name == "" {
		return
	}
	if lab.Race {
		where += " with -race"
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(f, "%s\t%s\t%d\n", where, what, n)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func exploreSpace(t *testing.T, sp *space) {
	seen := map[string]int{}
	began := time.Now()
	x := explore.Search{Play: func(s *explore.Schedule) { runTrial(t, sp, s, nil, seen) }}
	r := x.Run()
	took := time.Since(began).Seconds()
	t.Logf("explored: %d states, %d schedules, %d ended early, %d checked, %d choices at most; %.1f s, %.0f/s; %s",
		r.States, r.Schedules, r.Pruned, r.Checked, r.Depth, took, float64(r.Plays())/took, counts(seen))
	if r.Failure != "" {
		t.Error(r.Failure)
		return
	}
	where := "in memory"
	if sp.real {
		where = "with go-redis and Lua"
	}
	count(t, where, "spaces", r.Schedules)
	for _, f := range sp.can() {
		if seen[f.kind] == 0 {
			t.Errorf("%s has never happened", f.kind)
		}
	}
}

func counts(seen map[string]int) string {
	var words []string
	for _, kind := range slices.Sorted(maps.Keys(seen)) {
		words = append(words, fmt.Sprintf("%s %d", kind, seen[kind]))
	}
	return strings.Join(words, ", ")
}
