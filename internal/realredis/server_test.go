package realredis

import (
	"context"
	"testing"
	"time"
)

var background = context.Background()

// The clock of a server goes where it is put, and is where it was after a restart.
func TestClock(t *testing.T) {
	s := StartWithClock(t)
	if s.skew == "" {
		t.Skip("SKIPPED: needs libfaketime")
	}
	c := s.Client(nil)
	for _, skew := range []time.Duration{0, time.Hour, -time.Hour, 90 * time.Millisecond} {
		s.SetClock(skew)
		before := time.Now().Add(skew)
		now, err := c.Time(background).Result()
		after := time.Now().Add(skew)
		if err != nil || now.Before(before.Truncate(time.Microsecond)) || now.After(after) {
			t.Errorf("skew %v: %v, %v: want between %v and %v", skew, now, err, before, after)
		}
	}
	if err := c.Set(background, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	s.Restart()
	if n, err := c.DBSize(background).Result(); n != 0 || err != nil {
		t.Errorf("%d keys, %v", n, err)
	}
}
