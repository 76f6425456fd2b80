// Package check has the analyzers of cachevet. They know the cache by its import path and the names of its types only.
package check

import (
	"go/ast"
	"go/types"
	"strings"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/types/typeutil"
)

const cachePath = "github.com/bellwether-go/cache"

// Analyzers returns all of them.
func Analyzers() []*analysis.Analyzer {
	return []*analysis.Analyzer{LoaderCtx, LoaderCapture, CachedMutation}
}

// declared reports whether t is the type of this name, or an instance of it. The cache's own tests see its path with
// what is tested after it.
func declared(t types.Type, path string, names ...string) bool {
	n, ok := types.Unalias(t).(*types.Named)
	return ok && inPackage(n.Origin().Obj(), path, names...)
}

func inPackage(o types.Object, path string, names ...string) bool {
	if o.Pkg() == nil {
		return false
	}
	p, _, _ := strings.Cut(o.Pkg().Path(), " ")
	if p != path {
		return false
	}
	for _, name := range names {
		if o.Name() == name {
			return true
		}
	}
	return false
}

// pointee returns what t points to, or nil.
func pointee(t types.Type) types.Type {
	if p, ok := types.Unalias(t).(*types.Pointer); ok {
		return p.Elem()
	}
	return nil
}

// isContext reports whether t is context.Context.
func isContext(t types.Type) bool { return declared(t, "context", "Context") }

// variable returns the variable that e names, or nil.
func variable(info *types.Info, e ast.Expr) *types.Var {
	id, ok := ast.Unparen(e).(*ast.Ident)
	if !ok {
		return nil
	}
	v, _ := info.ObjectOf(id).(*types.Var)
	return v
}

// function returns the function of a package that is called by its name, or nil.
func function(info *types.Info, call *ast.CallExpr) *types.Func {
	f, _ := typeutil.Callee(info, call).(*types.Func)
	if f == nil || f.Signature().Recv() != nil {
		return nil
	}
	return f
}

// calls reports whether e calls one of these functions of a package.
func calls(info *types.Info, e ast.Expr, path string, names ...string) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	f := function(info, call)
	return f != nil && inPackage(f, path, names...)
}
