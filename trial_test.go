package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/explore"
	"github.com/bellwether-go/cache/internal/lab"
)

// trial is one play of a space: processes with their calls, a server, an origin, and everything that waits at a gate to
// be let go. All goroutines of the trial are in one bubble, and between two choices nothing moves.
type trial struct {
	*space
	can     []fault
	s       *explore.Schedule
	began   time.Time
	net     network
	players []*player
	left    int // faults that may still happen
	seen    map[string]int
	random  *chooser         // nil: all schedules are played
	namings []string         // of processes that are alike
	touched map[*player]bool // to whom something has happened
	next    string           // the kind of gate that goes next

	mu      sync.Mutex
	gates   []*parked // guarded by mu
	auto    bool      // gates stand open; guarded by mu
	dead    bool      // nothing passes any more; guarded by mu
	arrived chan struct{}

	// What the checks need to know.
	origin   perKey // the versions of the values
	unlinked perKey // the newest ones whose deletion has been executed
	acked    perKey // ... has been confirmed
	loads    perKey
	fence    [mostKeys]int64 // of what is stored
	writing  int             // writers that are not done
	written  []*writeOp      // what is being written by callers, or may still be
	history  history
	excused  bool // a failover has brought old values back, or nobody knows what is old
}

// perKey has something for each of trialKeys.
type perKey [mostKeys]int

// raise makes the numbers of some keys those of another one, where they are larger.
func (n *perKey) raise(to perKey, keys []int) {
	for _, k := range keys {
		n[k] = max(n[k], to[k])
	}
}

const mostKeys = 4

var (
	trialKeys = [mostKeys]string{"k", "j", "l", "m"}
	trialFull = [mostKeys]string{fullKey, "cache:user:j", "cache:user:l", "cache:user:m"}
)

// keyIn returns which of trialKeys a text ends with.
func keyIn(text string) int {
	return max(0, slices.IndexFunc(trialFull[:], func(full string) bool { return strings.HasSuffix(text, full) }))
}

// tagOf returns the tag of a key.
func tagOf(key int) string { return string("tu"[key%2]) }

// network is the way between processes and server, and the server.
type network interface {
	start(tr *trial, p *player) // makes p.rds
	tick()                      // the server's clock moves
	beat()                      // everybody tells how many messages there were
	ready()                     // all processes stand: from now on nothing moves by itself
	gates() []*parked           // messages that are not among those of the trial
	arrived() <-chan struct{}   // there are more
	raw(key int) []byte         // the record
	leased() bool               // somebody has a lease
	state() string              // of the server and of what is under way
	wakes(p *player) bool       // somebody may wake the process
	faults() []option           // what may become of the server
	unsubscribe(p *player)
	crash(p *player)
	open() // everything moves by itself again
	close()
}

// parked is something that waits to be let go.
type parked struct {
	p      *player
	label  string
	kind   string
	to     chan verdict
	do     func(verdict)              // instead of to
	lossy  bool                       // a message that may be lost, or come twice
	ghost  func() bool                // a request for whose reply nobody waits
	behind func(gates []*parked) bool // one of these goes first
}

type verdict string

const (
	pass   verdict = "pass"
	fail   verdict = "fail"   // an error comes back
	repeat verdict = "repeat" // the reply is lost, and the client sends the command again
	late   verdict = "late"   // an error comes back, and the command is executed later
	refuse verdict = "refuse" // the server answers with an error
	lose   verdict = "lose"   // a message does not come
	die    verdict = "die"
)

// option is what may happen next: a gate opens, or something else.
type option struct {
	kind string // of a fault
	what string
	do   func()
	gate *parked
}

func (o *option) String() string { return strings.TrimLeft(strings.ToUpper(o.kind)+" "+o.what, " ") }

// player is a process of a trial.
type player struct {
	tr      *trial
	name    string
	index   int
	rds     *Redis
	cache   *Cache[int]
	calls   []*trialCall
	history []string // all that has reached it
	digests []digest // of history, by naming
	gone    bool     // crashed
	closed  bool
	asked   int              // loads; guarded by tr.mu
	loading perKey           // ... under way; guarded by tr.mu
	busy    bool             // it writes or refreshes
	deaf    bool             // its subscription is broken, and it does not know yet
	held    string           // which kinds of gates may stay shut while time passes
	told    perKey           // the newest versions of whose deletion it knows
	served  [mostKeys]uint64 // bits: versions that the server has let it have
	sent    map[string]int   // commands, by what they say; guarded by tr.mu
	locks   int              // for which it has asked for votes; guarded by memServer.mu
	pushed  int              // messages to it; guarded by tr.mu
}

type digest struct {
	sum    uint64
	events int // that are in it
}

const (
	trialLease    = 2 * time.Second
	trialTimeout  = 3 * time.Second // of a load
	trialPatience = time.Minute
	trialGarbage  = "*2 what is this?\x00\xff"
)

