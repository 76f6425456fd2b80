package model

import (
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/explore"
)

// TestVariants drops one rule after the other, and looks whether that is found. A checker that finds nothing in these
// would find nothing in ours.
func TestVariants(t *testing.T) {
	explore.At(t, explore.Some)
	lease := Bounds{Processes: 2, Callers: 1, Calls: 2, Writes: 1, Faults: 1, Kinds: AllButFailover}
	memory := Bounds{Processes: 2, Callers: 1, Calls: 2, Writes: 1, Memory: true}
	joins := Bounds{Processes: 1, Callers: 2, Calls: 2, Writes: 1, Memory: true}
	with := func(b Bounds, changes ...func(*Bounds)) Bounds {
		for _, change := range changes {
			change(&b)
		}
		return b
	}
	fine := func(b *Bounds) { b.Fine = true }
	faults := func(n int, kinds Fault) func(*Bounds) {
		return func(b *Bounds) { b.Faults, b.Kinds = n, kinds }
	}
	for _, c := range []struct {
		name   string
		v      Variant
		bounds Bounds
		want   Invariant // all of it is found
	}{
		// Protocols that look as good, and are in use.
		{
			"GET, SETNX, load, SET, DEL",
			Variant{SplitLock: true, CommitBlind: true, ReleaseApart: true, ReleaseBlind: true, DeleteLeavesLease: true},
			with(lease, fine, faults(1, LeaseEnds)), NeedlessLoad | StaleStored | Overwritten,
		},
		{
			"release by compare-and-delete, blind SET",
			Variant{SplitLock: true, CommitBlind: true, ReleaseApart: true, DeleteLeavesLease: true},
			with(lease, fine, faults(1, LeaseEnds)), NeedlessLoad | StaleStored | Overwritten,
		},
		{
			"token, deletion of the value only",
			Variant{SplitLock: true, DeleteLeavesLease: true},
			with(lease, fine, faults(0, 0)), StaleStored | StaleRead,
		},
		{
			"token, deletion of value and lock, GET and lock apart",
			Variant{SplitLock: true},
			with(lease, fine, faults(0, 0)), NeedlessLoad,
		},
		{
			"generation counter, loads without lease may store",
			Variant{CommitByCount: true, AloneStores: true, DeleteLeavesLease: true},
			with(lease, faults(2, Restart|Impatience)), StaleStored | Overwritten,
		},
		{
			"lease, loads without one also SET",
			Variant{AloneStores: true},
			with(lease, faults(1, RequestLost)), StaleStored | Overwritten,
		},

		// Ours, without one of its rules. The record:
		{"COMMIT without token", Variant{CommitBlind: true}, with(lease, faults(1, LeaseEnds)), StaleStored | Overwritten},
		{"COMMIT without fence", Variant{CommitOwnerOnly: true}, with(lease, faults(1, Late)), StaleStored},
		{"ABORT without token", Variant{AbortBlind: true}, with(lease, func(b *Bounds) { b.Failures = 1 }), LeaseBroken},
		{"Delete leaves the lease", Variant{DeleteLeavesLease: true}, with(lease, faults(0, 0)), StaleStored | StaleRead},
		{
			"refresh does not stretch the life",
			Variant{NoStretch: true},
			with(lease, func(b *Bounds) { b.Refresh, b.Endings, b.Faults, b.Writes = true, 1, 0, 0 }), TooManyLoads,
		},
		{"lease never ends", Variant{LeaseNeverEnds: true}, with(lease, faults(1, Crash)), Stuck | Wedged},
		{
			"takeover deletes",
			Variant{TakeoverDeletes: true},
			Bounds{Processes: 3, Callers: 1, Calls: 1, Faults: 1, Kinds: Crash},
			LeaseBroken | TooManyLoads,
		},
		{"load alone stores", Variant{AloneStores: true}, with(lease, faults(1, RequestLost)), StaleStored},
		{
			"load from before WON is stored",
			Variant{LateLoadCommits: true},
			with(lease, faults(1, Late|RequestLost)), StaleStored,
		},

		// Who may have what:
		{
			"rejected value for everybody",
			Variant{RejectedForAll: true},
			Bounds{Processes: 2, Callers: 2, Joined: 1, Calls: 1, Writes: 1},
			StaleRead,
		},
		{
			"stored value for everybody",
			Variant{StoredForAll: true},
			Bounds{Processes: 2, Callers: 2, Joined: 1, Calls: 1, Writes: 1},
			StaleRead,
		},
		{
			"value that was read for everybody",
			Variant{AnswerForAll: true},
			Bounds{Processes: 2, Callers: 2, Joined: 1, Calls: 2, Writes: 1},
			StaleRead,
		},
		{
			"value that was loaded alone for everybody",
			Variant{AloneForAll: true},
			Bounds{Processes: 2, Callers: 2, Joined: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: RequestLost},
			StaleRead,
		},
		{
			"Delete forgets no flights, rejected value for everybody",
			Variant{DeleteForgetsNothing: true, RejectedForAll: true},
			joins, StaleRead,
		},
		{"Delete bumps only before", Variant{BumpOnlyBefore: true}, memory, StaleMemory},
		{"Delete answers before it publishes", Variant{AnswersBeforePublish: true}, memory, StaleMemory},
		{"fill without epoch", Variant{FillUnchecked: true}, memory, StaleMemory},

		// Messages:
		{
			"wake-up for another holder",
			Variant{WakeAnyOwner: true},
			with(memory, func(b *Bounds) { b.Wakes = true }), StaleRead,
		},
		{
			// A client sends ACQUIRE again, and the first copy is executed after the commit and a deletion: the owner has
			// a second lease, and the wake-up of the first brings its value to who waits for the second.
			"wake-up for another tenure",
			Variant{WakeOwnerOnly: true},
			Bounds{Processes: 2, Callers: 1, Calls: 2, Writes: 1, Wakes: true, Faults: 1, Kinds: Late},
			StaleRead,
		},
		{
			"wake-up with a late epoch",
			Variant{WakeEpochLate: true},
			with(memory, func(b *Bounds) { b.Wakes = true }), StaleMemory,
		},
		{
			"loss and return of the stream ignored",
			Variant{LossIgnored: true, ReturnIgnored: true},
			with(memory, faults(1, StreamLost)), StaleMemory,
		},
		{"return of the stream ignored", Variant{ReturnIgnored: true}, with(memory, faults(1, StreamLost)), StaleMemory},
	} {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			r := Explore[State](&Protocol{Bounds: c.bounds, Variant: c.v}, c.want, 2_000_000)
			t.Logf("%v, %.2fs", r, time.Since(began).Seconds())
			if r.Broken&c.want != c.want {
				t.Errorf("not found: %v", c.want&^r.Broken)
			}
			for v, trace := range r.Traces {
				if c.want&v != 0 {
					t.Logf("%v after %d states, %d steps: %s", v, r.FoundAfter[v], r.Lengths[v], trace)
				}
			}
		})
	}
}

