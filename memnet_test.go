package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/record"
)

// memNetwork connects processes with a memServer.
type memNetwork struct {
	server  *memServer
	tr      *trial
	serving sync.Mutex // one command at a time
	nodes   []*memNode // for locks
	past    []memEntry // what a replica may have that lags behind, if there are failovers
}

func (n *memNetwork) start(tr *trial, p *player) {
	n.tr = tr
	p.rds = newRedis(memClient{p: p, server: n.server}, RedisOptions{Prefix: "cache", Timeout: 50 * time.Millisecond}, true, true)
	p.rds.process = fmt.Sprintf("%-16s", p.name)
	p.rds.stream.stands()
	p.rds.clock.observe(time.Now(), time.Now(), n.server.now())
	p.rds.store = &memStore{r: p.rds, server: n.server, process: p.name, send: func(ctx context.Context, requests ...*memRequest) error {
		return n.send(ctx, p, requests...)
	}}
	n.server.publish = n.publish
	n.locks(p)
}

// memClient answers when it is asked for the time, which who has lost Redis does until it is there again.
type memClient struct {
	Client
	p      *player
	server *memServer
}

func (c memClient) Time(ctx context.Context) *redis.TimeCmd {
	c.p.tr.meet()
	cmd := redis.NewTimeCmd(ctx)
	if cmd.SetVal(time.UnixMicro(c.server.now())); c.p.held == "everything" {
		cmd.SetErr(errReset)
	}
	return cmd
}

