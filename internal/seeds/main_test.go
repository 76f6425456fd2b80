package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
)

// Each seed is played once, those that the ledger has never again, and each kind has its share of the time.
func TestPlayAll(t *testing.T) {
	lab.Bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		played := map[string]bool{}
		all := playAll(10*time.Minute+2*time.Second, firsts("| memory | 1000000-1234000 | 234000 |\n| real | 1000000-1000500 |"), io.Discard,
			func(_ context.Context, seeds string) (string, error) {
				time.Sleep(5 * time.Second) // of the bubble
				mu.Lock()
				defer mu.Unlock()
				if played[seeds] {
					t.Errorf("%s is played again", seeds)
				}
				played[seeds] = true
				return "    seeds_test.go:1: explored: 100 schedules, 1000 draws; 5.0 s, 20/s; crash 3, late 4\nPASS\n", nil
			})
		if !played["memory-1234000-1239000"] || !played["history-1000000-1002000"] || !played["real-1000500-1001000"] {
			t.Errorf("played %v", played)
		}
		seconds := 0.0
		for _, tally := range all {
			seconds += tally.seconds
		}
		for _, k := range kinds() {
			got := all[k.name]
			if share := 100 * got.seconds / seconds; share < float64(k.share)-3 || share > float64(k.share)+3 {
				t.Errorf("%s has had %.0f %% of the time", k.name, share)
			}
			if n := got.schedules / 100; got.what() != fmt.Sprintf("crash %d, late %d", 3*n, 4*n) || got.to-got.from != n*k.chunk {
				t.Errorf("%s: %v: %s", k.name, got, got.what())
			}
		}
	})
}

// It ends when enough has failed, be it that a test says nothing.
func TestPlayAllFails(t *testing.T) {
	for _, err := range []error{errors.New("exit status 1"), nil} {
		all := playAll(time.Hour, firsts(""), io.Discard, func(context.Context, string) (string, error) { return "P4: old", err })
		var failed []string
		for _, tally := range all {
			failed = append(failed, tally.failed...)
		}
		if len(failed) < enough || failed[0] != "P4: old" {
			t.Errorf("%v: %q", err, failed)
		}
	}
}
