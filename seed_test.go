package cache

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/bellwether-go/cache/internal/explore"
)

// seedFaults are the kinds of faults that random schedules have, in memory and with the real Redis.
const (
	seedFaults = "fail repeat late lost refuse silence evict garbage expire flush restart barriers " +
		"drop twice forward back slow pause crash close cancel error panic exit"
	seedFaultsInMemory  = seedFaults + " failover stream noise node"
	seedFaultsInHistory = seedFaults + " stream noise node" // after a failover old values may be there
	seedFaultsOnWire    = seedFaults + " stream"
)

// seedKinds are the kinds of random schedules, with their faults.
var seedKinds = map[string]string{"memory": seedFaultsInMemory, "history": seedFaultsInHistory, "real": seedFaultsOnWire}

// draws are the numbers that a random schedule is made of. Those that are given come first; then the seed's, if there is
// one, or zeros. Zero is always the simplest.
type draws struct {
	given []byte
	rng   *rand.Rand
	made  []byte
}

// n returns a number from 0 to n-1.
func (d *draws) n(n int) int {
	var b byte
	switch i := len(d.made); {
	case i < len(d.given):
		b = d.given[i]
	case d.rng != nil:
		b = byte(d.rng.IntN(n))
	}
	d.made = append(d.made, b)
	return int(b) % n
}

// seed is a random schedule: what the processes do, and what happens.
type seed struct {
	kind    string // memory, history (in memory too) or real
	fleet   draws
	choices draws
}

func newSeed(n uint64, kind string) *seed {
	return &seed{kind: kind, fleet: draws{rng: rand.New(rand.NewPCG(n, 0))}, choices: draws{rng: rand.New(rand.NewPCG(n, 1))}}
}

// space draws who does what.
func (sd *seed) space() *space {
	d := &sd.fleet
	sp := &space{name: "seed", real: sd.kind == "real", own: sd.kind == "history", writes: 1, writer: "A", kinds: seedKinds[sd.kind]}
	sp.processes = 3 + min(d.n(6), d.n(6)) // small fleets are faster, and have most of what there is to find
	sp.used = 1 + d.n(mostKeys)
	sp.faults = d.n(7)
	sp.local, sp.tags, sp.warm = d.n(2) > 0, d.n(3) > 1, d.n(3) > 1
	sp.abandoned = d.n(4) > 2
	if d.n(4) > 2 {
		sp.warm, sp.stale, sp.ifError = true, true, d.n(2) > 0
	}
	idle := 1 + d.n(3)
	for range sp.processes {
		var program [][]op
		for range seedCallers {
			var ops []op
			for range seedOps { // each of so many draws that leaving one out changes no other
				if o := d.op(sp); d.n(1+idle) == idle {
					ops = append(ops, o)
				}
			}
			if ops != nil {
				program = append(program, ops)
			}
		}
		sp.programs = append(sp.programs, program)
	}
	if d.n(4) > 2 {
		sp.limit, sp.strict, sp.fair = 1+d.n(3), d.n(2) > 0, d.n(2) > 0
	}
	if d.n(8) > 6 {
		sp.room = 1 + d.n(3)
	}
	if !sp.real && d.n(4) > 2 {
		sp.nodes = 3 + 2*d.n(2)
	}
	return sp
}

const (
	seedCallers = 3 // at most, in each process
	seedOps     = 3 // at most, of each
)

// op draws what a caller does next.
func (d *draws) op(sp *space) op {
	what, first := d.n(40), d.n(sp.used)
	one, many := []int{first}, []int{first}
	for k := range mostKeys {
		if d.n(2) > 0 && k != first && k < sp.used {
			many = append(many, k)
		}
	}
	for _, is := range []struct {
		below int
		op    op
	}{
		{20, op{"get", one}},
		{26, op{"get", many}},
		{28, op{"strict", one}},
		{30, op{"look", one}},
		{32, op{"refresh", one}},
		{35, op{"delete", one}},
		{37, op{"set", one}},
		{38, op{"sleep", one}},
	} {
		if what < is.below {
			return is.op
		}
	}
	switch {
	case !sp.tags:
		return op{"get", one}
	case what < 39:
		return op{"clear", sp.keys()}
	}
	return op{"delete tags", slices.DeleteFunc(slices.Clone(sp.keys()), func(k int) bool { return k%2 != first%2 })}
}

// chooser decides what happens, by priorities as in PCT (Burckhardt and others, "A Randomized Scheduler with Probabilistic
// Guarantees of Finding Bugs", ASPLOS 2010): of the processes of which something can go on, the one with the highest does. Now
// and then something else goes on, and its process has the lowest priority from then on; or there is a fault.
type chooser struct {
	*draws
	priorities []int // of processes
	lowest     int
	changes    int // of a hundred choices
	faults     int // ... that are faults, if there may be one
}

