package model

// What a process does: calls, the flights that they share, and the messages it gets.

// calls are the steps of the callers of process i.
func (p *Protocol) calls(s *State, i int, out *Steps[State]) {
	for j := range s.Procs[i].Callers {
		switch c := &s.Procs[i].Callers[j]; {
		case c.Round:
			p.join(out.add(s, i, goesRound), i, j, false, out)
		case c.In == 0 && c.Left > 0:
			p.begin(s, i, j, false, out)
			if p.Bounds.Refresh {
				p.begin(s, i, j, true, out)
			}
		}
	}
}

func (p *Protocol) begin(s *State, i, j int, refresh bool, out *Steps[State]) {
	st := out.add(s, i, callBegins)
	if refresh {
		st.What = refreshBegins
	}
	q := &st.To.Procs[i]
	c := &q.Callers[j]
	c.Left--
	c.Must = st.To.acked()
	for k := range q.Flights {
		c.After |= q.Flights[k].AsOf << (2 * k)
	}
	p.join(st, i, j, refresh, out)
}

// join lets a call find its answer in memory, or takes it into the current flight, or begins one.
func (p *Protocol) join(st *Step[State], i, j int, refresh bool, out *Steps[State]) {
	q := &st.To.Procs[i]
	c := &q.Callers[j]
	c.Round = false
	if q.Memory != 0 && !refresh {
		st.What = memoryHit
		*c = Caller{Left: c.Left}
		return
	}
	free := -1
	for k := range q.Flights {
		switch f := &q.Flights[k]; {
		case f.Step == noFlight:
			free = k
		case f.Current:
			if st.What == callBegins {
				st.What = callJoins
			}
			c.In = uint8(k + 1)
			return
		}
	}
	q.Flights[free] = Flight{Step: reading, Current: true, Refresh: refresh}
	c.In = uint8(free + 1)
	if p.Bounds.coarse(q) {
		p.hurry(st, i, free, out)
	}
}

// hurry replaces a step by itself and the next one of a flight, in all ways that it can go.
func (p *Protocol) hurry(st *Step[State], i, j int, out *Steps[State]) {
	s, via := st.To, st.What
	out.drop()
	n := len(out.list)
	p.flight(&s, i, j, out)
	for k := n; k < len(out.list); k++ {
		out.list[k].Via = via
	}
}

// flight is the steps of flight j of process i.
func (p *Protocol) flight(s *State, i, j int, out *Steps[State]) {
	f := &s.Procs[i].Flights[j]
	switch f.Step {
	case reading:
		if p.may(s, RequestLost) {
			st := out.add(s, i, readLost).fault()
			p.loadAlone(st, i, j)
		}
		p.look(out.add(s, i, readHits), i, j, readMisses, out)
	case answered:
		st := out.add(s, i, answerArrives)
		p.arrived(st, i, j)
	case acquiring:
		p.acquiring(s, i, j, out)
	case granted:
		p.load(out.add(s, i, loads), i, j, loading)
	case loading:
		p.loading(s, i, j, out)
	case kept:
		st := out.add(s, i, storedArrives)
		p.keep(st, i, j)
		p.land(st, i, j, unless(p.Variant.StoredForAll, asOfCommit))
	case rejected:
		// The value may be older than a deletion, which would have ended the lease.
		p.land(out.add(s, i, rejectedArrives), i, j, unless(p.Variant.RejectedForAll, asOfAnswer))
	case waiting:
		p.waiting(s, i, j, out)
	case alone:
		st := out.add(s, i, loadedAlone)
		if p.Variant.AloneStores && (!p.Variant.CommitByCount || f.Count == s.Count) {
			p.store(st, f.Owner, st.To.newFence(), f.Version)
		}
		if f.Keeps {
			p.keep(st, i, j)
		}
		p.land(st, i, j, unless(p.Variant.AloneForAll, asOfAnswer))
	default:
		p.foreign(s, i, j, out)
	}
}

// now remembers the moment, and the epoch, before a command whose answer may be kept, or before a load alone.
func (q *Process) now(j int, asOf uint8) {
	f := &q.Flights[j]
	if asOf == asOfAnswer {
		f.Moved = false
	}
	q.tick(j, asOf)
}

// tick remembers the moment only: every call that is there began before it.
func (q *Process) tick(j int, asOf uint8) {
	q.Flights[j].AsOf |= 1 << asOf
	for k := range q.Callers {
		q.Callers[k].After &^= moment(j, asOf)
	}
}

// look is the read of a record. What it finds is on its way, or it goes on to ACQUIRE.
func (p *Protocol) look(st *Step[State], i, j int, miss Act, out *Steps[State]) {
	s := &st.To
	q := &s.Procs[i]
	f := &q.Flights[j]
	q.now(j, asOfAnswer)
	f.Holder, f.Owner, f.Fence = 0, 0, 0
	switch {
	case s.Key.usable() && f.Refresh:
		f.Version, f.Holder, f.Step = s.Key.Version, s.Key.ID, acquiring
	case s.Key.usable():
		p.answer(st, i, j)
	default:
		// That nothing was found changes nothing until ACQUIRE is sent.
		f.Step, f.Refresh = acquiring, false
		st.What = miss
		if p.Variant.CommitByCount {
			f.Count = s.Count
		}
	}
	if f.Step == acquiring && p.Bounds.coarse(q) {
		p.hurry(st, i, j, out)
	}
}

