package main

import (
	"golang.org/x/tools/go/analysis/multichecker"

	"github.com/bellwether-go/cache/cmd/cachevet/check"
)

// multichecker looks at the arguments: -V=full, -flags and one *.cfg are what go vet says to its tool, and what it hands
// on to unitchecker; all else is a list of packages.
func main() { multichecker.Main(check.Analyzers()...) }