func (ch *chooser) begin(processes int) {
	for range processes {
		ch.priorities = append(ch.priorities, ch.n(8))
	}
	ch.changes = []int{2, 10, 30, 80}[ch.n(4)]
	ch.faults = []int{2, 5, 15}[ch.n(3)]
}

func (ch *chooser) priority(o option) int {
	if o.gate == nil {
		return ch.lowest - 1
	}
	return ch.priorities[o.gate.p.index]
}

// choose returns which of the steps or faults happens, or nil if there are none.
func (ch *chooser) choose(steps []option, faults func() []option) *option {
	what := ch.n(100)
	if len(steps) == 0 || what >= 100-ch.faults {
		if all := faults(); len(all) > 0 {
			return ch.fault(all)
		}
	}
	if len(steps) == 0 {
		return nil
	}
	if what >= 100-ch.faults-ch.changes {
		next := &steps[ch.n(min(len(steps), 256))]
		if next.gate != nil {
			ch.lowest--
			ch.priorities[next.gate.p.index] = ch.lowest
		}
		return next
	}
	best := 0
	for i, o := range steps {
		if ch.priority(o) > ch.priority(steps[best]) {
			best = i
		}
	}
	return &steps[best]
}

// fault returns a fault of any kind, each as likely as the others.
func (ch *chooser) fault(all []option) *option {
	var kinds []string
	for _, o := range all {
		if !slices.Contains(kinds, o.kind) {
			kinds = append(kinds, o.kind)
		}
	}
	kind := kinds[ch.n(len(kinds))]
	var alike []*option
	for i := range all {
		if all[i].kind == kind {
			alike = append(alike, &all[i])
		}
	}
	return alike[ch.n(min(len(alike), 256))]
}

// run plays it, and returns why it failed and, with keep, its steps.
func (sd *seed) run(t *testing.T, keep bool, seen map[string]int) (failure string, steps []string) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // otherwise goroutines that are woken together take turns by chance
	s := explore.Single(keep)
	tr := runTrial(t, sd.space(), s, &chooser{draws: &sd.choices}, seen)
	if failure = s.Failure(); failure == "" && tr.own {
		failure = tr.check(seen)
	}
	return failure, s.Steps()
}

// again returns what plays the same once more.
func (sd *seed) again() *seed {
	return &seed{kind: sd.kind, fleet: draws{given: sd.fleet.made}, choices: draws{given: sd.choices.made}}
}

// text is how a seed is kept in a file.
func (sd *seed) text() string {
	return fmt.Sprintf("%s\nfleet %x\nchoices %x\n", sd.kind, sd.fleet.made, sd.choices.made)
}

func parseSeed(text string) (*seed, error) {
	sd := &seed{}
	_, err := fmt.Sscanf(text, "%s\nfleet %x\nchoices %x\n", &sd.kind, &sd.fleet.given, &sd.choices.given)
	if err == nil && seedKinds[sd.kind] == "" {
		err = fmt.Errorf("there is no %q", sd.kind)
	}
	return sd, err
}

// shrink looks for a shorter way to a failure, with fewer draws or smaller ones, and plays at most so many.
func (sd *seed) shrink(plays int, fails func(*seed) bool) *seed {
	best := sd.again()
	try := func(fleet, choices []byte) bool {
		if plays--; plays < 0 {
			return false
		}
		next := &seed{kind: sd.kind, fleet: draws{given: fleet}, choices: draws{given: choices}}
		if !fails(next) {
			return false
		}
		best = next
		return true
	}
	for smaller := true; smaller; {
		smaller = false
		for _, of := range []struct {
			given func() []byte
			try   func([]byte) bool
		}{
			{func() []byte { return best.fleet.given }, func(b []byte) bool { return try(b, best.choices.given) }},
			{func() []byte { return best.choices.given }, func(b []byte) bool { return try(best.fleet.given, b) }},
		} {
			for size := 64; size > 0; size /= 2 {
				for at := 0; at < len(of.given()); {
					b := of.given()
					end := min(at+size, len(b))
					zeros := make([]byte, end-at)
					switch {
					case of.try(slices.Concat(b[:at], b[end:])): // and look at what has moved here
						smaller = true
						continue
					case !bytes.Equal(zeros, b[at:end]) && of.try(slices.Concat(b[:at], zeros, b[end:])):
						smaller = true
					}
					at += size
				}
			}
		}
	}
	return best
}

// sameFailure compares failures by the promise that is broken, or by their words without names and numbers.
func sameFailure(a, b string) bool {
	what := func(text string) string {
		words := strings.Fields(text)
		if len(words) > 0 && words[0][0] == 'P' {
			return words[0]
		}
		return strings.Join(slices.DeleteFunc(words, func(w string) bool { return len(w) < 3 || strings.ContainsAny(w, "0123456789") }), " ")
	}
	return what(a) == what(b)
}
