// Release prints the notes of a release: what CHANGELOG.md says of it. Without such a section, or with an empty one, there is no release.
//
//	go run ./internal/release v0.1.0
package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: release VERSION")
		os.Exit(2)
	}
	changelog, err := os.ReadFile("CHANGELOG.md")
	var text string
	if err == nil {
		text, err = notes(string(changelog), os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
	fmt.Println(text)
}

// notes returns the section of a version, without its heading. In a changelog a version has no v.
func notes(changelog, version string) (string, error) {
	heading := regexp.MustCompile(`(?m)^## \[` + regexp.QuoteMeta(strings.TrimPrefix(version, "v")) + `\].*$`).FindStringIndex(changelog)
	if heading == nil {
		return "", fmt.Errorf("CHANGELOG.md has no section of %s", version)
	}
	text, _, _ := strings.Cut(changelog[heading[1]:], "\n## ")
	text = regexp.MustCompile(`(?m)^\[[^\]]+\]: .*$`).ReplaceAllString(text, "") // where the headings link to
	if text = strings.TrimSpace(text); text == "" {
		return "", fmt.Errorf("CHANGELOG.md says nothing about %s", version)
	}
	return text, nil
}