// send carries commands to the server and their replies back.
func (n *memNetwork) send(ctx context.Context, p *player, reqs ...*memRequest) error {
	tr := n.tr
	labels := make([]string, len(reqs))
	tr.mu.Lock()
	for i, r := range reqs {
		p.sent[r.text]++ // two of a kind are never sent at the same time, and others in no certain order
		labels[i] = strconv.Itoa(p.sent[r.text]) + " " + r.text
	}
	tr.mu.Unlock()
	for {
		if p.held == "everything" && strings.HasPrefix(reqs[0].text, "renew") {
			return errReset // or requests would pile up
		}
		replies := make([]string, len(reqs))
		for i, r := range reqs {
			label := labels[i]
			if i > 0 { // what is on its way back already
				label += " (" + strings.Join(replies[:i], "; ") + ")"
			}
			switch tr.park(ctx, p, "request", label) {
			case late:
				go n.sendLate(ctx, p, reqs[i:], labels[i:])
				return context.DeadlineExceeded
			case refuse:
				return errOOM
			case fail, die:
				return errReset
			}
			replies[i] = labels[i] + ": " + n.serve(p, r)
		}
		if only := reqs[0].text; only == "unlink" || only == "invalidate" { // its reply comes with that of PUBLISH, in a pipeline
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch tr.park(ctx, p, "reply", strings.Join(replies, "; ")) {
		case pass:
			return nil
		case repeat:
			continue
		}
		return errReset
	}
}

// sendLate carries commands to the server after their sender has got an error.
func (n *memNetwork) sendLate(ctx context.Context, p *player, reqs []*memRequest, labels []string) {
	gone, cancel := context.WithCancel(ctx)
	cancel()
	for i, r := range reqs {
		if n.tr.park(gone, p, "request", labels[i]) != pass {
			return
		}
		n.serve(p, r)
	}
}

// serve runs a command on the server, and looks what came of it.
func (n *memNetwork) serve(p *player, r *memRequest) string {
	tr := n.tr
	n.serving.Lock()
	defer n.serving.Unlock()
	reply := r.run()
	tr.mu.Lock()
	auto := tr.auto
	tr.mu.Unlock()
	if auto {
		tr.s.Note("%s %s: %s", p.name, r.text, reply)
	}
	n.remember()
	verb, _, _ := strings.Cut(r.text, " ")
	switch verb {
	case "unlink":
		tr.unlinks(r.keys)
		for _, k := range r.keys {
			tr.fence[k] = 0
		}
		return reply
	case "invalidate":
		tr.unlinks(r.keys)
		return reply
	}
	k := keyIn(r.text)
	raw := n.raw(k)
	if len(raw) == 0 && tr.random != nil {
		tr.fence[k] = 0
	}
	switch {
	case verb == "commit" && reply == "STORED":
		if !n.outdated(k, raw) {
			tr.serves(p, k, raw)
		}
		tr.stores(k, raw)
	case n.outdated(k, raw):
	case verb == "read", verb == "acquire" && strings.HasPrefix(reply, "HIT"):
		tr.serves(p, k, raw)
	}
	return reply
}

// outdated reports whether the barriers make what is stored invalid.
func (n *memNetwork) outdated(key int, raw []byte) bool {
	h, _, err := record.Open(raw)
	return err == nil && h.Tagged && n.server.barrier([]string{tagOf(key)}) >= h.Stamp
}

// errOOM is an answer, and so not silence.
var errOOM error = oomError{}

type oomError struct{}

func (oomError) Error() string { return "OOM command not allowed when used memory > 'maxmemory'." }
func (oomError) RedisError()   {}

var errReset = errors.New("connection reset")

// remember keeps what is stored, if it may come back.
func (n *memNetwork) remember() {
	e := n.server.entries[trialFull[0]]
	if n.tr.has("failover", "") && !n.tr.excused &&
		(len(n.past) == 0 || !bytes.Equal(n.past[len(n.past)-1].raw, e.raw)) {
		n.past = append(n.past, e)
	}
}

// publish puts a message at the gate of each process that listens.
func (n *memNetwork) publish(channel, message string) {
	for _, p := range n.tr.players {
		if channel != everybody && channel != p.rds.process || p.gone || p.deaf ||
			message[0] == eventful && message[1:17] == p.rds.process {
			continue
		}
		known, about := n.tr.unlinked, n.tr.about(message)
		what := "is woken: committed"
		if message[0] == wakeAborted {
			what = "is woken: aborted"
		}
		if message[0] == eventful {
			what = "hears of the deletion"
		}
		if message[0] == permit {
			what = "has a permit"
		}
		n.push(p, what, true, func() {
			if message[0] == eventful {
				p.knows(known, about)
			} else if key, news, ok := cutText(message[17:]); ok && message[0] != permit {
				_, rec := cutTime(news)
				n.tr.serves(p, keyIn(key), []byte(rec))
			}
			p.rds.stream.handle(message)
		})
	}
}

// push puts something at a gate that passes after all that came before.
func (n *memNetwork) push(p *player, what string, lossy bool, do func()) {
	tr := n.tr
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.auto {
		if !tr.dead {
			do()
		}
		return
	}
	p.pushed++
	g := &parked{p: p, kind: "push", lossy: lossy, label: fmt.Sprintf("%s <%02d> %s", p.name, p.pushed, what)}
	g.do = func(v verdict) {
		switch v {
		case repeat:
			do()
			do()
		case pass:
			do()
		}
	}
	g.behind = g.notFirst
	tr.gates = append(tr.gates, g)
	tr.touched[p] = true
	tr.notify()
}

// unsubscribe ends the subscription of a process: what is under way to it is lost.
func (n *memNetwork) unsubscribe(p *player) {
	n.cut(p)
	p.remember("lost its subscription")
	p.rds.stream.up.Store(false)
	p.rds.deaf()
	n.push(p, "subscribes again", false, func() { n.subscribe(p) })
}

func (n *memNetwork) cut(p *player) {
	n.tr.mu.Lock()
	defer n.tr.mu.Unlock()
	n.tr.gates = slices.DeleteFunc(n.tr.gates, func(g *parked) bool { return g.p == p && g.kind == "push" })
	p.deaf = true
}

func (n *memNetwork) subscribe(p *player) {
	p.deaf = false
	p.rds.stream.stands()
	p.knows(n.tr.unlinked, n.tr.keys())
}

func (n *memNetwork) raw(key int) []byte { return n.server.get(trialFull[key]) }

func (n *memNetwork) state() string {
	text := ""
	for _, key := range trialFull[:len(n.tr.keys())] {
		raw := n.server.get(key)
		text += " " + n.server.describe(raw)
		if len(raw) > 0 {
			h, rest, _ := n.server.open(key)
			text += fmt.Sprintf(" %d %d %d %v %q %v", h.Fence, h.FreshUntil, h.Lease.Fence, h.Lease.All, rest, n.server.ttl(key))
		}
	}
	if n.server.tags != nil {
		text += fmt.Sprint(" barriers ", *n.server.tags)
	}
	for _, of := range n.server.permit {
		text += n.tr.permits(of.taken, of.queue, of.processes)
	}
	for _, node := range n.nodes {
		text += node.describe(n.tr.began, n.server.name)
	}
	for _, e := range n.past {
		text += " before " + n.server.describe(e.raw)
	}
	return text
}

func (n *memNetwork) wakes(p *player) bool {
	for _, key := range trialFull[:len(n.tr.keys())] {
		h, rest, ok := n.server.open(key)
		if ok && (h.Lease.All || h.State == record.Stub && strings.Contains(string(rest), p.rds.process)) {
			return true
		}
	}
	return false
}

func (n *memNetwork) leased() bool {
	for _, key := range trialFull {
		if h, _, _ := n.server.open(key); h.Lease.Owner != (record.Owner{}) {
			return true
		}
	}
	return false
}

// beat has each process say the number of its last message, as it does each second.
func (n *memNetwork) beat() {
	for _, p := range n.tr.players {
		if p.gone || p.closed {
			continue
		}
		if message, _, ok := p.rds.events.beat(); ok {
			n.publish(everybody, message)
			p.rds.events.end()
		}
	}
}

func (n *memNetwork) tick()                    {}
func (n *memNetwork) ready()                   {}
func (n *memNetwork) gates() []*parked         { return nil }
func (n *memNetwork) arrived() <-chan struct{} { return nil }
func (n *memNetwork) open()                    {}
func (n *memNetwork) crash(*player)            {}

// evict removes a record without telling anybody.
func (n *memNetwork) evict(key int) {
	delete(n.server.entries, trialFull[key])
	n.tr.fence[key] = 0
}

func (n *memNetwork) faults() []option {
	flush := func() {
		for k := range trialFull {
			n.evict(k)
		}
		n.server.tags = nil
	}
	all := []option{
		{kind: "flush", do: flush},
		{kind: "restart", do: func() { flush(); n.cutAll() }},
		{kind: "forward", do: func() { n.server.skew += 2 * trialLease }},
		{kind: "back", do: func() { n.server.skew -= 2 * trialLease }},
	}
	for i := range n.nodes {
		all = append(all, option{kind: "node", what: fmt.Sprint(i), do: func() { n.nodes[i] = newMemNode(time.Now()) }})
	}
	for _, k := range n.tr.keys() {
		if len(n.raw(k)) == 0 {
			continue
		}
		key := trialFull[k]
		all = append(all, option{kind: "evict", what: trialKeys[k], do: func() { n.evict(k) }})
		all = append(all, option{kind: "garbage", what: trialKeys[k], do: func() {
			n.evict(k)
			n.server.set(key, []byte(trialGarbage), time.Minute)
		}})
		all = append(all, option{kind: "expire", what: trialKeys[k], do: func() {
			n.server.set(key, n.raw(k), trialLease/4)
			n.tr.fence[k] = 0
		}})
	}
	if n.server.tags != nil {
		all = append(all, option{kind: "barriers", do: func() { n.server.tags = nil }})
	}
	for _, p := range n.tr.players {
		if !p.gone && !p.deaf {
			all = append(all, option{kind: "noise", what: p.name, do: func() { p.rds.stream.handle(trialGarbage) }})
		}
	}
	for i, e := range n.past[:max(0, len(n.past)-1)] {
		all = append(all, option{kind: "failover", what: fmt.Sprint("to ", i), do: func() {
			n.past, n.tr.excused, n.tr.fence = nil, true, [mostKeys]int64{}
			n.server.entries[trialFull[0]] = e
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
		n.push(p, "loses its subscription and has another", false, func() {
			p.rds.stream.up.Store(false)
			p.rds.deaf()
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
