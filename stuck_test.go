package cache

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

type stuckLoads struct {
	mu  sync.Mutex
	all []StuckLoad
}

func (s *stuckLoads) note(l StuckLoad) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, l)
}

func (s *stuckLoads) seen() []StuckLoad {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}

// standsStill is looked for in stacks.
func standsStill(until <-chan struct{}) { <-until }

// A load that stands still is reported when it has done so for StuckAfter, and once more when it is abandoned, with its stack.
func TestStuckLoad(t *testing.T) {
	var seen *stuckLoads
	o := Options{LoadTimeout: 10 * time.Second, StuckAfter: 4 * time.Second, OnStuckLoad: func(l StuckLoad) { seen.note(l) }}
	alike(t, o, func(t *testing.T, p *proc) {
		seen = new(stuckLoads)
		until := make(chan struct{})
		stands := p.get(background, "secret", func(context.Context, string) (string, error) {
			standsStill(until)
			return "v", nil
		})
		p.get(background, "other", func(context.Context, string) (string, error) {
			time.Sleep(4*time.Second - 1)
			return "v", nil
		})
		time.Sleep(4*time.Second - 1)
		if got := seen.seen(); len(got) != 0 {
			t.Errorf("too early: %v", got)
		}
		time.Sleep(2 * time.Second)
		check := func(l StuckLoad, abandoned bool, age time.Duration) {
			t.Helper()
			if l.Age != age || l.Abandoned != abandoned || fmt.Sprint(l.Keys) != "[secret]" ||
				!strings.Contains(string(l.Stack), "cache.standsStill(") || strings.Contains(string(l.Stack), "time.Sleep") {
				t.Errorf("%+v", l)
			}
			if text := l.String(); strings.Contains(text, "secret") || !strings.Contains(text, "after "+age.String()) || !strings.Contains(text, "standsStill") {
				t.Error(text)
			}
		}
		got := seen.seen()
		if len(got) != 1 {
			t.Fatalf("%d reports", len(got))
		}
		check(got[0], false, 4*time.Second)
		time.Sleep(30 * time.Second)
		if got = seen.seen(); len(got) != 2 || !stands.done || stands.err == nil {
			t.Fatalf("%d reports, %+v", len(got), stands)
		}
		check(got[1], true, 10*time.Second+loadGrace)
		if n := p.cache.Stats().LoadsStuck; n != 1 {
			t.Errorf("%d are counted", n)
		}
		close(until)
	})
}

// A batch is one load; a callback that panics does no harm.
func TestStuckBatch(t *testing.T) {
	var seen *stuckLoads
	o := Options{LoadTimeout: 10 * time.Second, OnStuckLoad: func(l StuckLoad) { seen.note(l); panic("of the user's") }}
	alike(t, o, func(t *testing.T, p *proc) {
		seen = new(stuckLoads)
		_, err := p.cache.GetOrLoadMany(background, []string{"a", "b"}, func(context.Context, []string) (map[string]string, error) {
			time.Sleep(6 * time.Second)
			return nil, nil
		})
		if got := seen.seen(); err != nil || len(got) != 1 || len(got[0].Keys) != 2 || got[0].Age != 5*time.Second ||
			!strings.Contains(got[0].String(), "a load of 2 keys has not returned after 5s") {
			t.Errorf("%v, %v", got, err)
		}
	})
}
