// Package scenario runs files that read as transcripts: a line at the margin is something to do, the indented lines
// under it are what came of it. docs/scenarios.md describes the language that this project's files are written in; this
// package knows only lines.
package scenario

import (
	"cmp"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write what happens into the scenario files, instead of comparing")

// Golden compares a file with what it should hold now, or rewrites it.
func Golden(t *testing.T, path, now string) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(path, []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) == now {
		return
	}
	was, is := strings.Split(string(b), "\n"), strings.Split(now, "\n")
	for _, l := range was {
		if !slices.Contains(is, l) {
			t.Errorf("%s: gone: %s", path, l)
		}
	}
	for _, l := range is {
		if !slices.Contains(was, l) {
			t.Errorf("%s: new: %s", path, l)
		}
	}
	t.Errorf("%s differs; if that is meant, add -rewrite, and a sentence to the changelog", path)
}

// indent begins a line of what came of a step.
const indent = "    "

// section is a part of a file that begins anew: the file's first, or one that begins with "== name".
type section struct {
	name  string
	lines []string // as read; those that Run makes, if it rewrites
}

// Run performs each section of a file in a subtest, or in t itself if there is only one. perform sets the scene and
// calls script, which calls do for each step, and compares what it returns with the file.
//
// A file begins with a comment that says what the danger is. Blank lines and those that begin with # mean nothing.
func Run(t *testing.T, path string, perform func(t *testing.T, script func(do func(step string) []string))) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(b), "# ") {
		t.Errorf("%s does not begin with a comment that says what the danger is", path)
	}
	sections := parse(string(b))
	for i := range sections {
		s := &sections[i]
		run := func(t *testing.T) {
			perform(t, func(do func(string) []string) { s.play(t, path, do) })
		}
		switch {
		case len(sections) == 1:
			run(t)
		case s.name != "" || slices.ContainsFunc(s.lines, isStep):
			t.Run(cmp.Or(s.name, "first"), run)
		}
	}
	if !*rewrite {
		return
	}
	var out strings.Builder
	for _, s := range sections {
		for _, l := range s.lines {
			out.WriteString(l + "\n")
		}
	}
	if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// parse cuts a file into sections. What comes before the first "==" is a section without a name; with others behind it,
// it may hold comments only.
func parse(text string) []section {
	sections := []section{{}}
	for l := range strings.Lines(text) {
		l = strings.TrimRight(l, " \r\n")
		if name, ok := strings.CutPrefix(l, "== "); ok {
			sections = append(sections, section{name: name})
		}
		last := &sections[len(sections)-1]
		last.lines = append(last.lines, l)
	}
	return sections
}

func isStep(line string) bool {
	return line != "" && !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "==")
}

// play performs the steps.
func (s *section) play(t testing.TB, path string, do func(step string) []string) {
	t.Helper()
	var made []string
	for i := 0; i < len(s.lines); i++ {
		line := s.lines[i]
		if !isStep(line) {
			made = append(made, line)
			continue
		}
		var want []string
		for i+1 < len(s.lines) && strings.HasPrefix(s.lines[i+1], " ") {
			i++
			want = append(want, s.lines[i])
		}
		var got []string
		for _, l := range do(line) {
			got = append(got, strings.TrimRight(indent+l, " "))
		}
		made = append(append(made, line), got...)
		if !*rewrite && !slices.Equal(got, want) {
			t.Errorf("%s: after %q\ngot:\n%s\nwant:\n%s", path, line, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if *rewrite {
		s.lines = made
	}
}
