package model

// Fault is a set of things that can go wrong.
type Fault uint16

// The faults.
const (
	RequestLost Fault = 1 << iota // the client gives up, and the command is never executed
	ReplyLost                     // the client gives up, and the command was executed
	Late                          // the client gives up or asks again, and the command is executed later
	LeaseEnds                     // while its holder works
	Restart                       // Redis comes back empty; all streams are lost
	Eviction                      // the key vanishes without a message: evicted, or deleted by a foreign tool
	Crash                         // of a process
	StreamLost                    // of one process
	Impatience                    // a call has waited for as long as it may
	Failover                      // to a replica that lags

	AllButFailover = Failover - 1
)

// may reports whether one more fault of this kind is within the bounds.
func (p *Protocol) may(s *State, kind Fault) bool {
	return p.Bounds.Kinds&kind != 0 && int(s.Faults) < p.Bounds.Faults
}

// fault counts one.
func (st *Step[S]) fault() *Step[S] {
	if s, ok := any(&st.To).(*State); ok {
		s.Faults++
		s.Spare++
	}
	return st
}

// late adds a command that is executed at some later moment.
func (s *State) late(c Command) {
	for i := range s.Late {
		if s.Late[i].Verb == noCommand {
			s.Late[i] = c
			return
		}
	}
	panic("model: bug: more late commands than a state holds")
}

// acquireFails is ACQUIRE without an answer. The flight gives the lease back that it may have, and loads alone.
func (p *Protocol) acquireFails(s *State, i, j int, out *Steps[State]) {
	unanswered := func(what Act) (*Step[State], *Flight) {
		st := out.add(s, i, what).fault()
		p.sendAcquire(st, i, j)
		return st, &st.To.Procs[i].Flights[j]
	}
	goOn := func(st *Step[State], f *Flight) {
		st.To.late(Command{Verb: disown, Owner: f.Owner})
		p.loadAlone(st, i, j)
	}
	if p.may(s, RequestLost) {
		st, f := unanswered(acquireLost)
		goOn(st, f)
	}
	if p.may(s, ReplyLost) {
		st, f := unanswered(acquireUnanswered)
		p.ask(st, i, j)
		goOn(st, f)
	}
	if p.may(s, Late) {
		later := func(st *Step[State], f *Flight) {
			c := Command{Verb: lateAcquire, Owner: f.Owner}
			if f.Refresh {
				c.Seen = f.Holder
			}
			st.To.late(c)
		}
		st, f := unanswered(acquireDelayed)
		later(st, f)
		goOn(st, f)
		st, f = unanswered(acquireRepeated) // by the client, with the same name
		later(st, f)
	}
}

// commitFails is COMMIT without an answer: the value is for those callers only who began before the load.
func (p *Protocol) commitFails(s *State, i, j int, out *Steps[State]) {
	f := s.Procs[i].Flights[j]
	late := func(what Act, verb uint8) *Step[State] {
		st := out.add(s, i, what).fault()
		st.To.late(Command{Verb: verb, Owner: f.Owner, Fence: f.Fence, Version: f.Version})
		return st
	}
	failed := s.Failures < uint8(p.Bounds.Failures)
	if p.may(s, RequestLost) {
		p.land(out.add(s, i, commitLost).fault(), i, j, asOfAnswer)
		if failed {
			st := out.add(s, i, abortLost).fault()
			st.To.failed()
			p.landError(st, i, j)
		}
	}
	if p.may(s, ReplyLost) {
		st := out.add(s, i, commitUnanswered).fault()
		p.commit(st, f.Owner, f.Fence, f.Version, f.Count)
		p.land(st, i, j, asOfAnswer)
	}
	if p.may(s, Late) {
		p.land(late(commitDelayed, lateCommit), i, j, asOfAnswer)
		late(commitRepeated, lateCommit) // by the client
		if failed {
			st := late(abortDelayed, lateAbort)
			st.To.failed()
			p.landError(st, i, j)
		}
	}
}

// sendUnlink is UNLINK. Without an answer Delete is repeated until it is acknowledged.
func (p *Protocol) sendUnlink(s *State, i int, out *Steps[State]) {
	done := deleteUnlinked
	if p.Bounds.deaf() {
		done = deletePublished // nobody listens
	}
	unlink := func(what Act, step uint8) *Step[State] {
		st := out.add(s, i, what)
		p.unlink(&st.To)
		st.To.Spare++
		*st.To.deleting(i) = step
		return st
	}
	unlink(unlinks, done)
	if p.may(s, ReplyLost) {
		unlink(unlinkUnanswered, deleteBegun).fault()
	}
	if p.may(s, Late) {
		unlink(unlinkRepeated, done).fault().To.late(Command{Verb: lateUnlink})
	}
}

