package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

var modes = []string{"none", "singleflight", "cache"}

// run measures all modes.
func run(ctx context.Context, cfg config, progress io.Writer) (*report, error) {
	addr, server := cfg.Redis, "embedded (miniredis)"
	if addr == "" {
		m, err := miniredis.Run()
		if err != nil {
			return nil, err
		}
		defer m.Close()
		addr = m.Addr()
	}
	client := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	defer client.Close()
	if err := within(ctx, 3*time.Second, func(ctx context.Context) error { return client.Ping(ctx).Err() }); err != nil {
		return nil, fmt.Errorf("redis at %s: %w", addr, err)
	}
	if cfg.Redis != "" {
		server = "version " + version(ctx, client)
	}
	o, err := newOrigin(cfg.Load)
	if err != nil {
		return nil, err
	}
	defer o.close()
	view := newView(progress, false, cfg.calls())
	defer view.end()

	rep := &report{server: server}
	modes := modes
	var pages *pages
	if cfg.HTTP != "" {
		modes = modes[len(modes)-1:]
		if pages, err = newPages(cfg.HTTP); err != nil {
			return nil, err
		}
		defer pages.close()
	}
	for _, mode := range modes {
		row, err := view.begin(mode)
		if err != nil {
			return nil, err
		}
		f := fleet{cfg: cfg, mode: mode, origin: o, client: client, row: row, pages: pages, prefix: "stampede-" + rand.Text()}
		m, err := f.run(ctx, addr)
		f.clean()
		if err != nil {
			return nil, fmt.Errorf("mode %s: %w", mode, err)
		}
		rep.Modes = append(rep.Modes, m.mode)
		if m.recovery > 0 {
			ms := milliseconds(m.recovery)
			rep.RecoveryMS = &ms
		}
	}
	return rep, nil
}

// fleet is the processes of one mode.
type fleet struct {
	cfg    config
	mode   string
	prefix string
	origin *origin
	client *redis.Client
	row    *row
	pages  *pages // nil: none
}

type measured struct {
	mode
	recovery time.Duration
}

// process is one of them.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	page   string // the address of its page, if it has one
	killed atomic.Bool
}

// run starts the processes, releases them together, and gathers what they found. None is left when it returns.
func (f *fleet) run(ctx context.Context, addr string) (m measured, err error) {
	self, err := os.Executable()
	if err != nil {
		return m, err
	}
	spec, err := json.Marshal(job{
		Mode: f.mode, Redis: addr, Prefix: f.prefix, Origin: f.origin.addr(), Callers: f.cfg.Callers, Keys: f.cfg.Keys,
		Timeout: f.cfg.timeout, Lease: f.cfg.lease, MaxLoads: f.cfg.MaxLoads, Page: f.pages != nil,
	})
	if err != nil {
		return m, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var ps []*process
	defer func() {
		cancel() // kills those that still run
		for _, p := range ps {
			_ = p.in.Close()
			_ = p.cmd.Wait()
		}
	}()
	for range f.cfg.Processes {
		p := &process{cmd: exec.CommandContext(ctx, self)}
		p.cmd.Env = append(os.Environ(), workerVariable+"="+string(spec))
		p.cmd.Stderr = os.Stderr
		if p.in, err = p.cmd.StdinPipe(); err != nil {
			return m, err
		}
		out, err := p.cmd.StdoutPipe()
		if err != nil {
			return m, err
		}
		p.out = bufio.NewReader(out)
		if err := p.cmd.Start(); err != nil {
			return m, err
		}
		ps = append(ps, p)
	}
	for i, p := range ps {
		f.row.show("%d of %d processes ready", i, len(ps))
		line, err := p.out.ReadString('\n')
		word, page, _ := strings.Cut(strings.TrimSpace(line), " ")
		if err != nil || word != wordReady {
			return m, errors.Join(ctx.Err(), fmt.Errorf("process %d did not start", p.cmd.Process.Pid))
		}
		p.page = page
	}
	if f.mode == "cache" {
		f.awaitSubscriptions(ctx)
	}

	var killedAt atomic.Pointer[time.Time]
	var first func(string)
	if f.cfg.Kill && f.mode == "cache" {
		first = func(pid string) {
			for _, p := range ps {
				if strconv.Itoa(p.cmd.Process.Pid) == pid {
					now := time.Now()
					killedAt.Store(&now)
					p.killed.Store(true)
					_ = p.cmd.Process.Kill()
					f.row.show("process %s is killed", pid)
				}
			}
		}
	}
	if f.pages != nil {
		f.pages.of(ps)
		f.row.view.note("open %s and one of the processes there: the calls begin then", f.pages.url())
		if err := f.pages.await(ctx); err != nil {
			return m, err
		}
	}
	f.origin.reset(first)
	for _, p := range ps {
		if _, err := io.WriteString(p.in, wordGo+"\n"); err != nil {
			return m, err
		}
	}
	f.row.run(f.origin)
	var micros []int64
	m.Mode = f.mode
	var failures []string
	for _, p := range ps {
		var out outcome
		line, err := p.out.ReadBytes('\n')
		if p.killed.Load() {
			continue
		}
		if err == nil {
			err = json.Unmarshal(line, &out)
		}
		if err != nil {
			return m, errors.Join(ctx.Err(), fmt.Errorf("process %d did not report: %w", p.cmd.Process.Pid, err))
		}
		micros = append(micros, out.Micros...)
		m.RedisCommands += out.Commands
		m.Errors += out.Errors
		if out.First != "" {
			failures = append(failures, out.First)
		}
	}
	if at := killedAt.Load(); at != nil {
		m.recovery = time.Since(*at)
	}
	m.Loads, _, m.PeakLoads = f.origin.counts()
	under, took := f.origin.history(chartSteps)
	m.UnderWay, m.TookMS = under, milliseconds(took)
	m.Calls = len(micros)
	slices.Sort(micros)
	at := func(q float64) float64 { return float64(micros[int(q*float64(len(micros)-1))]) / 1000 }
	m.P50MS, m.P99MS, m.MaxMS = at(0.5), at(0.99), at(1)
	f.row.end("%d loads", m.Loads)
	for _, text := range failures[:min(len(failures), 3)] {
		f.row.view.note("%-12s  error: %s", f.mode, text)
	}
	if f.pages != nil {
		f.row.view.note("the pages stay until this is interrupted")
		<-ctx.Done()
	}
	return m, nil
}

// awaitSubscriptions waits until every process listens for wake-ups, as those of a service that runs for a while do.
// Without it processes that start and stampede in the same moment poll.
func (f *fleet) awaitSubscriptions(ctx context.Context) {
	_ = within(ctx, 5*time.Second, func(ctx context.Context) error {
		for {
			channels, err := f.client.PubSubChannels(ctx, "{"+f.prefix+"}:*").Result()
			if err != nil || len(channels) > f.cfg.Processes {
				return err
			}
			if !pause(ctx, 10*time.Millisecond) {
				return ctx.Err()
			}
		}
	})
}

// clean removes the keys of this run from a Redis that goes on.
func (f *fleet) clean() {
	_ = within(context.Background(), 3*time.Second, func(ctx context.Context) error {
		keys := f.client.Scan(ctx, 0, f.prefix+":*", 1000).Iterator()
		for keys.Next(ctx) {
			if err := f.client.Unlink(ctx, keys.Val()).Err(); err != nil {
				return err
			}
		}
		return keys.Err()
	})
}

// version is what a server says of itself.
func version(ctx context.Context, client *redis.Client) string {
	info, _ := client.Info(ctx, "server").Result()
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, "redis_version:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

func within(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return f(ctx)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
