package main

import (
	"fmt"
	"os"
)

// host is the part of a testing.TB that starting a Redis asks for. What is missing or goes wrong ends the program.
type host struct{ cleanups []func() }

func (h *host) Helper()          {}
func (h *host) Log(args ...any)  { fmt.Fprintln(os.Stderr, args...) }
func (h *host) Cleanup(f func()) { h.cleanups = append(h.cleanups, f) }

func (h *host) TempDir() string {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (h *host) Error(args ...any) { h.Fatal(args...) }

func (h *host) Fatal(args ...any) {
	h.close()
	fmt.Fprintln(os.Stderr, args...)
	os.Exit(1)
}

func (h *host) Fatalf(format string, args ...any) { h.Fatal(fmt.Sprintf(format, args...)) }
func (h *host) Skipf(format string, args ...any)  { h.Fatalf(format, args...) }

// close undoes what was done, the last thing first.
func (h *host) close() {
	for len(h.cleanups) > 0 {
		last := len(h.cleanups) - 1
		f := h.cleanups[last]
		h.cleanups = h.cleanups[:last]
		f()
	}
}
