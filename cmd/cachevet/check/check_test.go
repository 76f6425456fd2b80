package check

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"golang.org/x/tools/go/analysis/analysistest"
)

func TestLoaderCtx(t *testing.T) {
	analysistest.RunWithSuggestedFixes(t, analysistest.TestData(), LoaderCtx, "loaderctx")
}

func TestLoaderCapture(t *testing.T) {
	analysistest.Run(t, analysistest.TestData(), LoaderCapture, "loadercapture")
}

func TestCachedMutation(t *testing.T) {
	analysistest.Run(t, analysistest.TestData(), CachedMutation, "cachedmutation")
}

// The declarations of the stub that the other tests are analyzed with are those of the real package.
func TestStub(t *testing.T) {
	api, err := os.ReadFile("../../../testdata/api.txt")
	if err != nil {
		t.Fatal(err)
	}
	declared := "\n" + string(api)
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "testdata/src/github.com/bellwether-go/cache/cache.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			d.Body = nil
		case *ast.GenDecl:
			spec, ok := d.Specs[0].(*ast.TypeSpec)
			if !ok || !spec.Name.IsExported() || spec.Name.Name == "Cache" { // whose fields nobody sees
				continue
			}
		}
		var b bytes.Buffer
		if err := format.Node(&b, fset, d); err != nil {
			t.Fatal(err)
		}
		if compared++; !strings.Contains(declared, "\n"+b.String()+"\n") {
			t.Errorf("the real package does not declare:\n%s", &b)
		}
	}
	if compared < 10 {
		t.Errorf("%d declarations compared", compared)
	}
}