// TestHarmlessVariants has rules whose absence breaks no promise in this model, so that nobody takes the model for a
// reason to have them.
func TestHarmlessVariants(t *testing.T) {
	explore.At(t, explore.Some)
	memory := Bounds{Processes: 2, Callers: 1, Calls: 2, Writes: 1, Memory: true}
	joins := Bounds{Processes: 1, Callers: 2, Calls: 2, Writes: 1, Memory: true}
	lossy := memory
	lossy.Faults, lossy.Kinds = 1, StreamLost
	for _, c := range []struct {
		name   string
		v      Variant
		bounds []Bounds
	}{
		// Nothing is promised before Delete has returned, and it bumps before it does. The first bump frees the calls
		// of its own process sooner from a load that is worthless.
		{"Delete bumps only after", Variant{BumpOnlyAfter: true}, []Bounds{memory, joins}},
		// The moment as of which a value is good guards later calls anyway. They wait for a load that is not for them.
		{"Delete forgets no flights", Variant{DeleteForgetsNothing: true}, []Bounds{joins}},
		// And while deletions forget flights, the process that deletes needs no such moment; the others do, see above.
		{"rejected value for everybody, in one process", Variant{RejectedForAll: true}, []Bounds{joins}},
		// While the stream is down P4 does not hold for memory, and its return drops what there is. The bound is
		// LocalTTL, which the model does not have.
		{"loss of the stream ignored, not its return", Variant{LossIgnored: true}, []Bounds{lossy}},
		// The process waits for itself until its own lease ends. That costs time, of which the model has none.
		{
			"repeated ACQUIRE does not know its lease",
			Variant{AcquireForgetsOwner: true},
			[]Bounds{{Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: AllButFailover &^ StreamLost}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, b := range c.bounds {
				r := Explore[State](&Protocol{Bounds: b, Variant: c.v}, 0, 2_000_000)
				t.Log(r)
				if r.Broken != 0 || !r.Complete {
					t.Errorf("not harmless: %v", r.Traces)
				}
			}
		})
	}
}
