// Package model is the lease protocol as a state machine, small enough to be walked through completely.
//
// A few processes want one key. They read it, take the lease, load, store, wait, are woken, give up; a writer changes
// the origin and deletes the key; up to three things go wrong. Explore visits every state that any order of these steps
// can lead to, and checks the promises in each. What it finds is a shortest schedule that breaks one.
//
// It is a model of the code and not the code, and it is bounded: that it finds nothing is not a proof. What it is
// good for is that nothing within the bounds is left out, and that each rule of the protocol has a twin here that lacks
// it and is caught (see Variant).
//
// What is simplified, and why it hides nothing within the bounds:
//
//   - A command is sent and executed in one step; its reply arrives in another. A request that is long under way is
//     like one that is sent later, except that more is refused in the end: epochs and ticks are taken when it is sent.
//     One that is so late that its sender has given up is a Command in State.Late.
//   - A load reads the origin when it starts, which is the oldest value it may have.
//   - Epochs and ticks are only ever compared, so the outcome of each comparison is kept and not the number: see
//     Flight.Moved and Caller.After.
//   - The server's clock rises from one fence to the next. Owners and fences are renamed in each state (see canon.go).
//   - A poll that would find the holder at work changes nothing and is left out; so a state in which only polls are
//     possible is one where a call is stuck.
//   - Leases are renewed while their holder works: losing one is a fault. Those of others end by themselves.
//
// Not in it: Set, versions, negative entries, the failed mark, clients without scripts, callers that leave early,
// errors that Redis answers with, a process that takes itself for cut off, a third flight in one process and so the
// bound on loads in one process, clocks that step back, and lifetimes except that of a value which is being refreshed.
// Tags have a model of their own, in tags.go.
package model

import "math/bits"

// Sizes of a State. Bounds say how much of it is used.
const (
	maxProcesses = 3
	maxFlights   = 2 // of one process: as many as callers, since each has the one that began it
	maxCallers   = 2
	maxWakes     = 2 // on their way to one process; a third is lost
	maxLate      = 6
)

// State is everything at one moment. It has no pointers and no padding: it is hashed and compared as bytes.
type State struct {
	Key     Record // in Redis
	Replica Record // what a failover would bring back
	Procs   [maxProcesses]Process
	Late    [maxLate]Command // whose senders do not wait for an answer any more

	Origin    uint8 // version of the truth
	Acked     uint8 // deletions that were acknowledged, a bit for each version they made current
	Published uint8 // deletions that the others are being told of, likewise
	Writing   bool  // the origin has changed, and Delete has not returned
	Delete    uint8 // how far a Delete by a process outside has come: one of the deletion steps

	Copied   bool  // Replica is what a replica that lags would have
	Exempt   bool  // a failover has lost writes, and its consequences have not ended
	Faults   uint8 // so far
	Failures uint8 // of loads
	Endings  uint8 // of values' lives
	Spare    int8  // loads that still have an excuse; see P2 in invariants.go
	Count    uint8 // the counter that one of the broken protocols keeps in Redis
}

// Record is the key in Redis. Without a value but with an owner it is a stub.
type Record struct {
	Value     bool
	Version   uint8
	ID        uint8 // owner that stored the value
	Fence     uint8 // of the value
	Past      bool  // the value's time is over; it is kept for the lease in its header
	Stretched bool  // the record outlives the value's own time

	Owner      uint8 // of the lease; 0: none
	LeaseFence uint8
	Live       bool // the lease's deadline is ahead
}

func (r *Record) usable() bool { return r.Value && !r.Past }

// acked is the version that the last acknowledged deletion made current.
func (s *State) acked() uint8 { return uint8(bits.Len8(s.Acked)) - 1 }

// Process is one process of the fleet.
type Process struct {
	Dead    bool
	Single  bool  // it has one caller
	Down    bool  // its stream of messages is lost
	Listed  bool  // its inbox is noted on the record: it wants to be woken
	Memory  uint8 // version in the first tier, plus 1; 0: nothing
	Arrived uint8 // deletions it has heard of, as in State.Published
	Delete  uint8 // how far its Delete has come: one of the deletion steps
	Flights [maxFlights]Flight
	Callers [maxCallers]Caller
	Wakes   [maxWakes]Wake // on their way, in any order, also with deletions
}

// The steps of Delete.
const (
	deleteIdle      uint8 = iota
	deleteWanted          // the origin has changed
	deleteBegun           // memory dropped and flights forgotten, first time
	deleteUnlinked        // the key is gone
	deletePublished       // and the others are being told
)

// Flight is one way of a process through Redis and the loader, shared by its callers.
type Flight struct {
	Step    uint8 // one of the steps of a flight, below
	Current bool  // later calls join it
	Moved   bool  // the epoch has moved since the one that the flight remembers
	Keeps   bool  // a load alone whose value may stay in memory
	Refresh bool  // it wants to replace a value that is there
	AsOf    uint8 // the moments it remembers, a bit each
	Owner   uint8 // of its attempt to get the lease
	Fence   uint8 // of its lease, or of the lease that it waits for
	Holder  uint8 // whom it waits for; in a refresh, the entry that it has seen
	Version uint8 // of the value it has
	Count   uint8 // in one of the broken protocols, the counter when it began
}

