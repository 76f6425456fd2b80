package model

import (
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/explore"
)

const (
	// withoutMessages is what can go wrong where nobody listens.
	withoutMessages = AllButFailover &^ StreamLost
	answers         = RequestLost | ReplyLost | Late
)

// configurations are explored completely. What each has in it cannot all be had at once: the number of states is the
// product.
var configurations = []struct {
	level  explore.Level
	name   string
	bounds Bounds
}{
	// The record: takeovers, ghosts, loads alone. Processes keep nothing, and one call at a time.
	{explore.Some, "lease", Bounds{
		Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: withoutMessages, Failures: 1,
	}},
	{explore.Complete, "lease: 3 faults, 2 writes", Bounds{
		Processes: 3, Callers: 1, Calls: 1, Writes: 2, Faults: 3, Kinds: withoutMessages,
	}},
	{explore.Complete, "lease: failed loads", Bounds{
		Processes: 3, Callers: 1, Calls: 1, Writes: 2, Faults: 2, Kinds: withoutMessages, Failures: 1,
	}},
	{explore.Complete, "lease: call after call", Bounds{
		Processes: 2, Callers: 1, Calls: 2, Writes: 2, Faults: 2, Kinds: withoutMessages, Failures: 1,
	}},
	{explore.Long, "lease: all", Bounds{
		Processes: 3, Callers: 1, Calls: 1, Writes: 2, Faults: 3, Kinds: withoutMessages, Failures: 2,
	}},
	{explore.Long, "lease: 3 processes, call after call", Bounds{
		Processes: 3, Callers: 1, Calls: 2, Writes: 1, Faults: 3, Kinds: withoutMessages,
	}},

	// Memory: fills race with deletions, in the process that deletes and in others.
	{explore.Some, "memory", Bounds{Processes: 2, Callers: 1, Calls: 2, Writes: 1, Memory: true}},
	{explore.Some, "memory: a fault", Bounds{
		Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: AllButFailover, Memory: true,
	}},
	{explore.Complete, "memory: 3 processes", Bounds{
		Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: AllButFailover, Memory: true,
	}},
	{explore.Complete, "memory: 2 writes", Bounds{Processes: 3, Callers: 1, Calls: 1, Writes: 2, Memory: true}},
	{explore.Complete, "memory: 3 faults", Bounds{
		Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 3, Kinds: AllButFailover, Memory: true,
	}},
	{explore.Complete, "memory: call after call", Bounds{
		Processes: 2, Callers: 1, Calls: 2, Writes: 1, Faults: 2, Kinds: AllButFailover, Memory: true, Outside: true,
	}},
	{explore.Long, "memory: 2 faults", Bounds{
		Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 2, Kinds: AllButFailover, Memory: true,
	}},
	{explore.Long, "memory: 2 writes, a fault", Bounds{
		Processes: 3, Callers: 1, Calls: 1, Writes: 2, Faults: 1, Kinds: AllButFailover, Memory: true, Outside: true,
	}},

	// Flights that calls join, and that deletions make them forget.
	{explore.Some, "joins", Bounds{
		Processes: 1, Callers: 2, Calls: 1, Writes: 1, Faults: 1, Kinds: answers, Memory: true,
	}},
	{explore.Complete, "joins: 2 processes", Bounds{
		Processes: 2, Callers: 2, Joined: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: AllButFailover, Memory: true,
	}},
	{explore.Complete, "joins: 3 processes", Bounds{
		Processes: 3, Callers: 2, Joined: 1, Calls: 1, Writes: 1, Memory: true,
	}},
	{explore.Complete, "joins: call after call", Bounds{
		Processes: 1, Callers: 2, Calls: 2, Writes: 2, Faults: 1, Kinds: AllButFailover, Memory: true,
	}},
	{explore.Complete, "joins: 2 writes", Bounds{
		Processes: 2, Callers: 2, Joined: 1, Calls: 1, Writes: 2, Memory: true,
	}},
	{explore.Long, "joins: 2 faults", Bounds{
		Processes: 2, Callers: 2, Joined: 1, Calls: 1, Writes: 1, Faults: 2, Kinds: Late | StreamLost | LeaseEnds,
		Memory: true, Outside: true,
	}},
	{explore.Complete, "joins: in both", Bounds{Processes: 2, Callers: 2, Calls: 1, Writes: 1, Memory: true}},

	// Wake-ups: in flight, late, for another holder.
	{explore.Some, "wake-ups", Bounds{
		Processes: 2, Callers: 1, Calls: 2, Writes: 1, Memory: true, Wakes: true, Failures: 1,
	}},
	{explore.Complete, "wake-ups: 2 faults", Bounds{
		Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 2, Kinds: AllButFailover, Wakes: true,
	}},
	{explore.Complete, "wake-ups: memory", Bounds{
		Processes: 2, Callers: 1, Calls: 2, Writes: 1, Faults: 1, Kinds: AllButFailover, Memory: true, Wakes: true,
	}},
	{explore.Long, "wake-ups: 3 faults", Bounds{
		Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 3, Kinds: AllButFailover, Wakes: true,
	}},
	{explore.Long, "wake-ups: memory, 3 processes", Bounds{
		Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: AllButFailover, Memory: true, Wakes: true,
	}},

	// Refresh of a value that is there.
	{explore.Some, "refresh", Bounds{
		Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 1,
		Kinds: withoutMessages, Refresh: true, Endings: 1, Failures: 1,
	}},
	{explore.Complete, "refresh: 3 processes", Bounds{
		Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 2,
		Kinds: withoutMessages, Refresh: true, Endings: 1, Failures: 1,
	}},
	{explore.Complete, "refresh: memory", Bounds{
		Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 1,
		Kinds: AllButFailover, Refresh: true, Endings: 1, Memory: true,
	}},
	{explore.Long, "refresh: 3 faults", Bounds{
		Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 3, Kinds: withoutMessages, Refresh: true, Endings: 2,
	}},

	// Failover to a replica that lags. P4 is not promised until what it brought back has passed; the rest is.
	{explore.Some, "failover", Bounds{Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: Failover}},
	{explore.Complete, "failover: 2 faults", Bounds{
		Processes: 2, Callers: 1, Calls: 2, Writes: 1, Faults: 2, Kinds: withoutMessages | Failover,
	}},
	{explore.Complete, "failover: memory", Bounds{
		Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: AllButFailover | Failover, Memory: true,
	}},
	{explore.Long, "failover: 3 processes, 3 faults", Bounds{
		Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 3, Kinds: withoutMessages | Failover,
	}},
}

