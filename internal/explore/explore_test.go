package explore

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// counter has threads that each do a number of steps.
func counter(threads, steps int, state func(done []int) uint64) func(*Schedule) {
	return func(s *Schedule) {
		done := make([]int, threads)
		for {
			var able []int
			for i, n := range done {
				if n < steps {
					able = append(able, i)
				}
			}
			if len(able) == 0 {
				return
			}
			i := s.Choose(len(able), func() uint64 { return state(done) }, func(i int) string { return fmt.Sprint("thread ", able[i]) })
			if i < 0 {
				return
			}
			done[able[i]]++
		}
	}
}

func position(done []int) (sum uint64) {
	for _, n := range done {
		sum = sum*100 + uint64(n)
	}
	return sum
}

func TestAllSchedules(t *testing.T) {
	unique := uint64(0)
	x := Search{Play: counter(2, 3, func([]int) uint64 { unique++; return unique })}
	r := x.Run()
	if r.Schedules != 20 || r.Pruned != 0 || r.Failure != "" { // 6!/(3! 3!)
		t.Errorf("%+v, want 20 schedules", r)
	}

	x = Search{Play: counter(2, 3, position)}
	r = x.Run()
	// 4 x 4 positions, without those in which one thread is done and there is no choice.
	if r.States != 9 || r.Plays() >= 20 || r.Depth > 5 || r.Failure != "" {
		t.Errorf("%+v, want 9 states", r)
	}

	x = Search{Play: counter(2, 3, position), Limit: 4}
	if r = x.Run(); !r.Stopped || r.Plays() != 4 {
		t.Errorf("%+v, want 4 plays", r)
	}
}

// racy is two threads that each add one to a number, by a read and a write.
func racy(s *Schedule) {
	number := 0
	var read, at [2]int
	for at != [2]int{2, 2} {
		var able []int
		for i := range at {
			if at[i] < 2 {
				able = append(able, i)
			}
		}
		i := s.Choose(len(able), func() uint64 {
			return uint64(number) + 10*uint64(at[0]) + 100*uint64(at[1]) + 1000*uint64(read[0]) + 10000*uint64(read[1])
		}, func(i int) string { return fmt.Sprintf("thread %d, step %d", able[i], at[able[i]]) })
		if i < 0 {
			return
		}
		i = able[i]
		if at[i]++; at[i] == 1 {
			read[i] = number
		} else {
			number = read[i] + 1
			s.Note("now %d", number)
		}
	}
	if number != 2 {
		s.Failf("%d, want 2", number)
	}
}

func TestFailure(t *testing.T) {
	x := Search{Play: racy}
	r := x.Run()
	_, rest, ok := strings.Cut(r.Failure, "(CACHE_SCHEDULE=")
	schedule, _, _ := strings.Cut(rest, ")")
	if !ok || !strings.Contains(r.Failure, "thread 1, step 1\n    now 1\n1, want 2") {
		t.Fatalf("%+v", r)
	}
	t.Setenv("CACHE_SCHEDULE", schedule)
	if again := (&Search{Play: racy}).Run(); again.Schedules != 1 || !strings.Contains(again.Failure, "1, want 2") {
		t.Errorf("%+v", again)
	}
	t.Setenv("CACHE_SCHEDULE", "0.x")
	if again := (&Search{Play: racy}).Run(); !strings.Contains(again.Failure, "CACHE_SCHEDULE") {
		t.Errorf("%+v", again)
	}
}

// TestUnsoundState takes states to be equal that are not: they tell which thread was first only when it is too late. The
// checks find that.
func TestUnsoundState(t *testing.T) {
	first := 0
	forgetful := func(done []int) uint64 {
		sum := done[0] + done[1] + done[2]
		if sum == 1 {
			first = slices.Index(done, 1)
		}
		if sum < 30 {
			return position(done)
		}
		return position(done) + uint64(first)*1e9
	}
	x := Search{Play: counter(3, 12, forgetful)}
	if r := x.Run(); !strings.Contains(r.Failure, "A check has met a state") {
		t.Errorf("%+v", r)
	}

	x = Search{Play: counter(3, 12, position)}
	// Where two threads are done there is no choice.
	if r := x.Run(); r.Checked == 0 || r.Failure != "" || r.States != 13*13*13-3*12-1 {
		t.Errorf("%+v", r)
	}
}

// TestNotDeterministic plays a program that offers something else each time.
func TestNotDeterministic(t *testing.T) {
	plays := 0
	x := Search{Play: func(s *Schedule) {
		plays++
		s.Choose(2, func() uint64 { return 1 }, func(int) string { return fmt.Sprint("of play ", plays) })
		s.Choose(3, func() uint64 { return 2 }, func(int) string { return "" })
	}}
	if r := x.Run(); !strings.Contains(r.Failure, "the same choices have led to") {
		t.Errorf("%+v", r)
	}

	plays = 0
	x = Search{Play: func(s *Schedule) {
		if plays++; plays < 2 {
			s.Choose(2, func() uint64 { return 1 }, func(int) string { return "" })
		}
	}}
	if r := x.Run(); !strings.Contains(r.Failure, "the play ended after") {
		t.Errorf("%+v", r)
	}
}

func TestAt(t *testing.T) {
	for _, c := range []struct {
		value string
		want  Level
	}{{"", Some}, {"some", Some}, {"complete", Complete}, {"long", Long}} {
		t.Setenv("CACHE_EXPLORE", c.value)
		if got := At(t, Some); got != c.want {
			t.Errorf("%q: %v, want %v", c.value, got, c.want)
		}
	}
	t.Setenv("CACHE_EXPLORE", "off")
	skipped := false
	t.Run("off", func(t *testing.T) {
		defer func() { skipped = t.Skipped() }()
		At(t, Some)
		t.Error("not skipped")
	})
	if !skipped {
		t.Error("not skipped")
	}
}
