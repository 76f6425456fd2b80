package comingfrom

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the regions of the Go files into the page")

const page = "../../docs/coming-from.md"

var block = regexp.MustCompile("(?m)^(?:<!-- (.+) -->\n)?```go\n((?s:.*?))^```$")

// Each block of Go on the page is a region of a file here, and each region is a block there.
func TestPage(t *testing.T) {
	regions := regions(t)
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if *rewrite {
		text = block.ReplaceAllFunc(text, func(b []byte) []byte {
			m := block.FindSubmatch(b)
			if code, ok := regions[string(m[1])]; ok {
				return []byte("<!-- " + string(m[1]) + " -->\n```go\n" + code + "```")
			}
			return b
		})
		if err := os.WriteFile(page, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(string(text), "```go"); n != len(block.FindAll(text, -1)) {
		t.Errorf("the page has %d blocks, of which %d are understood", n, len(block.FindAll(text, -1)))
	}
	shown := make(map[string]bool)
	for _, m := range block.FindAllStringSubmatch(string(text), -1) {
		name, code := m[1], m[2]
		region, ok := regions[name]
		switch {
		case !ok:
			t.Errorf("no file has a region [%s]:\n%s", name, code)
		case shown[name]:
			t.Errorf("[%s] is on the page twice", name)
		case code != region:
			t.Errorf("[%s] is\n%s\non the page, and\n%s\nin its file", name, code, region)
		}
		shown[name] = true
	}
	for name := range regions {
		if !shown[name] {
			t.Errorf("[%s] is not on the page", name)
		}
	}
}

// regions are those of the files here, by name, without the indentation that all of their lines have.
func regions(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	begin := regexp.MustCompile(`^// \[(.+)\]$`)
	for _, path := range paths {
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var name string
		var lines []string
		for line := range strings.Lines(string(src)) {
			marker := strings.TrimSpace(line)
			m := begin.FindStringSubmatch(marker)
			switch {
			case m == nil && name != "":
				lines = append(lines, line)
			case m != nil && m[1] == "end" && name != "":
				found[name], name, lines = outdented(lines), "", nil
			case m != nil && (name != "" || m[1] == "end" || found[m[1]] != ""):
				t.Errorf("%s: %s out of place, or there twice", path, marker)
			case m != nil:
				name = m[1]
			}
		}
		if name != "" {
			t.Errorf("%s: [%s] does not end", path, name)
		}
	}
	if len(found) == 0 {
		t.Error("no regions")
	}
	return found
}

func outdented(lines []string) string {
	text := strings.Trim(strings.Join(lines, ""), "\n") + "\n"
	for !regexp.MustCompile(`(?m)^[^\t\n]`).MatchString(text) {
		text = regexp.MustCompile(`(?m)^\t`).ReplaceAllString(text, "")
	}
	return text
}
