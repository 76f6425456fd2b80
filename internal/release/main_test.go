package main

import "testing"

const changelog = `# Changelog

## [Unreleased]

### Added

- more

## [0.2.0] - 2026-12-01

### Added

- ` + "`## [x]`" + ` in a line

## [0.1.0]

[0.2.0]: https://example.com
[0.1.0]: https://example.com
`

func TestNotes(t *testing.T) {
	if text, err := notes(changelog, "v0.2.0"); err != nil || text != "### Added\n\n- `## [x]` in a line" {
		t.Errorf("%q, %v", text, err)
	}
	for _, version := range []string{"v0.1.0", "v0.3.0", "v0.2", "v0x2.0"} { // says nothing; is not there
		if text, err := notes(changelog, version); err == nil {
			t.Errorf("%s: %q", version, text)
		}
	}
}
