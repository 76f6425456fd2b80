package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const mistakes = `package user

import (
	"context"
	"database/sql"

	"github.com/bellwether-go/cache"
)

type User struct{ Name string }

func Rename(ctx context.Context, users *cache.Cache[*User], tx *sql.Tx) error {
	u, err := users.GetOrLoad(ctx, "42", func(_ context.Context, id string) (*User, error) {
		u := new(User)
		return u, tx.QueryRowContext(ctx, "SELECT", id).Scan(&u.Name)
	})
	if err == nil {
		u.Name = ""
	}
	return err
}
`

// moduleWith makes a module that uses the real cache, as this repository has it, and returns its folder.
func moduleWith(t *testing.T, source string) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	// What the cache requires, this module does too: then nothing has to be resolved, and nothing fetched that is there.
	text := regexp.MustCompile(`(?m)^module .*$`).ReplaceAllString(string(mod), "module example.com/user") +
		"\nrequire github.com/bellwether-go/cache v0.0.0\n\nreplace github.com/bellwether-go/cache => " + root + "\n"
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": text, "go.sum": string(sum), "user.go": source} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// run runs a command and returns what it prints and its exit code.
func run(t *testing.T, dir, name string, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	var code *exec.ExitError
	if err != nil && !errors.As(err, &code) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func TestCommand(t *testing.T) {
	tool := filepath.Join(t.TempDir(), "cachevet")
	if out, code := run(t, ".", "go", "build", "-o", tool, "."); code != 0 {
		t.Fatal(out)
	}
	wrong := moduleWith(t, mistakes)
	right := moduleWith(t, strings.NewReplacer("_ context", "ctx context", "tx *sql.Tx", "tx *sql.DB", "u.Name = \"\"", "_ = *u").Replace(mistakes))
	const (
		ctx      = "user.go:15:32: loader uses ctx of its caller"
		capture  = "user.go:15:13: loader uses tx (*sql.Tx) of its caller"
		mutation = "user.go:18:3: assignment to u.Name"
	)
	for _, c := range []struct {
		what  string
		dir   string
		args  []string
		code  int
		finds []string
	}{
		{"go vet", wrong, []string{"go", "vet", "-vettool=" + tool, "./..."}, 1, []string{ctx, capture, mutation}},
		{"go vet, one check", wrong, []string{"go", "vet", "-vettool=" + tool, "-loaderctx", "./..."}, 1, []string{ctx}},
		{"go vet, all but one", wrong, []string{"go", "vet", "-vettool=" + tool, "-loaderctx=false", "./..."}, 1, []string{capture, mutation}},
		{"go vet, nothing wrong", right, []string{"go", "vet", "-vettool=" + tool, "./..."}, 0, nil},
		{"by itself", wrong, []string{tool, "./..."}, 3, []string{ctx, capture, mutation}},
		{"by itself, one check", wrong, []string{tool, "-cachedmutation", "./..."}, 3, []string{mutation}},
		{"by itself, nothing wrong", right, []string{tool, "./..."}, 0, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			out, code := run(t, c.dir, c.args[0], c.args[1:]...)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, find := range c.finds {
				if !strings.Contains(out, find) {
					t.Errorf("not found: %s", find)
				}
			}
			if n := strings.Count(out, "user.go:"); n != len(c.finds) {
				t.Errorf("%d findings, want %d", n, len(c.finds))
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}

	if out, code := run(t, wrong, tool, "-loaderctx", "-fix", "./..."); code != 0 {
		t.Errorf("-fix: exit code %d\n%s", code, out)
	}
	if out, code := run(t, wrong, tool, "-loaderctx", "./..."); code != 0 {
		t.Errorf("after -fix: exit code %d\n%s", code, out)
	}
}
