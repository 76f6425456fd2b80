package model

import (
	"testing"
	"time"
)

func TestTry(t *testing.T) {
	all := AllButFailover
	for _, c := range []struct {
		name string
		b    Bounds
	}{
		{"lease 2p fine", Bounds{Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 2, Kinds: all, Failures: 1, Fine: true}},
		{"lease 2p", Bounds{Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 2, Kinds: all, Failures: 1}},
		{"lease 3p", Bounds{Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: all, Failures: 1}},
		{"lease 3p 2f", Bounds{Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 2, Kinds: all}},
		{"mem 3p 1f", Bounds{Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: all, Memory: true}},
		{"joins 2p", Bounds{Processes: 2, Callers: 2, Joined: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: all, Memory: true}},
		{"wake 2p", Bounds{Processes: 2, Callers: 1, Calls: 2, Writes: 1, Faults: 1, Kinds: all, Memory: true, Wakes: true}},
		{"refresh 2p", Bounds{Processes: 2, Callers: 1, Calls: 2, Writes: 1, Faults: 1, Kinds: all, Refresh: true, Endings: 1, Failures: 1}},
	} {
		t0 := time.Now()
		r := Explore(&Protocol{Bounds: c.b}, 0, 3e6)
		t.Log(c.name, r, time.Since(t0))
		for k, v := range r.Traces {
			t.Log("  ", k, v)
		}
	}
}
