package cache

import "slices"

// Who waits for a flight.

// room is what bounds them: see Options.MaxWaiting.
type room struct {
	most, each int // 0: no bound
	waiting    int // guarded by flights.mu
}

// fullLocked reports whether a call may not wait for f, nil being one that has yet to begin; waiting is how many waited when
// the call came. by is whose loader calls: it holds what others wait for, and is always let in.
func (r *room) fullLocked(f *flight, waiting int, by task) bool {
	return by == nil && (r.most > 0 && waiting >= r.most || r.each > 0 && f != nil && int(f.callers) >= r.each)
}

// turnedAway is what a call gets that may not wait.
func (c *core) turnedAway(key string, k kind) *result {
	c.stats.turnedAway.Add(1)
	if old := c.kept(key); old != nil && k == ordinary && (old.fresh || c.permits(old.age(), true)) {
		return old.res
	}
	return &result{err: ErrOverloaded}
}

func (fs *flights) joinedLocked(f *flight, by task) {
	fs.room.waiting++
	if f.callers++; f.callers == 1 && f.batch != nil {
		f.batch.wanted++
	}
	t := f.ticket.Load()
	t.joined(1)
	if by != nil && f.c.limits.inside(by) {
		f.lent = true
		t.lends()
	}
}

// leave counts a caller out. The last one may end the flight, or the batch that it is of; nobody can join it from then on.
func (fs *flights) leave(f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.over.Load() {
		return
	}
	fs.room.waiting--
	f.ticket.Load().joined(-1)
	if f.callers--; f.callers > 0 {
		return
	}
	switch {
	case f.batch != nil:
		fs.unwantedLocked(f.batch)
	case f.c.opts.CancelAbandoned:
		fs.removeLocked(f)
		f.cancelLocked(errAbandoned)
	case f.ticket.Load().withdraw(errAbandoned): // it has not begun
		fs.removeLocked(f)
	}
}

// unwantedLocked counts a flight out that nobody waits for any more. The last one may end the batch.
func (fs *flights) unwantedLocked(b *batch) {
	if b.wanted--; b.wanted > 0 {
		return
	}
	var queued []*ticket // which their flights lose when they are withdrawn
	for _, f := range b.flights {
		if t := f.ticket.Load(); t != nil && !slices.Contains(queued, t) {
			queued = append(queued, t)
		}
		if b.c.opts.CancelAbandoned {
			fs.removeLocked(f)
		}
	}
	for _, t := range queued {
		if t.withdraw(errAbandoned) {
			for _, f := range t.flights {
				fs.removeLocked(f)
			}
		}
	}
	if b.c.opts.CancelAbandoned {
		b.cancel(errAbandoned)
	}
}

// waiting returns how many calls wait for a key, and whether one of its flights is queued for a permit.
func (fs *flights) waiting(key string) (calls int, queued bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, current := range fs.current {
		if f := current[key]; f != nil {
			calls += int(f.callers)
			queued = queued || f.ticket.Load() != nil
		}
	}
	return calls, queued
}

// waitingAll returns how many calls wait.
func (fs *flights) waitingAll() uint64 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return uint64(max(fs.room.waiting, 0))
}
