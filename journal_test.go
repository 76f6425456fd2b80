package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Which keys are hot is told well enough from a sample, however many keys there are, and forgotten when they are not any more.
func TestHotKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New[int]("user", Options{LocalEntries: 100})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		rng := rand.New(rand.NewPCG(1, 2))
		ask := func(key string) {
			if _, err := c.GetOrLoad(background, key, func(context.Context, string) (int, error) { return 1, nil }); err != nil {
				t.Fatal(err)
			}
		}
		for range 500 { // one call in three is for one key, one in ten for another, the rest for as many as there are calls
			for range 100 {
				switch n := rng.IntN(30); {
				case n < 10:
					ask("hot")
				case n < 13:
					ask("warm")
				default:
					ask(fmt.Sprint(rng.Uint64()))
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		ask(strings.Repeat("x", longestNoted+1))
		shares := c.Status().Hot
		if s := shares["hot"]; s < 0.2 || s > 0.45 {
			t.Errorf("hot: %v of the calls", s)
		}
		if s := shares["warm"]; s < 0.02 || s > 0.15 {
			t.Errorf("warm: %v of the calls", s)
		}
		if len(shares) > hotKeys {
			t.Errorf("%d keys", len(shares))
		}
		for key := range shares {
			if len(key) > longestNoted {
				t.Error("a long key is kept")
			}
		}
		for range 20 {
			time.Sleep(hotLife)
			ask("new")
		}
		if shares = c.Status().Hot; shares["hot"] > 0.01 || shares["new"] < 0.5 {
			t.Errorf("after a while: %v", shares)
		}
	})
}

// What is remembered of what has happened is bounded, in number and in bytes.
func TestJournalBounds(t *testing.T) {
	c, err := New[int]("user", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	long := strings.Repeat("x", MaxKeyBytes)
	for i := range 3 * lastEvents {
		if err := c.Delete(background, fmt.Sprint(i)+long[:MaxKeyBytes-10]); err != nil {
			t.Fatal(err)
		}
	}
	s := c.Status()
	if len(s.Deletions) != lastEvents || !strings.HasPrefix(s.Deletions[0].Name, fmt.Sprint(3*lastEvents-1, "x")[:3]) || len(s.Deletions[0].Name) != longestNoted {
		t.Errorf("%d deletions, the first of %.10q, %d bytes", len(s.Deletions), s.Deletions[0].Name, len(s.Deletions[0].Name))
	}
	for i := range 10 * outcomePlaces {
		if _, err := c.GetOrLoad(background, fmt.Sprint(i), func(context.Context, string) (int, error) { return i, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(c.core.outcomes.all); n > outcomePlaces {
		t.Errorf("%d outcomes", n)
	}
	if x, err := c.Explain(background, fmt.Sprint(10*outcomePlaces-1)); err != nil || x.Here.LoadedWith != "value" {
		t.Error(x, err)
	}
	if n := len(c.core.running.all); n > 0 {
		t.Errorf("%d loads are left", n)
	}
}

// Explain and Status of a closed cache, with an ended context, and of keys that are too long.
func TestExplainErrors(t *testing.T) {
	alike(t, Options{}, func(t *testing.T, p *proc) {
		if x, err := p.cache.Explain(background, strings.Repeat("x", MaxKeyBytes+1)); err != nil || x.Answer != "miss" {
			t.Error(x, err)
		}
		ended, end := context.WithCancel(background)
		end()
		if _, err := p.cache.Explain(ended, "k"); err != context.Canceled { //nolint:errorlint // exactly this
			t.Error(err)
		}
		if s := p.cache.Status(); s.Cache != "user" || s.Redis.Used != (p.rds != nil) {
			t.Errorf("%+v", s)
		}
		if err := p.cache.Close(); err != nil {
			t.Error(err)
		}
		if _, err := p.cache.Explain(background, "k"); err != ErrClosed { //nolint:errorlint // exactly this
			t.Error(err)
		}
	})
}
