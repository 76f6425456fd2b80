package model

// Variant says which rules a protocol lacks. Each field that is set makes a twin of the protocol that is broken, or at
// least worse; variants_test.go has the shortest schedule that shows it.
type Variant struct {
	// The record.
	CommitBlind         bool // COMMIT does not look whose lease it is
	CommitOwnerOnly     bool // COMMIT does not look at the fence
	AbortBlind          bool // ABORT does not look whose lease it is
	AcquireForgetsOwner bool // a repeated ACQUIRE does not find its own lease
	DeleteLeavesLease   bool // Delete removes the value and not the lease
	NoStretch           bool // a refresh does not lengthen the record's life
	LeaseNeverEnds      bool
	TakeoverDeletes     bool // who finds a lease that is over deletes the key, and then acquires it

	// What a process may do with a value.
	AloneStores     bool // a load without a lease stores its value
	LateLoadCommits bool // after an ACQUIRE without an answer it loads, acquires again, and stores what it has loaded
	RejectedForAll  bool // a rejected COMMIT's value goes to every caller of the flight, also to those that began late
	StoredForAll    bool // so does the value of a COMMIT that was executed before they began
	AnswerForAll    bool // so does what was read before they began
	AloneForAll     bool // so does what was loaded without a lease

	// Delete.
	BumpOnlyBefore       bool
	BumpOnlyAfter        bool
	DeleteForgetsNothing bool // later calls join flights that began before it
	AnswersBeforePublish bool

	// Memory and messages.
	FillUnchecked bool // memory is filled whatever the epoch
	WakeAnyOwner  bool // a waiter takes a wake-up for another holder
	WakeOwnerOnly bool // a waiter looks at the owner in a wake-up, and not at the fence
	WakeEpochLate bool // memory is filled by a wake-up as of its arrival
	LossIgnored   bool // the loss of the stream does not move epochs
	ReturnIgnored bool // nor does its return

	// Protocols of another kind.
	SplitLock     bool // GET and the taking of the lock are two commands
	ReleaseApart  bool // storing and releasing are two commands, on two keys
	ReleaseBlind  bool // the release does not look whose lock it is
	CommitByCount bool // a counter in Redis, which Delete increments, guards the value
}

// foreign is the steps that our protocol does not have.
func (p *Protocol) foreign(s *State, i, j int, out *Steps[State]) {
	f := &s.Procs[i].Flights[j]
	switch f.Step {
	case unsure:
		st := out.add(s, i, acquireWins)
		switch p.ask(st, i, j) {
		case won:
			st.To.Procs[i].Flights[j].Step = loading
		default:
			st.What = loadedAlone
			p.land(st, i, j, asOfAnswer)
		}
	case deposing:
		st := out.add(s, i, deposes)
		if st.To.Key.Live || st.To.Key.Value && st.To.Key.Version == st.To.Origin {
			st.breaks(LeaseBroken)
		}
		st.To.lose()
		q := &st.To.Procs[i].Flights[j]
		q.Step, q.Owner, q.Holder, q.Fence = acquiring, 0, 0, 0
	case releasing:
		st := out.add(s, i, releases)
		r := &st.To.Key
		if r.Owner == f.Owner || p.Variant.ReleaseBlind {
			if r.Owner != f.Owner && r.Owner != 0 && r.Live {
				st.breaks(LeaseBroken)
			}
			r.Owner, r.LeaseFence, r.Live = 0, 0, false
		}
		p.land(st, i, j, asOfAnswer)
	}
}
