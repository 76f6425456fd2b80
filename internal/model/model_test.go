package model

import (
	"testing"
	"time"
)

func TestTry(t *testing.T) {
	all := AllButFailover
	red := RequestLost | ReplyLost | Late | LeaseEnds | Restart | Crash | Impatience | Eviction
	_ = red
	for _, c := range []struct {
		name string
		b    Bounds
	}{
		{"lease 3p 3f 2w", Bounds{Processes: 3, Callers: 1, Calls: 1, Writes: 2, Faults: 3, Kinds: red}},
		{"lease 3p 2f 2w 1fail", Bounds{Processes: 3, Callers: 1, Calls: 1, Writes: 2, Faults: 2, Kinds: red, Failures: 1}},
		{"lease 2p 3f 2w 2calls", Bounds{Processes: 2, Callers: 1, Calls: 2, Writes: 2, Faults: 3, Kinds: red}},
		{"mem 3p 2f out", Bounds{Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 2, Kinds: all, Memory: true, Outside: true}},
		{"mem 2p 2f 2c out", Bounds{Processes: 2, Callers: 1, Calls: 2, Writes: 1, Faults: 2, Kinds: all, Memory: true, Outside: true}},
		{"mem 2p 1f 2c in", Bounds{Processes: 2, Callers: 1, Calls: 2, Writes: 1, Faults: 1, Kinds: all, Memory: true}},
		{"mem 3p 0f 2w in", Bounds{Processes: 3, Callers: 1, Calls: 1, Writes: 2, Faults: 0, Kinds: all, Memory: true}},
		{"joins 2p out", Bounds{Processes: 2, Callers: 2, Joined: 1, Calls: 1, Writes: 1, Faults: 1, Kinds: all, Memory: true, Outside: true}},
		{"wake 3p", Bounds{Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 2, Kinds: all, Wakes: true}},
		{"wake 3p 3f", Bounds{Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 3, Kinds: all, Wakes: true}},
		{"refresh 3p", Bounds{Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 2, Kinds: red, Refresh: true, Endings: 1, Failures: 1}},
		{"failover 2p", Bounds{Processes: 2, Callers: 1, Calls: 2, Writes: 1, Faults: 2, Kinds: red | Failover}},
	} {
		t0 := time.Now()
		r := Explore(&Protocol{Bounds: c.b}, 0, 4e6)
		t.Log(c.name, r, time.Since(t0))
		for k, v := range r.Traces {
			t.Log("  ", k, v)
		}
	}
}
