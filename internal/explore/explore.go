package explore

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
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
	Stopped   bool   // by Limit
	Failure   string // of the first play that failed, with its steps
}

// Plays is how often the program was played.
func (r Result) Plays() int { return r.Schedules + r.Pruned }

// Search is a way through all schedules.
type Search struct {
	Play  func(*Schedule)
	Limit int // plays; 0: all

	result Result
	path   []node
	seen   map[uint64]bool  // the states entered
	found  map[uint64][]int // states met by checks, with the choices that led there
	rng    *rand.Rand
}

// node is a state on the current path.
type node struct {
	n, next int
	label   string // of next, to see that it is the same each time
}

// checked is the share of pruned plays that go on.
const checked = 10

// Run searches until all schedules were played or one has failed. If CACHE_SCHEDULE has choices, as the text of a failure
// has them, it plays only those, and fails with what happened.
func (x *Search) Run() Result {
	if fixed := os.Getenv("CACHE_SCHEDULE"); fixed != "" {
		var choices []int
		for field := range strings.SplitSeq(fixed, ".") {
			n, err := strconv.Atoi(field)
			if err != nil {
				return Result{Failure: fmt.Sprintf("CACHE_SCHEDULE: %v", err)}
			}
			choices = append(choices, n)
		}
		return Result{Schedules: 1, Failure: x.steps(choices)}
	}
	x.seen, x.found = make(map[uint64]bool), make(map[uint64][]int)
	x.rng = rand.New(rand.NewPCG(1, 2))
	for {
		s := &Schedule{x: x}
		x.Play(s)
		if s.depth < len(x.path) {
			s.Failf("the play ended after %d choices: before, it had %d", s.depth, len(x.path))
		}
		if s.pruned {
			x.result.Pruned++
		} else {
			x.result.Schedules++
		}
		x.result.Depth = max(x.result.Depth, s.depth)
		x.result.States = len(x.seen)
		if s.failure != "" {
			x.result.Failure = x.steps(s.choices) + "\n" + s.failure
			return x.result
		}
		if !x.next() {
			x.result.Failure = x.unknown()
			return x.result
		}
		if x.result.Plays() == x.Limit {
			x.result.Stopped = true
			return x.result
		}
	}
}

// next goes to the next path, if there is one.
func (x *Search) next() bool {
	for len(x.path) > 0 {
		last := &x.path[len(x.path)-1]
		if last.next++; last.next < last.n {
			last.label = ""
			return true
		}
		x.path = x.path[:len(x.path)-1]
	}
	return false
}

// unknown describes the shortest way to a state that a check met and the search did not.
func (x *Search) unknown() string {
	var least []int
	for state, choices := range x.found {
		if !x.seen[state] && (least == nil || len(choices) < len(least)) {
			least = choices
		}
	}
	if least == nil {
		return ""
	}
	return x.steps(least) + "\nA check has met a state that the search has not: states that were taken to be equal are not"
}

// steps plays the schedule with these choices, and returns its steps.
func (x *Search) steps(choices []int) string {
	s := &Schedule{x: x, fixed: append([]int{}, choices...)}
	x.Play(s)
	text := make([]string, len(choices))
	for i, c := range choices {
		text[i] = strconv.Itoa(c)
	}
	return strings.Join(s.steps, "\n") + "\n" + s.failure + "\n(CACHE_SCHEDULE=" + strings.Join(text, ".") + ")"
}

// Schedule is one play. Choose is for one goroutine; Note and Failf are safe for concurrent use.
type Schedule struct {
	x       *Search
	fixed   []int // the choices, if they are given; the steps are kept then
	depth   int
	choices []int
	pruned  bool
	free    bool // goes on at random

	mu      sync.Mutex
	steps   []string // guarded by mu
	failure string   // guarded by mu
}

// Single returns a play that belongs to no search: somebody else chooses. With keep it keeps its steps.
func Single(keep bool) *Schedule {
	s := &Schedule{}
	if keep {
		s.fixed = []int{}
	}
	return s
}

// Step notes what was chosen.
func (s *Schedule) Step(label fmt.Stringer) {
	if s.fixed != nil {
		s.add(label.String())
	}
}

// Choose returns which of n alternatives happens next, or -1 if the rest of the play is known: it should end soon then,
// and Choose is not asked again. state identifies all that the future depends on, label an alternative; they are called
// only where they are needed.
func (s *Schedule) Choose(n int, state func() uint64, label func(i int) string) int {
	i := 0
	if n > 1 {
		i = s.choose(n, state, label)
	}
	if i >= 0 && s.fixed != nil {
		s.add(label(i))
	}
	return i
}

func (s *Schedule) choose(n int, state func() uint64, label func(i int) string) int {
	x := s.x
	i := s.depth
	s.depth++
	switch {
	case s.fixed != nil:
		if i < len(s.fixed) && s.fixed[i] < n {
			return s.fixed[i]
		}
		return -1
	case s.free:
		x.found[state()] = slices.Clone(s.choices)
		i := x.rng.IntN(n)
		s.choices = append(s.choices, i)
		return i
	case i < len(x.path):
		node := &x.path[i]
		if text := label(min(node.next, n-1)); node.label == "" {
			node.label = text
		} else if node.label != text || node.n != n {
			s.Failf("the same choices have led to %d other alternatives: among them %q, and not %q", n, text, node.label)
			s.pruned = true
			return -1
		}
		s.choices = append(s.choices, node.next)
		return node.next
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
		i := x.rng.IntN(n)
		s.choices = append(s.choices, i)
		return i
	}
	x.seen[k] = true
	x.path = append(x.path, node{n: n})
	s.choices = append(s.choices, 0)
	return 0
}

// Note adds a line to the steps that a failure shows.
func (s *Schedule) Note(format string, args ...any) {
	if s.fixed != nil {
		s.add("    " + fmt.Sprintf(format, args...))
	}
}

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

// Steps returns the steps and notes that were kept.
func (s *Schedule) Steps() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.steps
}

// Failure returns why it has failed, or "".
func (s *Schedule) Failure() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// Failed reports whether it has failed already.
func (s *Schedule) Failed() bool { return s.Failure() != "" }
