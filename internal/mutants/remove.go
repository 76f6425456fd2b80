package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
)

// removals returns one mutant for each statement of a file that can be left out: calls, assignments, defer, go and the
// like.
func removals(file string) (all []mutant, err error) {
	source, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, file, source, 0)
	if err != nil {
		return nil, err
	}
	add := func(list []ast.Stmt) {
		for _, s := range list {
			switch s := s.(type) {
			case *ast.ExprStmt, *ast.IncDecStmt, *ast.DeferStmt, *ast.GoStmt, *ast.SendStmt, *ast.BranchStmt:
			case *ast.AssignStmt:
				if s.Tok == token.DEFINE {
					continue
				}
			case *ast.IfStmt, *ast.ReturnStmt:
			default:
				continue
			}
			from, to := fset.Position(s.Pos()), fset.Position(s.End())
			line, _, _ := strings.Cut(string(source[from.Offset:to.Offset]), "\n")
			all = append(all, mutant{
				name: fmt.Sprintf("%d: %s", from.Line, strings.ReplaceAll(line, "|", "\\|")),
				file: file, old: string(source[:to.Offset]), new: string(source[:from.Offset]),
			})
		}
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BlockStmt:
			add(n.List)
		case *ast.CaseClause:
			add(n.Body)
		case *ast.CommClause:
			add(n.Body)
		}
		return true
	})
	return all, nil
}
