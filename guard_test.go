package cache_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bellwether-go/cache/internal/scenario"
)

// These tests guard the repository itself. What is a golden file is rewritten by go test -run Guard . -rewrite, and a
// change of it needs a sentence in the changelog.

// The exported API: its declarations, without bodies and comments; and it is small.
func TestGuardAPI(t *testing.T) {
	fset := token.NewFileSet()
	var decls, exported []string
	for _, path := range files(t, "*.go") {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.FileExports(f)
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv != nil && !ast.IsExported(strings.TrimPrefix(types.ExprString(d.Recv.List[0].Type), "*")) {
					continue
				}
				if d.Body = nil; d.Recv == nil {
					exported = append(exported, d.Name.Name)
				}
			case *ast.GenDecl:
				if d.Tok == token.IMPORT || len(d.Specs) == 0 {
					continue
				}
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						exported = append(exported, s.Name.Name)
					case *ast.ValueSpec:
						for _, name := range s.Names {
							exported = append(exported, name.Name)
						}
						if d.Tok == token.VAR { // an error's text is not API
							s.Values = nil
						}
					}
				}
			}
			var b bytes.Buffer
			if err := format.Node(&b, fset, d); err != nil {
				t.Fatal(err)
			}
			decls = append(decls, b.String()+"\n")
		}
	}
	slices.Sort(decls)
	scenario.Golden(t, "testdata/api.txt", strings.Join(decls, "\n"))

	if len(exported) > 40 {
		t.Errorf("%d exported identifiers: %q", len(exported), exported)
	}
}

// What users compile, and which modules they get to see.
func TestGuardDependencies(t *testing.T) {
	packages := run(t, ".", "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
	scenario.Golden(t, "testdata/packages.txt", packages)

	root, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	user := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": fmt.Sprintf("module example.com/user\n\ngo %s\n\nrequire github.com/bellwether-go/cache v0.0.0\n\n"+
			"replace github.com/bellwether-go/cache => %s\n", goDirective(t), root),
		"main.go": "package main\n\nimport _ \"github.com/bellwether-go/cache\"\n\nfunc main() {}\n",
	} {
		if err := os.WriteFile(filepath.Join(user, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run(t, user, "go", "mod", "tidy")
	graph := run(t, user, "go", "list", "-m", "-f", "{{if not .Main}}{{.Path}}{{end}}", "all")
	var mod struct{ Require []struct{ Path string } }
	if err := json.Unmarshal([]byte(run(t, user, "go", "mod", "edit", "-json")), &mod); err != nil {
		t.Fatal(err)
	}
	var compiled []string
	for _, r := range mod.Require {
		compiled = append(compiled, r.Path)
	}
	slices.Sort(compiled)
	scenario.Golden(t, "testdata/modules.txt",
		"# in a user's go.mod\n"+strings.Join(compiled, "\n")+"\n# in a user's module graph\n"+graph)
}

// The package writes nothing anywhere but to Redis: no log could show keys or values.
func TestGuardSilent(t *testing.T) {
	imports := strings.Fields(run(t, ".", "go", "list", "-f", "{{join .Imports \"\\n\"}}", "."))
	for _, p := range imports {
		if p == "os" || p == "log" || strings.HasPrefix(p, "log/") {
			t.Errorf("it imports %s", p)
		}
	}
	if !slices.Contains(imports, "context") {
		t.Errorf("imports %q", imports)
	}
}

func goDirective(t *testing.T) string {
	b, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(string(b))[1]
}

// run runs a command and returns its lines.
func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, errs.String())
	}
	return strings.TrimLeft(out.String(), "\n")
}

// files are those of the repository, by their path.
func files(t *testing.T, pattern string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path == ".git" {
				return filepath.SkipDir
			}
			return nil
		}
		ok, err := filepath.Match(pattern, path)
		if ok = ok || strings.HasPrefix(pattern, "**") && strings.HasSuffix(path, pattern[2:]); ok {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// A file is one idea, named by a noun of the domain, and short.
func TestGuardFiles(t *testing.T) {
	for _, path := range files(t, "**.go") {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, []byte("\n")); n > 500 {
			t.Errorf("%s has %d lines", path, n)
		}
		for name := range strings.SplitSeq(strings.TrimSuffix(filepath.ToSlash(path), ".go"), "/") {
			for word := range strings.SplitSeq(name, "_") {
				if slices.Contains([]string{"pkg", "util", "utils", "common", "helper", "helpers", "types", "misc"}, word) {
					t.Errorf("%s: %q says nothing", path, word)
				}
			}
		}
	}
}

// inBubble are functions that run what they are given in a testing/synctest bubble.
var inBubble = []string{"synctest.Test", "lab.Bubble", "cachetest.Run", "bubble", "alike", "rig", "withJury"}

// No test sleeps in real time: time.Sleep is called, and a bare <-time.After waited for, only inside the function given to one of inBubble, or in a function
// that also calls synctest.Wait, which panics outside a bubble.
func TestGuardNoRealSleep(t *testing.T) {
	for _, path := range files(t, "**.go") {
		kit := strings.HasPrefix(path, "internal/lab/") || strings.HasPrefix(path, "internal/realredis/")
		if !kit && !strings.HasSuffix(path, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		sleeps := append(calls(f, "time.Sleep"), pauses(f)...)
		ast.Inspect(f, func(n ast.Node) bool {
			if n == nil {
				return false
			}
			virtual := false
			switch n := n.(type) {
			case *ast.CallExpr:
				virtual = slices.Contains(inBubble, name(n.Fun))
			case *ast.FuncLit, *ast.FuncDecl:
				virtual = len(calls(n, "synctest.Wait")) > 0
			}
			if virtual {
				sleeps = slices.DeleteFunc(sleeps, func(pos token.Pos) bool { return n.Pos() < pos && pos < n.End() })
			}
			return true
		})
		for _, pos := range sleeps {
			t.Errorf("%s: a real sleep", fset.Position(pos))
		}
	}
}

// pauses are the places in n that only wait for a timer.
func pauses(n ast.Node) (found []token.Pos) {
	cases := map[ast.Stmt]bool{} // of a select, which waits for something else too
	ast.Inspect(n, func(n ast.Node) bool {
		if c, ok := n.(*ast.CommClause); ok {
			cases[c.Comm] = true
		}
		if s, ok := n.(*ast.ExprStmt); ok && !cases[s] {
			if u, ok := s.X.(*ast.UnaryExpr); ok && u.Op == token.ARROW && len(calls(u, "time.After")) > 0 {
				found = append(found, s.Pos())
			}
		}
		return true
	})
	return found
}

// calls are the places in n where a function is called.
func calls(n ast.Node, function string) (found []token.Pos) {
	ast.Inspect(n, func(n ast.Node) bool {
		if c, ok := n.(*ast.CallExpr); ok && name(c.Fun) == function {
			found = append(found, c.Pos())
		}
		return true
	})
	return found
}

func name(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return name(e.X) + "." + e.Sel.Name
	}
	return ""
}
