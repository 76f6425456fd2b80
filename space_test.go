package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/explore"
)

// space is a set of schedules: all that can become of these processes, calls and faults.
type space struct {
	name      string
	at        explore.Level // from which on it is explored
	processes int
	callers   int    // in each process
	batches   int    // processes whose calls are for two keys, every other one in the other order
	local     bool   // values are kept in memory
	warm      bool   // the value is in Redis and, with local, in the memories
	forgotten bool   // ... in Redis only
	stale     bool   // ... and past its TTL: it may be served while it is loaded anew
	ifError   bool   // with stale: it may be served only if loading it anew fails
	tags      bool   // the value carries a tag, and DeleteTags takes the place of Delete
	clear     bool   // with tags: Clear does
	writes    int    // each a change of the origin and a Delete
	writer    string // the process that does them, "W": one that does nothing else
	refreshes int    // processes that refresh the value
	abandoned bool   // Options.CancelAbandoned
	limit     int    // Options.MaxLoads; without programs, each process asks for a key of its own
	strict    bool   // Options.StrictLoads
	fair      bool   // Options.FairLoads
	room      int    // Options.MaxWaiting
	nodes     int    // RedisOptions.LockNodes; not with real
	faults    int
	kinds     string // of faults, with blanks between them
	real      bool   // go-redis and the scripts

	// Instead of callers, batches and a writer, what each caller of each process does.
	programs [][][]op
	used     int  // keys
	own      bool // each load reads a version of its own, and a history is written
}

// Faults that spaces may have.
//
//	fail      a reply is lost, and the caller gets an error
//	lost      a command is lost, and the caller gets an error
//	refuse    the server answers a command with an error
//	repeat    a reply is lost, and the client sends the command again
//	late      a command comes back with an error, and is executed later: perhaps after all else
//	slow      a loader takes its time
//	pause     a process stands still, and renews nothing
//	silence   the server answers nobody for a while
//	evict     the record is gone, and nobody is told
//	garbage   ... and something else is there
//	expire    ... in a moment
//	flush     all is gone, and nobody is told
//	forward   the server's clock jumps
//	back      ... the other way
//	barriers  the barriers of tags are gone
//	restart   Redis comes back empty
//	failover  Redis comes back as it was at some earlier moment
//	node      a node for locks comes back empty
//	stream    a process loses its subscription
//	drop      a message is lost
//	twice     a message comes twice
//	noise     a message comes that is none of ours
//	crash     a process is gone
//	close     a cache is closed
//	cancel    a call is cancelled
//	error     a loader returns an error
//	panic     a loader panics
//	exit      a loader calls runtime.Goexit

// fault is a kind of fault, perhaps of messages with a certain verb only: fail:commit is a lost reply to COMMIT.
type fault struct{ kind, verb string }

func (sp *space) can() (all []fault) {
	for word := range strings.FieldsSeq(sp.kinds) {
		kind, verb, bound := strings.Cut(word, ":")
		if bound {
			verb = " " + verb + " "
		}
		all = append(all, fault{kind, verb})
	}
	return all
}

// has reports whether there are faults of that kind, at what has that label.
func (tr *trial) has(kind, label string) bool {
	for _, f := range tr.can {
		if f.kind == kind && strings.Contains(label, f.verb) {
			return true
		}
	}
	return false
}

func (sp *space) network(t *testing.T) network {
	if sp.real {
		return newWireNetwork(t)
	}
	return &memNetwork{server: newMemServer()}
}

// mostLoads is how many loads there may be.
func (tr *trial) mostLoads() int {
	most := tr.writes + tr.refreshes
	if !tr.warm || tr.stale {
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
	if tr.random != nil {
		tr.random.begin(len(tr.players))
	}
	writer := slices.IndexFunc(tr.players, func(p *player) bool { return p.name == tr.writer })
	if tr.writes > 0 && writer < 0 {
		writer = len(tr.players)
		tr.players = append(tr.players, tr.newPlayer(tr.writer))
	}
	if tr.warm {
		tr.opens(true)
		for _, p := range tr.players {
			o := tr.asks(p)
			_, _ = p.get(context.Background(), o)
			for _, k := range o.keys {
				p.served[k] = 1 << tr.origin[k]
			}
			p.asked = 0 // whoever it was that loaded: all are alike
			if tr.forgotten {
				p.rds.invalidateAll()
				p.served = [mostKeys]uint64{}
			}
		}
		if tr.stale {
			time.Sleep(tr.ttl())
		}
		synctest.Wait() // permits go back by themselves
		tr.opens(false)
		tr.loads = perKey{}
	}
	tr.net.ready()
	if tr.programs == nil {
		tr.namings = namings(tr.processes, func(i int) string {
			if tr.limit > 0 {
				return fmt.Sprint(i)
			}
			return fmt.Sprint(tr.nodes > 0 && i%2 == 1, i < tr.refreshes, i == writer, i < tr.batches, i < tr.batches && i%2 == 1)
		})
	}
	for _, p := range tr.players {
		p.digests = make([]digest, len(tr.namings)+1)
	}
	for i, p := range tr.players {
		if tr.programs != nil {
			for n, ops := range tr.programs[i] {
				p.call(n+1, ops...)
			}
			continue
		}
		if i < tr.processes {
			for n := range tr.callers {
				p.call(n+1, tr.asks(p))
			}
		}
		if i < tr.refreshes {
			p.refresh()
		}
		if i == writer {
			p.write(tr.deletes(), tr.writes)
		}
	}
	synctest.Wait()
}

// opens makes all gates stand open, or no more.
func (tr *trial) opens(auto bool) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.auto = auto
}

