package main

import (
	"fmt"
	"io"
	"math"
	"time"
)

// A model of a large fleet: what meets Redis and the origin, and what saturates first. Costs are microseconds of one thread of
// Redis, as this program measures them ("us of Redis"; docs/benchmarks.md), and for messages docs/invalidation.md.

const (
	costRead     = 7.0  // in a round trip of its own, of a server that is busy
	costGathered = 1.0  // in one of 32
	costLoad     = 30.0 // ACQUIRE and COMMIT
	costWait     = 19.0 // of a process for a load of another: a read, and ACQUIRE
	costMessage  = 9.0  // to one process, when it is alone
	perMessage   = 50.0 // deletions in one, where one process deletes many
)

// site is a fleet and what it is asked.
type site struct {
	note       string
	processes  float64
	keys       int
	requests   float64 // per second in all, Zipf 1.0
	ttl, local time.Duration
	entries    int     // LocalEntries
	load       float64 // seconds
	deletions  float64 // per second in all
	near       float64 // processes among which a balancer spreads a key; 0: all
}

// demand is what comes of it, per second.
type demand struct {
	inMemory         float64 // share of the requests
	reads, loads     float64
	waits            float64 // of processes for a load of another
	redisAlone       float64 // threads of Redis, if nothing is gathered
	redisGathered    float64
	messages         float64 // threads of Redis, each deletion in one of its own
	messagesTogether float64
}

func (s site) demand() (d demand) {
	sum := 0.0
	for i := 1; i <= s.keys; i++ {
		sum += 1 / float64(i)
	}
	processes := s.processes
	if s.near > 0 {
		processes = min(s.near, processes)
	}
	room := float64(s.entries) * s.processes / processes // keys that the memories of those have room for
	for i := 1; i <= s.keys; i++ {
		rate := s.requests / float64(i) / sum
		each := rate / processes
		missed := 1.0
		if float64(i) <= room {
			missed = 1 / (1 + each*s.local.Seconds())
		}
		loads := rate * missed / (1 + rate*missed*s.ttl.Seconds())
		d.inMemory += rate * (1 - missed)
		d.reads += rate * missed
		d.loads += loads
		// Those that ask while it is loaded find nothing either.
		d.waits += loads * processes * (1 - math.Exp(-each*missed*s.load))
	}
	d.inMemory /= s.requests
	work := d.loads*costLoad + d.waits*(costWait+costMessage)
	d.redisAlone = (d.reads*costRead + work) / 1e6
	d.redisGathered = (d.reads*costGathered + work) / 1e6
	d.messages = s.deletions * s.processes * costMessage / 1e6
	d.messagesTogether = d.messages / perMessage
	return d
}

// model prints the table of docs/capacity.md.
func model(w io.Writer) {
	usual := site{processes: 1000, keys: 1e6, requests: 1e6, ttl: time.Minute, local: time.Minute, entries: 10_000, load: 0.05, deletions: 1000}
	with := func(note string, change func(*site)) site {
		s := usual
		s.note = note
		change(&s)
		return s
	}
	fmt.Fprintln(w, "| | in memory | reads/s | loads/s | waits/s | threads of Redis | if reads gather | for deletions | by one process |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, s := range []site{
		with("10 processes, 10,000 keys, 10,000 requests/s, 10 deletions/s", func(s *site) { s.processes, s.keys, s.requests, s.deletions = 10, 1e4, 1e4, 10 }),
		with("100 processes, 100,000 keys, 100,000 requests/s, 100 deletions/s", func(s *site) { s.processes, s.keys, s.requests, s.deletions = 100, 1e5, 1e5, 100 }),
		with("1,000 processes, 1e6 keys, 1e6 requests/s, 1,000 deletions/s", func(*site) {}),
		with("the same, no memory (`LocalTTL: -1`)", func(s *site) { s.entries = 0 }),
		with("`LocalEntries` 100,000", func(s *site) { s.entries = 100_000 }),
		with("`TTL` 10 min", func(s *site) { s.ttl = 10 * time.Minute }),
		with("`TTL` 10 min, `LocalTTL` 10 min, `LocalEntries` 100,000", func(s *site) { s.ttl, s.local, s.entries = 10*time.Minute, 10*time.Minute, 100_000 }),
		with("a balancer that gives a key to 10 of the processes", func(s *site) { s.near = 10 }),
		with("1e7 requests/s", func(s *site) { s.requests = 1e7 }),
	} {
		d := s.demand()
		fmt.Fprintf(w, "| %s | %.0f %% | %s | %s | %s | %.2f | %.2f | %.2f | %.2f |\n", s.note, 100*d.inMemory,
			round(d.reads), round(d.loads), round(d.waits), d.redisAlone, d.redisGathered, d.messages, d.messagesTogether)
	}
}

// round leaves three digits that count.
func round(x float64) string {
	p := math.Pow(10, max(math.Floor(math.Log10(max(x, 1)))-2, 0))
	return fmt.Sprintf("%.0f", math.Round(x/p)*p)
}
