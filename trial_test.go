package cache

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/explore"
	"github.com/bellwether-go/cache/internal/record"
)

// trial is one play of a space: processes with their calls, a server, an origin, and everything that waits at a gate to
// be let go. All goroutines of the trial are in one bubble, and between two choices nothing moves.
type trial struct {
	*space
	s       *explore.Schedule
	began   time.Time
	net     network
	players []*player
	left    int // faults that may still happen
	seen    map[string]int
	namings []string         // of processes that are alike
	touched map[*player]bool // to whom something has happened
	next    string           // the kind of gate that goes next

	mu      sync.Mutex
	gates   []*parked // guarded by mu
	auto    bool      // gates stand open; guarded by mu
	dead    bool      // nothing passes any more; guarded by mu
	arrived chan struct{}
	serving sync.Mutex // one command at a time

	// What the checks need to know.
	origin   int // the version of the value
	unlinked int // the newest version whose deletion has been executed
	acked    int // ... has been confirmed
	writing  int // writers that are not done
	loads    int
	fence    int64 // of what is stored
	excused  bool  // a failover has brought old values back
}

// network is the way between processes and server, and the server.
type network interface {
	start(tr *trial, p *player) // makes p.rds
	ready()                     // all processes stand: from now on nothing moves by itself
	gates() []*parked           // messages that are not among those of the trial
	arrived() <-chan struct{}   // there are more
	raw() []byte                // the record
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
	do     func(verdict) // instead of to
	ghost  func() bool   // a request for whose reply nobody waits
	behind func() bool   // something has to go first
}

type verdict string

const (
	pass   verdict = "pass"
	fail   verdict = "fail"   // an error comes back
	repeat verdict = "repeat" // the reply is lost, and the client sends the command again
	late   verdict = "late"   // an error comes back, and the command is executed later
	die    verdict = "die"
)

// option is what may happen next.
type option struct {
	kind string // of a fault
	what string
	do   func()
}

func (o option) String() string { return strings.TrimLeft(strings.ToUpper(o.kind)+" "+o.what, " ") }

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
	loading int    // loads under way; guarded by tr.mu
	busy    bool   // it writes or refreshes
	deaf    bool   // its subscription is broken, and it does not know yet
	held    string // which kinds of gates may stay shut while time passes
	told    int    // the newest version of whose deletion it knows
	served  uint64 // bits: versions that the server has let it have
	sent    int    // commands; guarded by tr.mu
}

type digest struct {
	sum    uint64
	events int // that are in it
}

// trialCall is a call of GetOrLoad.
type trialCall struct {
	p            *player
	name         string
	cancel       context.CancelFunc
	began        time.Time
	started      bool
	done         bool
	cancelled    bool
	strict, weak int // versions older than that must not be returned
}

const (
	trialKey      = "k"
	trialFull     = fullKey
	trialLease    = 2 * time.Second
	trialTimeout  = 3 * time.Second // of a load
	trialPatience = time.Minute
)

