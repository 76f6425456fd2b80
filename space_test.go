package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/explore"
	"github.com/bellwether-go/cache/internal/record"
)

// space is a set of schedules: all that can become of these processes, calls and faults.
type space struct {
	name      string
	at        explore.Level // from which on it is explored
	processes int
	callers   int    // in each process
	local     bool   // values are kept in memory
	warm      bool   // the value is in Redis and, with local, in the memories
	writes    int    // each a change of the origin and a Delete
	writer    string // the process that does them, "W": one that does nothing else
	refreshes int    // processes that refresh the value
	abandoned bool   // Options.CancelAbandoned
	faults    int
	kinds     string // of faults, with blanks between them
	real      bool   // go-redis and the scripts
}

// Faults that spaces may have.
//
//	fail      a reply is lost, and the caller gets an error
//	repeat    a reply is lost, and the client sends the command again
//	late      a command comes back with an error, and is executed later: perhaps after all else
//	slow      a loader takes its time
//	pause     a process stands still, and renews nothing
//	evict     the record is gone, and nobody is told
//	restart   Redis comes back empty
//	failover  Redis comes back as it was at some earlier moment
//	stream    a process loses its subscription
//	crash     a process is gone
//	close     a cache is closed
//	cancel    a call is cancelled
//	error     a loader returns an error
//	panic     a loader panics

func (sp *space) has(kind string) bool { return slices.Contains(strings.Fields(sp.kinds), kind) }

func (sp *space) network(t *testing.T) network {
	if sp.real {
		return newWireNetwork(t)
	}
	return &memNetwork{server: newMemServer()}
}

// mostLoads is how many loads there may be.
func (tr *trial) mostLoads() int {
	most := tr.writes + tr.refreshes
	if !tr.warm {
		most++
	}
	for kind, n := range tr.seen {
		switch kind {
		case "late", "restart", "failover", "stream":
			n *= len(tr.players) // it may happen to each of them
		}
		most += n
	}
	return most
}

// setUp starts the processes and brings their calls to their gates.
func (tr *trial) setUp() {
	for i := range tr.processes {
		tr.players = append(tr.players, tr.newPlayer(string(rune('A'+i))))
	}
	writer := slices.IndexFunc(tr.players, func(p *player) bool { return p.name == tr.writer })
	if tr.writes > 0 && writer < 0 {
		writer = len(tr.players)
		tr.players = append(tr.players, tr.newPlayer(tr.writer))
	}
	if tr.warm {
		tr.auto = true
		for _, p := range tr.players {
			_, _ = p.cache.GetOrLoad(context.Background(), trialKey, p.load)
			p.served = 1 << tr.origin
		}
		tr.auto, tr.loads = false, 0
	}
	tr.net.ready()
	alike := 0 // processes before that one differ
	if tr.refreshes > 0 {
		alike = tr.refreshes
	}
	if writer >= 0 && writer < tr.processes {
		alike = max(alike, writer+1)
	}
	tr.namings = namings(min(alike, tr.processes), tr.processes)
	for _, p := range tr.players {
		p.digests = make([]digest, len(tr.namings)+1)
	}
	for i, p := range tr.players {
		if i < tr.processes {
			for n := range tr.callers {
				p.call(n + 1)
			}
		}
		if i < tr.refreshes {
			p.refresh()
		}
		if i == writer {
			p.write(tr.writes)
		}
	}
	synctest.Wait()
}

func (tr *trial) newPlayer(name string) *player {
	p := &player{tr: tr, name: name, index: len(tr.players)}
	tr.net.start(tr, p)
	o := Options{
		Redis: p.rds, TTL: time.Hour, LocalTTL: -1, Lease: trialLease, LoadTimeout: trialTimeout,
		CancelAbandoned: tr.abandoned,
	}
	if tr.local {
		o.LocalTTL, o.LocalBytes = time.Hour, 1<<20
	}
	c, err := New[int]("user", o)
	if err != nil {
		panic(err)
	}
	p.cache = c
	if weigh := c.core.local.weigh; weigh != nil { // called just before an entry is stored
		c.core.local.weigh = func(key string, encoded int) uint32 {
			tr.park(context.Background(), p, "fill", "remembers")
			return weigh(key, encoded)
		}
	}
	// Random pauses would make two plays differ.
	p.rds.spread = func(d time.Duration) time.Duration { return d / 2 }
	return p
}

