package check

import (
	"go/ast"
	"go/token"
	"go/types"

	"golang.org/x/tools/go/analysis"
)

// flow follows cached values through a function, statement by statement.
type flow struct {
	pass    *analysis.Pass
	info    *types.Info
	given   given
	history history
}

// local reports whether a variable can be followed.
func (f *flow) local(v *types.Var) bool {
	h := f.history[v]
	return v.Kind() != types.PackageVar && v.Kind() != types.FieldVar && (h == nil || !h.away)
}

// literal looks at a function literal, which may run at any time: it knows what never changes.
func (f *flow) literal(s *state, lit *ast.FuncLit) {
	in := newState()
	for p, k := range s.kinds {
		if f.history.still(p.root, s.at(place{root: p.root})) {
			in.kinds[p] = k
		}
	}
	f.block(in, lit.Body.List)
}

func (f *flow) block(s *state, list []ast.Stmt) {
	for _, stmt := range list {
		f.stmt(s, stmt)
	}
}

// forget forgets what is written in n, which may run any number of times.
func (f *flow) forget(s *state, n ast.Node) {
	writes(f.info, n, func(v *types.Var, x extent, _ ast.Node) {
		k := s.at(place{root: v})
		if x == whole || x == grown && k != short || x == element && k == holder {
			s.drop(place{root: v})
		}
	})
}

func (f *flow) stmt(s *state, stmt ast.Stmt) {
	switch n := stmt.(type) {
	case *ast.ExprStmt:
		f.expr(s, n.X)
		if call, ok := n.X.(*ast.CallExpr); ok && builtin(f.info, call) == "panic" {
			s.end()
		}
	case *ast.SendStmt:
		f.expr(s, n.Chan)
		f.expr(s, n.Value)
	case *ast.GoStmt:
		f.expr(s, n.Call)
	case *ast.DeferStmt:
		f.expr(s, n.Call)
	case *ast.IncDecStmt:
		f.assign(s, []ast.Expr{n.X}, nil, n)
	case *ast.AssignStmt:
		f.assign(s, n.Lhs, n.Rhs, n)
	case *ast.DeclStmt:
		f.declare(s, n)
	case *ast.ReturnStmt:
		for _, e := range n.Results {
			f.expr(s, e)
		}
		s.end()
	case *ast.BranchStmt:
		if n.Tok != token.FALLTHROUGH {
			s.end()
		}
	case *ast.BlockStmt:
		f.block(s, n.List)
	case *ast.LabeledStmt:
		f.stmt(s, n.Stmt)
	case *ast.IfStmt:
		f.branch(s, n)
	case *ast.ForStmt:
		f.loop(s, n)
	case *ast.RangeStmt:
		f.rangeOver(s, n)
	case *ast.SwitchStmt, *ast.TypeSwitchStmt, *ast.SelectStmt:
		f.choose(s, n)
	}
}

func (f *flow) declare(s *state, n *ast.DeclStmt) {
	d, ok := n.Decl.(*ast.GenDecl)
	if !ok {
		return
	}
	for _, spec := range d.Specs {
		if v, ok := spec.(*ast.ValueSpec); ok {
			names := make([]ast.Expr, len(v.Names))
			for i, id := range v.Names {
				names[i] = id
			}
			f.assign(s, names, v.Values, n)
		}
	}
}

// assign looks at an assignment, or with nothing on the right at one that does not say what.
func (f *flow) assign(s *state, lhs, rhs []ast.Expr, at ast.Node) {
	kinds := make([]kind, len(lhs))
	inside := make([]map[string]kind, len(lhs))
	value, sign := -1, false // what has no value if the second on the left says so
	switch {
	case len(lhs) == len(rhs):
		for i, e := range rhs {
			x := f.look(s, e)
			kinds[i] = x.kind
			if x.place.root != nil {
				kinds[i], inside[i] = alias(x.kind), s.inside(x.place)
			}
		}
	case len(rhs) == 1:
		if call, ok := ast.Unparen(rhs[0]).(*ast.CallExpr); ok {
			kinds[0] = f.source(call)
			sign = kinds[0] == shared
		} else { // v, ok :=
			kinds[0] = alias(f.look(s, rhs[0]).kind)
			sign = true
		}
		value = 0
	}
	for _, e := range rhs {
		f.expr(s, e)
	}
	told := false
	for _, to := range lhs {
		if variable(f.info, to) != nil {
			continue
		}
		f.expr(s, to)
		if f.look(s, to).cached && !told { // once for v[i], v[j] = v[j], v[i]
			told = true
			f.report(at, "assignment to "+types.ExprString(to))
		}
	}
	for i, to := range lhs {
		x := f.look(s, to)
		if x.place.root == nil {
			if t := f.info.TypeOf(to); t != nil && !basic(t) {
				f.lose(s, to)
			}
			continue
		}
		if h := f.history[x.place.root]; kinds[i] == holder && (x.place.path != "" || h != nil && h.awayInside) {
			kinds[i] = unknown
		}
		s.assigned(x.place, kinds[i], inside[i])
	}
	if v := f.named(lhs, value); sign && v != nil {
		if ok := f.named(lhs, 1); ok != nil && ok != v {
			s.absent[ok] = v
		}
	}
}

// named returns the local variable that is the i-th of these.
func (f *flow) named(list []ast.Expr, i int) *types.Var {
	if i < 0 || i >= len(list) {
		return nil
	}
	if v := variable(f.info, list[i]); v != nil && f.local(v) {
		return v
	}
	return nil
}
