package explore

import (
	"os"
	"testing"
)

// Level says how much is explored.
type Level int

// The levels. Complete is what CI does besides: it takes minutes, and is meant to run without -race.
const (
	Off Level = iota
	Some
	Complete
	Long
)

var names = [...]string{"off", "some", "complete", "long"}

// At returns the level that CACHE_EXPLORE names, which is some if it names none, and skips the test if that is less than
// needed.
func At(t testing.TB, needed Level) Level {
	t.Helper()
	value := os.Getenv("CACHE_EXPLORE")
	if value == "" {
		value = Some.String()
	}
	for l, name := range names {
		switch {
		case name != value:
		case Level(l) < needed:
			t.Skipf("CACHE_EXPLORE=%s", value)
		default:
			return Level(l)
		}
	}
	t.Fatalf("CACHE_EXPLORE=%s: want off, some, complete or long", value)
	return Off
}

// String returns the level as CACHE_EXPLORE has it.
func (l Level) String() string { return names[l] }
