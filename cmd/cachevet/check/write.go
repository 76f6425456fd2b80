package check

import (
	"go/ast"
	"go/token"
	"go/types"
)

// extent is how much of a variable is written.
type extent int

const (
	whole   extent = iota // it, or a part of it that no pointer leads to; now, or later through its address
	grown                 // v = append(v, ...), v = v[i:]: it may be what it was
	element               // what it points to, but not what that points to
)

// writes calls found for each write to a variable in n, also in function literals.
func writes(info *types.Info, n ast.Node, found func(v *types.Var, x extent, at ast.Node)) {
	write := func(e ast.Expr) {
		switch v, pointers := base(info, e); {
		case v == nil:
		case pointers == 0:
			found(v, whole, e)
		case pointers == 1:
			found(v, element, e)
		}
	}
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for i, to := range n.Lhs {
				if v := variable(info, to); v != nil && len(n.Lhs) == len(n.Rhs) && grows(info, v, n.Rhs[i]) {
					found(v, grown, to)
					continue
				}
				write(to)
			}
		case *ast.IncDecStmt:
			write(n.X)
		case *ast.RangeStmt:
			if n.Key != nil {
				write(n.Key)
			}
			if n.Value != nil {
				write(n.Value)
			}
		case *ast.ValueSpec:
			if len(n.Values) > 0 {
				for _, id := range n.Names {
					write(id)
				}
			}
		case ast.Expr:
			if x := addressed(info, n); x != nil {
				write(x)
			}
		}
		return true
	})
}

// base returns the variable that an expression begins with, or nil, and how many pointers, slices and maps lead from there.
func base(info *types.Info, e ast.Expr) (v *types.Var, pointers int) {
	inArray := func(e ast.Expr) bool {
		_, ok := info.TypeOf(e).Underlying().(*types.Array)
		return ok
	}
	for {
		direct := false
		switch x := ast.Unparen(e).(type) {
		case *ast.Ident:
			return variable(info, x), pointers
		case *ast.SelectorExpr:
			sel := info.Selections[x]
			if sel == nil {
				return nil, 0
			}
			e, direct = x.X, !sel.Indirect()
		case *ast.IndexExpr:
			e, direct = x.X, inArray(x.X)
		case *ast.SliceExpr:
			e, direct = x.X, inArray(x.X)
		case *ast.StarExpr:
			e = x.X
		case *ast.TypeAssertExpr:
			e = x.X
		default:
			return nil, 0
		}
		if !direct {
			pointers++
		}
	}
}

// addressed returns what e takes the address of, or nil: &x, x[:] of an array, x.M() of a method that has a pointer.
func addressed(info *types.Info, e ast.Expr) ast.Expr {
	switch e := e.(type) {
	case *ast.UnaryExpr:
		if e.Op == token.AND {
			return e.X
		}
	case *ast.SliceExpr:
		if _, ok := info.TypeOf(e.X).Underlying().(*types.Array); ok {
			return e.X
		}
	case *ast.SelectorExpr:
		sel := info.Selections[e]
		if sel == nil || sel.Kind() != types.MethodVal {
			return nil
		}
		recv := sel.Obj().(*types.Func).Signature().Recv()
		if pointee(recv.Type()) != nil && pointee(sel.Recv()) == nil {
			return e.X
		}
	}
	return nil
}

// grows reports whether v = e is v = append(v, ...) or v = v[i:j].
func grows(info *types.Info, v *types.Var, e ast.Expr) bool {
	switch e := ast.Unparen(e).(type) {
	case *ast.CallExpr:
		return builtin(info, e) == "append" && variable(info, e.Args[0]) == v
	case *ast.SliceExpr:
		return variable(info, e.X) == v
	}
	return false
}

// builtin returns the name of the built-in function that is called, or nothing.
func builtin(info *types.Info, call *ast.CallExpr) string {
	id, ok := ast.Unparen(call.Fun).(*ast.Ident)
	if !ok {
		return ""
	}
	if b, ok := info.Uses[id].(*types.Builtin); ok {
		return b.Name()
	}
	return ""
}

// history is how often the variables of a function are written, and in which literal.
type history map[*types.Var]*written

type written struct {
	wholes, elements int
	away, awayInside bool // by a literal that does not declare it: nobody knows when
}

func historyOf(info *types.Info, n ast.Node) history {
	h := history{}
	var lits []*ast.FuncLit
	ast.Inspect(n, func(n ast.Node) bool {
		if lit, ok := n.(*ast.FuncLit); ok {
			lits = append(lits, lit)
		}
		return true
	})
	writes(info, n, func(v *types.Var, x extent, at ast.Node) {
		if h[v] == nil {
			h[v] = new(written)
		}
		away := false
		for _, lit := range lits {
			in := func(p token.Pos) bool { return lit.Pos() <= p && p < lit.End() }
			away = away || in(at.Pos()) && !in(v.Pos())
		}
		if x == element {
			h[v].elements++
			h[v].awayInside = h[v].awayInside || away
		} else {
			h[v].wholes++
			h[v].away = h[v].away || away
		}
	})
	return h
}

// still reports whether a variable is what it was when it was first given something, whenever that is asked.
func (h history) still(v *types.Var, k kind) bool {
	w := h[v]
	return w == nil || w.wholes <= 1 && (k != holder || w.elements == 0)
}
