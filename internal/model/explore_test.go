package model

import (
	"fmt"
	"testing"

	"github.com/bellwether-go/cache/internal/explore"
)

// grid is a machine of known size: two counters that go up to top, one step at a time.
type grid struct{ top, badX, badY uint8 }

type point struct{ X, Y uint8 }

func (g grid) Start() point { return point{} }

func (g grid) Moves(p *point, out *Steps[point]) {
	if p.X < g.top {
		out.add(p, 0, loads).To.X++
	}
	if p.Y < g.top {
		out.add(p, 1, loads).To.Y++
	}
}

func (g grid) Canon(*point) {}

func (g grid) Check(p *point) Invariant {
	if g.badX != 0 && p.X == g.badX && p.Y == g.badY {
		return Stuck
	}
	return 0
}

func (g grid) Final(*point) Invariant { return Wedged }

func (g grid) Describe(st *Step[point]) string { return describe(st.Who, st.Via, st.What) }

func TestExplore(t *testing.T) {
	explore.At(t, explore.Some)
	r := Explore[point](grid{top: 200}, 0, most)
	if !r.Complete || r.States != 201*201 || r.Steps != 2*200*201 || r.Final != 1 || r.Depth != 401 || r.Broken != Wedged {
		t.Errorf("%+v", r)
	}
	if r.Lengths[Wedged] != 400 || r.Seen[loads] != r.Steps {
		t.Errorf("%d steps to the end, %d seen", r.Lengths[Wedged], r.Seen[loads])
	}

	r = Explore[point](grid{top: 200, badX: 3, badY: 2}, Stuck, most)
	if r.Broken != Stuck || r.Lengths[Stuck] != 5 || r.States > 40 {
		t.Errorf("%v: %v", r, r.Traces)
	}

	if r = Explore[point](grid{top: 200}, 0, 1000); r.Complete {
		t.Error("complete in spite of the limit")
	}
	if n, finite := Schedules[point](grid{top: 5}, most); n != 252 || !finite { // 10 over 5
		t.Errorf("%v schedules, finite: %v", n, finite)
	}
	if _, finite := Schedules[point](ring{}, most); finite {
		t.Error("a ring has an end")
	}
}

// ring is a machine that never ends.
type ring struct{ grid }

func (ring) Moves(p *point, out *Steps[point]) {
	st := out.add(p, 0, loads)
	st.To.X = (p.X + 1) % 5
}

// TestTable looks whether the set of hashes is one.
func TestTable(t *testing.T) {
	explore.At(t, explore.Some)
	tab := newTable()
	known := map[uint64]bool{}
	for i := range uint64(20_000) {
		h := i % 15_000 * 0x9e3779b97f4a7c15
		if tab.add(h) == known[h] {
			t.Fatal(fmt.Sprintf("%#x", h), known[h])
		}
		known[h] = true
	}
	if tab.n != 15_000 {
		t.Error(tab.n)
	}
}
