package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bellwether-go/cache/internal/record"
)

// memNetwork connects processes with a memServer.
type memNetwork struct {
	server  *memServer
	tr      *trial
	serving sync.Mutex // one command at a time
	past    []memEntry // what a replica may have that lags behind, if there are failovers
}

func (n *memNetwork) start(tr *trial, p *player) {
	n.tr = tr
	p.rds = newRedis(nil, RedisOptions{Prefix: "cache", Timeout: 50 * time.Millisecond}, true, true)
	p.rds.process = fmt.Sprintf("%-16s", p.name)
	p.rds.stream.stands()
	p.rds.clock.observe(time.Now(), time.Now(), n.server.now())
	p.rds.store = &memStore{r: p.rds, server: n.server, process: p.name, send: func(ctx context.Context, requests ...*memRequest) error {
		return n.send(ctx, p, requests...)
	}}
	n.server.publish = n.publish
}

// send carries commands to the server and their replies back.
func (n *memNetwork) send(ctx context.Context, p *player, reqs ...*memRequest) error {
	tr := n.tr
	labels := make([]string, len(reqs))
	tr.mu.Lock()
	for i, r := range reqs {
		p.sent[r.text]++ // two of a kind are never sent at the same time, and others in no certain order
		labels[i] = fmt.Sprintf("%d %s", p.sent[r.text], r.text)
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
			case fail, die:
				return errReset
			}
			replies[i] = labels[i] + ": " + n.serve(p, r.text, r.run)
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
		n.serve(p, r.text, r.run)
	}
}

// serve runs a command on the server, and looks what came of it.
func (n *memNetwork) serve(p *player, request string, run func() string) string {
	tr := n.tr
	n.serving.Lock()
	defer n.serving.Unlock()
	reply := run()
	tr.mu.Lock()
	auto := tr.auto
	tr.mu.Unlock()
	if auto {
		tr.s.Note("%s %s: %s", p.name, request, reply)
	}
	if strings.HasSuffix(request, otherFull) {
		return reply
	}
	n.remember()
	raw := n.raw()
	verb, _, _ := strings.Cut(request, " ")
	switch {
	case verb == "unlink":
		tr.unlinked, tr.fence = tr.origin, 0
	case verb == "invalidate":
		tr.unlinked = tr.origin
	case verb == "commit" && reply == "STORED":
		if !n.outdated(raw) {
			tr.serves(p, raw)
		}
		tr.stores(raw)
	case n.outdated(raw):
	case verb == "read", verb == "acquire" && strings.HasPrefix(reply, "HIT"):
		tr.serves(p, raw)
	}
	return reply
}

// outdated reports whether the barriers make what is stored invalid.
func (n *memNetwork) outdated(raw []byte) bool {
	h, _, err := record.Open(raw)
	return err == nil && h.Tagged && n.server.barrier([]string{trialTag}) >= h.Stamp
}

var errReset = errors.New("connection reset")

// remember keeps what is stored, if it may come back.
func (n *memNetwork) remember() {
	e := n.server.entries[trialFull]
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
		known := n.tr.unlinked
		what := "is woken: committed"
		if message[0] == wakeAborted {
			what = "is woken: aborted"
		}
		if message[0] == eventful {
			what = "hears of the deletion"
		}
		n.push(p, what, func() {
			if message[0] == eventful {
				p.told = max(p.told, known)
			} else if _, rec, ok := cutText(message[17:]); ok {
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
	p.pushed++
	g := &parked{p: p, kind: "push", label: fmt.Sprintf("%s <%02d> %s", p.name, p.pushed, what)}
	g.do = func(v verdict) {
		if v == pass {
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
	p.rds.stream.stands()
	p.told = max(p.told, n.tr.unlinked)
}

func (n *memNetwork) raw() []byte { return n.server.get(trialFull) }

func (n *memNetwork) state() string {
	text := ""
	for _, key := range []string{trialFull, otherFull} {
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
	for _, e := range n.past {
		text += " before " + n.server.describe(e.raw)
	}
	return text
}

func (n *memNetwork) wakes(p *player) bool {
	for _, key := range []string{trialFull, otherFull} {
		h, rest, ok := n.server.open(key)
		if ok && (h.Lease.All || h.State == record.Stub && strings.Contains(string(rest), p.rds.process)) {
			return true
		}
	}
	return false
}

func (n *memNetwork) leased() bool {
	h, _, _ := n.server.open(trialFull)
	other, _, _ := n.server.open(otherFull)
	return h.Lease.Owner != (record.Owner{}) || other.Lease.Owner != (record.Owner{})
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
		delete(n.server.entries, otherFull)
		n.server.tags = nil
		n.cutAll()
	}}}
	if len(n.raw()) > 0 {
		all = append(all, option{"evict", "", n.evict})
	}
	if n.server.tags != nil {
		all = append(all, option{"barriers", "", func() { n.server.tags = nil }})
	}
	for i, e := range n.past[:max(0, len(n.past)-1)] {
		all = append(all, option{"failover", fmt.Sprint("to ", i), func() {
			n.past, n.tr.excused, n.tr.fence = nil, true, 0
			n.server.entries[trialFull] = e
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
