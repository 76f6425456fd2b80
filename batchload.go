package cache

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// brought is what a batch loader has returned for a key.
type brought struct {
	value any
	err   error
}

// shift is one call of a batch loader.
type shift struct {
	b       *batch
	flights []*flight
	told    atomic.Pointer[Load]
	whole   returned  // what came of it
	brought []brought // and for each flight; nil if it has not returned

	mu    sync.Mutex
	byKey map[string]*flight // guarded by mu
}

func (s *shift) owner() *core { return s.b.c }
func (s *shift) caller() task { return s.b.parent }

func (s *shift) says() *Load {
	if s.told.Load() == nil {
		s.told.CompareAndSwap(nil, &Load{of: s})
	}
	return s.told.Load()
}

func (s *shift) flight(key string) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byKey == nil {
		s.byKey = make(map[string]*flight, len(s.flights))
		for _, f := range s.flights {
			s.byKey[f.key] = f
		}
	}
	return s.byKey[key]
}

func (s *shift) keys() int { return len(s.flights) }

func (s *shift) names() []string {
	keys := make([]string, len(s.flights))
	for i, f := range s.flights {
		keys[i] = f.key
	}
	return keys
}

// run calls the loader and returns what it has brought for each flight, in their order. What it has returned is the
// user's, and may panic when it is looked at.
func (s *shift) run(ctx context.Context) (any, error) {
	find, err := s.b.loader(ctx, s.names())
	failed, rest := s.split(err)
	all := make([]brought, len(s.flights))
	for i, f := range s.flights {
		value, found := find(f.key)
		own, fails := failed[f.key]
		switch {
		case fails:
			all[i].err = own
		case found:
			all[i].value = value
		case rest != nil:
			all[i].err = rest
		default:
			all[i].err = ErrNotFound
		}
	}
	return all, nil
}

// renew renews all leases at once; those that are lost no more.
func (s *shift) renew() bool {
	held := make([]bool, len(s.flights))
	senders := make([]*member, len(s.flights))
	s.b.mu.Lock()
	for i, f := range s.flights {
		switch {
		case f.lease == nil:
			held[i] = true
		case !f.lease.isLost():
			senders[i] = &member{f: f}
			s.b.movesLocked(senders[i])
		}
	}
	s.b.mu.Unlock()
	var all sync.WaitGroup
	for i, f := range s.flights {
		if m := senders[i]; m != nil {
			all.Go(func() {
				defer m.rests()
				held[i] = f.lease.keep(m)
			})
		}
		if f.locked() {
			all.Go(f.extend)
		}
	}
	all.Wait()
	return slices.Contains(held, true)
}

func (s *shift) locked() bool {
	return slices.ContainsFunc(s.flights, (*flight).locked)
}

// perform calls the loader. What came of it for each flight says of.
func (s *shift) perform() {
	c := s.b.c
	var period time.Duration
	for _, f := range s.flights {
		period = cmp.Or(period, f.period())
	}
	s.whole = returned{err: context.Cause(s.b.ctx), abandoned: true, unbegun: true}
	if s.whole.err == nil { // somebody wants it still
		leases := c.renewing(s, period)
		defer leases.stop()
		var room *limiter
		if room, s.whole.err = c.limits.take(s.b.ctx, s.flights, leases); s.whole.err == nil {
			defer room.leave()
			c.stats.batchLoads.Add(1)
			s.whole = c.perform(s.b.ctx, s, leases)
		}
	}
	s.brought, _ = s.whole.value.([]brought)
	if said := s.told.Load(); said != nil {
		for _, f := range s.flights {
			f.says().inherit(said)
		}
	}
}

// of is what has come of the loader for the i-th flight.
func (s *shift) of(i int) returned {
	r := s.whole
	if r.value = nil; s.brought != nil {
		r.value, r.err = s.brought[i].value, s.brought[i].err
	}
	return r
}

// split tells apart, in what a batch loader has returned, the errors of single keys and the one of all others.
func (s *shift) split(err error) (failed map[string]error, rest error) {
	var le *LoadError
	if err == nil || !errors.As(err, &le) {
		return nil, err
	}
	failed = make(map[string]error)
	var others []error
	var walk func(error)
	walk = func(err error) {
		if !errors.As(err, &le) {
			others = append(others, err)
			return
		}
		switch e := err.(type) { //nolint:errorlint // layer by layer
		case *LoadError:
			if e == nil || s.flight(e.Key) == nil { // of no key of ours: then of all
				others = append(others, err)
				return
			}
			failed[e.Key] = cmp.Or(e.Err, err)
		case interface{ Unwrap() []error }:
			for _, err := range e.Unwrap() {
				walk(err)
			}
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		default:
			others = append(others, err)
		}
	}
	walk(err)
	if len(others) == 1 {
		return failed, others[0]
	}
	return failed, errors.Join(others...)
}
