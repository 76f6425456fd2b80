package check

import (
	"go/ast"
	"go/token"
	"go/types"
)

// branch looks at an if.
func (f *flow) branch(s *state, n *ast.IfStmt) {
	if n.Init != nil {
		f.stmt(s, n.Init)
	}
	f.expr(s, n.Cond)
	yes, no := f.without(s, n.Cond)
	then, other := s.clone(), s.clone()
	if yes != nil {
		then.drop(place{root: yes})
	}
	if no != nil {
		other.drop(place{root: no})
	}
	f.block(then, n.Body.List)
	if n.Else != nil {
		f.stmt(other, n.Else)
	}
	switch {
	case yes != nil:
		*s = *meet(other, then, yes)
	default:
		*s = *meet(then, other, no)
	}
}

// without returns the variable that has no value if a condition is true, and the one that has none if it is false.
func (f *flow) without(s *state, cond ast.Expr) (yes, no *types.Var) {
	switch c := ast.Unparen(cond).(type) {
	case *ast.Ident: // ok
		if v := variable(f.info, c); v != nil {
			return nil, s.absent[v]
		}
	case *ast.UnaryExpr:
		if c.Op == token.NOT {
			no, yes = f.without(s, c.X)
		}
	case *ast.CallExpr:
		if calls(f.info, c, "errors", "Is", "As") {
			if v := variable(f.info, c.Args[0]); v != nil {
				return s.absent[v], nil
			}
		}
	case *ast.BinaryExpr:
		switch c.Op {
		case token.EQL, token.NEQ:
			yes, no = f.compared(s, c)
		case token.LAND:
			a, _ := f.without(s, c.X)
			b, _ := f.without(s, c.Y)
			yes = either(a, b)
		case token.LOR:
			_, a := f.without(s, c.X)
			_, b := f.without(s, c.Y)
			no = either(a, b)
		}
	}
	return yes, no
}

func either(a, b *types.Var) *types.Var {
	if a != nil {
		return a
	}
	return b
}

// compared is without for a comparison with nil.
func (f *flow) compared(s *state, c *ast.BinaryExpr) (yes, no *types.Var) {
	v := variable(f.info, c.X)
	if v == nil || !f.info.Types[c.Y].IsNil() {
		return nil, nil
	}
	if err := s.absent[v]; err != nil { // err == nil
		no = err
	} else if s.at(place{root: v}).reaches() { // v == nil
		yes = v
	}
	if c.Op == token.NEQ {
		yes, no = no, yes
	}
	return yes, no
}

// loop looks at a for. What it writes is not known in it, nor after it.
func (f *flow) loop(s *state, n *ast.ForStmt) {
	if n.Init != nil {
		f.stmt(s, n.Init)
	}
	f.forget(s, n.Body)
	if n.Post != nil {
		f.forget(s, n.Post)
		f.stmt(s.clone(), n.Post)
	}
	f.expr(s, n.Cond)
	f.block(s.clone(), n.Body.List)
}

// rangeOver looks at a for with range.
func (f *flow) rangeOver(s *state, n *ast.RangeStmt) {
	x := f.look(s, n.X)
	if x.kind != holder || x.place.root == nil {
		f.expr(s, n.X)
	}
	f.forget(s, n)
	in := s.clone()
	key, elem := unknown, unknown
	t := f.info.TypeOf(n.X).Underlying()
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem().Underlying()
	}
	switch t.(type) {
	case *types.Slice, *types.Array, *types.Map:
		if x.kind.reaches() || x.kind == holder {
			elem = shared
		}
	case *types.Signature:
		if x.kind == parts {
			key = holder
		}
	}
	f.each(in, n.Key, key, n)
	f.each(in, n.Value, elem, n)
	f.block(in, n.Body.List)
}

// each gives what a loop assigns in each round what it gets.
func (f *flow) each(s *state, to ast.Expr, k kind, at ast.Node) {
	if to == nil {
		return
	}
	x := f.look(s, to)
	if x.cached {
		f.report(at, "assignment to "+types.ExprString(to))
	}
	if x.place.root == nil {
		return
	}
	if h := f.history[x.place.root]; k == holder && h != nil && h.awayInside {
		k = unknown
	}
	s.assigned(x.place, k, nil)
}

// choose looks at a switch or a select.
func (f *flow) choose(s *state, stmt ast.Stmt) {
	var body *ast.BlockStmt
	kindOf := unknown // of what a type switch is about
	all := false      // one of the clauses is always taken
	tagless := false
	switch n := stmt.(type) {
	case *ast.SwitchStmt:
		if n.Init != nil {
			f.stmt(s, n.Init)
		}
		f.expr(s, n.Tag)
		body, tagless = n.Body, n.Tag == nil
	case *ast.TypeSwitchStmt:
		if n.Init != nil {
			f.stmt(s, n.Init)
		}
		var x ast.Expr
		switch a := n.Assign.(type) {
		case *ast.AssignStmt:
			x = a.Rhs[0]
		case *ast.ExprStmt:
			x = a.X
		}
		kindOf = alias(f.look(s, x).kind)
		f.expr(s, x)
		body = n.Body
	case *ast.SelectStmt:
		body, all = n.Body, true
	}

	out := newState()
	out.end()
	var fell *ast.CaseClause
	for _, clause := range body.List {
		in := s.clone()
		if fell != nil {
			f.forget(in, fell)
			fell = nil
		}
		var absent *types.Var
		switch c := clause.(type) {
		case *ast.CaseClause:
			all = all || c.List == nil
			for _, e := range c.List {
				f.expr(in, e)
			}
			if tagless && len(c.List) == 1 {
				if absent, _ = f.without(in, c.List[0]); absent != nil {
					in.drop(place{root: absent})
				}
			}
			if v, ok := f.info.Implicits[c].(*types.Var); ok {
				in.assigned(place{root: v}, kindOf, nil)
			}
			f.block(in, c.Body)
			if len(c.Body) > 0 {
				if b, ok := c.Body[len(c.Body)-1].(*ast.BranchStmt); ok && b.Tok == token.FALLTHROUGH {
					fell = c
				}
			}
		case *ast.CommClause:
			if c.Comm != nil {
				f.stmt(in, c.Comm)
			}
			f.block(in, c.Body)
		}
		out = meet(out, in, absent)
	}
	left := breaks(body)
	if !all || left {
		out = meet(s.clone(), out, nil)
	}
	*s = *out
	if left {
		f.forget(s, body)
	}
}

// breaks reports whether something in a switch or a select may leave it before its end.
func breaks(body *ast.BlockStmt) bool {
	found := false
	ast.Inspect(body, func(n ast.Node) bool {
		if b, ok := n.(*ast.BranchStmt); ok && b.Tok == token.BREAK {
			found = true
		}
		return !found
	})
	return found
}
