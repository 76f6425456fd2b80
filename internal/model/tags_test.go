package model

import (
	"testing"
	"time"
)

func TestTags(t *testing.T) {
	for _, c := range []struct {
		name string
		t    Tags
		want Invariant
	}{
		{"2p 2c", Tags{Processes: 2, Callers: 2, Calls: 1, Writes: 1, Faults: 1}, 0},
		{"3p 1c", Tags{Processes: 3, Callers: 1, Calls: 1, Writes: 1, Faults: 2}, 0},
		{"3p 1c", Tags{Processes: 2, Callers: 1, Calls: 2, Writes: 2, Faults: 2}, 0},
		{"missing", Tags{Processes: 2, Callers: 1, Calls: 2, Writes: 1, Faults: 1, Variant: TagVariant{MissingIsValid: true}}, StaleStored | StaleRead},
		{"stamp", Tags{Processes: 2, Callers: 1, Calls: 2, Writes: 1, Variant: TagVariant{StampAfterLoad: true}}, StaleStored | StaleRead},
		{"unchecked", Tags{Processes: 2, Callers: 2, Calls: 1, Writes: 1, Variant: TagVariant{LoadUnchecked: true}}, StaleRead},
		{"late", Tags{Processes: 2, Callers: 2, Calls: 1, Writes: 1, Variant: TagVariant{LateCallsToo: true}}, StaleRead},
		{"loss", Tags{Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 1, Variant: TagVariant{LossIgnored: true}}, StaleMemory},
		{"forget", Tags{Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 1, Variant: TagVariant{ForgettingIgnored: true}}, StaleMemory},
		{"epoch", Tags{Processes: 2, Callers: 1, Calls: 1, Writes: 1, Faults: 1, Variant: TagVariant{EpochIgnored: true}}, StaleMemory},
	} {
		t0 := time.Now()
		r := Explore[TagState](&c.t, c.want, 4e6)
		t.Log(c.name, r, time.Since(t0))
		for k, v := range r.Traces {
			t.Log("  ", k, v)
		}
	}
}
