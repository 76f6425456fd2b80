package cache

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
)

func newTestLocal(t *testing.T, o Options) *local {
	t.Helper()
	full, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return newLocal(&full, newMemory[string](&full))
}

// held is how many entries there are, once otter has seen to its bounds.
func (l *local) held() int {
	entries := l.memory.(*memory[string]).entries
	entries.CleanUp()
	return entries.EstimatedSize()
}

func kept(value string, size int, d time.Duration) *filling {
	return &filling{value: value, encoded: size, serve: d, due: d}
}

// An entry is kept only if its key was not invalidated since its epoch.
func TestEpochs(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		l := newTestLocal(t, Options{})
		has := func(want bool) {
			t.Helper()
			if _, ok := l.get("k"); ok != want {
				t.Errorf("found: %v", ok)
			}
		}
		since := l.epoch("k")
		l.fill("k", since, kept("v", 1, time.Minute))
		has(true)
		again := l.drop("k")
		has(false)
		l.fill("k", since, kept("v", 1, time.Minute))
		has(false)
		l.fill("k", again, kept("v", 1, time.Minute))
		has(true)
		l.dropAll()
		has(false)
		l.fill("k", again, kept("v", 1, time.Minute))
		has(false)
		l.fill("k", l.epoch("k"), kept("v", 1, 0))
		has(false)
		l.fill("k", l.epoch("k"), kept("v", 1, time.Minute))
		has(true)
	})
}

func TestLocalEntries(t *testing.T) {
	l := newTestLocal(t, Options{LocalEntries: 100})
	for i := range 1000 {
		k := fmt.Sprint(i)
		l.fill(k, l.epoch(k), kept(k, 1, time.Minute))
	}
	if n := l.held(); n > 100 {
		t.Errorf("%d entries", n)
	}
}

func TestLocalBytes(t *testing.T) {
	count := func(l *local, size int) int {
		for i := range 1000 {
			k := fmt.Sprintf("%03d", i)
			l.fill(k, l.epoch(k), kept(strings.Repeat("x", size), size, time.Minute))
		}
		return l.held()
	}
	if n := count(newTestLocal(t, Options{LocalBytes: 100_000}), 1000); n > 100 || n < 50 {
		t.Errorf("%d entries of 1 kB in 100 kB", n)
	}
	if n := count(newTestLocal(t, Options{LocalBytes: 100_000_000, LocalEntries: 10}), 1000); n > 10 {
		t.Errorf("%d entries", n)
	}
	if n := count(newTestLocal(t, Options{LocalBytes: 1000}), 1000); n != 0 {
		t.Errorf("%d entries that are larger than the bound", n)
	}
}

// A key takes memory too.
func TestLocalBytesOfKeys(t *testing.T) {
	o, err := Options{LocalBytes: 1 << 20}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	l := newLocal(&o, nil)
	if short, long := l.weigh("k", 1000), l.weigh(strings.Repeat("k", 1000), 1000); long < 3*short/2 {
		t.Errorf("an entry weighs %d, with a long key %d", short, long)
	}
}

// get returns what a call gets that is answered from memory.
func (l *local) get(key string) (any, bool) {
	e, value := l.find(key)
	return value, e.localEntry != nil && l.now() < e.due
}