// asks is what a call of p is for.
func (sp *space) asks(p *player) op {
	o := op{"get", sp.keys()[:max(1, sp.used)]}
	if sp.limit > 0 && sp.programs == nil {
		o.keys = sp.keys()[p.index : p.index+1]
	}
	if p.index < sp.batches {
		if o.keys = []int{0, 1}; p.index%2 == 1 {
			o.keys = []int{1, 0}
		}
	}
	return o
}

// deletes is what a writer does after it has changed the origin.
func (sp *space) deletes() op {
	switch {
	case sp.clear:
		return op{"clear", []int{0}}
	case sp.tags:
		return op{"delete tags", []int{0}}
	}
	return op{"delete", []int{0}}
}

// keys are the keys that there are.
func (sp *space) keys() []int {
	all := []int{0, 1, 2, 3}
	if sp.batches > 0 {
		return all[:2]
	}
	return all[:max(1, sp.used)]
}

// ttl is short where it passes, for a subscription has something to do each second.
func (sp *space) ttl() time.Duration {
	if sp.stale {
		return 10 * trialLease
	}
	return time.Hour
}

func (tr *trial) newPlayer(name string) *player {
	p := &player{tr: tr, name: name, index: len(tr.players), sent: map[string]int{}}
	tr.net.start(tr, p)
	o := Options{
		Redis: p.rds, TTL: tr.ttl(), LocalTTL: -1, Lease: trialLease, LoadTimeout: trialTimeout,
		CancelAbandoned: tr.abandoned, Tags: tr.tags, MaxLoads: tr.limit, StrictLoads: tr.strict, FairLoads: tr.fair,
		MaxWaiting: tr.room,
	}
	switch {
	case tr.ifError:
		o.StaleIfError, o.Backoff = time.Hour, trialLease/2
	case tr.stale:
		o.StaleWhileRevalidate = time.Hour
	}
	if tr.local {
		o.LocalTTL, o.LocalBytes = time.Hour, 1<<20
	}
	c, err := New[int]("user", exact(o))
	if err != nil {
		panic(err)
	}
	p.cache, c.core.soon = c, atOnce
	c.core.limits.number = 0                       // which is random, and in what the server has
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
		if !tr.has(kind, label) {
			return
		}
		all = append(all, option{kind: kind, what: label, do: func() {
			tr.left--
			tr.seen[kind]++
			if tr.real && tr.seen["back"] > 0 && tr.seen["barriers"]+tr.seen["flush"]+tr.seen["restart"] > 0 {
				tr.excused = true // it may have stepped back by more than the age of the barriers that are lost
			}
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
				add("lost", g.label, func() { tr.open(g, fail) })
				add("refuse", g.label, func() { tr.open(g, refuse) })
			}
		case "reply":
			add("fail", g.label, func() { tr.open(g, fail) })
			add("repeat", g.label, func() { tr.open(g, repeat) })
		case "push":
			if tr.real {
				add("stream", g.label, func() { tr.open(g, fail) })
			}
			if g.lossy {
				add("drop", g.label, func() { tr.open(g, lose) })
				add("twice", g.label, func() { tr.open(g, repeat) })
			}
		case "loaded":
			add("error", g.label, func() { tr.open(g, fail) })
			add("panic", g.label, func() { tr.open(g, "panic") })
			add("exit", g.label, func() { tr.open(g, "exit") })
		}
	}
	// What concerns the server is offered before a request reaches it: earlier would be the same.
	if only == nil && (requests || len(gates) == 0) {
		for _, o := range tr.net.faults() {
			add(o.kind, o.what, func() {
				o.do()
				if requests {
					tr.next = "request"
				}
			})
		}
	}
	if requests {
		add("silence", "", func() {
			for _, p := range tr.players {
				p.hold("request")
			}
		})
	}
	// What concerns one process only is offered right after something has happened to it: later would be the same.
	for _, p := range tr.players {
		if p.gone || !tr.touched[p] {
			continue
		}
		active := p.busy
		for _, c := range p.calls {
			if c.started {
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
			if !p.closed {
				add("close", p.name, func() { p.close() })
			}
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
	if c.started && !c.p.fills() {
		c.p.tr.s.Failf("P6: %s was cancelled and has not returned", c.name)
	}
	c.p.tr.gaveUp(c.p)
}

// fills reports whether a caller may stand at a gate that is not there in reality: where memory is filled.
func (p *player) fills() bool {
	return slices.ContainsFunc(p.tr.sorted(), func(g *parked) bool { return g.p == p && g.kind == "fill" })
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
		if c.started && c.reads && !p.fills() {
			p.tr.s.Failf("%s has not returned, and its cache is closed", c.name)
		}
	}
	p.remember("close")
}
