package explore

import (
	"flag"
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

var names = map[string]Level{"off": Off, "some": Some, "complete": Complete, "long": Long}

var level = flag.String("explore", "some", "how much to explore: off, some, complete or long")

// At returns the level that the tests run at, and skips the test if it is lower than needed.
func At(t testing.TB, needed Level) Level {
	t.Helper()
	l, ok := names[*level]
	switch {
	case !ok:
		t.Fatalf("-explore=%s: want off, some, complete or long", *level)
	case l < needed:
		t.Skipf("explored with -explore=%s or more", needed)
	}
	return l
}

// String returns the level as the flag has it.
func (l Level) String() string {
	for n, v := range names {
		if v == l {
			return n
		}
	}
	return "?"
}
