package model

import (
	"testing"
	"time"
)

func TestTags(t *testing.T) {
	for _, c := range []struct {
		name string
		t    Tags
	}{
		{"3p 1c 1f", Tags{Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 1}},
		{"3p 1c 0f 2w", Tags{Processes: 3, Callers: 1, Calls: 1, Writes: 2, Faults: 0}},
		{"2p 1c 2calls 2w 1f", Tags{Processes: 2, Callers: 1, Calls: 2, Writes: 2, Faults: 1}},
		{"2p 1c 1calls 2w 2f", Tags{Processes: 2, Callers: 1, Calls: 1, Writes: 2, Faults: 2}},
		{"2p 1c 1calls 1w 3f", Tags{Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 3}},
	} {
		t0 := time.Now()
		r := Explore[TagState](&c.t, 0, 4e6)
		t.Log(c.name, r, time.Since(t0))
	}
}
