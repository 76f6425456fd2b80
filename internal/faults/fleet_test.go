package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/proxy"
	"github.com/bellwether-go/cache/internal/realredis"
)

// fleet is what a plan is played on: a server, processes, and a proxy before each.
type fleet struct {
	t       *testing.T
	plan    *plan
	server  *realredis.Server
	dump    string // the server's snapshot
	admin   *redis.Client
	proxies []*proxy.Proxy
	path    string
	board   *board
	slots   int

	recovery time.Duration // from the last fault to a cold key that is loaded once

	mu      sync.Mutex
	members []*member // guarded by mu
	broken  []string  // guarded by mu
}

// member is a process.
type member struct {
	job
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	ended <-chan struct{}
}

const patience = 30 * time.Second // for anything that a process is asked to do

func newFleet(t *testing.T, p *plan) *fleet {
	t.Helper()
	dir := t.TempDir()
	f := &fleet{t: t, plan: p, dump: filepath.Join(dir, "dump.rdb")}
	f.path, f.board = newBoard(t)
	f.server = realredis.StartWithClock(t, "--enable-debug-command", "yes", "--dir", dir)
	f.admin = f.server.Client(func(o *redis.Options) { o.ReadTimeout = patience })
	t.Cleanup(func() {
		for _, m := range f.members {
			_ = m.cmd.Process.Signal(syscall.SIGCONT)
			_ = m.cmd.Process.Kill()
			<-m.ended
		}
	})
	for _, j := range p.workers {
		f.proxies = append(f.proxies, proxy.Start(t, f.server.Addr))
		m, err := f.start(j)
		if err != nil {
			t.Fatal(err)
		}
		f.members = append(f.members, m)
	}
	return f
}

// start starts a process and waits until it is ready.
func (f *fleet) start(j job) (*member, error) {
	j.Board, j.Slot, j.Redis = f.path, f.slots, f.proxies[j.Name].Addr
	f.slots++
	spec, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	m := &member{job: j, cmd: exec.Command(os.Args[0]), lines: make(chan string, 10)}
	m.cmd.Env = append(os.Environ(), workerVariable+"="+string(spec))
	m.cmd.Stderr = os.Stderr
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if m.ended, err = realredis.Launch(m.cmd); err != nil {
		return nil, err
	}
	go func() {
		defer close(m.lines)
		in := bufio.NewScanner(out)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			if what, ok := strings.CutPrefix(in.Text(), "BROKEN "); ok {
				f.violation("%s", what)
				continue
			}
			m.lines <- in.Text()
		}
	}()
	_, err = m.hear()
	return m, err
}

func (f *fleet) violation(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = append(f.broken, fmt.Sprintf(format, args...))
}

// hear returns the next line that the process says.
func (m *member) hear() (string, error) {
	select {
	case line, ok := <-m.lines:
		if !ok {
			return "", fmt.Errorf("process %c has ended", 'A'+m.Name)
		}
		return line, nil
	case <-time.After(patience):
		_ = m.cmd.Process.Signal(syscall.SIGQUIT) // for its stacks
		return "", fmt.Errorf("process %c does not answer", 'A'+m.Name)
	}
}

// tell gives all processes an order and waits until it is carried out. It reports whether all of them answer so.
func (f *fleet) tell(order, answer string) bool {
	f.t.Helper()
	for _, m := range f.members {
		if _, err := io.WriteString(m.in, order+"\n"); err != nil {
			f.t.Fatal(err)
		}
	}
	all := true
	for _, m := range f.members {
		line, err := m.hear()
		if err != nil {
			f.t.Fatalf("plan %d: %s: %v", f.plan.seed, order, err)
		}
		all = all && line == answer
	}
	return all
}

// play lets the plan happen, while the callers call.
func (f *fleet) play() {
	began := time.Now()
	track := func(server bool) {
		for _, ft := range f.plan.faults {
			if server == (ft.process < 0) {
				wait(time.Until(began.Add(ft.at)))
				f.happen(ft)
			}
		}
	}
	var others sync.WaitGroup
	others.Go(func() { track(false) })
	track(true)
	others.Wait()
	wait(time.Until(began.Add(planFaults + planFirst)))
}

// wait is for faults that last.
func wait(d time.Duration) { <-time.NewTimer(d).C }

