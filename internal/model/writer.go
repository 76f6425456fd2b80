package model

// Delete, and the writer that calls it in one process or another after each change of the origin.

func (p *Protocol) write(s *State, out *Steps[State]) {
	if s.Writing || int(s.Origin) >= p.Bounds.Writes {
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

// deletion is the steps of Delete in process i.
func (p *Protocol) deletion(s *State, i int, out *Steps[State]) {
	switch s.Procs[i].Delete {
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
		st.To.Procs[i].Delete = deletePublished
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
	s.Procs[i].Arrived |= 1 << s.Origin
}

// acknowledge is the end of Delete: what was read while it ran may have been read before the key was gone.
func (p *Protocol) acknowledge(st *Step[State], i int, step uint8) {
	s := &st.To
	q := &s.Procs[i]
	q.Delete = step
	if !p.Variant.BumpOnlyBefore {
		q.bump(!p.Variant.DeleteForgetsNothing)
	}
	s.Acked |= 1 << s.Origin
	s.Writing = false
}
