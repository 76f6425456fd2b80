package check

import (
	"go/ast"
	"go/token"
	"go/types"
	"slices"

	"golang.org/x/tools/go/analysis"
)

// LoaderCtx finds loaders that use another context than their own.
var LoaderCtx = &analysis.Analyzer{
	Name: "loaderctx",
	Doc: `find loaders that use the context of their caller

A load is shared by many callers and outlives them. If it uses the context of the call that began it, it dies with that
call, and all others get the error. Its own context has the values of that call, and not its end.`,
	Requires: []*analysis.Analyzer{findLoaders},
	Run: func(pass *analysis.Pass) (any, error) {
		found := pass.ResultOf[findLoaders].(*loaders)
		r := &roots{info: pass.TypesInfo, given: found.given}
		for _, l := range found.list {
			for _, b := range l.borrowed(r) {
				pass.Report(analysis.Diagnostic{
					Pos: b.uses[0].Pos(), End: b.uses[0].End(),
					Message: "loader uses " + types.ExprString(b.uses[0]) +
						" of its caller; a load is shared by callers and outlives them: use the loader's own context",
					SuggestedFixes: l.fix(pass.Pkg, b),
				})
			}
		}
		return nil, nil
	},
}

// borrowed is a variable around a loader from which it takes a context, and the expressions that do.
type borrowed struct {
	of   *types.Var
	uses []ast.Expr
}

func (l *loader) borrowed(r *roots) (all []*borrowed) {
	use := func(v *types.Var, e ast.Expr) {
		i := slices.IndexFunc(all, func(b *borrowed) bool { return b.of == v })
		if i < 0 {
			i, all = len(all), append(all, &borrowed{of: v})
		}
		all[i].uses = append(all[i].uses, e)
	}
	l.inspect(func(n ast.Node) bool {
		if v := l.capturedRequest(n); v != nil {
			if !r.request(v) {
				use(v, n.(*ast.CallExpr))
			}
			return false
		}
		if id, ok := n.(*ast.Ident); ok {
			if v := l.captured(id); v != nil && isContext(v.Type()) && !r.variable(v) {
				use(v, id)
			}
		}
		return true
	})
	return all
}

// fix puts the loader's own context in the place of the other, or does nothing if that does not surely compile and mean that.
func (l *loader) fix(pkg *types.Package, b *borrowed) []analysis.SuggestedFix {
	if !l.usedElsewhere(b) {
		return nil
	}
	name, edits := l.own(pkg, b)
	if name == "" {
		return nil
	}
	for _, e := range b.uses {
		if types.ExprString(e) != name {
			edits = append(edits, analysis.TextEdit{Pos: e.Pos(), End: e.End(), NewText: []byte(name)})
		}
	}
	return []analysis.SuggestedFix{{Message: "Use the loader's own context", TextEdits: edits}}
}

// usedElsewhere reports whether a variable may lose its uses in the loader: one without any does not compile.
func (l *loader) usedElsewhere(b *borrowed) bool {
	if b.of.Kind() != types.LocalVar {
		return true
	}
	n := 0
	for _, o := range l.info.Uses {
		if o == b.of {
			n++
		}
	}
	return n > len(b.uses)
}

// own returns the name of the loader's context, and the edits that give it one.
func (l *loader) own(pkg *types.Package, b *borrowed) (string, []analysis.TextEdit) {
	params := l.lit.Type.Params.List
	if names := params[0].Names; len(names) > 0 && names[0].Name != "_" {
		own := l.info.Defs[names[0]]
		for _, e := range b.uses {
			if _, o := pkg.Scope().Innermost(e.Pos()).LookupParent(own.Name(), e.Pos()); o != own {
				return "", nil // there the name means something else
			}
		}
		return own.Name(), nil
	}

	const name = "ctx"
	free := true
	ast.Inspect(l.lit, func(n ast.Node) bool {
		id, ok := n.(*ast.Ident)
		if !ok || id.Name != name {
			return true
		}
		if v, ok := l.info.ObjectOf(id).(*types.Var); ok && v.Kind() == types.FieldVar { // is in no scope
			return true
		}
		free = free && slices.Contains(b.uses, ast.Expr(id))
		return free
	})
	if !free {
		return "", nil
	}
	if names := params[0].Names; len(names) > 0 {
		return name, []analysis.TextEdit{{Pos: names[0].Pos(), End: names[0].End(), NewText: []byte(name)}}
	}
	insert := func(at token.Pos, s string) analysis.TextEdit {
		return analysis.TextEdit{Pos: at, End: at, NewText: []byte(s + " ")}
	}
	edits := []analysis.TextEdit{insert(params[0].Pos(), name)}
	for _, p := range params[1:] { // all have names or none
		edits = append(edits, insert(p.Pos(), "_"))
	}
	return name, edits
}