// faultOptions returns what can go wrong now: at these gates, with the processes, and, if only is not given, with the
// server.
func (tr *trial) faultOptions(gates []*parked, only *player) (all []option) {
	if tr.left == 0 {
		return nil
	}
	add := func(kind, label string, do func()) {
		if !tr.has(kind) {
			return
		}
		all = append(all, option{kind, label, func() {
			tr.left--
			tr.seen[kind]++
			do()
		}})
	}
	requests := false
	own := map[*player]map[string]bool{}
	for _, g := range gates {
		if own[g.p] == nil {
			own[g.p] = map[string]bool{}
		}
		own[g.p][g.kind] = true
		switch g.kind {
		case "request":
			requests = true
			if !g.ghost() {
				add("late", g.label, func() { tr.open(g, late) })
			}
		case "reply":
			add("fail", g.label, func() { tr.open(g, fail) })
			add("repeat", g.label, func() { tr.open(g, repeat) })
		case "push":
			if tr.real {
				add("stream", g.label, func() { tr.open(g, fail) })
			}
		case "loaded":
			add("error", g.label, func() { tr.open(g, fail) })
			add("panic", g.label, func() { tr.open(g, "panic") })
		}
	}
	// What concerns the server is offered before a request reaches it: earlier would be the same.
	if only == nil && (requests || len(gates) == 0) {
		for _, o := range tr.net.faults() {
			add(o.kind, "", func() {
				o.do()
				if requests {
					tr.next = "request"
				}
			})
		}
	}
	// What concerns one process only is offered right after something has happened to it: later would be the same.
	for _, p := range tr.players {
		if p.gone || !tr.touched[p] {
			continue
		}
		active := false
		for _, c := range p.calls {
			if c.started && !c.done {
				active = true
				if !c.cancelled {
					add("cancel", c.name, func() { c.giveUp() })
				}
			}
		}
		if p.held == "" && len(own[p]) > 0 {
			add("pause", p.name, func() { p.hold("everything") })
			if own[p]["loaded"] {
				add("slow", p.name, func() { p.hold("loaded") })
			}
		}
		if !tr.real && p.rds.stream.wakes() && !p.deaf {
			add("stream", p.name, func() { tr.net.unsubscribe(p) })
		}
		if active {
			add("crash", p.name, func() { p.crash() })
			add("close", p.name, func() { p.close() })
		}
	}
	return all
}

// hold lets time pass while gates of that process stay shut, all or those of a kind, until one of them is opened.
func (p *player) hold(what string) {
	p.held = what
	p.remember("held: " + what)
}

func (p *player) holds(kind string) bool { return p.held == "everything" || p.held == kind }

// giveUp cancels a call, which must return at once: P6.
func (c *trialCall) giveUp() {
	c.cancelled = true
	c.p.remember("cancel " + c.name)
	c.cancel()
	synctest.Wait()
	if !c.done {
		c.p.tr.s.Failf("P6: %s was cancelled and has not returned", c.name)
	}
	c.p.tr.gaveUp(c.p)
}

// crash ends a process: nothing of it is heard any more.
func (p *player) crash() {
	tr := p.tr
	tr.mu.Lock()
	p.gone = true
	mine := func(g *parked) bool { return g.p == p }
	gates := slices.Clone(tr.gates)
	tr.gates = slices.DeleteFunc(tr.gates, mine)
	tr.mu.Unlock()
	for _, g := range gates {
		if mine(g) && g.to != nil {
			g.to <- die
		}
	}
	tr.net.crash(p)
	for _, c := range p.calls {
		c.cancel()
	}
}

// close closes a cache: its calls must return at once.
func (p *player) close() {
	p.closed = true
	go func() { _ = p.cache.Close() }()
	synctest.Wait()
	for _, c := range p.calls {
		if c.started && !c.done {
			p.tr.s.Failf("%s has not returned, and its cache is closed", c.name)
		}
	}
	p.remember("close")
}

// memNetwork connects processes with a memServer.
type memNetwork struct {
	server *memServer
	tr     *trial
	old    *memEntry // what a replica has that lags behind
}

func (n *memNetwork) start(tr *trial, p *player) {
	n.tr = tr
	p.rds = newRedis(nil, RedisOptions{Prefix: "cache", Timeout: 50 * time.Millisecond}, true, true)
	p.rds.process = fmt.Sprintf("%-16s", p.name)
	p.rds.stream.up.Store(true)
	p.rds.clock.observe(time.Now(), time.Now(), n.server.now())
	p.rds.store = &memStore{r: p.rds, server: n.server, process: p.name, send: p.send}
	n.server.publish = n.publish
}

// send carries a command to the server and its reply back.
func (p *player) send(ctx context.Context, request string, run func() string) error {
	tr := p.tr
	tr.mu.Lock()
	p.sent++
	label := fmt.Sprintf("%d %s", p.sent, request)
	tr.mu.Unlock()
	for {
		if p.held == "everything" && strings.HasPrefix(request, "renew") {
			return errReset // or requests would pile up
		}
		switch tr.park(ctx, p, "request", label) {
		case late:
			go func() {
				gone, cancel := context.WithCancel(ctx)
				cancel()
				if tr.park(gone, p, "request", label) == pass {
					p.serve(request, run)
				}
			}()
			return context.DeadlineExceeded
		case fail, die:
			return errReset
		}
		reply := p.serve(request, run)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch tr.park(ctx, p, "reply", label+": "+reply) {
		case pass:
			return nil
		case repeat:
			continue
		}
		return errReset
	}
}

