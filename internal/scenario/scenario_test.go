package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const file = `# A danger.

one
    did one
two

== another
# why
two
one
    did one
`

func echo(step string) []string {
	if step == "one" {
		return []string{"did one"}
	}
	return nil
}

func TestRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.txt")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	var steps []string
	Run(t, path, func(t *testing.T, script func(do func(string) []string)) {
		steps = append(steps, t.Name()[strings.LastIndex(t.Name(), "/")+1:])
		script(func(step string) []string {
			steps = append(steps, step)
			return echo(step)
		})
	})
	if want := []string{"first", "one", "two", "another", "two", "one"}; !slices.Equal(steps, want) {
		t.Errorf("%q, want %q", steps, want)
	}
}

// recorder is a test that may fail.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

// Whatever differs is told, and rewriting makes it so and changes nothing else.
func TestDifferences(t *testing.T) {
	for _, wrong := range []string{
		strings.Replace(file, "    did one\n", "", 1),
		strings.Replace(file, "did one", "did two", 1),
		strings.Replace(file, "two\n", "two\n    did two\n", 1),
		strings.Replace(file, "    did one", "  did one", 1),
	} {
		r := &recorder{}
		sections := parse(wrong)
		for i := range sections {
			sections[i].play(r, "x.txt", echo)
		}
		if len(r.errors) != 1 {
			t.Errorf("%q: %q", wrong, r.errors)
		}
		*rewrite = true
		var lines []string
		for i := range sections {
			sections[i].play(r, "x.txt", echo)
			lines = append(lines, sections[i].lines...)
		}
		*rewrite = false
		if got := strings.Join(lines, "\n") + "\n"; got != file || len(r.errors) != 1 {
			t.Errorf("rewritten:\n%s\n%q", got, r.errors)
		}
	}
}