// play plays a schedule to its end.
func (tr *trial) play() {
	defer tr.end()
	for {
		synctest.Wait()
		options := tr.options()
		if tr.s.Failed() {
			return
		}
		if len(options) == 0 {
			if tr.finished() {
				tr.probe()
				return
			}
			tr.idle()
			continue
		}
		i := tr.s.Choose(len(options), tr.state, func(i int) string { return options[i].String() })
		if i < 0 {
			return
		}
		options[i].do()
	}
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

func (tr *trial) notify() {
	select {
	case tr.arrived <- struct{}{}:
	default:
	}
}

// park waits at a gate, or until ctx ends.
func (tr *trial) park(ctx context.Context, p *player, kind, label string) verdict {
	g := &parked{p: p, kind: kind, label: p.name + " " + label, to: make(chan verdict, 1)}
	if kind == "request" {
		g.ghost = func() bool { return ctx.Err() != nil }
		ctx = context.Background() // it is on its way even if nobody waits for its reply any more
	}
	tr.mu.Lock()
	switch {
	case tr.dead || p.gone && kind != "request" && kind != "reply":
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
	p.history = append(p.history, fmt.Sprint(what, " at ", time.Since(p.tr.began)))
	p.tr.touched[p] = true
}

// state identifies all that the rest of the trial depends on. Processes that are alike may change their names: of all the
// states that differ only by that, the least identifies them.
func (tr *trial) state() uint64 {
	var gates []string
	for _, g := range tr.sorted() {
		gates = append(gates, g.label)
	}
	common := fmt.Sprint(time.Since(tr.began), tr.left, tr.origin, tr.unlinked, tr.acked, tr.fence, tr.excused, tr.loads, tr.next)
	server := tr.net.state()
	least := ^uint64(0)
	renamed := make([]string, len(gates))
	for i, names := range tr.namings {
		h := fnv.New64a()
		_, _ = io.WriteString(h, common+rename(server, names))
		for j, label := range gates {
			renamed[j] = rename(label, names)
		}
		slices.Sort(renamed)
		for _, label := range renamed {
			_, _ = io.WriteString(h, "|"+label)
		}
		for _, j := range tr.order(names) {
			p := tr.players[j]
			if p.finished() {
				_, _ = fmt.Fprint(h, "|", p.remains())
				continue
			}
			_, _ = fmt.Fprint(h, "|", p.digest(i), p.gone, p.closed, p.held, p.deaf, p.told, p.served)
		}
		least = min(least, h.Sum64())
	}
	return least
}

// plain is a digest without anybody's name.
func (p *player) plain() uint64 {
	if !p.finished() {
		return p.digest(len(p.tr.namings))
	}
	h := fnv.New64a()
	_, _ = io.WriteString(h, p.remains())
	return h.Sum64()
}

// finished reports whether nothing but messages will reach the process any more: what it went through makes no
// difference then.
func (p *player) finished() bool {
	for _, c := range p.calls {
		if !c.done {
			return false
		}
	}
	p.tr.mu.Lock()
	defer p.tr.mu.Unlock()
	return !p.busy && !slices.ContainsFunc(p.tr.gates, func(g *parked) bool {
		return g.p == p && g.kind != "push" && (g.ghost == nil || !g.ghost())
	})
}

// remains is all that a finished process has left.
func (p *player) remains() string {
	if p.gone {
		return "gone"
	}
	memory := ""
	if e, ok := p.cache.core.local.get(trialKey); ok {
		memory = fmt.Sprint(e.value, e.until)
	}
	return fmt.Sprint(p.closed, p.deaf, p.sent, p.rds.cutOff(), memory)
}

// digest is the hash of what the process has been told, by the i-th naming.
func (p *player) digest(i int) uint64 {
	names := "OOOOOOOO"[:p.index] + "S" + "OOOOOOOO"[p.index+1:] // the last one: I and the others
	if i < len(p.tr.namings) {
		names = p.tr.namings[i]
	}
	d := &p.digests[i]
	for ; d.events < len(p.history); d.events++ {
		h := fnv.New64a()
		_, _ = fmt.Fprint(h, d.sum, rename(p.history[d.events], names))
		d.sum = h.Sum64()
	}
	return d.sum
}

// order returns the indices of the players in the order of their new names.
func (tr *trial) order(names string) []int {
	order := make([]int, len(tr.players))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return strings.Compare(rename(tr.players[a].name, names), rename(tr.players[b].name, names))
	})
	return order
}

// namings returns the ways to name processes 0 to n-1 of which those from first on are alike: the i-th letter is the name
// that process i gets.
func namings(first, n int) []string {
	all := []string{"ABCDEFGH"[:first]}
	for range n - first {
		var longer []string
		for _, names := range all {
			for _, c := range "ABCDEFGH"[first:n] {
				if !strings.ContainsRune(names, c) {
					longer = append(longer, names+string(c))
				}
			}
		}
		all = longer
	}
	return all
}

// rename gives processes other names in a text: capital letters that stand alone, as in A and A1, and small ones before a
// digit, as in a1.
func rename(text, names string) string {
	letter := func(i int) bool {
		return i >= 0 && i < len(text) && (text[i]|0x20 >= 'a' && text[i]|0x20 <= 'z')
	}
	var b []byte
	for i := range len(text) {
		c := text[i]
		at := int(c|0x20) - 'a'
		if at < 0 || at >= len(names) || letter(i-1) || letter(i+1) ||
			c >= 'a' && (i+1 == len(text) || text[i+1] < '0' || text[i+1] > '9') {
			continue
		}
		if b == nil {
			b = []byte(text)
		}
		b[i] = names[at] | c&0x20
	}
	if b == nil {
		return text
	}
	return string(b)
}

