package faults

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// plan is a fleet and what happens to it, decided by where it plays and a seed.
type plan struct {
	where   string // one of wheres
	seed    uint64
	lasts   time.Duration // faults begin until then
	workers []job         // their names, protocols and memories
	faults  []fault
}

// fault is something that goes wrong at a time after the start, and for how long.
type fault struct {
	at, lasts time.Duration
	kind      string
	process   int // -1: it is not about a process
	node      int // of those that it is about, modulo their number; -1: of all
	amount    time.Duration
	count     int
}

// Kinds of faults. Those of the server follow one another, and so do the others: at most two are there at a time.
var (
	ofServer = []string{
		"kill -9, restart empty", "kill -9, restart with an old snapshot", "SIGSTOP", "DEBUG SLEEP", "SCRIPT FLUSH",
		"FLUSHALL", "CLIENT KILL", "clock jumps", "out of memory", "read-only", "garbage under keys",
	}
	ofNetwork = []string{
		"connections cut", "unreachable", "half-open connections", "latency", "1-byte reads", "replies lost",
		"replies repeated",
	}
	ofProcess = []string{"process SIGSTOP", "process kill -9"}

	ofAny     = []string{"SCRIPT FLUSH", "FLUSHALL", "CLIENT KILL", "out of memory"}
	ofCluster = append([]string{
		"master killed", "master killed, replica lags", "master SIGSTOP", "CLUSTER FAILOVER", "replica killed",
		"slots migrate", "slots migrate", "slots migrate",
	}, ofAny...)
	ofSentinel = append([]string{
		"master killed", "master killed, replica lags", "master SIGSTOP", "SENTINEL FAILOVER", "replica killed", "sentinel killed",
	}, ofAny...)
	ofRing = append([]string{"shard killed", "shard SIGSTOP"}, ofAny...)
)

// Where plans play, and the kinds of faults there.
var (
	wheres  = []string{"one", "cluster", "sentinel", "ring"}
	ofWhere = map[string][]string{"one": ofServer, "cluster": ofCluster, "sentinel": ofSentinel, "ring": ofRing}
)

const planFirst = 300 * time.Millisecond

// newPlan makes the plan of a seed.
func newPlan(where string, seed uint64) *plan {
	rng := rand.New(rand.NewPCG(seed, uint64(slices.Index(wheres, where))))
	p := &plan{where: where, seed: seed, lasts: 3 * time.Second}
	ttl := []time.Duration{time.Second, time.Minute}[rng.IntN(2)]
	for i := range 3 {
		p.workers = append(p.workers, job{
			Where: where, Seed: seed, Name: i, Protocol: 2 + rng.IntN(2), TTL: ttl, Abandon: rng.IntN(4) == 0,
			Tags:     seed%2 == 0,
			Stale:    seed%3 == 0,
			LocalTTL: []time.Duration{-1, -1, 400 * time.Millisecond, ttl}[rng.IntN(4)],
		})
	}
	if where == "cluster" && seed%5 == 0 {
		for i := range p.workers {
			w := &p.workers[i]
			w.Replicas, w.LocalTTL = true, min(w.LocalTTL, 400*time.Millisecond)
		}
	}
	others := slices.Concat(ofNetwork, ofNetwork, ofProcess)
	if where == "one" {
		p.track(rng, ofServer, 50*time.Millisecond, 400*time.Millisecond)
		p.track(rng, others, 50*time.Millisecond, 400*time.Millisecond)
		return p
	}
	p.lasts = 15 * time.Second
	if where == "ring" && seed%3 > 0 { // see fleet.later
		others = slices.DeleteFunc(others, func(kind string) bool { return kind == "half-open connections" })
	}
	p.track(rng, ofWhere[where], time.Second, 2*time.Second)
	p.track(rng, others, 50*time.Millisecond, 1500*time.Millisecond)
	return p
}

