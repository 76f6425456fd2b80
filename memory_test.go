package cache

import (
	"sync"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
)

// In virtual time, in which no timer is late, the clock of a hit says what the exact one says.
func TestClock(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		k := &clock{started: time.Now()}
		for _, step := range []time.Duration{1, time.Microsecond, time.Millisecond, 3 * time.Millisecond, clockStep - 1, clockStep, time.Second} {
			for range 50 {
				now := k.now()
				for _, d := range []time.Duration{-time.Second, -1, 0, 1, time.Millisecond, clockStep - 1, clockStep, clockStep + 1, time.Hour} {
					if got := k.before(now + int64(d)); got != (d > 0) {
						t.Fatalf("%v after %v: before(%v) is %v", step, time.Duration(now), d, got)
					}
				}
				time.Sleep(step)
			}
		}
	})
}

// The timer looks at the time only while there are hits, and a hit does then not.
func TestClockRests(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		k := &clock{started: time.Now()}
		hour := int64(time.Hour)
		for round := range 2 {
			k.before(hour)
			seen := k.seen.Load()
			if seen == 0 {
				t.Fatal("it does not run")
			}
			time.Sleep(clockStep / 2)
			k.before(hour)
			if k.seen.Load() != seen {
				t.Error("a hit looks at the time")
			}
			time.Sleep(clockStep)
			if k.seen.Load() == seen {
				t.Error("the timer does not")
			}
			time.Sleep(2 * clockStep)
			if k.seen.Load() != 0 {
				t.Errorf("%d: it runs although there are no hits", round)
			}
		}
	})
}

func TestClockInParallel(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		k := &clock{started: time.Now()}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 100 {
					k.before(int64(time.Hour))
					time.Sleep(clockStep)
				}
			})
		}
		all.Wait()
		time.Sleep(2 * clockStep)
		if k.seen.Load() != 0 {
			t.Error("it does not rest")
		}
	})
}

func TestAdder(t *testing.T) {
	var a adder
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			for range 100 {
				a.add(3)
			}
		})
	}
	all.Wait()
	if n := a.load(); n != 30_000 {
		t.Error(n)
	}
}
