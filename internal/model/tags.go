package model

import (
	"bytes"
	"math/bits"
)

// Tags is the model of tags. A tag is a barrier: a time before which all that carries it is invalid. A load takes a
// stamp from the clock of the barriers before the loader runs, and DeleteTags sets the barrier to that clock's time. An
// entry is valid if its barrier exists and is smaller than its stamp; a barrier that is missing is made anew, with the
// time. (What the code keeps is the barrier of everything and those of the tags that were deleted, in one hash that gets
// lost as a whole: the later one of both is the barrier here. Its memory does not know barriers, but forgets what carries a
// tag when it hears of its deletion: it never has more than memory here.)
//
// There is one entry and one tag. Leases are left out: DeleteTags does not touch them, and without them every order of
// loads and stores is possible that is possible with them, and more.
type Tags struct {
	Processes int
	Callers   int // in each process; 2 share its flight
	Calls     int // of each caller
	Writes    int // of the origin, each followed by a DeleteTags
	Faults    int
	Variant   TagVariant
}

// TagVariant says which rules are missing.
type TagVariant struct {
	MissingIsValid    bool // a barrier that does not exist makes nothing invalid
	StampAfterLoad    bool // the stamp is taken when the loader has returned
	LoadUnchecked     bool // a load that has ended does not look at the barrier
	LateCallsToo      bool // a load's value goes also to calls that began after the barrier was looked at
	LossIgnored       bool // the loss of the stream and its return do not drop memory
	ForgettingIgnored bool // a process that forgets a barrier keeps its memory
	EpochIgnored      bool // neither of these keeps flights under way from filling memory
}

// TagState is everything at one moment. Times are positive; 0 stands for none.
type TagState struct {
	Barrier   uint8 // 0: evicted
	Entry     Stamped
	Procs     [maxProcesses]TagProcess
	Set       [4]uint8 // barrier that each version's DeleteTags has set
	Origin    uint8
	Acked     uint8 // as in State
	Published uint8
	Writing   bool
	Faults    uint8
}

// Stamped is a value that carries the tag.
type Stamped struct {
	Stamp   uint8 // 0: no value
	Version uint8
}

// TagProcess is one process.
type TagProcess struct {
	Dead    bool
	Down    bool
	Memory  Stamped
	Heard   uint8 // the barrier as far as it knows; 0: unknown, and then nothing in memory is valid
	Arrived uint8
	Delete  uint8
	Flight  TagFlight
	Callers [maxCallers]Caller // In is 1; After: the moments of the one flight
}

// TagFlight is a flight of a process. It may be joined until it lands.
type TagFlight struct {
	Step    uint8
	Value   Stamped
	Barrier uint8 // read together with the value, or after the load
	AsOf    uint8
	Moved   bool
}

// Start is the state before anything has happened.
func (t *Tags) Start() TagState {
	s := TagState{Barrier: 1, Acked: 1, Published: 1}
	for i := range s.Procs {
		q := &s.Procs[i]
		q.Arrived, q.Dead = 1, i >= t.Processes
		for j := range t.Callers {
			if !q.Dead {
				q.Callers[j].Left = uint8(t.Calls)
			}
		}
	}
	return s
}

// times calls f for each time in a state.
func (s *TagState) times(f func(*uint8)) {
	f(&s.Barrier)
	f(&s.Entry.Stamp)
	for i := range s.Set {
		f(&s.Set[i])
	}
	for i := range s.Procs {
		q := &s.Procs[i]
		f(&q.Memory.Stamp)
		f(&q.Heard)
		f(&q.Flight.Value.Stamp)
		f(&q.Flight.Barrier)
	}
}

// clock is max(server time, last + 1), with a server's clock that moves.
func (s *TagState) clock() uint8 {
	last := uint8(0)
	s.times(func(t *uint8) { last = max(last, *t) })
	return last + 1
}

// valid reports whether a value may be served.
func (t *Tags) valid(v Stamped, barrier uint8) bool {
	return v.Stamp != 0 && (v.Stamp > barrier && barrier != 0 || barrier == 0 && t.Variant.MissingIsValid)
}

// ask reads the barrier, and makes one if it is missing: nothing that is stamped so far is newer.
func (t *Tags) ask(s *TagState) uint8 {
	if s.Barrier == 0 && !t.Variant.MissingIsValid {
		s.Barrier = s.clock()
	}
	return s.Barrier
}

// Moves appends every step that is possible in s.
func (t *Tags) Moves(s *TagState, out *Steps[TagState]) {
	for i := range s.Procs {
		if s.Procs[i].Dead {
			continue
		}
		for j := range s.Procs[i].Callers {
			t.call(s, i, j, out)
		}
		t.flight(s, i, out)
		t.messages(s, i, out)
		t.deletion(s, i, out)
	}
	if int(s.Faults) < t.Faults {
		if s.Barrier != 0 {
			st := out.add(s, nobody, barrierEvicted)
			st.To.Faults++
			st.To.Barrier = 0
		}
		st := out.add(s, nobody, restarts)
		st.To.Faults++
		st.To.Barrier, st.To.Entry = 0, Stamped{}
		for i := range st.To.Procs {
			t.disconnect(&st.To.Procs[i], true)
		}
	}
}

