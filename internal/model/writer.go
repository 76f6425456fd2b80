package model

// Delete, and the writer that calls it in one process or another after each change of the origin.

func (p *Protocol) write(s *State, out *Steps[State]) {
	if s.Writing || int(s.Origin) >= p.Bounds.Writes {
		return
	}
	if p.Bounds.Outside || p.Bounds.deaf() {
		st := out.add(s, nobody, originChanges)
		st.To.Origin++
		st.To.Writing = true
		st.To.Delete = deleteBegun
		return
	}
	for i := range s.Procs {
		if !s.Procs[i].Dead {
			st := out.add(s, i, originChanges)
			st.To.Origin++
			st.To.Writing = true
			st.To.Procs[i].Delete = deleteWanted
		}
	}
}

// deleting is how far a Delete has come.
func (s *State) deleting(i int) *uint8 {
	if i == nobody {
		return &s.Delete
	}
	return &s.Procs[i].Delete
}

// deletion is the steps of Delete in process i.
func (p *Protocol) deletion(s *State, i int, out *Steps[State]) {
	switch *s.deleting(i) {
	case deleteWanted:
		st := out.add(s, i, deleteBegins)
		q := &st.To.Procs[i]
		q.Delete = deleteBegun
		if !p.Variant.BumpOnlyAfter {
			q.bump(!p.Variant.DeleteForgetsNothing)
		}
	case deleteBegun:
		p.sendUnlink(s, i, out)
	case deleteUnlinked:
		st := out.add(s, i, publishes)
		st.To.publish(i)
		*st.To.deleting(i) = deletePublished
		if p.Variant.AnswersBeforePublish {
			p.acknowledge(out.add(s, i, deleteReturns), i, deletePublished)
		}
	case deletePublished:
		if p.Variant.AnswersBeforePublish && !s.Writing {
			st := out.add(s, i, publishes)
			st.To.publish(i)
			st.To.Procs[i].Delete = deleteIdle
			return
		}
		p.acknowledge(out.add(s, i, deleteReturns), i, deleteIdle)
	}
}

// publish tells the other processes. Whoever is cut off from the stream does not hear it.
func (s *State) publish(i int) {
	s.Published |= 1 << s.Origin
	if i != nobody {
		s.Procs[i].Arrived |= 1 << s.Origin
	}
}

// acknowledge is the end of Delete: what was read while it ran may have been read before the key was gone.
func (p *Protocol) acknowledge(st *Step[State], i int, step uint8) {
	if i != nobody && !p.Variant.BumpOnlyBefore {
		st.To.Procs[i].bump(!p.Variant.DeleteForgetsNothing)
	}
	st.To.acknowledged(i, step)
}

func (s *State) acknowledged(i int, step uint8) {
	*s.deleting(i) = step
	s.Acked |= 1 << s.Origin
	s.Writing = false
}
