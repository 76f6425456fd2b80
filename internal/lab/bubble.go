package lab

import (
	"runtime"
	"testing"
	"testing/synctest"
)

// Bubble is synctest.Test. Under the race detector it runs on one P: goroutines that receive from timers which have fired
// run them themselves (maybeRunChan in the runtime's time.go), and with more than one P two of them use the race
// detector's state of the bubble's timers at the same time. With Go 1.25.0 and 1.26.8 that was seen to end the process by
// a SIGSEGV in the detector: within a second with 50 goroutines that do nothing else, and once in some runs of our tests.
func Bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if Race {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	}
	synctest.Test(t, f)
}
