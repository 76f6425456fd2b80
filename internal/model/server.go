package model

// The verbs, as the scripts execute them: each is one step of the server.

type reply uint8

const (
	hit reply = iota
	won
	busy
)

// newFence is max(server time, previous + 1), with a clock that has moved since the last fence.
func (s *State) newFence() uint8 {
	top := max(s.Key.Fence, s.Key.LeaseFence, s.Replica.Fence, s.Replica.LeaseFence)
	for i := range s.Procs {
		q := &s.Procs[i]
		for j := range q.Flights {
			top = max(top, q.Flights[j].Fence)
		}
		for j := range q.Wakes {
			top = max(top, q.Wakes[j].Fence)
		}
	}
	for i := range s.Late {
		top = max(top, s.Late[i].Fence)
	}
	return top + 1
}

// newOwner is a name that nobody has.
func (s *State) newOwner() uint8 {
	var l places
	s.owners(&l)
	var used [256]bool
	for _, at := range l.at[:l.n] {
		used[*at.owner] = true
	}
	o := uint8(1)
	for used[o] {
		o++
	}
	return o
}

// acquire is ACQUIRE. seen is the entry that is to be refreshed, or 0.
func (p *Protocol) acquire(st *Step[State], owner, seen uint8) reply {
	s := &st.To
	r := &s.Key
	if r.Owner == owner && !p.Variant.AcquireForgetsOwner {
		return won
	}
	fresh := r.usable() && (seen == 0 || r.ID != seen)
	switch {
	case fresh && !p.Variant.SplitLock:
		return hit
	case r.Owner != 0 && r.Live:
		return busy
	case fresh && r.Version == s.Origin:
		st.breaks(NeedlessLoad)
	}
	r.Owner, r.LeaseFence, r.Live = owner, s.newFence(), true
	switch {
	case p.Variant.SplitLock:
	case r.usable():
		r.Stretched = !p.Variant.NoStretch
		s.Spare++ // a refresh is asked for
	default:
		*r = Record{Owner: r.Owner, LeaseFence: r.LeaseFence, Live: true}
	}
	return won
}

// mine reports whether the lease is this owner's and of this tenure; fence 0 stands for any.
func (p *Protocol) mine(r *Record, owner, fence uint8) bool {
	return owner != 0 && r.Owner == owner && (fence == 0 || r.LeaseFence == fence)
}

// commit is COMMIT. It reports whether the value is stored.
func (p *Protocol) commit(st *Step[State], owner, fence, version, count uint8) bool {
	s := &st.To
	r := &s.Key
	ok := p.mine(r, owner, fence)
	switch {
	case p.Variant.CommitBlind:
		ok = true
	case p.Variant.CommitOwnerOnly:
		ok = p.mine(r, owner, 0)
	case p.Variant.CommitByCount:
		ok = s.Count == count
	}
	if !ok {
		return r.Value && r.ID == owner && !p.Variant.SplitLock // an earlier copy of this command
	}
	p.store(st, owner, fence, version)
	return true
}

// store replaces the record by a value, and wakes who waits.
func (p *Protocol) store(st *Step[State], owner, fence, version uint8) {
	s := &st.To
	r := &s.Key
	if fence < r.Fence {
		st.breaks(FenceFalls)
	}
	if r.Value && version < r.Version {
		st.breaks(Overwritten)
	}
	if r.Owner != 0 && r.Owner != owner && !p.Variant.ReleaseApart {
		st.breaks(LeaseBroken)
	}
	lock := *r
	*r = Record{Value: true, Version: version, ID: owner, Fence: fence}
	if p.Variant.ReleaseApart { // the lock is released by a command of its own
		r.Owner, r.LeaseFence, r.Live = lock.Owner, lock.LeaseFence, lock.Live
		return
	}
	p.wake(s, Wake{lock.Owner, lock.LeaseFence, version + 1})
}

// abort is ABORT. A value keeps what is left of its own life.
func (p *Protocol) abort(st *Step[State], owner, fence uint8) {
	s := &st.To
	r := &s.Key
	holder := Wake{r.Owner, r.LeaseFence, 0}
	if !p.mine(r, owner, fence) {
		if !p.Variant.AbortBlind || r.Owner == 0 {
			return
		}
		if r.Live {
			st.breaks(LeaseBroken)
		}
	}
	if r.usable() {
		r.Owner, r.Live, r.Stretched = 0, false, false // the fence stays: it must go on rising
	} else {
		*r = Record{}
	}
	p.wake(s, holder)
}

// unlink is UNLINK, by whomever.
func (p *Protocol) unlink(s *State) {
	if p.Variant.DeleteLeavesLease && s.Key.Owner != 0 {
		s.Key = Record{Owner: s.Key.Owner, LeaseFence: s.Key.LeaseFence, Live: s.Key.Live}
	} else {
		s.lose()
	}
	if p.Variant.CommitByCount {
		s.Count++
	}
}

// lose makes the key vanish, with those who are noted on it.
func (s *State) lose() {
	s.Key = Record{}
	for i := range s.Procs {
		s.Procs[i].Listed = false
	}
}

// wake tells those who are noted on the record.
func (p *Protocol) wake(s *State, w Wake) {
	for i := range s.Procs {
		q := &s.Procs[i]
		if !q.Listed {
			continue
		}
		q.Listed = false
		for j := range q.Wakes {
			if !q.Down && q.Wakes[j].Owner == 0 {
				q.Wakes[j] = w
				break
			}
		}
	}
}