// serve runs a command on the server, and looks what came of it.
func (p *player) serve(request string, run func() string) string {
	tr := p.tr
	tr.serving.Lock()
	defer tr.serving.Unlock()
	reply := run()
	if tr.auto {
		tr.s.Note("%s %s: %s", p.name, request, reply)
	}
	raw := tr.net.raw()
	verb, _, _ := strings.Cut(request, " ")
	switch {
	case verb == "unlink":
		tr.unlinked, tr.fence = tr.origin, 0
	case verb == "commit" && reply == "STORED":
		tr.serves(p, raw)
		tr.stores(raw)
	case verb == "read", verb == "acquire" && strings.HasPrefix(reply, "HIT"):
		tr.serves(p, raw)
	}
	return reply
}

var errReset = errors.New("connection reset")

// publish puts a message at the gate of each process that listens.
func (n *memNetwork) publish(channel, message string) {
	for _, p := range n.tr.players {
		if channel != everybody && channel != p.rds.process || p.gone || p.deaf ||
			message[0] == deleted && message[1:17] == p.rds.process {
			continue
		}
		known := n.tr.unlinked
		what := "is woken: committed"
		if message[0] == wakeAborted {
			what = "is woken: aborted"
		}
		if message[0] == deleted {
			what = "hears of the deletion"
		}
		n.push(p, what, func() {
			if message[0] == deleted {
				p.told = max(p.told, known)
			} else if _, rec, ok := cutKey(message[17:]); ok {
				n.tr.serves(p, []byte(rec))
			}
			p.rds.stream.handle(message)
		})
	}
}

// push puts something at a gate that passes after all that came before.
func (n *memNetwork) push(p *player, what string, do func()) {
	tr := n.tr
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.auto {
		if !tr.dead {
			do()
		}
		return
	}
	p.sent++
	g := &parked{p: p, kind: "push", label: fmt.Sprintf("%s <%d> %s", p.name, p.sent, what)}
	g.do = func(v verdict) {
		if v == pass {
			do()
		}
	}
	g.behind = func() bool {
		for _, other := range tr.gates {
			if other.p == p && other.kind == "push" {
				return other != g
			}
		}
		return false
	}
	tr.gates = append(tr.gates, g)
	tr.touched[p] = true
	tr.notify()
}

// unsubscribe ends the subscription of a process: what is under way to it is lost.
func (n *memNetwork) unsubscribe(p *player) {
	n.cut(p)
	p.remember("lost its subscription")
	p.rds.stream.up.Store(false)
	p.rds.invalidateAll()
	n.push(p, "subscribes again", func() { n.subscribe(p) })
}

func (n *memNetwork) cut(p *player) {
	n.tr.mu.Lock()
	defer n.tr.mu.Unlock()
	n.tr.gates = slices.DeleteFunc(n.tr.gates, func(g *parked) bool { return g.p == p && g.kind == "push" })
	p.deaf = true
}

func (n *memNetwork) subscribe(p *player) {
	p.deaf = false
	p.rds.stream.up.Store(true)
	p.rds.invalidateAll()
	p.told = max(p.told, n.tr.unlinked)
}

func (n *memNetwork) raw() []byte { return n.server.get(trialFull) }

func (n *memNetwork) state() string {
	raw := n.raw()
	text := n.server.describe(raw)
	if len(raw) > 0 {
		h, rest, _ := n.server.open(trialFull)
		text += fmt.Sprintf(" %d %d %d %v %q %v", h.Fence, h.FreshUntil, h.Lease.Fence, h.Lease.All, rest,
			n.server.ttl(trialFull))
	}
	if n.old != nil {
		text += " before " + n.server.describe(n.old.raw)
	}
	return text
}

func (n *memNetwork) wakes(p *player) bool {
	h, rest, ok := n.server.open(trialFull)
	return ok && (h.Lease.All || h.State == record.Stub && strings.Contains(string(rest), p.rds.process))
}

func (n *memNetwork) ready()                   {}
func (n *memNetwork) gates() []*parked         { return nil }
func (n *memNetwork) arrived() <-chan struct{} { return nil }
func (n *memNetwork) open()                    {}
func (n *memNetwork) crash(*player)            {}

// evict removes the record without telling anybody.
func (n *memNetwork) evict() {
	delete(n.server.entries, trialFull)
	n.tr.fence = 0
}

func (n *memNetwork) faults() []option {
	all := []option{{"restart", "", func() {
		n.evict()
		n.cutAll()
	}}}
	if len(n.raw()) > 0 {
		all = append(all, option{"evict", "", n.evict})
	}
	if n.old != nil {
		all = append(all, option{"failover", "", func() {
			n.server.entries[trialFull] = *n.old
			n.old, n.tr.excused, n.tr.fence = nil, true, 0
			n.cutAll()
		}})
	}
	return all
}

// cutAll breaks all subscriptions: the server is another one.
func (n *memNetwork) cutAll() {
	for _, p := range n.tr.players {
		if p.gone {
			continue
		}
		n.cut(p)
		n.push(p, "loses its subscription and has another", func() {
			p.rds.stream.up.Store(false)
			p.rds.invalidateAll()
			n.subscribe(p)
		})
	}
}

func (n *memNetwork) close() {
	for _, p := range n.tr.players {
		p.rds.mu.Lock()
		p.rds.closed = true
		p.rds.mu.Unlock()
		p.rds.work.Wait()
	}
}
