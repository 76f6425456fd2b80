package check

import (
	"go/ast"
	"go/types"
	"reflect"

	"golang.org/x/tools/go/analysis"
)

// loaders are the function literals of a package that become a cache.Loader or a cache.BatchLoader, and what its variables are
// given.
type loaders struct {
	list  []*loader
	given given
}

// loader is a function literal that is one.
type loader struct {
	lit    *ast.FuncLit
	info   *types.Info
	others map[*ast.FuncLit]bool // loaders too
	sets   map[*types.Var]bool   // what it gives values
}

// findLoaders is no check: others begin with what it finds.
var findLoaders = &analysis.Analyzer{
	Name:       "findloaders",
	Doc:        "find function literals that are loaders",
	ResultType: reflect.TypeFor[*loaders](),
	Run: func(pass *analysis.Pass) (any, error) {
		found := &loaders{given: givenIn(pass.TypesInfo, pass.Files)}
		seen := map[*ast.FuncLit]bool{}
		f := finder{info: pass.TypesInfo, given: found.given, found: func(lit *ast.FuncLit) {
			if !seen[lit] {
				seen[lit] = true
				l := &loader{lit: lit, info: pass.TypesInfo, others: seen, sets: map[*types.Var]bool{}}
				writes(pass.TypesInfo, lit, func(v *types.Var, x extent, _ ast.Node) {
					l.sets[v] = l.sets[v] || x != element
				})
				found.list = append(found.list, l)
			}
		}}
		for _, file := range pass.Files {
			ast.Inspect(file, f.node)
		}
		return found, nil
	},
}

// finder looks at whatever gives an expression a type.
type finder struct {
	info  *types.Info
	given given
	found func(*ast.FuncLit)
}

func isLoader(t types.Type) bool { return declared(t, cachePath, "Loader", "BatchLoader") }

// becomes is told that e becomes a t. A variable that is only ever given one literal stands for it: load := func ...
func (f *finder) becomes(e ast.Expr, t types.Type) {
	if t == nil || !isLoader(t) {
		return
	}
	e = ast.Unparen(e)
	if v := variable(f.info, e); v != nil {
		e = f.given.only(v)
	}
	if lit, ok := e.(*ast.FuncLit); ok {
		f.found(lit)
	}
}

func (f *finder) node(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.CallExpr:
		f.call(n)
	case *ast.AssignStmt:
		if len(n.Lhs) == len(n.Rhs) {
			for i, to := range n.Lhs {
				f.becomes(n.Rhs[i], f.info.TypeOf(to))
			}
		}
	case *ast.ValueSpec:
		if len(n.Names) == len(n.Values) {
			for i, id := range n.Names {
				f.becomes(n.Values[i], f.info.TypeOf(id))
			}
		}
	case *ast.CompositeLit:
		f.composite(n)
	case *ast.SendStmt:
		if c, ok := f.info.TypeOf(n.Chan).Underlying().(*types.Chan); ok {
			f.becomes(n.Value, c.Elem())
		}
	case *ast.FuncDecl:
		if n.Body != nil {
			f.returns(n.Body, f.info.TypeOf(n.Name))
		}
	case *ast.FuncLit:
		f.returns(n.Body, f.info.TypeOf(n))
	}
	return true
}

func (f *finder) call(n *ast.CallExpr) {
	if tv := f.info.Types[n.Fun]; tv.IsType() {
		if len(n.Args) == 1 {
			f.becomes(n.Args[0], tv.Type)
		}
		return
	}
	s, ok := f.info.TypeOf(n.Fun).Underlying().(*types.Signature)
	if !ok {
		return
	}
	for i, arg := range n.Args {
		last := s.Params().Len() - 1
		switch {
		case s.Variadic() && i >= last && !n.Ellipsis.IsValid():
			if slice, ok := s.Params().At(last).Type().Underlying().(*types.Slice); ok {
				f.becomes(arg, slice.Elem())
			}
		case i <= last:
			f.becomes(arg, s.Params().At(i).Type())
		}
	}
}

func (f *finder) composite(n *ast.CompositeLit) {
	t := f.info.TypeOf(n).Underlying()
	if p, ok := t.(*types.Pointer); ok { // of a composite literal in another, without its type
		t = p.Elem().Underlying()
	}
	for i, e := range n.Elts {
		kv, keyed := e.(*ast.KeyValueExpr)
		if keyed {
			e = kv.Value
		}
		switch t := t.(type) {
		case *types.Struct:
			if keyed {
				f.becomes(e, f.info.TypeOf(kv.Key))
			} else if i < t.NumFields() {
				f.becomes(e, t.Field(i).Type())
			}
		case interface{ Elem() types.Type }: // a slice, an array, a map
			f.becomes(e, t.Elem())
		}
	}
}

func (f *finder) returns(body *ast.BlockStmt, t types.Type) {
	s, ok := t.(*types.Signature)
	if !ok {
		return
	}
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return false
		case *ast.ReturnStmt:
			if len(n.Results) == s.Results().Len() {
				for i, e := range n.Results {
					f.becomes(e, s.Results().At(i).Type())
				}
			}
		}
		return true
	})
}

// inspect walks through the loader, but not through loaders in it: these are looked at by themselves.
func (l *loader) inspect(visit func(ast.Node) bool) {
	ast.Inspect(l.lit.Body, func(n ast.Node) bool {
		if lit, ok := n.(*ast.FuncLit); ok && l.others[lit] {
			return false
		}
		return n == nil || visit(n)
	})
}

// captured returns the variable that e names if it belongs to a function around the loader, and has its value from there; or nil.
func (l *loader) captured(e ast.Expr) *types.Var {
	id, ok := ast.Unparen(e).(*ast.Ident)
	if !ok {
		return nil
	}
	v, ok := l.info.Uses[id].(*types.Var)
	if !ok || v.Kind() == types.PackageVar || v.Kind() == types.FieldVar || l.sets[v] {
		return nil
	}
	if l.lit.Pos() <= v.Pos() && v.Pos() < l.lit.End() {
		return nil
	}
	return v
}

// capturedRequest returns the captured *http.Request whose context n asks for, or nil.
func (l *loader) capturedRequest(n ast.Node) *types.Var {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return nil
	}
	s, ok := ast.Unparen(call.Fun).(*ast.SelectorExpr)
	if !ok || s.Sel.Name != "Context" {
		return nil
	}
	if v := l.captured(s.X); v != nil && isRequest(v.Type()) {
		return v
	}
	return nil
}

func isRequest(t types.Type) bool {
	p := pointee(t)
	return p != nil && declared(p, "net/http", "Request")
}
