package model

import "strings"

// Invariant is a set of promises that can be broken.
type Invariant uint16

// The invariants, each with the promise of docs/promises.md that it belongs to.
const (
	// NeedlessLoad (P2): a lease is granted although the current value is stored and usable.
	NeedlessLoad Invariant = 1 << iota
	// TooManyLoads (P2): one load has an excuse to begin with; each deletion that reaches Redis, each fault, each load
	// that fails and each end of a value's life excuses one more.
	TooManyLoads
	// LeaseBroken (P2): a lease in force is ended by another's COMMIT, ABORT or takeover.
	LeaseBroken
	// Stuck (P3): nothing can happen any more, and a call has not returned.
	Stuck
	// StaleRead (P4): a call gets a value, not from memory, that is older than a deletion acknowledged before it began.
	StaleRead
	// StaleStored (P4): Redis holds a value that is older than an acknowledged deletion.
	StaleStored
	// StaleMemory (P4): a process whose stream is up remembers such a value, and no message about it is on its way.
	StaleMemory
	// FenceFalls (P5): a COMMIT stores a lower fence than the value had that it replaces.
	FenceFalls
	// Overwritten (P5): a COMMIT replaces a value by an older one.
	Overwritten
	// Wedged (P8): nothing can happen any more, and a lease is in force.
	Wedged
)

var invariants = []string{
	"NeedlessLoad", "TooManyLoads", "LeaseBroken", "Stuck", "StaleRead", "StaleStored", "StaleMemory", "FenceFalls",
	"Overwritten", "Wedged",
}

func (v Invariant) String() string {
	var all []string
	for i, name := range invariants {
		if v&(1<<i) != 0 {
			all = append(all, name)
		}
	}
	return strings.Join(all, "+")
}

// Check looks at a state by itself.
func (p *Protocol) Check(s *State) Invariant {
	if s.Exempt && !p.NoExemption {
		return 0
	}
	if s.Key.Value && s.Key.Version < s.acked() {
		return StaleStored
	}
	for i := range s.Procs {
		q := &s.Procs[i]
		if q.Memory == 0 || q.Down || q.Dead {
			continue
		}
		// A deletion by another process is excused while the message about it is on its way.
		newer := s.Acked >> q.Memory << q.Memory
		if newer&^(s.Published&^q.Arrived) != 0 {
			return StaleMemory
		}
	}
	return 0
}

// Final looks at a state in which nothing can happen any more.
func (p *Protocol) Final(s *State) Invariant {
	for i := range s.Procs {
		for j := range s.Procs[i].Callers {
			if c := &s.Procs[i].Callers[j]; c.In != 0 || c.Round {
				return Stuck
			}
		}
	}
	if s.Key.Owner != 0 && s.Key.Live {
		return Wedged
	}
	return 0
}

// returned checks what a call gets from a flight.
func (p *Protocol) returned(st *Step[State], c *Caller, version uint8) {
	if version < c.Must && (!st.To.Exempt || p.NoExemption) {
		st.breaks(StaleRead)
	}
}

// starts counts a load.
func (p *Protocol) starts(st *Step[State]) {
	if st.To.Spare--; st.To.Spare < 0 {
		st.breaks(TooManyLoads)
		st.To.Spare = 0
	}
}
