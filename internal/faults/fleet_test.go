package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
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

// fleet is what a plan is played on: servers, processes, and a proxy between each two of them.
type fleet struct {
	t         *testing.T
	plan      *plan
	data      []*realredis.Server // those that have keys
	admins    []*redis.Client     // of data
	sentinels []*realredis.Server
	dump      string           // the snapshot of the one server
	proxies   [][]*proxy.Proxy // by process and server: data, then sentinels
	path      string
	board     *board
	slots     int
	epoch     string // of the failover that is over
	said      string // the epoch that a sentinel has named last

	recovery time.Duration // from the last fault to a cold key that is loaded once
	own      int           // failovers that were no fault of the plan's

	mu      sync.Mutex
	members []*member      // guarded by mu
	broken  []string       // guarded by mu
	played  map[string]int // by kind; guarded by mu
	atEnd   []func()       // guarded by mu until the faults are over
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
	f := &fleet{t: t, plan: p, played: make(map[string]int)}
	f.path, f.board = newBoard(t)
	f.startServers()
	for _, s := range f.data {
		f.admins = append(f.admins, s.Client(func(o *redis.Options) { o.ReadTimeout = patience }))
	}
	f.settle()
	t.Cleanup(func() {
		for _, m := range f.members {
			_ = m.cmd.Process.Signal(syscall.SIGCONT)
			_ = m.cmd.Process.Kill()
			<-m.ended
		}
	})
	for _, j := range p.workers {
		var links []*proxy.Proxy
		for _, s := range f.servers() {
			links = append(links, proxy.Start(t, s.Addr))
		}
		f.proxies = append(f.proxies, links)
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
	j.Board, j.Slot, j.Addrs, j.Proxies = f.path, f.slots, f.addrs(), make(map[string]string)
	for i, s := range f.servers() {
		j.Proxies[s.Addr] = f.proxies[j.Name][i].Addr
	}
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
			f.t.Fatalf("plan %s: %s: %v", f.plan.name(), order, err)
		}
		all = all && line == answer
	}
	return all
}

// play lets the plan happen, while the callers call.
func (f *fleet) play() {
	began := time.Now()
	track := func(server bool) {
		late := time.Duration(0) // a failover takes as long as it takes, and what follows keeps its distance
		for _, ft := range f.plan.faults {
			if server != (ft.process < 0) {
				continue
			}
			wait(time.Until(began.Add(ft.at + late)))
			if time.Since(began) > f.plan.lasts+planFirst {
				return
			}
			f.mu.Lock()
			f.played[ft.kind]++
			f.mu.Unlock()
			f.happen(ft)
			if f.plan.where != "one" {
				late = max(late, time.Since(began)-ft.at-ft.lasts)
			}
		}
	}
	var others sync.WaitGroup
	others.Go(func() { track(false) })
	track(true)
	others.Wait()
	wait(time.Until(began.Add(f.plan.lasts + planFirst)))
}

// wait is for faults that last.
func wait(d time.Duration) { <-time.NewTimer(d).C }

// happen makes a fault happen and, if it lasts, ends it.
func (f *fleet) happen(ft fault) {
	if ft.process < 0 {
		if f.plan.where == "one" {
			f.happenToServer(ft)
		} else {
			f.happenToServers(ft)
		}
		return
	}
	switch ft.kind {
	case "connections cut":
		f.links(ft, (*proxy.Proxy).Cut)
	case "unreachable":
		defer f.rehash()()
		f.links(ft, func(p *proxy.Proxy) { p.Refuse(true) })
		wait(ft.lasts)
		f.links(ft, func(p *proxy.Proxy) { p.Refuse(false) })
	case "half-open connections":
		f.later(f.rehash())
		f.links(ft, (*proxy.Proxy).HalfOpen)
	case "latency":
		f.links(ft, func(p *proxy.Proxy) { p.Delay(ft.amount) })
		wait(ft.lasts)
		f.links(ft, func(p *proxy.Proxy) { p.Delay(0) })
	case "1-byte reads":
		f.links(ft, func(p *proxy.Proxy) { p.Trickle(true) })
		wait(ft.lasts)
		f.links(ft, func(p *proxy.Proxy) { p.Trickle(false) })
	case "replies lost":
		f.links(ft, func(p *proxy.Proxy) {
			p.Tamper(times(ft.count, func(reply []byte) []byte { return nil }))
		})
	case "replies repeated":
		f.links(ft, func(p *proxy.Proxy) {
			p.Tamper(times(ft.count, func(reply []byte) []byte { return append(append([]byte(nil), reply...), reply...) }))
		})
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
		f.mu.Lock()
		f.members[ft.process] = next
		f.mu.Unlock()
	default:
		panic(ft.kind)
	}
}

// links does something to the connections of a process: those to all servers or to one.
func (f *fleet) links(ft fault, do func(*proxy.Proxy)) {
	all := f.proxies[ft.process]
	if ft.node >= 0 {
		all = all[ft.node%len(all):][:1]
	}
	for _, p := range all {
		do(p)
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

// check looks at what is left when the faults are over.
func (f *fleet) check() {
	ctx := context.Background()
	over := time.Now()
	f.tell("quiet", "quiet")
	f.unplanned()
	for _, end := range f.atEnd {
		end()
	}

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
	for i, links := range f.proxies {
		for _, p := range links {
			if !f.until(func() bool { return p.Clients() == 0 }) {
				f.violation("P9: %d connections of process %c are left", p.Clients(), 'A'+i)
			}
			p.Cut() // of half-open ones the server knows nothing
		}
	}
	for _, admin := range f.masters() {
		f.nothingLeft(ctx, admin)
	}
	for _, m := range f.members {
		_ = m.in.Close()
		<-m.ended
	}
}

// nothingLeft looks for what a server still has.
func (f *fleet) nothingLeft(ctx context.Context, admin *redis.Client) {
	keys, err := admin.Keys(ctx, "cache:*").Result()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, key := range keys {
		// A node also names keys of slots that are not its own any more, and gives them to nobody.
		if ttl, err := admin.PTTL(ctx, key).Result(); err != nil && !redis.HasErrorPrefix(err, "MOVED") || ttl == -1 {
			f.violation("P9: %s has TTL %v, %v", key, ttl, err)
		}
	}
	var channels []string
	if !f.until(func() bool {
		channels, err = admin.PubSubChannels(ctx, "{cache}*").Result()
		return err == nil && len(channels) == 0
	}) {
		f.violation("P9: subscriptions %q, %v", channels, err)
	}
}

// until waits, with a limit, for what others do in their own time.
func (f *fleet) until(ok func() bool) bool { return f.within(patience/3, ok) }

func (f *fleet) within(limit time.Duration, ok func() bool) bool {
	timeout := time.After(limit)
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

// commands returns how often the servers have executed each command.
func (f *fleet) commands(ctx context.Context) map[string]int {
	f.t.Helper()
	found := make(map[string]int)
	for _, admin := range f.masters() {
		info, err := admin.InfoMap(ctx, "commandstats").Result()
		if err != nil {
			f.t.Fatal(err)
		}
		for name, stat := range info["Commandstats"] {
			calls, _, _ := strings.Cut(strings.TrimPrefix(stat, "calls="), ",")
			n, _ := strconv.Atoi(calls)
			found[strings.TrimPrefix(name, "cmdstat_")] += n
		}
	}
	return found
}
