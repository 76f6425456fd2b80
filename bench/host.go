package main

import (
	"fmt"
	"os"

	"github.com/bellwether-go/cache/internal/realredis"
)

// host is the part of a testing.TB that starting a Redis asks for. What is missing or goes wrong ends the program.
type host struct {
	cleanups []func()
	shared   *realredis.Server
}

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

// server returns the server that all contenders share: with one for each, what they measured depended on which of them the
// kernel had put on which processor.
func (h *host) server() *realredis.Server {
	if h.shared == nil {
		h.shared = realredis.Start(h)
	}
	return h.shared
}
