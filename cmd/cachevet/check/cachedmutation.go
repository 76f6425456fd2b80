package check

import (
	"go/ast"
	"go/token"

	"golang.org/x/tools/go/analysis"
)

// CachedMutation finds changes of cached values.
var CachedMutation = &analysis.Analyzer{
	Name: "cachedmutation",
	Doc: `find changes of cached values

What a cache returns is shared by all callers and not copied. Who changes what a pointer, a slice or a map in it leads to
changes it for all others, in the middle of their reading it.`,
	Requires: []*analysis.Analyzer{findLoaders},
	Run: func(pass *analysis.Pass) (any, error) {
		given := pass.ResultOf[findLoaders].(*loaders).given
		for _, file := range pass.Files {
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					if n.Body != nil {
						follow(pass, given, n, n.Body)
					}
					return false
				case *ast.FuncLit: // of a variable of the package
					follow(pass, given, n, n.Body)
					return false
				}
				return true
			})
		}
		return nil, nil
	},
}

// follow looks at a function, and at the literals in it.
func follow(pass *analysis.Pass, given given, n ast.Node, body *ast.BlockStmt) {
	f := &flow{pass: pass, info: pass.TypesInfo, given: given}
	asks, jumps := false, false
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			asks = asks || f.source(n) != unknown
		case *ast.BranchStmt:
			jumps = jumps || n.Tok == token.GOTO
		}
		return true
	})
	if !asks || jumps { // goto is rare, and leads anywhere
		return
	}
	f.history = historyOf(pass.TypesInfo, n)
	f.block(newState(), body.List)
}
