package model

import (
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/explore"
)

func TestTags(t *testing.T) {
	level := explore.At(t, explore.Some)
	var seen [256]int
	for _, c := range []struct {
		level explore.Level
		name  string
		tags  Tags
	}{
		{explore.Some, "2 processes", Tags{Processes: 2, Callers: 1, Calls: 1, Writes: 1}},
		{explore.Some, "joins", Tags{Processes: 1, Callers: 2, Calls: 1, Writes: 1, Faults: 1}},
		{explore.Complete, "3 faults", Tags{Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 3}},
		{explore.Complete, "joins in both", Tags{Processes: 2, Callers: 2, Calls: 1, Writes: 1}},
		{explore.Complete, "3 processes", Tags{Processes: 3, Callers: 1, Calls: 1, Writes: 1}},
		{explore.Long, "3 processes, a fault", Tags{Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 1}},
		{explore.Long, "joins in both, a fault", Tags{Processes: 2, Callers: 2, Calls: 1, Writes: 1, Faults: 1}},
		{explore.Long, "3 processes, 2 writes", Tags{Processes: 3, Callers: 1, Calls: 1, Writes: 2}},
		{explore.Long, "2 writes, call after call, a fault", Tags{Processes: 2, Callers: 1, Calls: 2, Writes: 2, Faults: 1}},
	} {
		if c.level > level {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			r := Explore[TagState](&c.tags, 0, most)
			t.Logf("%v, %.1fs", r, time.Since(began).Seconds())
			if r.Broken != 0 || !r.Complete {
				t.Errorf("%v: %v", r.Broken, r.Traces)
			}
			for a := range seen {
				seen[a] += r.Seen[a]
			}
		})
	}
	for _, a := range []Act{
		callBegins, callJoins, memoryHit, goesRound, readHits, readMisses, answerArrives, loads, commitStores,
		commitRejected, storedArrives, storedArrives | notKept, rejectedArrives, deletionArrives, streamReturns,
		originChanges, setsBarrier, publishes, deleteReturns, barrierEvicted, barrierForgotten, restarts, streamLost,
	} {
		if seen[a] == 0 && !t.Failed() {
			t.Errorf("%v is never seen", a)
		}
	}
}

func TestTagVariants(t *testing.T) {
	explore.At(t, explore.Some)
	calls := Tags{Processes: 2, Callers: 1, Calls: 1, Writes: 1}
	joins := Tags{Processes: 2, Callers: 2, Calls: 1, Writes: 1}
	for _, c := range []struct {
		name   string
		v      TagVariant
		bounds Tags
		faults int
		want   Invariant
	}{
		{"missing barrier counts as valid", TagVariant{MissingIsValid: true}, calls, 1, StaleStored | StaleRead},
		{"stamp after the load", TagVariant{StampAfterLoad: true}, calls, 0, StaleStored | StaleRead},
		{"barrier not looked at after the load", TagVariant{LoadUnchecked: true}, joins, 0, StaleRead},
		{"value for calls after that look", TagVariant{LateCallsToo: true}, joins, 0, StaleRead},
		{"loss and return of the stream ignored", TagVariant{LossIgnored: true}, calls, 1, StaleMemory},
		{"memory kept when a barrier is forgotten", TagVariant{ForgettingIgnored: true}, calls, 1, StaleMemory},
		{"flights keep filling then", TagVariant{EpochIgnored: true}, calls, 1, StaleMemory},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.bounds.Variant, c.bounds.Faults = c.v, c.faults
			r := Explore[TagState](&c.bounds, c.want, 2_000_000)
			t.Log(r)
			if r.Broken&c.want != c.want {
				t.Errorf("not found: %v", c.want&^r.Broken)
			}
			for v, trace := range r.Traces {
				t.Logf("%v after %d states, %d steps: %s", v, r.FoundAfter[v], r.Lengths[v], trace)
			}
		})
	}
}
