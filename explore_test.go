package cache

import (
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/explore"
)

// TestExplore plays all schedules of each space.
func TestExplore(t *testing.T) {
	spaces := []space{
		{name: "f3", processes: 3, callers: 1, faults: 2, kinds: "fail"},
		{name: "f2", processes: 2, callers: 1, faults: 2, kinds: "fail late repeat evict crash"},
	}
	for _, sp := range spaces {
		t.Run(sp.name, func(t *testing.T) {
			seen := map[string]int{}
			began := time.Now()
			x := explore.Search{Play: func(s *explore.Schedule) { runTrial(t, &sp, s, seen) }, Limit: 5000000}
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
