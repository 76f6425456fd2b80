package check

import (
	"go/ast"
	"go/token"
	"go/types"
)

// given is what the local variables of a package are given in assignments: nil is something unknown. The first result of a
// call with several is given as the call.
type given map[*types.Var][]ast.Expr

func givenIn(info *types.Info, files []*ast.File) given {
	g := given{}
	add := func(to, e ast.Expr) {
		if v := variable(info, to); v != nil {
			g[v] = append(g[v], e)
		}
	}
	all := func(lhs, rhs []ast.Expr) {
		for i, to := range lhs {
			switch {
			case len(lhs) == len(rhs):
				add(to, ast.Unparen(rhs[i]))
			case i == 0:
				add(to, ast.Unparen(rhs[0]))
			default:
				add(to, nil)
			}
		}
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				all(n.Lhs, n.Rhs)
			case *ast.ValueSpec:
				if len(n.Values) > 0 {
					names := make([]ast.Expr, len(n.Names))
					for i, id := range n.Names {
						names[i] = id
					}
					all(names, n.Values)
				}
			case *ast.RangeStmt:
				add(n.Key, nil)
				add(n.Value, nil)
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					add(n.X, nil)
				}
			}
			return true
		})
	}
	return g
}

// only returns the one thing that a local variable is ever given, or nil.
func (g given) only(v *types.Var) ast.Expr {
	if v == nil || v.Kind() != types.LocalVar || len(g[v]) != 1 {
		return nil
	}
	return g[v][0]
}

// always reports whether a local variable is given nothing but what is, at least once.
func (g given) always(v *types.Var, is func(ast.Expr) bool) bool {
	if v.Kind() != types.LocalVar || len(g[v]) == 0 {
		return false
	}
	for _, e := range g[v] {
		if e == nil || !is(e) {
			return false
		}
	}
	return true
}
