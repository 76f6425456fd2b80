package cache

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// How the members of a batch travel together.

// gathered is a command that waits for the next round trip.
type gathered struct {
	of   *member
	what any
	done chan struct{}
}

// loadCall is a flight that waits for the loader.
type loadCall struct {
	f    *flight
	r    returned
	done chan struct{}
}

// member is who sends commands along with others: a flight, or somebody who renews a lease. It is the context of these
// commands.
type member struct {
	f      *flight // that it is, or whose lease it renews
	moving bool    // guarded by batch.mu
}

// alarm is what wakes a member.
type alarm struct {
	at   time.Duration // since batch.began
	bell chan struct{}
}

func (m *member) Deadline() (time.Time, bool) { return m.f.batch.ctx.Deadline() }
func (m *member) Done() <-chan struct{}       { return m.f.batch.ctx.Done() }
func (m *member) Err() error                  { return m.f.batch.ctx.Err() }
func (m *member) Value(key any) any           { return m.f.batch.ctx.Value(key) }

// sleep returns what wakes the member after d or a little later, together with others, so that they look with one command. Who
// is woken is moving; back ends it earlier.
func (b *batch) sleep(m *member, d time.Duration) <-chan struct{} {
	grid := lookSoon
	if d >= 8*lookTogether {
		grid = lookTogether
	}
	passed := time.Since(b.began)
	b.mu.Lock()
	defer b.mu.Unlock()
	a := alarm{(passed + d + grid - 1).Truncate(grid), make(chan struct{})}
	if b.asleep == nil {
		b.asleep = make(map[*member]alarm)
	}
	b.asleep[m] = a
	b.restsLocked(m)
	if b.clock == nil || a.at < b.next {
		b.windLocked(a.at)
	}
	return a.bell
}

// windLocked sets the clock.
func (b *batch) windLocked(at time.Duration) {
	if b.clock != nil {
		b.clock.Stop()
	}
	b.next = at
	b.clock = time.AfterFunc(at-time.Since(b.began), b.ring)
}

// ring wakes those whose time has come.
func (b *batch) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Since(b.began)
	if b.clock = nil; now < b.next { // it was set anew meanwhile
		b.windLocked(b.next)
		return
	}
	var woken []*member
	var next time.Duration
	for m, a := range b.asleep {
		switch {
		case now >= a.at:
			woken = append(woken, m)
		case next == 0 || a.at < next:
			next = a.at
		}
	}
	slices.SortFunc(woken, func(x, y *member) int { return cmp.Compare(x.f.seq, y.f.seq) })
	for _, m := range woken {
		close(b.asleep[m].bell)
		delete(b.asleep, m)
		b.movesLocked(m)
	}
	if next > 0 {
		b.windLocked(next)
	}
}

// wakesLocked is for who wakes by himself.
func (b *batch) wakesLocked(m *member) {
	b.movesLocked(m)
	if _, asleep := b.asleep[m]; !asleep {
		return
	}
	if delete(b.asleep, m); len(b.asleep) == 0 && b.clock != nil {
		b.clock.Stop()
		b.clock = nil
	}
}

func (b *batch) movesLocked(m *member) {
	if !m.moving {
		m.moving = true
		b.moving++
	}
}

func (b *batch) restsLocked(m *member) {
	if m.moving {
		m.moving = false
		b.moving--
	}
	b.goLocked()
}

// rests says that a member waits for what its batch has no part in, or is done.
func (m *member) rests() {
	m.f.batch.mu.Lock()
	defer m.f.batch.mu.Unlock()
	m.f.batch.restsLocked(m)
}

// away says that a flight waits for what its batch has no part in, or has landed.
func (f *flight) away() {
	if f.batch != nil {
		f.company.rests()
	}
}

// back is the opposite of away.
func (f *flight) back() {
	if b := f.batch; b != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.wakesLocked(&f.company)
	}
}

// aside is the context of commands that the flight does not wait for.
func (f *flight) aside() context.Context {
	if f.batch != nil {
		return f.batch.ctx
	}
	return f.ctx
}

// goLocked sends and loads what has gathered, unless somebody is moving, who may add to it; but then for no longer than a
// command may take, for there are leases that nobody renews.
func (b *batch) goLocked() {
	switch {
	case b.tripping:
	case b.moving == 0:
		b.sendLocked()
	case len(b.requests)+len(b.loads) > 0 && b.hurry == nil:
		b.hurry = time.AfterFunc(b.c.company(), func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.hurry = nil; !b.tripping {
				b.sendLocked()
			}
		})
	}
}

// company is how long who has something to send or to load waits for others.
func (c *core) company() time.Duration {
	if c.redis == nil {
		return lookTogether
	}
	return c.redis.timeout
}

func (b *batch) sendLocked() {
	if b.hurry != nil {
		b.hurry.Stop()
		b.hurry = nil
	}
	if due := b.due; len(due) > 0 && b.c.flights.begin() {
		go func() {
			defer b.c.flights.running.Done()
			b.c.refreshMany(b.ctx, due, b.co, b.loader)
		}()
	}
	b.due = nil
	requests := b.requests
	if loads := b.loads; len(loads) > 0 {
		if b.patient = len(requests) > 0 && !b.patient; !b.patient {
			b.loads = nil
			go b.perform(loads)
		}
	}
	if len(requests) > 0 {
		b.requests, b.tripping = nil, true
		go b.trip(requests)
	}
}

// meet blocks until something has been sent, along with what others have.
func (m *member) meet(what any) {
	g := &gathered{m, what, make(chan struct{})}
	m.f.batch.mu.Lock()
	m.f.batch.requests = append(m.f.batch.requests, g)
	m.f.batch.restsLocked(m)
	m.f.batch.mu.Unlock()
	<-g.done
}

func (b *batch) trip(requests []*gathered) {
	slices.SortStableFunc(requests, func(x, y *gathered) int { return cmp.Compare(x.of.f.seq, y.of.f.seq) })
	all := make([]any, len(requests))
	for i, g := range requests {
		all[i] = g.what
	}
	b.c.store.trip(b.ctx, all)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tripping = false
	for _, g := range requests {
		b.movesLocked(g.of)
		close(g.done)
	}
	b.goLocked()
}

// load blocks until the loader has been called for a flight.
func (b *batch) load(f *flight) returned {
	l := &loadCall{f: f, done: make(chan struct{})}
	b.mu.Lock()
	b.loads = append(b.loads, l)
	b.restsLocked(&f.company)
	b.mu.Unlock()
	<-l.done
	return l.r
}

// perform calls the loader for flights that wait for it.
func (b *batch) perform(loads []*loadCall) {
	slices.SortStableFunc(loads, func(x, y *loadCall) int { return cmp.Compare(x.f.seq, y.f.seq) })
	flights := make([]*flight, len(loads))
	calls := make(map[*flight]*loadCall, len(loads))
	for i, l := range loads {
		flights[i], calls[l.f] = l.f, l
	}
	b.shifts(flights, func(s *shift) {
		s.perform()
		b.mu.Lock()
		defer b.mu.Unlock()
		for i, f := range s.flights {
			l := calls[f]
			l.r = s.of(i)
			b.movesLocked(&f.company)
			close(l.done)
		}
	})
}

// shifts does something for all flights, at the same time for those whose loads are limited by different limits.
func (b *batch) shifts(flights []*flight, do func(*shift)) {
	parts := b.c.limits.parts(flights)
	for _, part := range parts[1:] {
		go do(&shift{b: b, flights: part})
	}
	do(&shift{b: b, flights: parts[0]})
}