// answer sends the value in Redis to a flight.
func (p *Protocol) answer(st *Step[State], i, j int) {
	f := &st.To.Procs[i].Flights[j]
	f.Version, f.Step = st.To.Key.Version, answered
	if p.Bounds.instant(&st.To.Procs[i]) {
		p.arrived(st, i, j)
	}
}

// arrived is a value from Redis that has come, with an answer or a wake-up.
func (p *Protocol) arrived(st *Step[State], i, j int) {
	p.keep(st, i, j)
	p.land(st, i, j, unless(p.Variant.AnswerForAll, asOfAnswer))
}

// unless is the moment that a value is good as of, or any moment in a protocol that does not care.
func unless(forAll bool, asOf uint8) uint8 {
	if forAll {
		return always
	}
	return asOf
}

// acquiring is ACQUIRE, and what can become of it.
func (p *Protocol) acquiring(s *State, i, j int, out *Steps[State]) {
	p.acquireFails(s, i, j, out)
	st := out.add(s, i, acquireWins)
	p.sendAcquire(st, i, j)
	switch p.ask(st, i, j) {
	case hit:
		st.What = acquireHits
		p.answer(st, i, j)
	case won:
		st.To.Procs[i].Flights[j].Step = granted
		if p.Bounds.coarse(&st.To.Procs[i]) {
			p.load(st, i, j, loading)
		}
	case busy:
		st.What = acquireBusy
		q := &st.To.Procs[i]
		if f := &q.Flights[j]; f.Refresh { // it has a value
			p.land(st, i, j, asOfAnswer)
		} else {
			f.Step, f.Holder, f.Fence, f.Owner = waiting, st.To.Key.Owner, st.To.Key.LeaseFence, 0
			q.Listed = q.Listed || p.Bounds.Wakes && !q.Down
		}
	}
}

// sendAcquire remembers what is to be remembered before ACQUIRE, and finds a name for the attempt.
func (p *Protocol) sendAcquire(st *Step[State], i, j int) {
	q := &st.To.Procs[i]
	f := &q.Flights[j]
	q.now(j, asOfAnswer)
	if f.Owner == 0 {
		f.Owner = st.To.newOwner()
	}
}

// ask executes ACQUIRE.
func (p *Protocol) ask(st *Step[State], i, j int) reply {
	f := &st.To.Procs[i].Flights[j]
	seen := uint8(0)
	if f.Refresh {
		seen = f.Holder
	}
	got := p.acquire(st, f.Owner, seen)
	if got == won {
		f.Fence = st.To.Key.LeaseFence
	}
	return got
}

// load starts a load under a lease.
func (p *Protocol) load(st *Step[State], i, j int, step uint8) {
	q := &st.To.Procs[i]
	f := &q.Flights[j]
	q.tick(j, asOfAnswer) // the epoch stays that of ACQUIRE
	f.Step, f.Version, f.Refresh, f.Holder = step, st.To.Origin, false, 0
	if step == alone {
		f.Fence = 0
	}
	p.starts(st)
}

// loadAlone starts a load without a lease.
func (p *Protocol) loadAlone(st *Step[State], i, j int) {
	q := &st.To.Procs[i]
	q.now(j, asOfAnswer)
	f := &q.Flights[j]
	if !p.Variant.LateLoadCommits || f.Owner == 0 {
		f.Owner = 0
		p.load(st, i, j, alone)
	} else {
		p.load(st, i, j, unsure)
	}
	f.Count = 0
	if p.Variant.CommitByCount {
		f.Count = unknown
	}
	if p.Variant.AloneStores {
		f.Owner = st.To.newOwner()
	}
}

// loading is the end of a load under a lease: COMMIT, or ABORT if it failed, and what can become of them.
func (p *Protocol) loading(s *State, i, j int, out *Steps[State]) {
	st := out.add(s, i, commitStores)
	q := &st.To.Procs[i]
	f := &q.Flights[j]
	q.tick(j, asOfCommit)
	f.Step = kept
	if !p.commit(st, f.Owner, f.Fence, f.Version, f.Count) {
		st.What, f.Step = commitRejected, rejected
	}
	owner := f.Owner
	f.Owner, f.Fence = 0, 0
	switch {
	case p.Variant.ReleaseApart:
		f.Step, f.Owner = releasing, owner
	case p.Bounds.instant(q) && f.Step == kept:
		p.land(st, i, j, asOfCommit)
	case p.Bounds.instant(q):
		p.land(st, i, j, asOfAnswer)
	}

	f = &s.Procs[i].Flights[j]
	if s.Failures < uint8(p.Bounds.Failures) {
		st := out.add(s, i, loadFails)
		st.To.failed()
		p.abort(st, f.Owner, f.Fence)
		p.landError(st, i, j)
	}
	if p.mine(&s.Key, f.Owner, f.Fence) && !s.Key.Live {
		out.add(s, i, renews).To.Key.Live = true
	}
	p.commitFails(s, i, j, out)
}