func (tr *trial) sorted() []*parked {
	tr.mu.Lock()
	gates := append(slices.Clone(tr.gates), tr.net.gates()...)
	tr.mu.Unlock()
	slices.SortStableFunc(gates, func(a, b *parked) int { return strings.Compare(a.label, b.label) })
	return gates
}

// options returns what may happen next: first what needs no fault.
func (tr *trial) options() (all []option) {
	gates := tr.sorted()
	if !slices.ContainsFunc(gates, func(g *parked) bool { return g.kind == tr.next }) {
		tr.next = "" // connections have broken
	}
	if p := tr.alone(gates); p != nil {
		gates = slices.DeleteFunc(gates, func(g *parked) bool { return g.p != p || g.kind == "request" })
		return append(tr.passes(gates), tr.faultOptions(gates, p)...)
	}
	all = tr.passes(gates)
	held := func(g *parked) bool { return g.p.holds(g.kind) }
	if len(gates) > 0 && !slices.ContainsFunc(gates, func(g *parked) bool { return !held(g) }) && tr.next == "" {
		all = append(all, option{"", "time passes", tr.wait})
	}
	if len(all) == 0 && tr.finished() {
		return nil
	}
	if tr.next != "" {
		return all
	}
	return append(all, tr.faultOptions(gates, nil)...)
}

// passes are the options to open a gate.
func (tr *trial) passes(gates []*parked) (all []option) {
	for _, g := range gates {
		if (tr.next == "" || tr.next == g.kind) && (g.behind == nil || !g.behind()) {
			all = append(all, option{"", g.label, func() { tr.open(g, pass) }})
		}
	}
	return all
}

// alone returns a process of which the next step makes no difference to whatever else may happen, nor that to it: what
// others do need not be tried before it then (its steps are a persistent set; Godefroid, "Partial-Order Methods for the
// Verification of Concurrent Systems", 1996). That is so if it sends nothing to the server, nobody will wake it, and no
// deletion and no fault of another can reach it any more.
func (tr *trial) alone(gates []*parked) (chosen *player) {
	if tr.next != "" || tr.writing > 0 || tr.left > 0 && (tr.has("restart") || tr.has("failover")) {
		return nil
	}
	for _, p := range tr.players {
		free, waits := 0, p.held != "" || tr.net.wakes(p)
		for _, g := range gates {
			switch {
			case g.p != p || g.ghost != nil && g.ghost():
			case g.kind == "request":
				waits = true
			default:
				free++
			}
		}
		if !waits && free > 0 && (chosen == nil || p.plain() < chosen.plain()) {
			chosen = p
		}
	}
	return chosen
}

// call starts the n-th call of p once its gate lets it.
func (p *player) call(n int) {
	tr := p.tr
	ctx, cancel := context.WithCancel(context.Background())
	c := &trialCall{p: p, name: fmt.Sprintf("%s%d", strings.ToLower(p.name), n), cancel: cancel}
	p.calls = append(p.calls, c)
	go func() {
		defer cancel()
		if tr.park(context.Background(), p, "call", "calls "+c.name) != pass {
			c.done = true
			return
		}
		c.strict, c.weak, c.began, c.started = p.told, tr.acked, time.Now(), true
		p.remember(fmt.Sprintf("must not have less than %d, %d", c.strict, c.weak)) // the check depends on it
		v, err := p.cache.GetOrLoad(ctx, trialKey, p.load)
		c.done = true
		tr.returned(c, v, err)
		tr.notify()
	}()
}

var errLoad = errors.New("the origin is down")

