package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

const mainVariable = "CLUSTER_EXAMPLE_MAIN" // makes the test binary the program

func TestMain(m *testing.M) {
	_, isWorker := os.LookupEnv(workerVariable)
	if _, isMain := os.LookupEnv(mainVariable); isMain || isWorker {
		main()
		return
	}
	m.Run()
}

// needsServer skips a test where there is no redis-server, or fails it if there has to be one.
func needsServer(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CACHE_REQUIRE_REDIS") == "1" {
			t.Fatalf("CACHE_REQUIRE_REDIS is 1, and there is no redis-server in PATH: %v", err)
		}
		t.Skipf("SKIPPED: needs a redis-server in PATH: %v", err)
	}
}

// wantsNoneLeft looks whether a server still answers that the program has told of.
func wantsNoneLeft(t *testing.T, out string) {
	t.Helper()
	addrs := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindAllString(out, -1)
	if len(addrs) < 3 {
		t.Errorf("it names %d servers:\n%s", len(addrs), out)
	}
	for _, addr := range addrs {
		if answers(addr) {
			t.Errorf("%s is left behind", addr)
		}
	}
}

func TestRun(t *testing.T) {
	needsServer(t)
	var out bytes.Buffer
	c := config{masters: 3, processes: 3, callers: 5, keys: 30, load: 100 * time.Millisecond}
	if err := run(t.Context(), c, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	t.Log(out.String())
	wantsNoneLeft(t, out.String())
	m := regexp.MustCompile(`(?m)^(\d+) loads for 30 keys`).FindStringSubmatch(out.String())
	if m == nil {
		t.Fatal("it does not say how many loads there were")
	}
	// One for each, unless the machine is so busy that a process stood still for longer than its lease; never one for each process.
	if n, err := strconv.Atoi(m[1]); err != nil || n < c.keys || n > c.keys*3/2 {
		t.Errorf("%d loads, %v", n, err)
	}
	held := 0
	for _, m := range regexp.MustCompile(`has (\d+) of the keys`).FindAllStringSubmatch(out.String(), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil || n == 0 {
			t.Errorf("a server has %s keys, %v", m[1], err)
		}
		held += n
	}
	if held != c.keys {
		t.Errorf("the servers have %d keys", held)
	}
}

// When it is told to stop in the middle of its work, nothing is left behind.
func TestInterrupt(t *testing.T) {
	needsServer(t)
	var told strings.Builder
	cmd, out := program(t, "-load", "1m")
	defer time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() }).Stop()
	lines, begun := bufio.NewReader(out), ""
	for !strings.HasPrefix(begun, "all are ready") {
		var err error
		if begun, err = lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		told.WriteString(begun)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines) // to the end of all that have it: the program and its workers
	if err != nil {
		t.Error(err)
	}
	if code := exitCode(cmd); code != 1 || !strings.Contains(string(rest), context.Canceled.Error()) {
		t.Errorf("it ends with %d, and prints:\n%s", code, rest)
	}
	wantsNoneLeft(t, told.String())
}

func TestNoServer(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	cmd, out := program(t)
	text, err := io.ReadAll(out)
	if err != nil {
		t.Error(err)
	}
	if code := exitCode(cmd); code != 1 || !strings.Contains(string(text), "needs a redis-server") {
		t.Errorf("it ends with %d, and prints:\n%s", code, text)
	}
}

// program starts the program as a process, and returns what it prints.
func program(t *testing.T, args ...string) (*exec.Cmd, io.Reader) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...) // it does not outlive the test
	cmd.Env = append(os.Environ(), mainVariable+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

func exitCode(cmd *exec.Cmd) int {
	var exit *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}