func (t *Tags) call(s *TagState, i, j int, out *Steps[TagState]) {
	c := s.Procs[i].Callers[j]
	if c.In != 0 || !c.Round && c.Left == 0 {
		return
	}
	st := out.add(s, i, goesRound)
	q := &st.To.Procs[i]
	next := &q.Callers[j]
	if !c.Round {
		st.What = callBegins
		next.Left--
		next.Must = uint8(bits.Len8(s.Acked)) - 1
		next.After = q.Flight.AsOf
	}
	next.Round = false
	switch {
	case t.valid(q.Memory, q.Heard):
		st.What = memoryHit
		*next = Caller{Left: next.Left}
	case q.Flight.Step != noFlight:
		if st.What == callBegins {
			st.What = callJoins
		}
		next.In = 1
	default:
		q.Flight.Step = reading
		next.In = 1
		if t.Callers == 1 { // nobody can join meanwhile
			from, via := st.To, st.What
			out.drop()
			t.flight(&from, i, out)
			out.list[len(out.list)-1].Via = via
		}
	}
}

// now remembers a moment: the calls that are there began before it.
func (q *TagProcess) now(asOf uint8) {
	q.Flight.AsOf |= 1 << asOf
	for j := range q.Callers {
		q.Callers[j].After &^= 1 << asOf
	}
}

func (t *Tags) flight(s *TagState, i int, out *Steps[TagState]) {
	switch s.Procs[i].Flight.Step {
	case reading: // the value and the barrier, in one pipeline
		st := out.add(s, i, readMisses)
		q := &st.To.Procs[i]
		f := &q.Flight
		q.now(asOfAnswer)
		f.Moved, f.Barrier = false, t.ask(&st.To)
		if f.Step = acquiring; t.valid(st.To.Entry, f.Barrier) {
			st.What, f.Step, f.Value = readHits, answered, st.To.Entry
		}
	case answered:
		st := out.add(s, i, answerArrives)
		t.keep(st, i)
		t.land(st, i, asOfAnswer)
	case acquiring: // takes its stamp, and loads: what is loaded later than that is newer
		st := out.add(s, i, loads)
		q := &st.To.Procs[i]
		q.now(asOfAnswer)
		q.Flight.Step, q.Flight.Moved, q.Flight.Barrier = loading, false, 0
		q.Flight.Value = Stamped{st.To.clock(), s.Origin}
	case loading: // stores the value and reads the barrier
		st := out.add(s, i, commitStores)
		q := &st.To.Procs[i]
		f := &q.Flight
		q.now(asOfCommit)
		if t.Variant.StampAfterLoad {
			f.Value.Stamp = st.To.clock()
		}
		st.To.Entry = f.Value
		f.Step, f.Barrier = kept, t.ask(&st.To)
		if !t.valid(f.Value, f.Barrier) && !t.Variant.LoadUnchecked {
			st.What, f.Step = commitRejected, rejected
		}
	case kept:
		st := out.add(s, i, storedArrives)
		t.keep(st, i)
		asOf := asOfCommit
		if t.Variant.LateCallsToo {
			asOf = always
		}
		t.land(st, i, asOf)
	case rejected:
		t.land(out.add(s, i, rejectedArrives), i, asOfAnswer)
	}
}

// keep fills memory, with the barrier that is known to be older.
func (t *Tags) keep(st *Step[TagState], i int) {
	q := &st.To.Procs[i]
	if f := &q.Flight; !f.Moved {
		q.Memory, q.Heard = f.Value, max(q.Heard, f.Barrier)
	} else {
		st.What |= notKept
	}
}

func (t *Tags) land(st *Step[TagState], i int, asOf uint8) {
	q := &st.To.Procs[i]
	for j := range q.Callers {
		c := &q.Callers[j]
		late := c.After&(1<<asOf) != 0 && asOf != always
		c.After = 0
		switch {
		case c.In == 0:
		case late:
			c.In, c.Round = 0, true
		default:
			if q.Flight.Value.Version < c.Must {
				st.breaks(StaleRead)
			}
			*c = Caller{Left: c.Left}
		}
	}
	q.Flight = TagFlight{}
}

func (t *Tags) messages(s *TagState, i int, out *Steps[TagState]) {
	q := &s.Procs[i]
	if q.Down {
		st := out.add(s, i, streamReturns)
		q := &st.To.Procs[i]
		t.disconnect(q, false)
		q.Arrived = s.Published
		return
	}
	for v := uint8(1); v <= s.Origin; v++ {
		if bit := uint8(1) << v; s.Published&bit != 0 && q.Arrived&bit == 0 {
			st := out.add(s, i, deletionArrives)
			q := &st.To.Procs[i]
			q.Arrived |= bit
			q.Heard = max(q.Heard, s.Set[v])
		}
	}
	if int(s.Faults) < t.Faults {
		st := out.add(s, i, streamLost)
		st.To.Faults++
		t.disconnect(&st.To.Procs[i], true)
		if q.Heard != 0 {
			st := out.add(s, i, barrierForgotten)
			st.To.Faults++
			q := &st.To.Procs[i]
			q.Heard = 0
			if !t.Variant.ForgettingIgnored {
				t.drop(q)
			} else if q.Memory.Stamp != 0 {
				q.Heard = 1 // older than all that matters
			}
		}
	}
}

