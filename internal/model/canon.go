package model

import (
	"bytes"
	"math/bits"
	"unsafe"
)

// Canon brings a state into the form that it shares with others that behave like it: fences and owners are renamed,
// because fences are only ordered and owners only told apart, and processes, flights, callers and late commands are
// sorted, because each does what the others do. Ties are left as they are, which costs some states and no schedule.
func (p *Protocol) Canon(s *State) {
	if !p.NoReduction {
		p.forget(s)
	}
	s.rankFences()
	if !p.NoReduction {
		for i := range s.Procs {
			s.sortProcess(i)
		}
		s.sortProcesses()
	}
	s.sortLate()
	s.renameOwners()
}

// forget removes what can have no consequences any more.
func (p *Protocol) forget(s *State) {
	if p.Variant != (Variant{}) {
		return
	}
	// A lease that is gone comes back with a failover or by a late ACQUIRE only, and then with another fence.
	for i := range s.Late {
		c := &s.Late[i]
		switch c.Verb {
		case lateCommit, lateAbort:
			if !(c.Owner == s.Key.Owner && c.Fence == s.Key.LeaseFence) &&
				!(c.Owner == s.Replica.Owner && c.Fence == s.Replica.LeaseFence) {
				*c = Command{}
			}
		case disown:
			if c.Owner != s.Key.Owner && c.Owner != s.Replica.Owner && !s.mayAcquire(c.Owner) {
				*c = Command{}
			}
		}
	}
	for i := range s.Procs {
		q := &s.Procs[i]
		for j := range q.Wakes {
			if w := &q.Wakes[j]; w.Owner != 0 && !q.awaits(w) {
				*w = Wake{}
			}
		}
		if q.Memory == 0 && q.idle() {
			q.Arrived, q.Down, q.Listed = s.Published, false, false
		}
	}
}

// mayAcquire reports whether an ACQUIRE with this name is yet to come.
func (s *State) mayAcquire(owner uint8) bool {
	for i := range s.Late {
		if c := &s.Late[i]; c.Verb == lateAcquire && c.Owner == owner {
			return true
		}
	}
	return false
}

// awaits reports whether a wake-up is about a lease that a flight waits for.
func (q *Process) awaits(w *Wake) bool {
	for i := range q.Flights {
		if f := &q.Flights[i]; f.Step == waiting && f.Holder == w.Owner && f.Fence == w.Fence {
			return true
		}
	}
	return false
}

// idle reports that a process has made all its calls.
func (q *Process) idle() bool {
	for i := range q.Callers {
		if c := &q.Callers[i]; c.Left > 0 || c.In != 0 || c.Round {
			return false
		}
	}
	return true
}

// where an owner stands.
type where uint8

const (
	inLease where = iota
	inID
	inReplicaLease
	inReplicaID
	inTenure // of a flight that has sent its ACQUIRE
	inHolder
	inWake
	inSeen
	inAttempt // of a flight, or a late ACQUIRE, that may yet bring the name into a lease
)

// places are where the names in a state stand.
type places struct {
	n  int
	at [4 + maxProcesses*(2*maxFlights+maxWakes) + 2*maxLate]struct {
		owner *uint8
		in    where
	}
}

func (l *places) add(in where, owner *uint8) {
	if *owner != 0 {
		l.at[l.n].owner, l.at[l.n].in = owner, in
		l.n++
	}
}

// owners finds every name in a state.
func (s *State) owners(l *places) {
	l.add(inLease, &s.Key.Owner)
	l.add(inID, &s.Key.ID)
	l.add(inReplicaLease, &s.Replica.Owner)
	l.add(inReplicaID, &s.Replica.ID)
	for i := range s.Procs {
		q := &s.Procs[i]
		for j := range q.Flights {
			f := &q.Flights[j]
			if f.Step == noFlight {
				continue
			}
			if f.Step == granted || f.Step == loading {
				l.add(inTenure, &f.Owner)
			} else {
				l.add(inAttempt, &f.Owner)
			}
			l.add(inHolder, &f.Holder)
		}
		for j := range q.Wakes {
			l.add(inWake, &q.Wakes[j].Owner)
		}
	}
	for i := range s.Late {
		c := &s.Late[i]
		if c.Verb != noCommand {
			l.add(inAttempt, &c.Owner)
			l.add(inSeen, &c.Seen)
		}
	}
}

// renameOwners numbers names by their first place. A name that stands in one place only is equal to no other, and
// becomes the same as all others in such a place: they are never compared with each other. Not so the name of an
// attempt, which may move on.
func (s *State) renameOwners() {
	var l places
	s.owners(&l)
	var times, names [256]uint8
	for _, at := range l.at[:l.n] {
		times[*at.owner]++
	}
	last := uint8(0)
	for _, at := range l.at[:l.n] {
		o := at.owner
		switch {
		case times[*o] == 1 && at.in != inAttempt:
			*o = 255 - uint8(at.in)
		case names[*o] == 0:
			last++
			names[*o] = last
			*o = last
		default:
			*o = names[*o]
		}
	}
}