// load is the loader of a process: it reads the origin when it is let to begin, and returns when it is let to end.
func (p *player) load(ctx context.Context, _ string) (int, error) {
	tr := p.tr
	if tr.park(ctx, p, "load", "begins to load") != pass {
		return 0, cmpErr(ctx)
	}
	tr.begins(p)
	defer func() {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		p.loading--
	}()
	v := tr.origin
	switch tr.park(ctx, p, "loaded", fmt.Sprintf("has loaded %d", v)) {
	case pass:
		return v, nil
	case fail:
		return 0, errLoad
	case "panic":
		panic("the loader panics")
	}
	return 0, cmpErr(ctx)
}

// begins counts a load, and looks who else loads: P2.
func (tr *trial) begins(p *player) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.loads++
	p.loading++
	if p.loading > loadsPerKey {
		tr.s.Failf("%s runs %d loads", p.name, p.loading)
	}
	all := 0
	for _, p := range tr.players {
		all += p.loading
	}
	if all > 1 && tr.writes == 0 && tr.refreshes == 0 && tr.harmless("slow repeat stream") && !tr.auto {
		tr.s.Failf("P2: %d loads at a time", all)
	}
}

// harmless reports whether no other faults have happened.
func (tr *trial) harmless(kinds string) bool {
	for kind := range tr.seen {
		if !slices.Contains(strings.Fields(kinds), kind) {
			return false
		}
	}
	return true
}

func cmpErr(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return errLoad
}

// returned checks what a call got: P3 and P4.
func (tr *trial) returned(c *trialCall, v int, err error) {
	p := c.p
	tr.mu.Lock()
	over := tr.dead
	tr.mu.Unlock()
	if over || p.gone {
		return
	}
	tr.s.Note("%s gets %d, %v", c.name, v, err)
	var panicked *PanicError
	switch {
	case err == nil:
		switch {
		case v < c.strict && !tr.excused:
			tr.s.Failf("P4: %s gets %d, and %s knew before that it was deleted", c.name, v, p.name)
		case v < c.weak && p.served&(1<<v) == 0 && !tr.excused:
			tr.s.Failf("P4: %s gets %d, which was deleted before and did not come from memory or Redis", c.name, v)
		case v < 1 || v > tr.origin:
			tr.s.Failf("%s gets %d, which was never the origin's", c.name, v)
		}
	case errors.Is(err, context.Canceled) && c.cancelled:
	case errors.Is(err, ErrClosed) && p.closed:
	case errors.Is(err, context.DeadlineExceeded) && tr.seen["pause"]+tr.seen["slow"] > 0: // of the load
	case errors.Is(err, errLoad) && tr.seen["error"] > 0:
	case errors.As(err, &panicked) && tr.seen["panic"] > 0:
	default:
		tr.s.Failf("P3: %s gets an error: %v", c.name, err)
	}
	took := time.Since(c.began)
	switch {
	case took > 0 && tr.harmless("fail repeat error panic cancel close") && tr.faults-tr.left < 2: // who waits is told at once
		tr.s.Failf("P8: %s took %v, and nothing was in its way", c.name, took)
	case took > time.Duration(tr.faults+1)*trialLease && tr.seen["slow"]+tr.seen["pause"] == 0:
		tr.s.Failf("P8: %s took %v", c.name, took)
	case took > trialPatience/2:
		tr.s.Failf("P8: %s took %v", c.name, took)
	}
}

// write changes the origin and deletes the key through p, each time its gate lets it.
func (p *player) write(times int) {
	tr := p.tr
	tr.writing++
	p.busy = true
	go func() {
		defer func() { tr.writing--; p.busy = false }()
		for range times {
			if tr.park(context.Background(), p, "write", "writes") != pass {
				return
			}
			tr.origin++
			version := tr.origin
			if err := p.cache.Delete(context.Background(), trialKey); err == nil && !p.gone {
				tr.s.Note("%s's deletion is confirmed", p.name)
				tr.acked, p.told = max(tr.acked, version), max(p.told, version)
				p.remember("deleted")
			}
		}
	}()
}

// refresh loads under a lease that is taken while the value is there.
func (p *player) refresh() {
	tr := p.tr
	p.busy = true
	go func() {
		defer func() { p.busy = false }()
		if tr.park(context.Background(), p, "call", "refreshes") != pass {
			return
		}
		h, _, err := record.Open(tr.net.raw())
		if err != nil || h.State == record.Stub {
			return
		}
		f := &flight{key: trialKey, full: trialFull, ctx: context.Background()}
		f.load = func(ctx context.Context, key string) (any, error) { return p.load(ctx, key) }
		_ = refreshNow(p.cache.core, f, h.ID)
	}()
}

