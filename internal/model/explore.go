package model

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// Machine is what Explore can explore: a state machine whose states are values without pointers and padding.
type Machine[S comparable] interface {
	Start() S
	// Moves appends all steps from a state.
	Moves(s *S, out *Steps[S])
	// Canon brings a state into a form that it may share with others that behave like it.
	Canon(s *S)
	// Check and Final say what is broken in a state, and in one from which there are no steps.
	Check(s *S) Invariant
	Final(s *S) Invariant
	Describe(st *Step[S]) string
}

// Step is a transition.
type Step[S any] struct {
	To     S
	Who    int8
	Via    Act // what came before in the same step
	What   Act
	Broken Invariant
}

func (st *Step[S]) breaks(v Invariant) { st.Broken |= v }

// Steps collects the steps from one state.
type Steps[S any] struct{ list []Step[S] }

// add begins a step as a copy of a state. The step is valid until the next one is added.
func (out *Steps[S]) add(from *S, who int, what Act) *Step[S] {
	out.list = append(out.list, Step[S]{To: *from, Who: int8(who), What: what})
	return &out.list[len(out.list)-1]
}

// drop takes the last step back.
func (out *Steps[S]) drop() { out.list = out.list[:len(out.list)-1] }

// Result is what Explore found.
type Result struct {
	States, Steps, Final int
	Depth                int
	Complete             bool
	Broken               Invariant            // everything that was found broken
	Traces               map[Invariant]string // a shortest schedule for each
	FoundAfter           map[Invariant]int    // states
	Lengths              map[Invariant]int    // steps
	Seen                 [256]int             // by Act
}

// Explore visits every state that can be reached, breadth first, until all of want is found broken or, with want 0,
// to the end. It stops, incomplete, at limit states.
//
// A visited state is remembered by 64 bits of hash: with n states the odds that one is taken for another, and so
// possibly left out, are about n*n/2^65: 3e-6 for ten million. Of each state are kept besides its predecessor and which
// of its steps led here; traces are made by executing these again.
func Explore[S comparable](m Machine[S], want Invariant, limit int) *Result {
	r := &Result{Traces: map[Invariant]string{}, FoundAfter: map[Invariant]int{}, Lengths: map[Invariant]int{}}
	x := &explorer[S]{m: m, r: r, visited: newTable()}
	start := m.Start()
	m.Canon(&start)
	x.visited.add(fingerprint(&start))
	x.links = append(x.links, link{})
	x.found(m.Check(&start), 0, -1)
	level, next := []S{start}, []S(nil)
	first := 0 // number of the first state of level
	var out Steps[S]
	for ; len(level) > 0; r.Depth++ {
		next = next[:0]
		for i := range level {
			from := first + i
			out.list = out.list[:0]
			m.Moves(&level[i], &out)
			if len(out.list) == 0 {
				r.Final++
				x.found(m.Final(&level[i]), from, -1)
			}
			r.Steps += len(out.list)
			for k := range out.list {
				st := &out.list[k]
				r.Seen[st.What]++
				r.Seen[st.Via]++
				x.found(st.Broken, from, k)
				m.Canon(&st.To)
				if !x.visited.add(fingerprint(&st.To)) {
					continue
				}
				x.found(m.Check(&st.To), from, k)
				x.links = append(x.links, link{uint32(from), uint8(k)})
				next = append(next, st.To)
			}
			if want != 0 && r.Broken&want == want || len(x.links) > limit {
				r.States = len(x.links)
				return r
			}
		}
		first += len(level)
		level, next = next, level
	}
	r.States, r.Complete = len(x.links), true
	return r
}

// Schedules counts the different orders of steps from the start to an end, and reports whether there are none that go
// on for ever. It keeps whole states, so it is for small machines; it panics at limit.
func Schedules[S comparable](m Machine[S], limit int) (n float64, finite bool) {
	const open = -1
	known := map[S]float64{}
	finite = true
	var count func(S) float64
	count = func(s S) float64 {
		if n, ok := known[s]; ok {
			finite = finite && n != open
			return max(n, 0)
		}
		if len(known) == limit {
			panic("model: more states than expected")
		}
		known[s] = open
		var out Steps[S]
		m.Moves(&s, &out)
		n := 0.0
		for k := range out.list {
			m.Canon(&out.list[k].To)
			n += count(out.list[k].To)
		}
		if len(out.list) == 0 {
			n = 1
		}
		known[s] = n
		return n
	}
	start := m.Start()
	m.Canon(&start)
	n = count(start)
	return n, finite
}

