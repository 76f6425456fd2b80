package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
)

// removals makes one source of which CACHE_REMOVE switches off a statement: so all mutants are compiled at once.
type removals struct {
	names []string // of statements: file, line and beginning
	files map[string]string
}

// helper is the file that asks which statement is off.
const helper = `package cache

import (
	"os"
	"strconv"
)

var removedStatement, _ = strconv.Atoi(os.Getenv("CACHE_REMOVE"))

func notRemoved(statement int) bool { return statement != removedStatement }
`

// add takes the statements of a file: calls, assignments, ifs without else, defer, go and the like. What a function cannot
// end without, such as return, stays.
func (r *removals) add(file string) error {
	source, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, file, source, 0)
	if err != nil {
		return err
	}
	type piece struct {
		at, rank int // of two at the same place the one with the lower rank comes first
		text     string
	}
	var pieces []piece
	wrap := func(list []ast.Stmt) {
		for _, s := range list {
			switch s := s.(type) {
			case *ast.ExprStmt, *ast.IncDecStmt, *ast.DeferStmt, *ast.GoStmt, *ast.SendStmt:
			case *ast.BranchStmt:
				if s.Tok == token.FALLTHROUGH {
					continue
				}
			case *ast.AssignStmt:
				if s.Tok == token.DEFINE {
					continue
				}
			case *ast.IfStmt:
				if s.Else != nil {
					continue
				}
			default:
				continue
			}
			from, to := fset.Position(s.Pos()), fset.Position(s.End())
			line, _, _ := strings.Cut(string(source[from.Offset:to.Offset]), "\n")
			r.names = append(r.names, fmt.Sprintf("%s:%d: %s", file, from.Line, strings.ReplaceAll(line, "|", "\\|")))
			long := to.Offset - from.Offset
			pieces = append(pieces,
				piece{from.Offset, -long, fmt.Sprintf("if notRemoved(%d) { ", len(r.names))}, piece{to.Offset, long - 1<<30, " }"})
		}
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BlockStmt:
			wrap(n.List)
		case *ast.CaseClause:
			wrap(n.Body)
		case *ast.CommClause:
			wrap(n.Body)
		}
		return true
	})
	slices.SortFunc(pieces, func(a, b piece) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.rank, b.rank)) })
	var text strings.Builder
	at := 0
	for _, p := range pieces {
		text.Write(source[at:p.at])
		text.WriteString(p.text)
		at = p.at
	}
	text.Write(source[at:])
	r.files[file] = text.String()
	return nil
}

// tryRemovals removes each statement of the files in turn, or only those whose names begin with one of the words.
func tryRemovals(dir string, files, words []string) error {
	r := removals{files: map[string]string{"removed.go": helper}}
	for _, file := range files {
		if err := r.add(file); err != nil {
			return err
		}
	}
	test, err := compile(dir, r.files)
	if err != nil {
		return err
	}
	var chosen []int
	for i, name := range r.names {
		if len(words) == 0 || slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(name, w) }) {
			chosen = append(chosen, i)
		}
	}
	found := atWork(len(chosen), func(i int) string {
		i = chosen[i]
		return "| `" + r.names[i] + "` | " + inTests(test, fmt.Sprint("CACHE_REMOVE=", i+1)) + " |"
	})
	fmt.Printf("%d of %d found\n", found, len(chosen))
	return nil
}