// happen makes a fault happen and, if it lasts, ends it.
func (f *fleet) happen(ft fault) {
	if ft.process < 0 {
		f.happenToServer(ft)
		return
	}
	p := f.proxies[ft.process]
	switch ft.kind {
	case "connections cut":
		p.Cut()
	case "unreachable":
		p.Refuse(true)
		wait(ft.lasts)
		p.Refuse(false)
	case "half-open connections":
		p.HalfOpen()
	case "latency":
		p.Delay(ft.amount)
		wait(ft.lasts)
		p.Delay(0)
	case "1-byte reads":
		p.Trickle(true)
		wait(ft.lasts)
		p.Trickle(false)
	case "replies lost":
		p.Tamper(times(ft.count, func(reply []byte) []byte { return nil }))
	case "replies repeated":
		p.Tamper(times(ft.count, func(reply []byte) []byte { return append(append([]byte(nil), reply...), reply...) }))
	case "process SIGSTOP":
		m := f.members[ft.process]
		stopped := &f.board.workers[m.Slot].stopped
		began := time.Now()
		stopped.Add(int64(ft.lasts))
		_ = m.cmd.Process.Signal(syscall.SIGSTOP)
		wait(ft.lasts)
		_ = m.cmd.Process.Signal(syscall.SIGCONT)
		stopped.Add(int64(time.Since(began) - ft.lasts))
	case "process kill -9":
		m := f.members[ft.process]
		_ = m.cmd.Process.Kill()
		<-m.ended
		for i := range f.board.keys {
			f.board.keys[i].loading[m.Slot].Store(0)
		}
		next, err := f.start(m.job)
		if err != nil {
			f.t.Error(err)
			return
		}
		f.members[ft.process] = next
	default:
		panic(ft.kind)
	}
}

// times applies a change to the next n replies to commands that are not about the connection.
func times(n int, change func(reply []byte) []byte) proxy.Tamper {
	left := make(chan struct{}, n)
	for range n {
		left <- struct{}{}
	}
	return func(command []string, reply []byte) []byte {
		switch strings.ToLower(command[0]) {
		case "hello", "client", "auth", "subscribe", "unsubscribe", "ping":
			return reply
		}
		select {
		case <-left:
			return change(reply)
		default:
			return reply
		}
	}
}

func (f *fleet) happenToServer(ft fault) {
	ctx := context.Background()
	must := func(err error) {
		if err != nil {
			f.t.Errorf("%s: %v", ft.kind, err)
		}
	}
	switch ft.kind {
	case "kill -9, restart empty":
		_ = os.Remove(f.dump)
		f.server.Kill()
		wait(ft.lasts)
		f.server.Restart()
	case "kill -9, restart with an old snapshot":
		f.board.restore()
		f.server.Kill()
		wait(ft.lasts)
		f.server.Restart()
	case "SIGSTOP":
		must(f.server.Process().Signal(syscall.SIGSTOP))
		wait(ft.lasts)
		must(f.server.Process().Signal(syscall.SIGCONT))
	case "DEBUG SLEEP":
		must(f.admin.Do(ctx, "DEBUG", "SLEEP", ft.lasts.Seconds()).Err())
	case "SCRIPT FLUSH":
		must(f.admin.ScriptFlush(ctx).Err())
	case "FLUSHALL":
		must(f.admin.FlushAll(ctx).Err())
	case "CLIENT KILL":
		must(f.admin.Do(ctx, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err())
		must(f.admin.Do(ctx, "CLIENT", "KILL", "TYPE", "pubsub").Err())
	case "clock jumps":
		f.server.SetClock(ft.amount)
	case "out of memory":
		must(f.admin.ConfigSet(ctx, "maxmemory", "1").Err())
		wait(ft.lasts)
		must(f.admin.ConfigSet(ctx, "maxmemory", "0").Err())
	case "read-only":
		must(f.admin.Do(ctx, "REPLICAOF", "127.0.0.1", "1").Err())
		wait(ft.lasts)
		must(f.admin.Do(ctx, "REPLICAOF", "NO", "ONE").Err())
	case "garbage under keys":
		for i := range ft.count {
			must(f.garbage(ctx, i, "cache:faults:"+keyName((int(f.plan.seed)+i)%hotKeys)))
		}
	default:
		panic(ft.kind)
	}
	must(f.admin.Save(ctx).Err()) // an old snapshot for later
}

// garbage spoils a key in one of several ways.
func (f *fleet) garbage(ctx context.Context, way int, key string) error {
	raw, err := f.admin.Get(ctx, key).Bytes()
	if err == nil && len(raw) > 0 {
		switch way % 6 {
		case 0: // a flipped bit
			raw[int(f.plan.seed)*7%len(raw)] ^= 1
			return f.admin.Set(ctx, key, raw, redis.KeepTTL).Err()
		case 1: // cut short
			return f.admin.Set(ctx, key, raw[:len(raw)/2], redis.KeepTTL).Err()
		case 2: // of another key
			return f.admin.Set(ctx, key+"0", raw, time.Minute).Err()
		}
	}
	if way%6 == 3 { // of another type
		_, err = f.admin.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Del(ctx, key)
			p.LPush(ctx, key, "x")
			p.Expire(ctx, key, time.Minute)
			return nil
		})
		return err
	}
	return f.admin.Set(ctx, key, strings.Repeat("bw1V", way*100), time.Minute).Err()
}

