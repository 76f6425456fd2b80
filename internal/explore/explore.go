package explore

import (
	"flag"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
)

// Result is what a search found.
type Result struct {
	Schedules int    // plays that went to their end
	Pruned    int    // plays that ended at a state already entered
	Checked   int    // of those, that went on at random
	States    int    // in which there was a choice
	Depth     int    // choices in the longest play
	Failure   string // of the first play that failed, with its steps
	Stopped   bool   // by Limit
}

// Plays is how often the program was played.
func (r Result) Plays() int { return r.Schedules + r.Pruned }

// Search is a way through all schedules.
type Search struct {
	Play  func(*Schedule)
	Limit int // plays; 0: all

	result Result
	path   []node
	seen   map[uint64]bool     // the states entered
	found  map[uint64][]string // states met by checks, with the steps that led there
	rng    *rand.Rand
}

// node is a state on the current path.
type node struct {
	offered uint64 // its alternatives
	n, next int
}

// checked is the share of pruned plays that go on.
const checked = 100

var seed = maphash.MakeSeed()

var replay = flag.String("schedule", "", "play only this schedule: choices as a failure prints them, such as 0.2.1")

// Run searches until all schedules were played or one has failed.
func (x *Search) Run() Result {
	x.seen, x.found = make(map[uint64]bool), make(map[uint64][]string)
	x.rng = rand.New(rand.NewPCG(1, 2))
	if *replay != "" {
		for field := range strings.SplitSeq(*replay, ".") {
			n, err := strconv.Atoi(field)
			if err != nil {
				return Result{Failure: fmt.Sprintf("-schedule: %v", err)}
			}
			x.path = append(x.path, node{next: n})
		}
	}
	for {
		s := &Schedule{x: x}
		x.Play(s)
		x.result.Depth = max(x.result.Depth, s.depth)
		switch {
		case s.failure != "":
			x.result.Failure = s.String() + "\n" + s.failure
			return x.result
		case s.pruned:
			x.result.Pruned++
		default:
			x.result.Schedules++
		}
		if s.depth < len(x.path) && *replay == "" {
			s.Failf("the play ended after %d choices: before, it had %d", s.depth, len(x.path))
			x.result.Failure = s.String() + "\n" + s.failure
			return x.result
		}
		for len(x.path) > 0 && x.path[len(x.path)-1].next+1 >= x.path[len(x.path)-1].n {
			x.path = x.path[:len(x.path)-1]
		}
		x.result.States = len(x.seen)
		if len(x.path) == 0 || *replay != "" {
			break
		}
		if x.result.Plays() == x.Limit {
			x.result.Stopped = true
			return x.result
		}
		x.path[len(x.path)-1].next++
	}
	if *replay == "" {
		x.result.Failure = x.unknown()
	}
	return x.result
}

// unknown returns the shortest way to a state that a check met and the search did not.
func (x *Search) unknown() string {
	var least []string
	for state, steps := range x.found {
		if !x.seen[state] && (least == nil || len(steps) < len(least)) {
			least = steps
		}
	}
	if least == nil {
		return ""
	}
	return "a check met a state that the search has not: states that were taken to be equal are not:\n" +
		strings.Join(least, "\n")
}

// Schedule is one play. Choose is for one goroutine; Note and Failf are safe for concurrent use.
type Schedule struct {
	x       *Search
	depth   int
	choices []string // their numbers
	pruned  bool
	free    bool // goes on at random

	mu      sync.Mutex
	steps   []string // guarded by mu
	failure string   // guarded by mu
}

// Choose returns which of the alternatives happens next, or -1 if the rest of the play is known: it should end soon then,
// and Choose is not asked again. state identifies all that the future depends on; it is called only where it is needed.
func (s *Schedule) Choose(state func() uint64, alternatives []string) int {
	i := s.choose(state, alternatives)
	if i >= 0 {
		s.add(alternatives[i])
	}
	return i
}

func (s *Schedule) choose(state func() uint64, alternatives []string) int {
	x := s.x
	if len(alternatives) == 1 {
		return 0
	}
	if s.free {
		x.found[state()] = append([]string(nil), s.steps...)
		return x.rng.IntN(len(alternatives))
	}
	offered := digest(alternatives)
	i := s.depth
	s.depth++
	if i < len(x.path) {
		n := &x.path[i]
		if n.n == 0 { // given by -schedule
			n.offered, n.n = offered, len(alternatives)
		}
		if n.offered != offered || n.next >= len(alternatives) {
			s.Failf("the same choices led to other alternatives: %q", alternatives)
			s.pruned = true
			return -1
		}
		s.choices = append(s.choices, strconv.Itoa(n.next))
		return n.next
	}
	k := state()
	if x.seen[k] {
		s.depth--
		s.pruned = true
		if x.rng.IntN(checked) > 0 {
			return -1
		}
		x.result.Checked++
		s.free = true
		return x.rng.IntN(len(alternatives))
	}
	x.seen[k] = true
	x.path = append(x.path, node{offered: offered, n: len(alternatives)})
	s.choices = append(s.choices, "0")
	return 0
}

// Note adds a line to the steps that a failure shows.
func (s *Schedule) Note(line string) { s.add("    " + line) }

func (s *Schedule) add(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, line)
}

// Failf makes the play fail, once it has ended. The first failure counts.
func (s *Schedule) Failf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == "" {
		s.failure = fmt.Sprintf(format, args...)
	}
}

// Failed reports whether it has failed already.
func (s *Schedule) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure != ""
}

// String returns the steps of the play, and how to play it again.
func (s *Schedule) String() string {
	return fmt.Sprintf("%s\n(-schedule=%s)", strings.Join(s.steps, "\n"), strings.Join(s.choices, "."))
}

func digest(list []string) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, s := range list {
		h.WriteString(s)
		h.WriteByte(0)
	}
	return h.Sum64()
}
