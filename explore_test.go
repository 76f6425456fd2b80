package cache

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/explore"
)

// TestExplore plays all schedules of each space.
func TestExplore(t *testing.T) {
	var spaces []space
	for _, k := range []string{"fail repeat late evict crash", "fail repeat late evict crash pause", "stream cancel close error panic"} {
		for _, n := range []int{2, 3} {
			spaces = append(spaces, space{name: fmt.Sprint("X", n, k), processes: n, callers: 1, faults: 2, kinds: k})
		}
	}
	for _, n := range []int{2, 3} {
		spaces = append(spaces, space{name: fmt.Sprint(n, "-none"), processes: n, callers: 1})
		for _, k := range strings.Fields(allFaults) {
			spaces = append(spaces, space{name: fmt.Sprint(n, "-", k), processes: n, callers: 1, faults: 1, kinds: k})
		}
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
