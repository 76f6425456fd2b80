package check

import (
	"go/ast"
	"go/token"
	"go/types"

	"golang.org/x/tools/go/types/typeutil"
)

// value is what is known of an expression: of its value, and of the memory that it names.
type value struct {
	kind   kind
	cached bool  // this memory is the cache's
	place  place // that it is, if it has a root
}

// look evaluates an expression.
func (f *flow) look(s *state, e ast.Expr) value {
	switch e := ast.Unparen(e).(type) {
	case *ast.Ident:
		if v := variable(f.info, e); v != nil && f.local(v) {
			p := place{root: v}
			return value{kind: s.at(p), place: p}
		}
	case *ast.SelectorExpr:
		if sel := f.info.Selections[e]; sel != nil && sel.Kind() == types.FieldVal {
			return f.field(s, f.look(s, e.X), sel)
		}
	case *ast.StarExpr:
		if f.look(s, e.X).kind.reaches() {
			return value{kind: shared, cached: true}
		}
	case *ast.IndexExpr:
		return f.element(f.look(s, e.X), f.info.TypeOf(e.X))
	case *ast.SliceExpr:
		return value{kind: f.slice(s, e)}
	case *ast.TypeAssertExpr:
		return value{kind: alias(f.look(s, e.X).kind)}
	case *ast.UnaryExpr:
		if e.Op == token.AND && f.look(s, e.X).cached {
			return value{kind: shared}
		}
	case *ast.CallExpr:
		return value{kind: f.result(s, e)}
	}
	return value{}
}

// alias is what is known of a second name of a value: two for one holder are too many to tell what it holds.
func alias(k kind) kind {
	if k == holder {
		return unknown
	}
	return k
}

// field follows a selector, through embedded fields too.
func (f *flow) field(s *state, x value, sel *types.Selection) value {
	t := sel.Recv()
	for _, i := range sel.Index() {
		if p, ok := t.Underlying().(*types.Pointer); ok {
			x = value{kind: x.kind, cached: x.kind.reaches()}
			t = p.Elem()
		}
		st, ok := t.Underlying().(*types.Struct)
		if !ok || guarded(st) {
			return value{}
		}
		to := st.Field(i)
		t = to.Type()
		if x.place.root != nil {
			x.place = x.place.field(to.Name())
			x.kind = s.at(x.place)
		} else if x.kind.reaches() {
			x.kind = shared
		} else {
			x.kind = unknown
		}
	}
	return x
}

// guarded reports whether a struct has a mutex, and so its own idea of who may change it.
func guarded(s *types.Struct) bool {
	for f := range s.Fields() {
		t := f.Type()
		if p := pointee(t); p != nil {
			t = p
		}
		if declared(t, "sync", "Mutex", "RWMutex") {
			return true
		}
	}
	return false
}

// element is x[i], for an x of type t.
func (f *flow) element(x value, t types.Type) value {
	switch t.Underlying().(type) {
	case *types.Array:
		if x.kind.reaches() {
			return value{kind: shared, cached: x.cached}
		}
	case *types.Slice, *types.Map, *types.Pointer:
		switch {
		case x.kind.reaches():
			return value{kind: shared, cached: true}
		case x.kind == holder:
			return value{kind: shared}
		}
	}
	return value{}
}

// slice is x[i:j].
func (f *flow) slice(s *state, e *ast.SliceExpr) kind {
	x := f.look(s, e.X)
	switch f.info.TypeOf(e.X).Underlying().(type) {
	case *types.Array:
		if !x.cached {
			return unknown
		}
	case *types.Slice, *types.Pointer:
	default:
		return unknown
	}
	switch {
	case !x.kind.reaches():
		return unknown
	case e.Slice3:
		return shared // what is appended to it goes elsewhere, if the third is the second
	case e.High != nil:
		return short
	}
	return x.kind
}

// result is what is known of the only result of a call.
func (f *flow) result(s *state, call *ast.CallExpr) kind {
	if tv := f.info.Types[call.Fun]; tv.IsType() {
		if len(call.Args) != 1 || basic(f.info.TypeOf(call.Args[0])) { // []byte(s) copies
			return unknown
		}
		return alias(f.look(s, call.Args[0]).kind)
	}
	if f.source(call) == parts {
		return parts
	}
	if len(call.Args) == 0 {
		return unknown
	}
	switch {
	case calls(f.info, call, "slices", "Clip"), calls(f.info, call, "sort", "Reverse"):
		if f.look(s, call.Args[0]).kind.reaches() {
			return shared
		}
	case calls(f.info, call, "slices", "Clone"), calls(f.info, call, "maps", "Clone"):
		if k := f.look(s, call.Args[0]).kind; k.reaches() || k == holder {
			return holder
		}
	}
	return unknown
}

func basic(t types.Type) bool {
	_, ok := t.Underlying().(*types.Basic)
	return ok
}

// source is what the first result of a call is if the call asks a cache.
func (f *flow) source(call *ast.CallExpr) kind {
	fn, _ := typeutil.Callee(f.info, call).(*types.Func)
	if fn == nil { // get := users.Get
		if v := variable(f.info, call.Fun); v != nil {
			if s, ok := f.given.only(v).(*ast.SelectorExpr); ok {
				fn, _ = f.info.Uses[s.Sel].(*types.Func)
			}
		}
	}
	if fn == nil {
		return unknown
	}
	r := fn.Signature().Recv()
	if r == nil {
		if inPackage(fn, cachePath, "Previous") {
			return shared
		}
		return unknown
	}
	if p := pointee(r.Type()); p == nil || !declared(p, cachePath, "Cache") {
		return unknown
	}
	switch fn.Name() {
	case "Get", "GetOrLoad", "Refresh":
		return shared
	case "GetOrLoadMany":
		return holder
	case "GetOrLoadSeq":
		return parts
	}
	return unknown
}