// rankFences numbers fences by their order.
func (s *State) rankFences() {
	var all [4 + maxProcesses*(maxFlights+maxWakes) + maxLate]*uint8
	n := 0
	add := func(f *uint8) {
		if *f != 0 {
			all[n] = f
			n++
		}
	}
	add(&s.Key.Fence)
	add(&s.Key.LeaseFence)
	add(&s.Replica.Fence)
	add(&s.Replica.LeaseFence)
	for i := range s.Procs {
		q := &s.Procs[i]
		for j := range q.Flights {
			add(&q.Flights[j].Fence)
		}
		for j := range q.Wakes {
			add(&q.Wakes[j].Fence)
		}
	}
	for i := range s.Late {
		add(&s.Late[i].Fence)
	}
	var used uint64
	for _, f := range all[:n] {
		used |= 1 << *f
	}
	for _, f := range all[:n] {
		*f = uint8(bits.OnesCount64(used & (2<<*f - 1)))
	}
}

// relation is what is to be known of a name to sort what it stands in.
func (s *State) relation(o uint8) uint8 {
	if o == 0 {
		return 0
	}
	r := uint8(1)
	for i, other := range [...]uint8{s.Key.Owner, s.Key.ID, s.Replica.Owner, s.Replica.ID} {
		if o == other {
			r |= 2 << i
		}
	}
	return r
}

func (s *State) anonymous(f *Flight) Flight {
	a := *f
	if f.Owner != 0 || f.Holder != 0 {
		a.Owner, a.Holder = s.relation(f.Owner), s.relation(f.Holder)
	}
	return a
}

// sortProcess sorts the flights and the callers of a process.
func (s *State) sortProcess(i int) {
	q := &s.Procs[i]
	swap := q.Flights[0].Step < q.Flights[1].Step
	if q.Flights[1].Step != noFlight && q.Flights[0].Step == q.Flights[1].Step {
		a, b := s.anonymous(&q.Flights[0]), s.anonymous(&q.Flights[1])
		swap = bytes.Compare(bytesOf(&a), bytesOf(&b)) < 0
	}
	if swap {
		q.Flights[0], q.Flights[1] = q.Flights[1], q.Flights[0]
		for j := range q.Callers {
			c := &q.Callers[j]
			if c.In != 0 {
				c.In = 3 - c.In
			}
			c.After = c.After>>2 | c.After<<2&12
		}
	}
	if q.Callers[1] != (Caller{}) && bytes.Compare(bytesOf(&q.Callers[0]), bytesOf(&q.Callers[1])) < 0 {
		q.Callers[0], q.Callers[1] = q.Callers[1], q.Callers[0]
	}
	if q.Wakes[0].Owner == 0 {
		q.Wakes[0], q.Wakes[1] = q.Wakes[1], q.Wakes[0]
	}
}

func (s *State) sortProcesses() {
	var keys [maxProcesses]Process
	for i := range s.Procs {
		k := s.Procs[i]
		for j := range k.Flights {
			if k.Flights[j].Step != noFlight {
				k.Flights[j] = s.anonymous(&k.Flights[j])
			}
			if k.Wakes[j].Owner != 0 {
				k.Wakes[j].Owner = s.relation(k.Wakes[j].Owner)
			}
		}
		keys[i] = k
	}
	for i := 1; i < maxProcesses; i++ {
		for j := i; j > 0 && bytes.Compare(bytesOf(&keys[j-1]), bytesOf(&keys[j])) < 0; j-- {
			keys[j-1], keys[j] = keys[j], keys[j-1]
			s.Procs[j-1], s.Procs[j] = s.Procs[j], s.Procs[j-1]
		}
	}
}

func (s *State) sortLate() {
	key := func(c Command) uint64 {
		if c.Verb == noCommand {
			return 0
		}
		return uint64(c.Verb)<<32 | uint64(c.Fence)<<24 | uint64(c.Version)<<16 | uint64(s.relation(c.Owner))<<8 |
			uint64(s.relation(c.Seen))
	}
	if s.Late == ([maxLate]Command{}) {
		return
	}
	for i := 1; i < maxLate; i++ {
		for j := i; j > 0 && key(s.Late[j-1]) < key(s.Late[j]); j-- {
			s.Late[j-1], s.Late[j] = s.Late[j], s.Late[j-1]
		}
	}
}

// bytesOf is the memory of a value that has neither pointers nor padding.
func bytesOf[T any](v *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) }