// most is more states than any configuration has. They take about 1 GB.
const most = 12_000_000

func TestProtocol(t *testing.T) {
	level := explore.At(t, explore.Some)
	var seen [acts]int
	for _, c := range configurations {
		if c.level > level {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			p := &Protocol{Bounds: c.bounds}
			began := time.Now()
			r := Explore[State](p, 0, most)
			t.Logf("%v, %.1fs", r, time.Since(began).Seconds())
			if r.Broken != 0 || !r.Complete {
				t.Errorf("%v: %v", r.Broken, r.Traces)
			}
			for kind, some := range faultActs {
				n := 0
				for _, a := range some {
					n += r.Seen[a]
				}
				if enabled := c.bounds.Kinds&kind != 0 && c.bounds.Faults > 0; enabled != (n > 0) {
					t.Errorf("%v enabled: %v, seen: %d", some, enabled, n)
				}
			}
			for a := range seen {
				seen[a] += r.Seen[a] + r.Seen[Act(a)|notKept]
			}
		})
	}
	if t.Failed() {
		return
	}
	for a := callBegins; a <= latelyUnlinks; a++ {
		if seen[a] == 0 && !neverSeen[a] {
			t.Errorf("%v is never seen", a)
		}
	}
}

// faultActs is how each kind of fault shows.
var faultActs = map[Fault][]Act{
	RequestLost: {readLost, acquireLost, commitLost, abortLost},
	ReplyLost:   {acquireUnanswered, commitUnanswered, unlinkUnanswered},
	Late:        {acquireDelayed, acquireRepeated, commitDelayed, commitRepeated, abortDelayed, unlinkRepeated},
	LeaseEnds:   {leaseEnds},
	Restart:     {restarts},
	Eviction:    {evicted},
	Crash:       {crashes},
	StreamLost:  {streamLost},
	Impatience:  {givesUp},
	Failover:    {failsOver},
}