// Flight.AsOf and Caller.After: the moments for which a flight knows that no deletion had made its value old. A call
// that began after such a moment may not have a value that is only good as of it.
const (
	asOfAnswer uint8 = iota // before the command that brought the value, or when the load began
	asOfCommit              // before COMMIT
	always                  // good for everybody
)

// The steps of a flight: what it does next, or which answer is on its way to it.
const (
	noFlight  uint8 = iota
	reading         // will read
	answered        // a value is on its way
	acquiring       // will ACQUIRE
	granted         // WON is on its way
	loading         // under the lease
	kept            // STORED is on its way
	rejected        // TAKEN or MISSING is on its way
	waiting         // for the holder
	alone           // loads without a lease

	// Only in protocols that are not ours.
	unsure    // loads although ACQUIRE was not answered, and will ask again
	deposing  // will delete the record of a holder whose time is over
	releasing // will delete the lock
)

// Caller makes one call after the other.
type Caller struct {
	In    uint8 // the flight it waits for, plus 1; 0: none
	Round bool  // the flight's value was too old for it: it goes round
	Must  uint8 // the last acknowledged deletion when the call began: its value may not be older
	After uint8 // bits: the call began after that moment of that flight
	Left  uint8 // calls it will make
}

// moment is the bit of a flight's moment in Caller.After.
func moment(flight int, asOf uint8) uint8 { return 1 << (2*flight + int(asOf)) }

// unknown stands for the version that comes with an error.
const unknown = 255

// Wake tells a process that the holder it waits for is done.
type Wake struct {
	Owner   uint8 // 0: no message
	Fence   uint8 // of the holder's lease
	Version uint8 // of the value that comes with it, plus 1; 0: the holder has aborted
}

// Command is one whose sender does not wait for it, and that is executed at any later moment.
type Command struct {
	Verb    uint8
	Owner   uint8
	Fence   uint8
	Version uint8
	Seen    uint8
}

// The verbs of late commands.
const (
	noCommand uint8 = iota
	lateAcquire
	lateCommit
	lateAbort
	disown // ABORT with any fence, sent after an ACQUIRE that was not answered
	lateUnlink
)

// Bounds say what happens in a configuration, and how often.
type Bounds struct {
	Processes int
	Callers   int // in a process, at the same time
	Joined    int // processes that have more than one caller; 0: all
	Calls     int // of each caller, one after the other
	Writes    int // of the origin, each followed by a Delete
	Failures  int // loads that end with an error
	Faults    int // in all
	Kinds     Fault
	Memory    bool // the first tier
	Outside   bool // a process besides those in the model deletes
	Wakes     bool
	Refresh   bool // starts with a value; calls may also refresh it
	Endings   int  // times that a value's life ends
	Fine      bool // steps are taken apart even where that adds nothing
}

// coarse reports whether a call of a process reads, asks for the lease and starts to load in one step. Where no other
// call can join the flight meanwhile, taking these apart adds nothing: a miss has no effect; whoever begins later may
// expect more; and the value of a load that starts at once is the oldest it can be.
func (b *Bounds) coarse(q *Process) bool { return q.Single && !b.Fine }

// instant reports whether an answer with a value arrives in the same step: nothing is kept in memory then, and nobody
// can join meanwhile, so that nobody can tell.
func (b *Bounds) instant(q *Process) bool { return b.coarse(q) && !b.Memory }

// deaf reports whether what a process hears of deletions changes nothing: it keeps nothing and shares no flights.
func (b *Bounds) deaf() bool { return !b.Memory && b.Callers == 1 }

// Protocol is the model: bounds, and what is wrong with it. The zero Variant is the protocol of this package's cache.
type Protocol struct {
	Bounds  Bounds
	Variant Variant

	// NoExemption checks P4 also after a failover to a replica that lags, where it is not promised.
	NoExemption bool
	// NoReduction tells processes and callers apart, and remembers what can have no consequences.
	NoReduction bool
}

// Start is the state before anything has happened.
func (p *Protocol) Start() State {
	var s State
	s.Spare, s.Acked, s.Published = 1, 1, 1
	for i := range s.Procs {
		q := &s.Procs[i]
		q.Dead, q.Arrived = i >= p.Bounds.Processes, 1
		if q.Dead {
			continue
		}
		q.Single = p.Bounds.Callers == 1 || p.Bounds.Joined > 0 && i >= p.Bounds.Joined
		for j := range q.Callers {
			if j == 0 || !q.Single {
				q.Callers[j].Left = uint8(p.Bounds.Calls)
			}
		}
	}
	if p.Bounds.Refresh {
		s.Key, s.Spare = Record{Value: true, ID: 1, Fence: 1}, 0
	}
	return s
}

// Moves appends every step that is possible in s.
func (p *Protocol) Moves(s *State, out *Steps[State]) {
	for i := range s.Procs {
		if s.Procs[i].Dead {
			continue
		}
		p.calls(s, i, out)
		for j := range s.Procs[i].Flights {
			p.flight(s, i, j, out)
		}
		p.messages(s, i, out)
		p.deletion(s, i, out)
	}
	p.write(s, out)
	p.deletion(s, nobody, out)
	p.lateCommands(s, out)
	p.time(s, out)
	p.accidents(s, out)
}
