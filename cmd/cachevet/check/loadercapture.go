package check

import (
	"fmt"
	"go/ast"
	"go/types"

	"golang.org/x/tools/go/analysis"
)

// LoaderCapture finds loaders that use what ends with one caller's request.
var LoaderCapture = &analysis.Analyzer{
	Name: "loadercapture",
	Doc: `find loaders that use a transaction or a request of their caller

A load is shared by many callers and outlives them. A transaction, a connection that was taken from a pool, rows, and an
HTTP request or its answer belong to one of them, and so does what a load reads there. Use what lives as long as the cache,
and plain values that were taken before.`,
	Requires: []*analysis.Analyzer{findLoaders},
	Run: func(pass *analysis.Pass) (any, error) {
		found := pass.ResultOf[findLoaders].(*loaders)
		r := &roots{info: pass.TypesInfo, given: found.given}
		for _, l := range found.list {
			told := map[*types.Var]bool{}
			l.inspect(func(n ast.Node) bool {
				if l.capturedRequest(n) != nil {
					return false // loaderctx has more to say
				}
				id, ok := n.(*ast.Ident)
				if !ok {
					return true
				}
				v := l.captured(id)
				if v == nil || told[v] || !passing(v.Type()) || isRequest(v.Type()) && r.request(v) {
					return true
				}
				told[v] = true
				pass.Report(analysis.Diagnostic{Pos: id.Pos(), End: id.End(), Message: fmt.Sprintf(
					"loader uses %s (%s) of its caller; a load is shared by callers and outlives them: "+
						"use what lives as long as the cache, or plain values taken before",
					v.Name(), types.TypeString(v.Type(), func(p *types.Package) string { return p.Name() }))})
				return true
			})
		}
		return nil, nil
	},
}

// passing reports whether what is of type t ends with the request of one caller.
func passing(t types.Type) bool {
	if p := pointee(t); p != nil {
		return isRequest(t) ||
			declared(p, "database/sql", "Tx", "Conn", "Row", "Rows") ||
			declared(p, "github.com/jackc/pgx/v5/pgxpool", "Tx", "Conn")
	}
	return declared(t, "net/http", "ResponseWriter") || declared(t, "github.com/jackc/pgx/v5", "Tx", "Rows", "Row")
}
