package cache_test

import (
	"bytes"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bellwether-go/cache"
)

// These tests guard the documentation: its code, its links, and the tests and scenarios that it names.

// documents are the texts for people, by their path.
func documents(t *testing.T) (texts map[string]string) {
	texts = make(map[string]string)
	for _, path := range files(t, "**.md") {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(b)
	}
	return texts
}

// Each block of Go in the documentation stands, paragraph by paragraph, in a file of Go that CI compiles; and no block of Go hides as plain
// text.
func TestGuardCode(t *testing.T) {
	plain := func(s string) string { // without indentation, blank lines and comments
		lines := []string{""}
		for l := range strings.Lines(s) {
			if l, _, _ = strings.Cut(strings.TrimSpace(l), " //"); l != "" {
				lines = append(lines, l)
			}
		}
		return strings.Join(append(lines, ""), "\n")
	}
	var code []string
	for _, path := range files(t, "**.go") {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		code = append(code, plain(string(b)))
	}
	blocks := 0
	for path, text := range documents(t) {
		for _, b := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(text, -1) {
			blocks++
			for part := range strings.SplitSeq(b[1], "\n\n") {
				part = strings.TrimSuffix(plain(part), "\n}\n")
				if !slices.ContainsFunc(code, func(c string) bool { return strings.Contains(c, part) }) {
					t.Errorf("%s: no file of Go has:\n%s", path, part)
				}
			}
		}
		text = regexp.MustCompile("(?s)```.*?```").ReplaceAllString(text, "")
		for _, b := range regexp.MustCompile(`(?m)(?:^(?: {4}|\t).*\n|^\n)+`).FindAllString(text, -1) {
			if isGo(b) {
				t.Errorf("%s: Go that is not marked as such:\n%s", path, b)
			}
		}
	}
	if blocks < 30 {
		t.Fatalf("%d blocks of code", blocks)
	}
}

// isGo reports whether a text is declarations, statements, or fields of a literal.
func isGo(text string) bool {
	if !strings.ContainsAny(text, "({=") {
		return false
	}
	for _, around := range []string{"package p\n%s", "package p\nfunc f() {\n%s\n}", "package p\nvar x = T{\n%s\n}"} {
		if _, err := parser.ParseFile(token.NewFileSet(), "", fmt.Sprintf(around, text), 0); err == nil {
			return true
		}
	}
	return false
}

// Each line of the table "What happens when" links to a scenario, and every link in the documentation leads somewhere.
func TestGuardLinks(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "## What happens when")
	table, _, _ = strings.Cut(table, "\n## ")
	rows := 0
	for l := range strings.Lines(table) {
		if strings.HasPrefix(l, "| ") && !strings.HasPrefix(l, "| |") {
			if rows++; !strings.Contains(l, "](testdata/scenario/") {
				t.Errorf("no scenario: %s", l)
			}
		}
	}
	if rows < 30 {
		t.Errorf("%d rows", rows)
	}
	texts := documents(t)
	for path, text := range texts {
		text = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`").ReplaceAllString(text, "")
		for _, m := range regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]+))?\)`).FindAllStringSubmatch(text, -1) {
			to, section := m[1], m[2]
			if strings.Contains(to, "://") {
				continue
			}
			there := path
			if to != "" {
				there = filepath.Join(filepath.Dir(path), to)
			}
			if _, err := os.Stat(there); err != nil {
				t.Errorf("%s: %v", path, err)
			} else if section != "" && !slices.Contains(sections(texts[there]), section) {
				t.Errorf("%s: %s has no section %q", path, there, section)
			}
		}
	}
}