// gaveUp checks a process all of whose callers have left: with CancelAbandoned its loads must have ended.
func (tr *trial) gaveUp(p *player) {
	for _, c := range p.calls {
		if !c.cancelled || !c.done {
			return
		}
	}
	if tr.abandoned && p.loading > 0 {
		tr.s.Failf("nobody waits for %s any more, and it loads", p.name)
	}
}

// probe asks once more in the end, with all gates open: no process may be wedged, or be left with an old value.
func (tr *trial) probe() {
	if tr.harmless("fail repeat error panic cancel close stream evict slow") && strings.Contains(tr.net.state(), "lease of") {
		tr.s.Failf("P7: a lease is left: %s", tr.net.state())
	}
	tr.openAll(false)
	synctest.Wait()
	before, most := tr.loads, 1
	var calls sync.WaitGroup
	for _, p := range tr.players {
		if p.gone || p.closed {
			continue
		}
		if p.rds.cutOff() || tr.real && tr.seen["restart"] > 0 { // the client's idle connections are broken
			most++
		}
		calls.Go(func() {
			began := time.Now()
			v, err := p.cache.GetOrLoad(context.Background(), trialKey, p.load)
			took := time.Since(began)
			switch {
			case err != nil:
				tr.s.Failf("in the end %s gets an error: %v", p.name, err)
			case v < tr.acked && !tr.excused:
				tr.s.Failf("P4: in the end %s gets %d, and the newest is %d", p.name, v, tr.origin)
			case took > trialLease+time.Second:
				tr.s.Failf("P8: in the end %s waits for %v", p.name, took)
			}
		})
	}
	calls.Wait()
	if tr.loads > before+most {
		tr.s.Failf("P2: in the end there are %d loads", tr.loads-before)
	}
	if most := tr.mostLoads(); before > most {
		tr.s.Failf("P2: %d loads, want at most %d", before, most)
	}
}

// end closes everything.
func (tr *trial) end() {
	tr.openAll(true)
	for _, p := range tr.players {
		for _, c := range p.calls {
			c.cancel()
		}
		_ = p.cache.Close()
		if n := len(p.cache.core.flights.all) + len(p.cache.core.flights.loading); n > 0 {
			tr.s.Failf("P9: %d flights or loads are left", n)
		}
		if n := len(p.rds.waiters.m); n > 0 {
			tr.s.Failf("P9: %d waiters are left", n)
		}
	}
	tr.net.close()
}

// serves notes that the server has let p have a value.
func (tr *trial) serves(p *player, raw []byte) {
	if v, ok := version(raw); ok {
		p.served |= 1 << v
	}
}

// version returns the version in a record.
func version(raw []byte) (int, bool) {
	h, payload, err := record.Open(raw)
	if err != nil || h.State != record.Value {
		return 0, false
	}
	return int(payload[len(payload)-1]), true // of MessagePack's big-endian numbers the last byte
}

// stores checks what has just been written under the key: P4 and P5.
func (tr *trial) stores(raw []byte) {
	v, ok := version(raw)
	if !ok {
		return
	}
	h, _, _ := record.Open(raw)
	if v < tr.unlinked && !tr.excused {
		tr.s.Failf("P4: %d is stored after its deletion", v)
	}
	if h.Fence < tr.fence {
		tr.s.Failf("P5: fence %d replaces %d", h.Fence, tr.fence)
	}
	tr.fence = h.Fence
}

// runTrial plays one schedule of a space in a bubble.
func runTrial(t *testing.T, sp *space, s *explore.Schedule, seen map[string]int) {
	synctest.Test(t, func(t *testing.T) {
		tr := &trial{
			space: sp, s: s, began: time.Now(), net: sp.network(t), left: sp.faults, seen: map[string]int{},
			arrived: make(chan struct{}, 1), origin: 1, touched: map[*player]bool{},
		}
		tr.setUp()
		tr.play()
		for kind, n := range tr.seen {
			seen[kind] += n
		}
	})
}