// check looks at what is left when the faults are over.
func (f *fleet) check() {
	ctx := context.Background()
	over := time.Now()
	f.tell("quiet", "quiet")

	// P2: a cold key is loaded once: as soon as the breaker, which looks once a second, has closed and go-redis has found
	// its dead connections, one by one. A busy machine, too, now and then does not answer within the budget.
	const tries = 40
	next := probeKeys
	for once := false; !once; next++ {
		if next == probeKeys+tries {
			f.violation("P2: %v after the faults a cold key is still loaded more than once", time.Since(over))
			break
		}
		f.tell("probe "+strconv.Itoa(next), "probed")
		if once = f.board.keys[next].loads.Load() == 1; !once {
			wait(100 * time.Millisecond)
		}
	}
	f.recovery = time.Since(over)

	// P4: what a memory missed while it was cut off does not stay. A silent connection is noticed within 3 s.
	if !f.until(func() bool { return f.tell("verify", "0 stale") }) {
		f.violation("P4: %v after the faults a memory has a value that was deleted", time.Since(over))
	}

	// P1: a value that is there costs one read, and nothing of a process that has it in memory.
	const reads = 10
	lean := ""
	for range tries / 2 {
		f.tell("probe "+strconv.Itoa(next), "probed")
		loads := f.board.keys[next].loads.Load()
		before := f.commands(ctx)
		f.tell(fmt.Sprintf("read %d %d", next, reads), "read")
		after := f.commands(ctx)
		lean = ""
		if n := f.board.keys[next].loads.Load() - loads; n > 0 {
			lean = fmt.Sprintf("%d loads of a fresh key", n)
		}
		if n := after["evalsha"] + after["eval"] - before["evalsha"] - before["eval"]; n > 0 {
			lean = fmt.Sprintf("%d scripts for %d reads of a fresh key", n, reads)
		}
		if n := after["getrange"] - before["getrange"]; n > reads*len(f.members) {
			lean = fmt.Sprintf("%d reads in Redis for %d of callers", n, reads*len(f.members))
		}
		if next++; lean == "" {
			break
		}
	}
	if lean != "" {
		f.violation("P1: %s", lean)
	}

	// P9: nothing without an end, and nothing left after Close.
	f.tell("close", "closed")
	for i, p := range f.proxies {
		if !f.until(func() bool { return p.Clients() == 0 }) {
			f.violation("P9: %d connections of process %c are left", p.Clients(), 'A'+i)
		}
		p.Cut() // of half-open ones the server knows nothing
	}
	keys, err := f.admin.Keys(ctx, "cache:*").Result()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, key := range keys {
		if ttl, err := f.admin.PTTL(ctx, key).Result(); err != nil || ttl == -1 {
			f.violation("P9: %s has TTL %v, %v", key, ttl, err)
		}
	}
	var channels []string
	if !f.until(func() bool {
		channels, err = f.admin.PubSubChannels(ctx, "*").Result()
		return err == nil && len(channels) == 0
	}) {
		f.violation("P9: subscriptions %q, %v", channels, err)
	}
	for _, m := range f.members {
		_ = m.in.Close()
		<-m.ended
	}
}

// until waits, with a limit, for what others do in their own time.
func (f *fleet) until(ok func() bool) bool {
	timeout := time.After(patience / 3)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-timeout:
			return false
		case <-tick.C:
		}
	}
	return true
}

// commands returns how often the server has executed each command.
func (f *fleet) commands(ctx context.Context) map[string]int {
	f.t.Helper()
	info, err := f.admin.InfoMap(ctx, "commandstats").Result()
	if err != nil {
		f.t.Fatal(err)
	}
	found := make(map[string]int)
	for name, stat := range info["Commandstats"] {
		calls, _, _ := strings.Cut(strings.TrimPrefix(stat, "calls="), ",")
		n, _ := strconv.Atoi(calls)
		found[strings.TrimPrefix(name, "cmdstat_")] = n
	}
	return found
}