type explorer[S comparable] struct {
	m       Machine[S]
	r       *Result
	visited *table
	links   []link
}

// link tells where a state comes from: the number of another, and which of its steps.
type link struct {
	from uint32
	step uint8
}

// found notes what is broken by a step from a state, or in the state itself if step is -1.
func (x *explorer[S]) found(v Invariant, from, step int) {
	for v &^= x.r.Broken; v != 0; {
		one := v & -v
		v &^= one
		x.r.Broken |= one
		x.r.FoundAfter[one] = len(x.links)
		x.r.Traces[one], x.r.Lengths[one] = x.trace(from, step)
	}
}

// trace executes the way to a step again. In the states that are kept, processes change places; here they do not, so
// that each keeps its letter.
func (x *explorer[S]) trace(from, step int) (string, int) {
	var way []int
	if step >= 0 {
		way = append(way, step)
	}
	for n := from; n != 0; n = int(x.links[n].from) {
		way = append(way, int(x.links[n].step))
	}
	canonical, concrete := x.m.Start(), x.m.Start()
	x.m.Canon(&canonical)
	var text []string
	for _, step := range slices.Backward(way) {
		var out, here Steps[S]
		x.m.Moves(&canonical, &out)
		st := out.list[step]
		x.m.Canon(&st.To)
		x.m.Moves(&concrete, &here)
		k := 0
		for ; k < len(here.list); k++ {
			to := here.list[k].To
			x.m.Canon(&to)
			if to == st.To && here.list[k].What == st.What && here.list[k].Broken == st.Broken {
				break
			}
		}
		if k == len(here.list) { // ties in Canon: go on with the canonical state
			text = append(text, x.m.Describe(&st)+"(renamed)")
			canonical, concrete = st.To, st.To
			continue
		}
		text = append(text, x.m.Describe(&here.list[k]))
		canonical, concrete = st.To, here.list[k].To
	}
	return strings.Join(text, " "), len(text)
}

// String is one line.
func (r *Result) String() string {
	verdict := "holds"
	switch {
	case r.Broken != 0:
		verdict = "BROKEN " + r.Broken.String()
	case !r.Complete:
		verdict = "incomplete"
	}
	return fmt.Sprintf("%d states, %d steps, %d ends, depth %d: %s", r.States, r.Steps, r.Final, r.Depth, verdict)
}

// table is a set of hashes with open addressing. 0 stands for an empty place.
type table struct {
	places []uint64
	n      int
}

func newTable() *table { return &table{places: make([]uint64, 1<<12)} }

// add reports whether h is new.
func (t *table) add(h uint64) bool {
	if h == 0 {
		h = 1
	}
	if t.n*4 >= len(t.places)*3 {
		t.grow()
	}
	mask := uint64(len(t.places) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		switch t.places[i] {
		case 0:
			t.places[i] = h
			t.n++
			return true
		case h:
			return false
		}
	}
}

func (t *table) grow() {
	old := t.places
	t.places = make([]uint64, 2*len(old))
	mask := uint64(len(t.places) - 1)
	for _, h := range old {
		if h == 0 {
			continue
		}
		i := h & mask
		for t.places[i] != 0 {
			i = (i + 1) & mask
		}
		t.places[i] = h
	}
}

// fingerprint hashes the bytes of a state.
func fingerprint[S any](s *S) uint64 {
	b := bytesOf(s)
	h := uint64(len(b)) ^ 0x9e3779b97f4a7c15
	mix := func(w uint64) {
		hi, lo := bits.Mul64(h^w^0xa0761d6478bd642f, h<<1^0xe7037ed1a0b428db)
		h = hi ^ lo ^ w*0x8ebc6af09c88c6e3
	}
	for ; len(b) >= 8; b = b[8:] {
		mix(binary.LittleEndian.Uint64(b))
	}
	var tail [8]byte
	copy(tail[:], b)
	mix(binary.LittleEndian.Uint64(tail[:]))
	mix(0x589965cc75374cc3)
	return h
}
