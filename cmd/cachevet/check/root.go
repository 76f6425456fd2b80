package check

import (
	"go/ast"
	"go/types"

	"golang.org/x/tools/go/types/typeutil"
)

// roots tells contexts that have nothing of a caller.
type roots struct {
	info  *types.Info
	given given
	seen  map[*types.Var]bool
}

func (r *roots) context(e ast.Expr) bool {
	e = ast.Unparen(e)
	if v := variable(r.info, e); v != nil {
		return r.variable(v)
	}
	switch e := e.(type) {
	case *ast.SelectorExpr: // of a struct that may live as long as the cache, or of a package
		return true
	case *ast.CallExpr:
		if calls(r.info, e, "context", "Background", "TODO", "WithoutCancel") {
			return true
		}
		// Others that end them give them a deadline: that of one call.
		if calls(r.info, e, "context", "WithValue", "WithCancel", "WithCancelCause") || calls(r.info, e, "os/signal", "NotifyContext") {
			return r.context(e.Args[0])
		}
		f, _ := typeutil.Callee(r.info, e).(*types.Func)
		return f != nil && f.Signature().Recv() != nil && inPackage(f, "testing", "Context")
	}
	return false
}

func (r *roots) variable(v *types.Var) bool {
	if v.Kind() == types.PackageVar || r.seen[v] { // seen: made of itself, and of what else it is given
		return true
	}
	if r.seen == nil {
		r.seen = map[*types.Var]bool{}
	}
	r.seen[v] = true
	defer delete(r.seen, v)
	return r.given.always(v, r.context)
}

// request reports whether a variable has only requests that were made here, without a caller.
func (r *roots) request(v *types.Var) bool {
	return r.given.always(v, func(e ast.Expr) bool {
		if calls(r.info, e, "net/http", "NewRequest") || calls(r.info, e, "net/http/httptest", "NewRequest") {
			return true
		}
		made := calls(r.info, e, "net/http", "NewRequestWithContext") || calls(r.info, e, "net/http/httptest", "NewRequestWithContext")
		return made && r.context(e.(*ast.CallExpr).Args[0])
	})
}