// play plays a schedule to its end.
func (tr *trial) play() {
	defer tr.end()
	for {
		synctest.Wait()
		if tr.s.Failed() {
			return
		}
		steps, gates, only := tr.steps()
		if len(steps) == 0 && tr.finished() {
			tr.probe()
			return
		}
		next, some := tr.choose(steps, func() []option {
			if tr.next != "" {
				return nil
			}
			return tr.faultOptions(gates, only)
		})
		switch {
		case !some:
			tr.idle()
		case next == nil:
			return
		case next.do != nil:
			next.do()
		default:
			tr.open(next.gate, pass)
		}
	}
}

// choose returns what happens next, and whether anything can. It returns nil if what follows is known.
func (tr *trial) choose(steps []option, faults func() []option) (next *option, some bool) {
	if tr.random != nil {
		if next = tr.random.choose(steps, faults); next != nil {
			tr.s.Step(next)
		}
		return next, next != nil
	}
	all := append(steps, faults()...)
	if len(all) == 0 {
		return nil, false
	}
	if i := tr.s.Choose(len(all), tr.state, func(i int) string { return all[i].String() }); i >= 0 {
		next = &all[i]
	}
	return next, true
}

// finished reports whether all calls have returned.
func (tr *trial) finished() bool {
	for _, p := range tr.players {
		for _, c := range p.calls {
			if !c.done && !p.gone {
				return false
			}
		}
	}
	return true
}

// idle lets time pass until something moves.
func (tr *trial) idle() {
	tr.meet()
	timer := time.NewTimer(trialPatience)
	defer timer.Stop()
	select {
	case <-tr.arrived:
	case <-tr.net.arrived():
	case <-timer.C:
		tr.s.Failf("stuck: nothing has happened for %v", trialPatience)
	}
}

// wait lets time pass although something is at a gate, until something else moves.
func (tr *trial) wait() {
	tr.meet()
	timer := time.NewTimer(trialTimeout + 2*trialLease)
	defer timer.Stop()
	for _, c := range []<-chan struct{}{tr.arrived, tr.net.arrived()} { // tokens of before
		select {
		case <-c:
		default:
		}
	}
	select {
	case <-tr.arrived:
	case <-tr.net.arrived():
	case <-timer.C:
		for _, p := range tr.players {
			p.held = ""
		}
	}
}

// meet is for the race detector: what a goroutine does that a timer has woken comes after what play has read before.
func (tr *trial) meet() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
}

func (tr *trial) notify() {
	select {
	case tr.arrived <- struct{}{}:
	default:
	}
}

// park waits at a gate, or until ctx ends.
func (tr *trial) park(ctx context.Context, p *player, kind, label string) verdict {
	g := &parked{p: p, kind: kind, label: p.name + " " + label, to: make(chan verdict, 1)}
	if kind == "call" && tr.random == nil { // calls of a process are alike: any order is as good
		g.behind = g.notFirst
	}
	if kind == "request" {
		g.ghost = func() bool { return ctx.Err() != nil }
		if strings.HasPrefix(strings.TrimLeft(label, "0123456789"), " vote ") && tr.random == nil {
			g.behind = g.earlierVote
		}
		ctx = context.Background() // it is on its way even if nobody waits for its reply any more
	}
	tr.mu.Lock()
	switch {
	case tr.dead || p.gone:
		tr.mu.Unlock()
		return die
	case tr.auto:
		tr.mu.Unlock()
		return pass
	}
	tr.gates = append(tr.gates, g)
	tr.mu.Unlock()
	tr.notify()
	select {
	case v := <-g.to:
		return v
	case <-ctx.Done():
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.gates = slices.DeleteFunc(tr.gates, func(other *parked) bool { return other == g })
		return die
	}
}

// notFirst reports whether a gate like this one, of the same process, comes before it.
func (g *parked) notFirst(gates []*parked) bool {
	i := slices.IndexFunc(gates, func(other *parked) bool { return other.p == g.p && other.kind == g.kind })
	return i >= 0 && gates[i] != g
}

// open lets a gate go.
func (tr *trial) open(g *parked, v verdict) {
	tr.mu.Lock()
	tr.gates = slices.DeleteFunc(tr.gates, func(other *parked) bool { return other == g })
	tr.mu.Unlock()
	tr.next = ""
	clear(tr.touched)
	tr.touched[g.p] = true
	if g.kind != "request" || v != pass { // which reaches the server, and not the process
		g.p.remember(string(v) + " " + g.label)
	}
	if g.p.holds(g.kind) {
		g.p.held = ""
	}
	if g.do != nil {
		g.do(v)
		return
	}
	g.to <- v
}

// openAll lets everything go from now on; or nothing any more.
func (tr *trial) openAll(dead bool) {
	tr.mu.Lock()
	tr.auto, tr.dead = true, dead
	gates := tr.gates
	tr.gates = nil
	tr.mu.Unlock()
	tr.net.open()
	v := pass
	if dead {
		v = die
	}
	for _, g := range gates {
		if g.do != nil {
			g.do(v)
		} else {
			g.to <- v
		}
	}
}