// sections are what headings are called in links.
func sections(text string) (names []string) {
	text = regexp.MustCompile("(?s)```.*?```").ReplaceAllString(text, "")
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		name := strings.ToLower(regexp.MustCompile(`[^\pL\pN _-]`).ReplaceAllString(m[1], ""))
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

// CONTRIBUTING.md says of each file of the package, and of each directory with packages, what it is for.
func TestGuardMap(t *testing.T) {
	text := documents(t)["CONTRIBUTING.md"]
	for _, path := range files(t, "**.go") {
		dir := filepath.Dir(path)
		switch {
		case dir == "." && !strings.HasSuffix(path, "_test.go") && !strings.Contains(text, "`"+path+"`"):
			t.Errorf("no word about %s", path)
		case strings.HasPrefix(dir, "internal/"), strings.HasPrefix(dir, "cmd/"):
			dir = strings.Join(strings.Split(dir, "/")[:2], "/")
		default:
			dir, _, _ = strings.Cut(dir, "/")
		}
		if dir = filepath.ToSlash(dir); dir != "." && !strings.Contains(text, "`"+dir+"`") {
			t.Errorf("no word about %s", dir)
		}
	}
}

// The README names every option.
func TestGuardOptions(t *testing.T) {
	readme := documents(t)["README.md"]
	for _, of := range []reflect.Type{reflect.TypeFor[cache.Options](), reflect.TypeFor[cache.RedisOptions]()} {
		for i := range of.NumField() {
			if name := of.Field(i).Name; !strings.Contains(readme, "`"+name+"`") {
				t.Errorf("no %s.%s", of.Name(), name)
			}
		}
	}
}

// testNamed is a test named in the docs.
var testNamed = regexp.MustCompile("`((?:Test|Fuzz|Benchmark|Example)[A-Z]\\w*)`")

// allTests is the text of all tests, those of the nested modules too.
func allTests(t *testing.T) string {
	var tests bytes.Buffer
	for _, path := range files(t, "**.go") {
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(src)
	}
	return tests.String()
}

// docs/requirements.md has all of its rows, each says what shows it or why nothing does, and the tests that it and docs/lease.md name
// exist.
func TestGuardRequirements(t *testing.T) {
	tests := allTests(t)
	n := 0
	for _, path := range []string{"docs/requirements.md", "docs/lease.md"} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testNamed.FindAllStringSubmatch(string(b), -1) {
			if !strings.Contains(tests, "\nfunc "+m[1]+"(") {
				t.Errorf("%s: no %s", path, m[1])
			}
		}
		for l := range strings.Lines(string(b)) {
			if !regexp.MustCompile(`^\| \d`).MatchString(l) {
				continue
			}
			n++
			cells := strings.Split(strings.Trim(strings.TrimSpace(l), "|"), "|")
			if len(cells) != 3 || strings.TrimSpace(cells[0]) != fmt.Sprint(n) || strings.TrimSpace(cells[1]) == "" {
				t.Errorf("%s: not row %d: %s", path, n, l)
			} else if s := cells[2]; !strings.Contains(s, "`") && !strings.Contains(s, "](") && !strings.Contains(s, "Not done") {
				t.Errorf("%s: row %d says neither what shows it nor why nothing does", path, n)
			}
		}
	}
	if n != 89 {
		t.Errorf("%d rows", n)
	}
}

// docs/bugs.md has all of its numbers, and the scenarios, scenes and tests that it names exist; a row without any says
// why.
func TestGuardBugs(t *testing.T) {
	b, err := os.ReadFile("docs/bugs.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := allTests(t)
	scene := regexp.MustCompile(`\[([a-z0-9-]+)(?:: ([^\]]+))?\]\(\.\./testdata/scenario/([a-z0-9-]+)\.txt\)`)
	_, tables, _ := strings.Cut(string(b), "\n## ")
	for i, table := range strings.Split(tables, "\n## ") {
		n := 0
		for l := range strings.Lines(table) {
			if !regexp.MustCompile(`^\| \d`).MatchString(l) {
				continue
			}
			n++
			cells := strings.Split(strings.Trim(strings.TrimSpace(l), "| "), " | ")
			if len(cells) != 4 || cells[0] != fmt.Sprint(n) {
				t.Errorf("not row %d: %s", n, l)
				continue
			}
			here := cells[3]
			for _, m := range scene.FindAllStringSubmatch(here, -1) {
				b, err := os.ReadFile("testdata/scenario/" + m[3] + ".txt")
				if err != nil || m[1] != m[3] || m[2] != "" && !strings.Contains(string(b), "\n== "+m[2]) {
					t.Errorf("row %d: no scene %s", n, m[0])
				}
			}
			for _, m := range testNamed.FindAllStringSubmatch(here, -1) {
				if !strings.Contains(tests, "\nfunc "+m[1]+"(") {
					t.Errorf("row %d: no %s", n, m[1])
				}
			}
			links := strings.Count(here, "testdata/scenario/")
			if len(scene.FindAllString(here, -1)) != links {
				t.Errorf("row %d: a link of another form: %s", n, here)
			}
			if links == 0 && !testNamed.MatchString(here) && !strings.HasPrefix(here, "does not apply: ") &&
				!strings.HasPrefix(here, "not yet: ") {
				t.Errorf("row %d says neither where it is played nor why not", n)
			}
		}
		if want := []int{60, 32}[i]; n != want {
			t.Errorf("table %d has %d rows, want %d", i+1, n, want)
		}
	}
}
