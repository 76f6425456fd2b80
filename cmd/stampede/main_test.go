package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/realredis"
)

func TestMain(m *testing.M) {
	if spec, ok := os.LookupEnv(workerVariable); ok { // the fleet's processes are this test binary
		if err := work(spec); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestParse(t *testing.T) {
	c, err := parse(nil, io.Discard)
	if want := (config{Processes: 8, Callers: 200, Keys: 1, Load: 300 * time.Millisecond}); err != nil || c != want {
		t.Errorf("%+v, %v", c, err)
	}
	for _, args := range []string{
		"-processes 0", "-processes 65", "-callers 0", "-callers 10001", "-keys 0", "-keys 10001", "-load 0", "-load 1h",
		"-load x", "-nonsense", "more", "-kill -processes 1", "-http :0 -json", "-http :0 -html x", "-http :0 -svg x",
	} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil {
			t.Errorf("%s is accepted", args)
		}
	}
	for args, want := range map[string]time.Duration{"-http :0": 10 * time.Second, "-http :0 -load 1s": time.Second} {
		if c, err := parse(strings.Fields(args), io.Discard); err != nil || c.Load != want {
			t.Errorf("%s: %v, %v", args, c.Load, err)
		}
	}
	var usage bytes.Buffer
	if _, err := parse([]string{"-h"}, &usage); !errors.Is(err, flag.ErrHelp) || !strings.Contains(usage.String(), "-processes") {
		t.Errorf("%v: %s", err, usage.String())
	}
}

// The whole demonstration, small: real processes, one load each with this package.
func TestFleet(t *testing.T) {
	for _, c := range []struct {
		cfg       config
		atMost    map[string]int
		survivors int
	}{
		{
			config{Processes: 3, Callers: 20, Keys: 1, Load: 100 * time.Millisecond},
			map[string]int{"none": 60, "singleflight": 3, "cache": 1},
			60,
		},
		{
			config{Processes: 3, Callers: 10, Keys: 2, Load: 100 * time.Millisecond, Kill: true},
			map[string]int{"none": 30, "singleflight": 6, "cache": 4},
			20,
		},
	} {
		c.cfg.timeout = time.Minute // a machine too busy for the default would load more than once
		var progress bytes.Buffer
		rep, err := run(t.Context(), c.cfg, &progress)
		if err != nil {
			t.Fatalf("%v\n%s", err, progress.String())
		}
		if len(rep.Modes) != len(modes) || (rep.RecoveryMS != nil) != c.cfg.Kill {
			t.Fatalf("%+v", rep)
		}
		for i, m := range rep.Modes {
			calls := c.cfg.Processes * c.cfg.Callers
			if c.cfg.Kill && m.Mode == "cache" {
				calls = c.survivors
			}
			if m.Mode != modes[i] || m.Errors != 0 || m.Calls != calls || m.Loads < 1 || m.Loads > c.atMost[m.Mode] ||
				m.PeakLoads > m.Loads || m.P50MS > m.P99MS || m.P99MS > m.MaxMS || m.RedisCommands == 0 {
				t.Errorf("%+v", m)
			}
			if !strings.Contains(progress.String(), m.Mode) {
				t.Errorf("no progress of %s", m.Mode)
			}
		}
		var table bytes.Buffer
		if err := rep.table(&table, c.cfg); err != nil || !strings.Contains(table.String(), "this package") {
			t.Errorf("%v\n%s", err, table.String())
		}
		if b, err := json.Marshal(rep); err != nil || bytes.Contains(b, []byte("recovery_ms")) != c.cfg.Kill {
			t.Errorf("%s, %v", b, err)
		}
	}
}

// The fleet that the README shows, on a real server: 8 processes with 200 callers each, one cold key and 200. One load for
// each key, no error, and commands in proportion to processes, not to callers.
func TestFleetOnRealServer(t *testing.T) {
	s := realredis.Start(t)
	for _, keys := range []int{1, 200} {
		cfg := config{
			Redis: s.Addr, Processes: 8, Callers: 200, Keys: keys, Load: 300 * time.Millisecond,
			timeout: time.Minute, lease: time.Minute, // a machine that stands still for longer would load more than once
		}
		rep, err := run(t.Context(), cfg, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range rep.Modes {
			t.Logf("%d keys: %+v", keys, m)
			if m.Errors != 0 || m.Calls != 1600 {
				t.Errorf("%d keys: %+v", keys, m)
			}
			// A process sends a read, an ACQUIRE, and here and there a look; whoever loads, a COMMIT and renewals.
			if m.Mode == "cache" && (m.Loads != keys || m.RedisCommands > int64(6*8*keys)) {
				t.Errorf("%d keys: %d loads, %d commands", keys, m.Loads, m.RedisCommands)
			}
		}
	}
}

// Ten processes with a hundred cold keys, of which three may be loaded at a time.
func TestMaxLoadsOnRealServer(t *testing.T) {
	s := realredis.Start(t)
	cfg := config{
		Redis: s.Addr, Processes: 10, Callers: 100, Keys: 100, MaxLoads: 3, Load: 100 * time.Millisecond,
		timeout: time.Minute, lease: time.Minute,
	}
	rep, err := run(t.Context(), cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range rep.Modes {
		if t.Logf("%+v", m); m.Mode != "cache" {
			continue
		}
		if m.Loads != 100 || m.PeakLoads != 3 || m.Errors != 0 {
			t.Errorf("%+v", m)
		}
		best := 34 * cfg.Load
		t.Logf("%.2f times what 34 loads after each other take", m.MaxMS/milliseconds(best))
	}
}

// A process is killed in the middle of a load, with the only permit: within Lease another one has it.
func TestPermitOfKilledOnRealServer(t *testing.T) {
	cfg := config{
		Redis: realredis.Start(t).Addr, Processes: 5, Callers: 20, Keys: 20, MaxLoads: 1, Load: 100 * time.Millisecond, Kill: true,
		timeout: time.Minute, lease: 3 * time.Second,
	}
	rep, err := run(t.Context(), cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	m := rep.Modes[slices.Index(modes, "cache")]
	if m.Calls != 80 || m.Errors != 0 || m.Loads <= 20 || m.PeakLoads != 1 { // what the dead one has loaded is loaded again
		t.Errorf("%+v", m)
	}
	rest := cfg.Load * time.Duration(m.Loads-1)
	t.Logf("all is loaded %.0f ms after the death; %d loads after each other take %v of it", *rep.RecoveryMS, m.Loads-1, rest)
}

// Interrupted, it ends its processes and says so.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := run(ctx, config{Processes: 2, Callers: 5, Keys: 1, Load: 20 * time.Second}, io.Discard)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestNoRedis(t *testing.T) {
	_, err := run(t.Context(), config{Redis: "127.0.0.1:1", Processes: 1, Callers: 1, Keys: 1, Load: time.Second}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Error(err)
	}
}
