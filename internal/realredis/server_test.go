package realredis

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"
)

var background = context.Background()

// The clock of a server goes where it is put, and is where it was after a restart.
func TestClock(t *testing.T) {
	s := StartWithClock(t)
	switch {
	case s.skew != "":
	case os.Getenv("CACHE_REQUIRE_REDIS") != "" && os.Getenv("CACHE_REDIS_SERVER") == "":
		t.Fatal("needs libfaketime, and CACHE_REQUIRE_REDIS forbids to do without")
	default:
		t.Skip("SKIPPED: needs libfaketime")
	}
	c := s.Client(nil)
	for _, skew := range []time.Duration{0, time.Hour, -time.Hour, 90 * time.Millisecond} {
		s.SetClock(skew)
		before := time.Now().Add(skew)
		now, err := c.Time(background).Result()
		after := time.Now().Add(skew)
		if err != nil || now.Before(before.Truncate(time.Microsecond)) || now.After(after) {
			t.Errorf("skew %v: %v, %v: want between %v and %v", skew, now, err, before, after)
		}
	}
	if err := c.Set(background, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	s.Restart()
	if n, err := c.DBSize(background).Result(); n != 0 || err != nil {
		t.Errorf("%d keys, %v", n, err)
	}
}

// A server that is to start again waits for its port, if somebody else has it.
func TestRestart(t *testing.T) {
	s := Start(t)
	s.Kill()
	l, err := net.Listen("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() { _ = l.Close() })
	s.Restart()
	if err := s.Client(nil).Ping(background).Err(); err != nil {
		t.Error(err)
	}
}

// A process that was launched ends with the one that launched it, which is killed here.
func TestLaunch(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux")
	}
	if os.Getenv("LAUNCH") == "1" {
		child := exec.Command("sleep", "1000")
		if _, err := Launch(child); err != nil {
			t.Fatal(err)
		}
		fmt.Println(child.Process.Pid)
		select {}
	}
	parent := exec.Command(os.Args[0], "-test.run=^TestLaunch$")
	parent.Env = append(os.Environ(), "LAUNCH=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ended, err := Launch(parent)
	if err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	pid, err := strconv.Atoi(line[:max(len(line)-1, 0)])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("the child does not run: %v", err)
	}
	_ = parent.Process.Kill()
	<-ended
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || len(state) > 0 && stateOf(state) == 'Z' { // whoever adopts it has not waited for it yet
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the child outlives its parent")
		}
	}
}

// stateOf reads the state in /proc/PID/stat: "123 (name) S ...".
func stateOf(stat []byte) byte {
	for i := len(stat) - 3; i > 0; i-- {
		if stat[i] == ')' {
			return stat[i+2]
		}
	}
	return 0
}
