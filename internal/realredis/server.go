// Package realredis starts redis-server processes for tests. The binary is redis-server in PATH, or the one that
// CACHE_REDIS_SERVER names. Without one a test is skipped and says so, unless CACHE_REQUIRE_REDIS is 1: then it fails.
package realredis

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// T is what is used of testing.TB, so that programs can start servers too.
type T interface {
	Helper()
	Cleanup(f func())
	TempDir() string
	Log(args ...any)
	Error(args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Server is a redis-server on loopback. It ends with its test.
type Server struct {
	Addr string

	t    T
	dir  string // its working directory
	path string
	conf []string // before all other arguments
	args []string
	env  []string
	bus  string // port, in a cluster
	skew string // file with the offset of its clock
	out  bytes.Buffer
	cmd  *exec.Cmd       // nil if it does not run
	done <-chan struct{} // closed when it has ended
}

// Start starts a server without persistence. More arguments are as on its command line.
func Start(t T, args ...string) *Server {
	t.Helper()
	return start(t, &Server{t: t, args: args})
}

// StartWithClock is Start for a server whose clock can be set, by libfaketime. Without that, or with a binary of
// CACHE_REDIS_SERVER that does not run with it, as Debian's Valkey, its clock stays where it is.
func StartWithClock(t T, args ...string) *Server {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
	if len(found) == 0 {
		if required() {
			t.Fatal("CACHE_REQUIRE_REDIS is 1, and there is no libfaketime")
		}
		t.Log("SKIPPED: jumps of the server's clock need libfaketime")
		return Start(t, args...)
	}
	s := &Server{t: t, args: args, skew: filepath.Join(t.TempDir(), "skew")}
	s.SetClock(0)
	s.env = []string{
		// libc comes before jemalloc: libfaketime 0.9.10 does not survive that jemalloc asks for the time while
		// it is being initialized itself.
		"LD_PRELOAD=" + found[0] + ":libc.so.6",
		"FAKETIME_TIMESTAMP_FILE=" + s.skew, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1",
	}
	if !s.begin() && os.Getenv("CACHE_REDIS_SERVER") != "" {
		t.Log("SKIPPED: jumps of the server's clock: this one does not run with libfaketime")
		return Start(t, args...)
	}
	return s.begun()
}

// StartWithTLS is Start for a server that listens with TLS besides, at the address it returns.
func StartWithTLS(t T, certificate, key string, args ...string) (s *Server, addr string) {
	t.Helper()
	// A server without TLS stumbles over the first option, the others over the second.
	if out, _ := exec.Command(binary(t), "--tls-port", "0", "--no-such-option").CombinedOutput(); bytes.Contains(out, []byte("tls-port")) {
		missing(t, "a redis-server that knows TLS", nil)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(addr)
	return Start(t, append(args, "--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", key,
		"--tls-ca-cert-file", certificate, "--tls-auth-clients", "no")...), addr
}

// binary is the server's path.
func binary(t T) string {
	t.Helper()
	path, err := exec.LookPath(cmp.Or(os.Getenv("CACHE_REDIS_SERVER"), "redis-server"))
	if err != nil {
		missing(t, "a redis-server", err)
	}
	return path
}

// SetClock makes the server's clock go before the machine's by d from now on.
func (s *Server) SetClock(d time.Duration) {
	s.t.Helper()
	if s.skew == "" {
		return
	}
	next := s.skew + ".next"
	err := os.WriteFile(next, fmt.Appendf(nil, "%+.6f\n", d.Seconds()), 0o600)
	if err = errors.Join(err, os.Rename(next, s.skew)); err != nil {
		s.t.Fatal(err)
	}
}

func required() bool { return os.Getenv("CACHE_REQUIRE_REDIS") == "1" }

// missing skips a test that needs what is not here, or fails it.
func missing(t T, what string, err error) {
	t.Helper()
	if required() {
		t.Fatalf("CACHE_REQUIRE_REDIS is 1, and there is no %s: %v", what, err)
	}
	t.Skipf("SKIPPED: needs %s: %v", what, err)
}

func start(t T, s *Server) *Server {
	t.Helper()
	s.begin()
	return s.begun()
}

// begin starts a server at a free port.
func (s *Server) begin() bool {
	s.t.Helper()
	s.path, s.dir = binary(s.t), s.t.TempDir()
	s.t.Cleanup(s.Kill)
	for range 10 { // another process may take the free port first
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			s.t.Fatal(err)
		}
		s.Addr = l.Addr().String()
		_ = l.Close()
		if s.run() == nil {
			return true
		}
	}
	return false
}

// begun returns a server that has begun, and ends the test otherwise.
func (s *Server) begun() *Server {
	s.t.Helper()
	if s.cmd == nil {
		if refused := s.out.String(); os.Getenv("CACHE_REDIS_SERVER") != "" && strings.Contains(refused, "CONFIG FILE ERROR") {
			s.t.Skipf("SKIPPED: the server does not know an option:\n%s", refused) // an old one
		}
		s.t.Fatalf("redis-server does not start:\n%s", s.out.String())
	}
	return s
}

// Restart starts a killed server again, empty, at the same address. A connection of somebody else's may have taken its port
// meanwhile, as one of those that any client gets; then it waits.
func (s *Server) Restart() {
	s.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	err := s.run()
	for range 200 {
		if err == nil || !strings.Contains(s.out.String(), "in use") {
			break
		}
		<-tick.C
		err = s.run()
	}
	if err != nil {
		s.t.Fatalf("redis-server does not start again: %v\n%s", err, s.out.String())
	}
}

// Kill ends the server with SIGKILL.
func (s *Server) Kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		<-s.done
		s.cmd = nil
	}
}

// Process is the server's process, for signals.
func (s *Server) Process() *os.Process { return s.cmd.Process }

// Client returns a client of its own, closed with the test. set may be nil.
func (s *Server) Client(set func(*redis.Options)) *redis.Client {
	o := &redis.Options{Addr: s.Addr}
	if set != nil {
		set(o)
	}
	c := redis.NewClient(o)
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (s *Server) run() error {
	_, port, _ := net.SplitHostPort(s.Addr)
	if _, err := strconv.Atoi(port); err != nil {
		return err
	}
	s.out.Reset()
	cmd := exec.Command(s.path, slices.Concat(s.conf, []string{
		"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.dir,
	}, s.args)...)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Stdout, cmd.Stderr = &s.out, &s.out
	done, err := Launch(cmd)
	if err != nil {
		return err
	}
	c := redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, DialerRetries: 1})
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if pid, err := serverPID(ctx, s.Addr, c); err == nil && pid == cmd.Process.Pid {
			s.cmd, s.done = cmd, done
			return nil
		}
		select {
		case <-done:
			return errors.New("it has ended")
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			<-done
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// serverPID asks who answers at the address: it may be somebody else's server.
func serverPID(ctx context.Context, addr string, c *redis.Client) (int, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil { // go-redis would log it
		return 0, err
	}
	_ = conn.Close()
	info, err := c.InfoMap(ctx, "server").Result()
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(info["Server"]["process_id"])
}