func (s *State) failed() {
	s.Failures++
	s.Spare++
}

// waiting is what ends the waiting for a holder, besides a wake-up.
func (p *Protocol) waiting(s *State, i, j int, out *Steps[State]) {
	f := &s.Procs[i].Flights[j]
	if s.Key.Owner != f.Holder || !s.Key.Live || s.Key.usable() {
		if p.Variant.TakeoverDeletes && s.Key.Owner == f.Holder {
			out.add(s, i, pollMisses).To.Procs[i].Flights[j].Step = deposing
		} else {
			p.look(out.add(s, i, pollHits), i, j, pollMisses, out)
		}
	}
	if p.may(s, Impatience) {
		st := out.add(s, i, givesUp).fault()
		p.loadAlone(st, i, j)
		q := &st.To.Procs[i].Flights[j]
		q.Keeps, q.Count = p.Bounds.Memory, f.Count
	}
}

// keep fills memory if the epoch has not moved since the command that brought the value.
func (p *Protocol) keep(st *Step[State], i, j int) {
	q := &st.To.Procs[i]
	f := &q.Flights[j]
	switch {
	case !p.Bounds.Memory:
	case f.Moved && !p.Variant.FillUnchecked:
		st.What |= notKept
	default:
		q.Memory = f.Version + 1
	}
}

// land gives the flight's result to its callers, except to those that began after the moment it is known to be good
// for.
func (p *Protocol) land(st *Step[State], i, j int, asOf uint8) {
	q := &st.To.Procs[i]
	version := q.Flights[j].Version
	for k := range q.Callers {
		c := &q.Callers[k]
		after := c.After
		c.After &^= moment(j, asOfAnswer) | moment(j, asOfCommit)
		switch {
		case int(c.In) != j+1:
		case asOf != always && after&moment(j, asOf) != 0:
			c.In, c.Round = 0, true
		default:
			p.returned(st, c, version)
			*c = Caller{Left: c.Left}
		}
	}
	q.Flights[j] = Flight{}
}

// landError lands with the loader's error, which is never too old for anybody.
func (p *Protocol) landError(st *Step[State], i, j int) {
	st.To.Procs[i].Flights[j].Version = unknown
	p.land(st, i, j, always)
}

// messages are wake-ups and deletions by others that arrive.
func (p *Protocol) messages(s *State, i int, out *Steps[State]) {
	q := &s.Procs[i]
	if q.Down {
		st := out.add(s, i, streamReturns)
		q := &st.To.Procs[i]
		q.Down, q.Arrived = false, s.Published
		if !p.Variant.ReturnIgnored {
			q.bump(true)
		}
		return
	}
	for v := uint8(1); v <= s.Origin; v++ {
		if bit := uint8(1) << v; s.Published&bit != 0 && q.Arrived&bit == 0 {
			st := out.add(s, i, deletionArrives)
			q := &st.To.Procs[i]
			q.Arrived |= bit
			q.bump(true)
		}
	}
	for k := range q.Wakes {
		if q.Wakes[k].Owner != 0 {
			st := out.add(s, i, wakeLate)
			p.woken(st, i, k)
		}
	}
}

// woken hands a wake-up to those who wait. Who has not yet heard BUSY hears it first: the message is kept for it.
func (p *Protocol) woken(st *Step[State], i, k int) {
	q := &st.To.Procs[i]
	w := q.Wakes[k]
	q.Wakes[k] = Wake{}
	for j := range q.Flights {
		f := &q.Flights[j]
		if f.Step != waiting || !p.awaited(f, w) {
			continue
		}
		if w.Version == 0 {
			st.What = wakeAborted
			f.Step, f.Holder, f.Fence = acquiring, 0, 0
			continue
		}
		st.What = wakeBrings
		f.Version = w.Version - 1
		if p.Variant.WakeEpochLate {
			f.Moved = false
		}
		p.arrived(st, i, j)
	}
}

// awaited reports whether a wake-up is about the lease that a flight waits for: not only of its owner, but of the same
// tenure. A repeated ACQUIRE that is executed late gives an owner a second one.
func (p *Protocol) awaited(f *Flight, w Wake) bool {
	return p.Variant.WakeAnyOwner || f.Holder == w.Owner && (p.Variant.WakeOwnerOnly || f.Fence == w.Fence)
}

// bump is what a deletion does to a process: the epoch moves, memory is dropped, flights are forgotten.
func (q *Process) bump(forget bool) {
	q.Memory = 0
	q.move(forget)
}

// move is what the loss of the stream does: like a deletion, but memory stays.
func (q *Process) move(forget bool) {
	if q.Single {
		forget = false // no other call would join
	}
	for j := range q.Flights {
		f := &q.Flights[j]
		if f.Step != noFlight {
			f.Moved = true
		}
		if forget {
			f.Current = false
		}
	}
}