// lateCommands are executed.
func (p *Protocol) lateCommands(s *State, out *Steps[State]) {
	for i, c := range s.Late {
		if c.Verb == noCommand || i > 0 && c == s.Late[i-1] {
			continue
		}
		st := out.add(s, nobody, lateCommandActs[c.Verb])
		st.To.Late[i] = Command{}
		switch c.Verb {
		case lateAcquire:
			p.acquire(st, c.Owner, c.Seen)
		case lateCommit:
			p.commit(st, c.Owner, c.Fence, c.Version, 0)
		case lateAbort:
			p.abort(st, c.Owner, c.Fence)
		case disown:
			p.abort(st, c.Owner, 0)
		case lateUnlink:
			p.unlink(&st.To)
		}
	}
}

// time ends leases whose holders do not work on them, the lives of values, and the consequences of a failover.
func (p *Protocol) time(s *State, out *Steps[State]) {
	r := &s.Key
	if r.Owner != 0 && r.Live && !p.Variant.LeaseNeverEnds {
		if !s.works(r.Owner) {
			out.add(s, nobody, leaseRunsOut).To.Key.Live = false
		} else if p.may(s, LeaseEnds) {
			out.add(s, nobody, leaseEnds).fault().To.Key.Live = false
		}
	}
	if r.usable() && int(s.Endings) < p.Bounds.Endings {
		st := out.add(s, nobody, valueEnds)
		st.To.Endings++
		if !r.Live { // otherwise it is being refreshed, and nobody else need load
			st.To.Spare++
		}
		if r.Stretched {
			st.To.Key.Past = true
		} else {
			st.To.lose()
		}
	}
	if s.Exempt && s.quiet() {
		st := out.add(s, nobody, lifetimePasses)
		st.To.lose()
		st.To.Exempt = false
		st.To.Spare++
		for i := range st.To.Procs {
			st.To.Procs[i].Memory = 0
		}
	}
}

// works reports whether the owner of a lease is there to renew it.
func (s *State) works(owner uint8) bool {
	for i := range s.Procs {
		for j := range s.Procs[i].Flights {
			if f := &s.Procs[i].Flights[j]; f.Owner == owner && (f.Step == granted || f.Step == loading || f.Step == releasing) {
				return true
			}
		}
	}
	return false
}

// quiet reports that nothing is under way that began before now.
func (s *State) quiet() bool {
	for i := range s.Procs {
		for j := range s.Procs[i].Flights {
			if s.Procs[i].Flights[j].Step != noFlight {
				return false
			}
		}
	}
	return s.Late == [maxLate]Command{}
}

// accidents happen to servers and processes.
func (p *Protocol) accidents(s *State, out *Steps[State]) {
	if p.may(s, Restart) {
		st := out.add(s, nobody, restarts).fault()
		st.To.lose()
		st.To.Count = 0
		p.disconnect(st)
	}
	if p.may(s, Eviction) && s.Key != (Record{}) {
		out.add(s, nobody, evicted).fault().To.lose()
	}
	for i := range s.Procs {
		q := &s.Procs[i]
		if q.Dead {
			continue
		}
		if p.may(s, Crash) && q.Delete == deleteIdle {
			st := out.add(s, i, crashes).fault()
			st.To.Procs[i] = Process{Dead: true, Listed: q.Listed}
		}
		if p.may(s, StreamLost) && !q.Down {
			st := out.add(s, i, streamLost).fault()
			p.disconnected(&st.To.Procs[i])
		}
	}
	if p.may(s, Failover) {
		if !s.Copied {
			st := out.add(s, nobody, replicaLags)
			st.To.Replica, st.To.Copied = s.Key, true
			return
		}
		st := out.add(s, nobody, failsOver).fault()
		st.To.lose()
		st.To.Key, st.To.Replica, st.To.Copied = s.Replica, Record{}, false
		st.To.Exempt = true
		p.disconnect(st)
	}
}

// disconnect ends the streams of all processes.
func (p *Protocol) disconnect(st *Step[State]) {
	for i := range st.To.Procs {
		if !st.To.Procs[i].Dead {
			p.disconnected(&st.To.Procs[i])
		}
	}
}

// disconnected loses the messages that are on their way to a process.
func (p *Protocol) disconnected(q *Process) {
	if p.Bounds.deaf() && !p.Bounds.Wakes {
		return // it does not listen
	}
	q.Down = true
	q.Wakes = [maxWakes]Wake{}
	if !p.Variant.LossIgnored {
		q.move(true)
	}
}
