package cache

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// memTags are the barriers of a cache.
type memTags struct {
	base, last int64
	of         map[string]int64
}

// after is as in barrier.lua, on a clock that has moved since it was last asked, as a server's has.
func (s *memServer) after() int64 {
	now := max(s.now(), s.given+1)
	if s.tags == nil {
		s.tags = &memTags{base: now, last: now, of: map[string]int64{}}
	}
	s.tags.last = max(now, s.tags.last+1)
	s.given = s.tags.last
	return s.given
}

func (s *memServer) barrier(tags []string) int64 {
	if s.tags == nil {
		return math.MaxInt64
	}
	b := s.tags.base
	for _, t := range tags {
		b = max(b, s.tags.of[t])
	}
	return b
}

func (m *memStore) stamp(ctx context.Context, _ string, _ time.Duration) (int64, error) {
	return ask(ctx, m, "stamp", func() (int64, string) {
		stamp := m.server.after()
		return stamp, fmt.Sprint(stamp)
	})
}

func (m *memStore) barrier(ctx context.Context, _ string, tags []string) (int64, error) {
	return ask(ctx, m, "barriers", func() (int64, string) {
		b := m.server.barrier(tags)
		return b, fmt.Sprint(b)
	})
}

func (m *memStore) barriers(ctx context.Context, _ string, tags []string) ([]int64, error) {
	return ask(ctx, m, "barriers", func() ([]int64, string) {
		times := []int64{m.server.barrier(nil)}
		for _, t := range tags {
			times = append(times, m.server.tags.of[t])
		}
		return times, fmt.Sprint(times)
	})
}

// invalidate sets barriers and publishes, and other commands may come between.
func (m *memStore) invalidate(ctx context.Context, name string, tags []string, _ time.Duration) error {
	_, err := insist(ctx, m.r, patient*m.r.timeout, func(ctx context.Context) (struct{}, error) {
		var about []int
		for k := range trialFull {
			if len(tags) == 0 || slices.Contains(tags, tagOf(k)) {
				about = append(about, k)
			}
		}
		err := m.send(ctx, &memRequest{text: "invalidate", keys: about, run: func() string {
			time := m.server.after()
			for _, t := range tags {
				m.server.tags.of[t] = time
			}
			if len(tags) == 0 {
				m.server.tags.base = time
				clear(m.server.tags.of)
			}
			return ""
		}})
		if err != nil {
			return struct{}{}, err
		}
		var events []byte
		for _, t := range tags {
			events = appendEvent(events, tagEvent, m.r.key(name, t))
		}
		if len(tags) == 0 {
			events = appendEvent(nil, clearEvent, m.r.key(name, ""))
		}
		return struct{}{}, untold(m.publish(ctx, events))
	})
	return err
}
