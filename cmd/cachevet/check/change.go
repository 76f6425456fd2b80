package check

import (
	"go/ast"
	"go/types"
	"slices"
)

// inPlace are the functions that change what their first argument points to.
var inPlace = map[string][]string{
	"sort": {"Float64s", "Ints", "Slice", "SliceStable", "Sort", "Stable", "Strings"},
	"slices": {
		"Compact", "CompactFunc", "Delete", "DeleteFunc", "Insert", "Replace", "Reverse", "Sort", "SortFunc", "SortStableFunc",
	},
	"maps": {"Copy", "DeleteFunc", "Insert"},
}

// expr looks at what an expression does when it is evaluated.
func (f *flow) expr(s *state, e ast.Expr) {
	if e == nil {
		return
	}
	kept := map[*ast.Ident]bool{} // what does not give a holder away
	keep := func(e ast.Expr) {
		if id, ok := ast.Unparen(e).(*ast.Ident); ok {
			kept[id] = true
		}
	}
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			f.literal(s, n)
			return false
		case *ast.CallExpr:
			f.call(s, n)
			switch builtin(f.info, n) {
			case "len", "delete", "clear":
				keep(n.Args[0])
			}
			if calls(f.info, n, "maps", "Clone") || calls(f.info, n, "slices", "Clone") {
				keep(n.Args[0])
			}
		case *ast.IndexExpr:
			keep(n.X)
		case *ast.BinaryExpr: // only with nil
			keep(n.X)
		case *ast.Ident:
			if v := variable(f.info, n); v != nil && !kept[n] && s.at(place{root: v}) == holder {
				s.drop(place{root: v})
			}
		}
		if e, ok := n.(ast.Expr); ok {
			if x := addressed(f.info, e); x != nil {
				f.lose(s, x)
			}
		}
		return true
	})
}

// lose is told that what e names may be written by others from now on.
func (f *flow) lose(s *state, e ast.Expr) {
	v, pointers := base(f.info, e)
	if v != nil && (pointers == 0 || pointers == 1 && s.at(place{root: v}) == holder) {
		s.drop(place{root: v})
	}
}

// call looks at a call that changes what it is given.
func (f *flow) call(s *state, call *ast.CallExpr) {
	if len(call.Args) == 0 {
		return
	}
	to := call.Args[0]
	switch name := builtin(f.info, call); name {
	case "delete", "clear", "copy":
		if f.look(s, to).kind.reaches() {
			f.report(call, name+" changes "+types.ExprString(to))
		}
		return
	case "append":
		if f.look(s, to).kind == short {
			f.report(call, "append overwrites what is behind "+types.ExprString(to))
		}
		return
	}
	fn := function(f.info, call)
	if fn == nil || fn.Pkg() == nil || !slices.Contains(inPlace[fn.Pkg().Path()], fn.Name()) {
		return
	}
	if f.look(s, to).kind.reaches() {
		f.report(call, fn.Pkg().Name()+"."+fn.Name()+" changes "+types.ExprString(to))
	}
}

func (f *flow) report(at ast.Node, what string) {
	f.pass.ReportRangef(at, "%s: that is part of a cached value, which all callers share and which is not copied: change a copy", what)
}