// disconnect is the loss of the stream, or its return: what was missed is not known.
func (t *Tags) disconnect(q *TagProcess, down bool) {
	if q.Dead {
		return
	}
	q.Down = down
	if t.Variant.LossIgnored {
		return
	}
	if down {
		t.move(q)
	} else {
		t.drop(q)
	}
}

func (t *Tags) drop(q *TagProcess) {
	q.Memory, q.Heard = Stamped{}, 0
	t.move(q)
}

func (t *Tags) move(q *TagProcess) {
	if q.Flight.Step != noFlight && !t.Variant.EpochIgnored {
		q.Flight.Moved = true
	}
}

func (t *Tags) deletion(s *TagState, i int, out *Steps[TagState]) {
	switch s.Procs[i].Delete {
	case deleteIdle:
		if !s.Writing && int(s.Origin) < t.Writes {
			st := out.add(s, i, originChanges)
			st.To.Origin++
			st.To.Writing = true
			st.To.Procs[i].Delete = deleteBegun
		}
	case deleteBegun:
		st := out.add(s, i, setsBarrier)
		st.To.Barrier = st.To.clock()
		st.To.Set[s.Origin] = st.To.Barrier
		st.To.Procs[i].Delete = deleteUnlinked
	case deleteUnlinked:
		st := out.add(s, i, publishes)
		st.To.Published |= 1 << s.Origin
		st.To.Procs[i].Arrived |= 1 << s.Origin
		st.To.Procs[i].Delete = deletePublished
	case deletePublished:
		st := out.add(s, i, deleteReturns)
		q := &st.To.Procs[i]
		q.Delete = deleteIdle
		q.Heard = max(q.Heard, s.Set[s.Origin])
		st.To.Acked |= 1 << s.Origin
		st.To.Writing = false
	}
}

// Check looks at a state by itself.
func (t *Tags) Check(s *TagState) Invariant {
	if t.valid(s.Entry, s.Barrier) && s.Acked>>(s.Entry.Version+1) != 0 {
		return StaleStored
	}
	for i := range s.Procs {
		q := &s.Procs[i]
		if q.Down || !t.valid(q.Memory, q.Heard) {
			continue
		}
		newer := s.Acked >> (q.Memory.Version + 1) << (q.Memory.Version + 1)
		if newer&^(s.Published&^q.Arrived) != 0 {
			return StaleMemory
		}
	}
	return 0
}

// Final looks at a state in which nothing can happen any more.
func (t *Tags) Final(s *TagState) Invariant {
	for i := range s.Procs {
		for _, c := range s.Procs[i].Callers {
			if c.In != 0 || c.Round {
				return Stuck
			}
		}
	}
	return 0
}

// Canon numbers times by their order and sorts processes and callers.
func (t *Tags) Canon(s *TagState) {
	t.forget(s)
	for v := range s.Set { // what everybody has heard of is in no message
		heard := true
		for i := range s.Procs {
			q := &s.Procs[i]
			heard = heard && (q.Dead || q.Arrived&(1<<v) != 0 && q.Delete == deleteIdle)
		}
		if heard {
			s.Set[v] = 0
		}
	}
	var used uint64
	s.times(func(t *uint8) { used |= 1 << *t })
	used &^= 1
	s.times(func(t *uint8) {
		if *t != 0 {
			*t = uint8(bits.OnesCount64(used & (2<<*t - 1)))
		}
	})
	less := func(a, b []byte) bool { return bytes.Compare(a, b) < 0 }
	for i := range s.Procs {
		if c := &s.Procs[i].Callers; less(bytesOf(&c[0]), bytesOf(&c[1])) {
			c[0], c[1] = c[1], c[0]
		}
	}
	for i := 1; i < maxProcesses; i++ {
		for j := i; j > 0 && less(bytesOf(&s.Procs[j-1]), bytesOf(&s.Procs[j])); j-- {
			s.Procs[j-1], s.Procs[j] = s.Procs[j], s.Procs[j-1]
		}
	}
}

// forget removes what can have no consequences any more: barriers only rise, so that what is invalid stays so.
func (t *Tags) forget(s *TagState) {
	if t.Variant != (TagVariant{}) {
		return
	}
	if !t.valid(s.Entry, s.Barrier) {
		s.Entry = Stamped{}
	}
	for i := range s.Procs {
		q := &s.Procs[i]
		if !t.valid(q.Memory, q.Heard) {
			q.Memory = Stamped{}
		}
		busy := q.Memory.Stamp != 0 || q.Delete != deleteIdle
		for _, c := range q.Callers {
			busy = busy || c.Left > 0 || c.In != 0 || c.Round
		}
		if !busy {
			q.Heard, q.Arrived, q.Down = 0, s.Published, false
		}
	}
}

// Describe names a step.
func (t *Tags) Describe(st *Step[TagState]) string { return describe(st.Who, st.Via, st.What) }
