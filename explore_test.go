package cache

import (
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/explore"
)

// TestExplore plays all schedules of each space.
func TestExplore(t *testing.T) {
	for _, sp := range []space{
		{name: "two-cold", processes: 2, callers: 1, local: true},
		{name: "three-cold", processes: 3, callers: 1, local: true},
		{name: "two-cold-1", processes: 2, callers: 1, local: true, faults: 1, kinds: allFaults},
		{name: "two-cold-2", processes: 2, callers: 1, local: true, faults: 2, kinds: allFaults},
		{name: "three-cold-1", processes: 3, callers: 1, local: true, faults: 1, kinds: allFaults},
	} {
		t.Run(sp.name, func(t *testing.T) {
			seen := map[string]int{}
			began := time.Now()
			x := explore.Search{Play: func(s *explore.Schedule) { runTrial(t, &sp, s, seen) }, Limit: 200000}
			r := x.Run()
			d := time.Since(began)
			t.Logf("%d schedules, %d pruned, %d checked, %d states, depth %d, %.1f s, %.0f/s, stopped %v, %v",
				r.Schedules, r.Pruned, r.Checked, r.States, r.Depth, d.Seconds(), float64(r.Plays())/d.Seconds(), r.Stopped, seen)
			if r.Failure != "" {
				t.Error(r.Failure)
			}
		})
	}
}