// remember notes what a process has been told, and when: all that it does follows from that.
func (p *player) remember(what string) {
	p.tr.mu.Lock() // when all gates stand open, votes come at the same time
	defer p.tr.mu.Unlock()
	if p.tr.random == nil {
		p.history = append(p.history, fmt.Sprint(what, " at ", time.Since(p.tr.began)))
	}
	p.tr.touched[p] = true
}

func (tr *trial) sorted() []*parked {
	wire := tr.net.gates() // which may move some
	tr.mu.Lock()
	gates := append(slices.Clone(tr.gates), wire...)
	tr.mu.Unlock()
	slices.SortStableFunc(gates, func(a, b *parked) int { return strings.Compare(a.label, b.label) })
	return gates
}

// steps returns what may happen next without a fault, and the gates of which that is so; if there is no need to try anything
// else first, those of one process only.
func (tr *trial) steps() (all []option, gates []*parked, only *player) {
	gates = tr.sorted()
	if !slices.ContainsFunc(gates, func(g *parked) bool { return g.kind == tr.next }) {
		tr.next = "" // connections have broken
	}
	if p := tr.alone(gates); p != nil {
		gates = slices.DeleteFunc(gates, func(g *parked) bool { return g.p != p || g.kind == "request" })
		return tr.passes(gates), gates, p
	}
	all = tr.passes(gates)
	held := func(g *parked) bool { return g.p.holds(g.kind) }
	if len(gates) > 0 && !slices.ContainsFunc(gates, func(g *parked) bool { return !held(g) }) && tr.next == "" {
		all = append(all, option{what: "time passes", do: tr.wait})
	}
	if len(gates) == 0 && tr.limit > 0 && !tr.finished() { // who waits for a permit may have to, without any fault
		all = append(all, option{what: "time passes", do: tr.wait})
	}
	return all, gates, nil
}

// passes are the options to open a gate.
func (tr *trial) passes(gates []*parked) (all []option) {
	for _, g := range gates {
		if (tr.next == "" || tr.next == g.kind) && (g.behind == nil || !g.behind(gates)) {
			all = append(all, option{what: g.label, gate: g})
		}
	}
	return all
}

// alone returns a process of which the next step makes no difference to whatever else may happen, nor that to it: what
// others do need not be tried before it then (its steps are a persistent set; Godefroid, "Partial-Order Methods for the
// Verification of Concurrent Systems", 1996). That is so if it sends nothing to the server, nobody will wake it, and no
// deletion and no fault of another can reach it any more.
func (tr *trial) alone(gates []*parked) (chosen *player) {
	if tr.limit > 0 || tr.nodes > 0 || tr.random != nil || tr.next != "" || tr.writing > 0 || tr.left > 0 && (tr.has("restart", "") || tr.has("failover", "")) {
		return nil
	}
	for _, p := range tr.players {
		free, waits := 0, p.held != "" || tr.net.wakes(p)
		for _, g := range gates {
			switch {
			case g.p != p || g.ghost != nil && g.ghost():
			case g.kind == "request", g.kind == "refresh": // which looks at the record
				waits = true
			default:
				free++
			}
		}
		if !waits && free > 0 && (chosen == nil || p.plain(gates) < chosen.plain(gates)) {
			chosen = p
		}
	}
	return chosen
}

// end closes everything.
func (tr *trial) end() {
	tr.openAll(true)
	for _, p := range tr.players {
		for _, c := range p.calls {
			c.cancel()
		}
		_ = p.cache.Close()
		if p.cache.core.flights.left() > 0 {
			tr.s.Failf("P9: flights or loads are left")
		}
		if n := len(p.rds.waiters.m); n > 0 {
			tr.s.Failf("P9: %d waiters are left", n)
		}
	}
	tr.net.close()
}

// runTrial plays one schedule of a space in a bubble.
func runTrial(t *testing.T, sp *space, s *explore.Schedule, random *chooser, seen map[string]int) (tr *trial) {
	defer func() {
		if p := recover(); p != nil { // goroutines are left that nobody will wake
			s.Failf("P9: %v", p)
		}
	}()
	lab.Bubble(t, func(t *testing.T) {
		tr = &trial{
			space: sp, can: sp.can(), s: s, random: random, began: time.Now(), net: sp.network(t), left: sp.faults, seen: map[string]int{},
			arrived: make(chan struct{}, 1), origin: perKey{1, 1, 1, 1}, touched: map[*player]bool{},
		}
		tr.setUp()
		tr.play()
		for kind, n := range tr.seen {
			seen[kind] += n
		}
		for _, p := range tr.players {
			s := p.cache.Stats()
			seen["queued"] += int(s.LoadsQueued)
			seen["turned-away"] += int(s.CallsTurnedAway)
			seen["locked"] += int(s.LocksWon)
			seen["lock-busy"] += int(s.LocksBusy)
		}
	})
	return tr
}