// track adds faults that follow one another, with pauses between them.
func (p *plan) track(rng *rand.Rand, kinds []string, least, most time.Duration) {
	between := func(from, to time.Duration) time.Duration {
		return (from + time.Duration(rng.Int64N(int64(to-from)))).Truncate(time.Millisecond)
	}
	for at := between(planFirst, 2*planFirst); at < p.lasts; at += between(least, most) {
		f := fault{at: at, kind: kinds[rng.IntN(len(kinds))], process: -1, node: -1}
		switch f.kind {
		case "kill -9, restart empty", "kill -9, restart with an old snapshot":
			f.lasts = between(time.Millisecond, 600*time.Millisecond)
		case "SIGSTOP", "process SIGSTOP":
			f.lasts = between(10*time.Millisecond, 3*lease)
		case "DEBUG SLEEP":
			f.lasts = between(10*time.Millisecond, 2*lease)
		case "clock jumps":
			f.amount = []time.Duration{
				time.Hour, -time.Hour, 10 * time.Second, -10 * time.Second, 200 * time.Millisecond, -200 * time.Millisecond, 0,
			}[rng.IntN(7)]
		case "master SIGSTOP", "shard SIGSTOP":
			f.lasts = between(10*time.Millisecond, 2*down)
		case "shard killed", "replica killed", "sentinel killed":
			f.lasts = between(time.Millisecond, 2*down)
		case "master killed, replica lags":
			f.amount = between(10*time.Millisecond, 600*time.Millisecond)
		case "unreachable", "out of memory", "read-only", "1-byte reads":
			f.lasts = between(10*time.Millisecond, 600*time.Millisecond)
		case "latency":
			f.lasts = between(100*time.Millisecond, 600*time.Millisecond)
			f.amount = between(time.Millisecond, 80*time.Millisecond)
		case "replies lost", "replies repeated":
			f.count = 1 + rng.IntN(4)
		case "garbage under keys":
			f.count = 1 + rng.IntN(hotKeys)
		}
		if !slices.Contains(ofWhere[p.where], f.kind) {
			f.process = rng.IntN(len(p.workers))
		}
		if p.where != "one" && (f.process < 0 || rng.IntN(2) == 0) {
			f.node = rng.IntN(1000)
		}
		p.faults = append(p.faults, f)
		at += f.lasts
	}
	slices.SortStableFunc(p.faults, func(a, b fault) int { return cmp.Compare(a.at, b.at) })
}

// name is what CACHE_FAULTS has for it.
func (p *plan) name() string {
	if p.where == "one" {
		return fmt.Sprint(p.seed)
	}
	return fmt.Sprintf("%s:%d", p.where, p.seed)
}

func (p *plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "plan %s: TTL %v,", p.name(), p.workers[0].TTL)
	if p.workers[0].Stale {
		b.WriteString(" stale values are served,")
	}
	if p.workers[0].Replicas {
		b.WriteString(" replicas are read,")
	}
	for _, w := range p.workers {
		memory := "no memory"
		if w.LocalTTL > 0 {
			memory = "memory " + w.LocalTTL.String()
		}
		fmt.Fprintf(&b, " process %c (RESP%d, %s)", 'A'+w.Name, w.Protocol, memory)
	}
	for _, f := range p.faults {
		fmt.Fprintf(&b, "\n  %7v  ", f.at)
		if f.process >= 0 {
			fmt.Fprintf(&b, "%c: ", 'A'+f.process)
		}
		b.WriteString(f.kind)
		if f.node >= 0 {
			fmt.Fprintf(&b, " [%d]", f.node)
		}
		if f.amount != 0 {
			fmt.Fprintf(&b, " %v", f.amount)
		}
		if f.count != 0 {
			fmt.Fprintf(&b, " (%d)", f.count)
		}
		if f.lasts != 0 {
			fmt.Fprintf(&b, " for %v", f.lasts)
		}
	}
	return b.String()
}