// neverSeen are marks, and a wake-up that nobody waits for: it is forgotten before it arrives, see Protocol.forget.
var neverSeen = map[Act]bool{firstFault: true, lastFault: true, wakeLate: true}

// TestSchedulesEnd looks whether every order of steps comes to an end, so that no call can wait for ever.
func TestSchedulesEnd(t *testing.T) {
	explore.At(t, explore.Some)
	for _, c := range []struct {
		name   string
		bounds Bounds
	}{
		{"lease", Bounds{
			Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: withoutMessages, Failures: 1,
		}},
		{"memory, wake-ups", Bounds{Processes: 2, Callers: 1, Calls: 2, Writes: 1, Memory: true, Wakes: true}},
		{"joins", Bounds{Processes: 1, Callers: 2, Calls: 1, Writes: 1, Memory: true}},
		{"refresh", Bounds{Processes: 2, Callers: 1, Calls: 1, Refresh: true, Endings: 1, Failures: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, finite := Schedules[State](&Protocol{Bounds: c.bounds}, 100_000)
			t.Logf("%.3g schedules", n)
			if !finite {
				t.Error("one goes on for ever")
			}
		})
	}
}

// TestFailover looks whether the exemption from P4 is needed: without it both of its halves are broken.
func TestFailover(t *testing.T) {
	explore.At(t, explore.Some)
	p := &Protocol{
		Bounds:      Bounds{Processes: 2, Callers: 1, Calls: 2, Writes: 1, Faults: 1, Kinds: Failover},
		NoExemption: true,
	}
	r := Explore[State](p, StaleStored|StaleRead, most)
	t.Logf("%v: %v", r, r.Traces)
	if r.Broken != StaleStored|StaleRead {
		t.Error("want both found")
	}
}

// TestReductions looks whether what is said to be alike leads to the same verdicts: processes and callers that change
// places, what is forgotten because it can have no consequences, and steps that are taken together.
func TestReductions(t *testing.T) {
	explore.At(t, explore.Some)
	broken := Bounds{Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: RequestLost | Late | Crash}
	for _, c := range []struct {
		name    string
		bounds  Bounds
		variant Variant
	}{
		{name: "lease", bounds: Bounds{Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: answers}},
		{name: "memory", bounds: Bounds{Processes: 2, Callers: 1, Calls: 1, Writes: 1, Memory: true}},
		{name: "joins", bounds: Bounds{Processes: 1, Callers: 2, Calls: 1, Writes: 1, Memory: true}},
		{name: "COMMIT without fence", bounds: broken, variant: Variant{CommitOwnerOnly: true}},
		{name: "load alone stores", bounds: broken, variant: Variant{AloneStores: true}},
		{name: "lease never ends", bounds: broken, variant: Variant{LeaseNeverEnds: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var want Invariant
			for i, p := range []Protocol{
				{NoReduction: true}, {}, {Bounds: Bounds{Fine: true}},
			} {
				fine := p.Bounds.Fine
				p.Bounds, p.Variant = c.bounds, c.variant
				p.Bounds.Fine = fine
				r := Explore[State](&p, 0, most)
				t.Logf("reduced %v, fine steps %v: %v", !p.NoReduction, fine, r)
				if i == 0 {
					want = r.Broken
				}
				if r.Broken != want || !r.Complete {
					t.Errorf("want %v", want)
				}
			}
		})
	}
}
