package early

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func TestAhead(t *testing.T) {
	steady := Cost{Mean: 100 * time.Millisecond}
	half := 1 - math.Exp(-1) // where Exp(1) is 1
	for _, test := range []struct {
		name   string
		ttl    time.Duration
		cost   Cost
		beta   float64
		chance float64
		want   time.Duration
	}{
		{"nothing known", time.Minute, Cost{}, 0.5, 0.9, 0},
		{"the latest", time.Minute, steady, 0.5, 0, 100 * time.Millisecond},
		{"the mean", time.Minute, steady, 0.5, half, 150 * time.Millisecond},
		{"twice the spread", time.Minute, steady, 1, half, 200 * time.Millisecond},
		{"deviation counts four times", time.Minute, Cost{time.Second, time.Second}, 0.5, 0, 5 * time.Second},
		{"at most a quarter", 100 * time.Millisecond, steady, 0.5, 0, 25 * time.Millisecond},
		{"the last chance there is", time.Minute, steady, 0.5, math.Nextafter(1, 0), 1936840 * time.Microsecond},
		{"100 years", 100 * 365 * 24 * time.Hour, steady, 0.5, 0, 100 * time.Millisecond},
		{"the longest loads", time.Minute, Cost{math.MaxInt64 / 8, math.MaxInt64 / 8}, 0.5, 0.9, 15 * time.Second},
		{"1 ms", time.Millisecond, steady, 0.5, 0, 250 * time.Microsecond},
	} {
		if got := Ahead(test.ttl, test.cost, test.beta, test.chance); (got - test.want).Abs() > time.Microsecond {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// The smoothing is that of RFC 6298, but for the first deviation.
func TestCost(t *testing.T) {
	c := Cost{}.After(80 * time.Millisecond)
	if want := (Cost{80 * time.Millisecond, 20 * time.Millisecond}); c != want {
		t.Errorf("after the first load %v, want %v", c, want)
	}
	if c.Bound() != 160*time.Millisecond {
		t.Errorf("bound %v, want 160ms", c.Bound())
	}
	c = c.After(160 * time.Millisecond)
	if want := (Cost{90 * time.Millisecond, 35 * time.Millisecond}); c != want {
		t.Errorf("after the second load %v, want %v", c, want)
	}
	for range 50 {
		c = c.After(100 * time.Millisecond)
	}
	if c.Bound() < 99*time.Millisecond || c.Bound() > 101*time.Millisecond {
		t.Errorf("after 50 equal loads of 100ms the bound is %v", c.Bound())
	}
}

// For heavy tails too, most loads are done within the bound.
func TestBoundHolds(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	within, all := 0, 0
	var c Cost
	for range 100_000 {
		load := time.Duration(float64(300*time.Millisecond) * math.Exp(rng.NormFloat64()))
		if c != (Cost{}) {
			if all++; load <= c.Bound() {
				within++
			}
		}
		c = c.After(load)
	}
	if share := float64(within) / float64(all); share < 0.9 {
		t.Errorf("%.3f of the loads are done within the bound: want 0.9 or more", share)
	}
}

func TestSmall(t *testing.T) {
	for _, d := range []time.Duration{0, time.Microsecond, 300 * time.Microsecond, 50 * time.Millisecond, time.Second, time.Hour} {
		c := Cost{d, d / 3}
		got := c.Pack().Unpack()
		if (got.Mean-c.Mean).Abs() > c.Mean/1000+time.Nanosecond || (got.Deviation-c.Deviation).Abs() > c.Deviation/1000+time.Nanosecond {
			t.Errorf("%v becomes %v", c, got)
		}
	}
	if got := (Cost{Mean: 1000 * time.Hour}).Pack().Unpack().Mean; got < time.Hour || got > 2*time.Hour {
		t.Errorf("1000 hours become %v", got)
	}
}
