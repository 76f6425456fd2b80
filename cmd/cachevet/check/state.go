package check

import (
	"go/types"
	"maps"
	"strings"
)

// kind is what is known of a value.
type kind int

const (
	unknown kind = iota
	shared       // it is the cache's: what it points to is, however far
	short        // shared, and a slice behind whose end there are more elements that are shared
	holder       // a map or a slice of the caller's own, whose elements are shared
	parts        // a sequence of holders
)

// reaches reports whether what the value points to is the cache's.
func (k kind) reaches() bool { return k == shared || k == short }

// place is a local variable, or a field in it that no pointer leads to.
type place struct {
	root *types.Var
	path string // ".Inner.Tags"
}

func (p place) field(name string) place { return place{p.root, p.path + "." + name} }

// within returns the path that leads from p to q, if one does.
func (p place) within(q place) (string, bool) {
	if p.root != q.root {
		return "", false
	}
	rest, ok := strings.CutPrefix(q.path, p.path)
	return rest, ok && (rest == "" || rest[0] == '.')
}

// state is what is known at a point of a function. A place that is not there is like the one that it is in.
type state struct {
	kinds  map[place]kind
	absent map[*types.Var]*types.Var // an error or an ok, and the variable that has no value when it says so
	dead   bool                      // the point is not reached
}

func newState() *state {
	return &state{kinds: map[place]kind{}, absent: map[*types.Var]*types.Var{}}
}

func (s *state) clone() *state { return &state{maps.Clone(s.kinds), maps.Clone(s.absent), s.dead} }

func (s *state) end() {
	*s = state{kinds: map[place]kind{}, absent: map[*types.Var]*types.Var{}, dead: true}
}

func (s *state) at(p place) kind {
	for {
		if k, ok := s.kinds[p]; ok {
			return k
		}
		i := strings.LastIndexByte(p.path, '.')
		if i < 0 {
			return unknown
		}
		p.path = p.path[:i]
	}
}

// drop forgets what is known of a place, and of those in it.
func (s *state) drop(p place) {
	for q := range s.kinds {
		if _, ok := p.within(q); ok {
			delete(s.kinds, q)
		}
	}
	if p.path == "" {
		s.unlink(p.root)
	}
}

// unlink forgets which variable says whether which has a value.
func (s *state) unlink(v *types.Var) {
	maps.DeleteFunc(s.absent, func(sign, value *types.Var) bool { return sign == v || value == v })
}

// assigned is told that a place is given a value, and what is known of parts of that.
func (s *state) assigned(p place, k kind, inside map[string]kind) {
	s.drop(p)
	s.kinds[p] = k
	for path, k := range inside {
		s.kinds[place{p.root, p.path + path}] = k
	}
}

// inside is what is known of the parts of a place.
func (s *state) inside(p place) map[string]kind {
	found := map[string]kind{}
	for q, k := range s.kinds {
		if path, ok := p.within(q); ok && path != "" {
			found[path] = k
		}
	}
	return found
}

// meet is what is known where two ways meet: what is so on both. No way but the other leads from a dead point. Of variables in
// only, if that is not nil, the first way decides: on the second they have nothing of the cache anyway.
func meet(a, b *state, only *types.Var) *state {
	switch {
	case a.dead:
		return b
	case b.dead:
		return a
	}
	m := newState()
	for _, s := range []*state{a, b} {
		for p := range s.kinds {
			k, other := a.at(p), b.at(p)
			switch {
			case k == other || p.root == only:
			case k.reaches() && other.reaches():
				k = shared
			default:
				k = unknown
			}
			m.kinds[p] = k
		}
	}
	for sign, value := range a.absent {
		if b.absent[sign] == value || value == only {
			m.absent[sign] = value
		}
	}
	return m
}
