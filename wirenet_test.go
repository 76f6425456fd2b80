package cache

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
	"github.com/bellwether-go/cache/internal/resp"
)

// wireNetwork connects processes with a miniredis, by go-redis and the scripts: what stands at a gate is a message on
// the wire.
type wireNetwork struct {
	tr      *trial
	w       *lab.World
	script  transcript // gives messages their names
	clients []*redis.Client
	tries   map[string]int // attempts to acquire, by process
	ghosts  []*lab.Message // requests that will be executed without their clients
	heard   map[*player]int
	told    []int // versions whose deletion was published
}

func newWireNetwork(t *testing.T) *wireNetwork {
	n := &wireNetwork{w: newWorld(t), tries: map[string]int{}, heard: map[*player]int{}}
	n.script = transcript{began: time.Now(), owners: map[record.Owner]string{}, told: map[*lab.Message]bool{}}
	return n
}

func (n *wireNetwork) start(tr *trial, p *player) {
	n.tr = tr
	client := n.w.Client(p.name, func(o *redis.Options) {
		if !tr.has("repeat", "") {
			o.MaxRetries = -1
		}
	})
	var err error
	if p.rds, err = NewRedis(client, RedisOptions{}); err != nil {
		panic(err)
	}
	n.clients = append(n.clients, client)
	synctest.Wait()
	p.rds.clock.observe(time.Now(), time.Now(), time.Now().UnixMicro())
}

// ready is called when the processes stand.
func (n *wireNetwork) ready() { n.w.Conduct(func(*lab.Message, bool) {}) }

func (n *wireNetwork) player(m *lab.Message) *player {
	i := slices.IndexFunc(n.tr.players, func(p *player) bool { return p.name == m.Process })
	if i < 0 {
		return nil
	}
	return n.tr.players[i]
}

func (n *wireNetwork) gates() (gates []*parked) {
	for { // who has lost the stream asks for the time, at which nothing is to be seen
		i := slices.IndexFunc(n.w.Waiting(), func(m *lab.Message) bool {
			return m.Command() == "TIME" || m.Command() == "SCRIPT" || isHeartbeat(m)
		})
		if i < 0 {
			break
		}
		n.w.Waiting()[i].Deliver()
	}
	for _, m := range n.w.Waiting() {
		p := n.player(m)
		if p == nil {
			continue
		}
		if verbOf(m) == "ACQUIRE" && m.Kind == lab.Request {
			var o record.Owner
			copy(o[:], m.Args[4])
			if n.script.owners[o] == "" {
				n.tries[p.name]++
				n.script.owners[o] = fmt.Sprint(p.name, n.tries[p.name])
			}
		}
		g := &parked{p: p, label: p.name + " " + n.script.text(m)}
		if m.Kind != lab.Push {
			if o := n.owner(m); o != "" {
				g.label += " by " + o
			}
		}
		switch m.Kind {
		case lab.Request:
			g.kind = "request"
			g.ghost = func() bool { return false }
			g.do = func(v verdict) { n.request(p, m, v) }
		case lab.Reply:
			g.kind = "reply"
			g.do = func(v verdict) {
				if v == pass {
					m.Deliver()
				} else {
					m.Lose()
				}
			}
		case lab.Push:
			g.kind = "push"
			g.do = func(v verdict) { n.push(p, m, v) }
		}
		gates = append(gates, g)
	}
	for _, m := range n.ghosts {
		gates = append(gates, &parked{
			p: n.player(m), kind: "request", label: m.Process + " (late) " + n.script.text(m) + " by " + n.owner(m),
			ghost: func() bool { return true },
			do: func(verdict) {
				n.ghosts = slices.DeleteFunc(n.ghosts, func(other *lab.Message) bool { return other == m })
				go m.Copy()
				n.drain("ghost of " + m.Process)
				n.executed(n.player(m), m)
			},
		})
	}
	return gates
}

// owner names the owner in a script's arguments.
func (n *wireNetwork) owner(m *lab.Message) string {
	switch verbOf(m) {
	case "ACQUIRE", "COMMIT", "ABORT", "RENEW":
		return n.script.owner(m.Args[4])
	}
	return ""
}

// drain moves all messages of a process.
func (n *wireNetwork) drain(process string) {
	for {
		synctest.Wait()
		i := slices.IndexFunc(n.w.Waiting(), func(m *lab.Message) bool { return m.Process == process })
		if i < 0 {
			return
		}
		n.w.Waiting()[i].Deliver()
	}
}

func (n *wireNetwork) request(p *player, m *lab.Message, v verdict) {
	if v == late {
		n.ghosts = append(n.ghosts, m)
		m.Lose()
		return
	}
	m.Deliver()
	n.executed(p, m)
}

// executed looks what a command has done.
func (n *wireNetwork) executed(p *player, m *lab.Message) {
	tr := n.tr
	raw := n.raw()
	if slices.Contains(m.Args, otherFull) {
		return
	}
	switch verbOf(m) {
	case "UNLINK":
		tr.unlinked, tr.fence = tr.origin, 0
	case "INVALIDATE":
		tr.unlinked = tr.origin
	case "PUBLISH":
		n.told = append(n.told, tr.unlinked)
	case "COMMIT":
		h, _, err := record.Open(raw)
		if err == nil && n.script.owners[h.ID] == n.script.owner(m.Args[4]) {
			if !n.outdated(raw) {
				tr.serves(p, raw)
			}
			tr.stores(raw)
		}
	case "GETRANGE", "ACQUIRE":
		if !n.outdated(raw) {
			tr.serves(p, raw)
		}
	}
}

// outdated reports whether the barriers make what is stored invalid.
func (n *wireNetwork) outdated(raw []byte) bool {
	h, _, err := record.Open(raw)
	if err != nil || !h.Tagged {
		return false
	}
	values := []any{nil, nil, nil}
	for i, field := range []string{"last", "base", "t" + trialTag} {
		if v := n.w.Redis.HGet("cache:user", field); v != "" {
			values[i] = v
		}
	}
	barrier, _ := latestOf(values)
	return barrier >= h.Stamp
}

func (n *wireNetwork) push(p *player, m *lab.Message, v verdict) {
	if v != pass {
		m.Lose()
		n.heard[p] = len(n.told)
		return
	}
	words, _ := resp.Words(m.Raw)
	payload := words[len(words)-1]
	switch payload[0] {
	case eventful:
		if n.heard[p] < len(n.told) {
			p.told = max(p.told, n.told[n.heard[p]])
			n.heard[p]++
		}
	case wakeCommitted:
		if _, rec, ok := cutText(payload[17:]); ok {
			n.tr.serves(p, []byte(rec))
		}
	}
	m.Deliver()
}

func (n *wireNetwork) raw() []byte { return n.get(trialFull) }

func (n *wireNetwork) get(key string) []byte {
	raw, err := n.w.Redis.Get(key)
	if err != nil {
		return nil
	}
	return []byte(raw)
}

func (n *wireNetwork) state() string {
	text := ""
	for _, key := range []string{trialFull, otherFull} {
		raw := n.get(key)
		text += " " + n.script.record(string(raw))
		if len(raw) == 0 {
			continue
		}
		h, rest, _ := record.Open(raw)
		if h.Tagged {
			text += fmt.Sprint(" stamped ", h.Stamp)
		}
		text += fmt.Sprintf(" %d %d %d %v %q %d %v", h.Fence, h.FreshUntil, h.Lease.Fence, h.Lease.All,
			n.inboxes(string(rest)), h.Lease.Until, n.w.Redis.TTL(key))
	}
	if fields, err := n.w.Redis.HKeys("cache:user"); err == nil {
		for _, f := range fields {
			text += " " + f + " " + n.w.Redis.HGet("cache:user", f)
		}
	}
	return text
}

// inboxes gives processes their names in the list of a stub.
func (n *wireNetwork) inboxes(list string) string {
	for _, p := range n.tr.players {
		list = strings.ReplaceAll(list, p.rds.process, p.name+" ")
	}
	return list
}

func (n *wireNetwork) wakes(p *player) bool {
	for _, key := range []string{trialFull, otherFull} {
		h, rest, err := record.Open(n.get(key))
		if err == nil && (h.Lease.All || h.State == record.Stub && strings.Contains(string(rest), p.rds.process)) {
			return true
		}
	}
	return false
}

func (n *wireNetwork) leased() bool {
	h, _, _ := record.Open(n.raw())
	other, _, _ := record.Open(n.get(otherFull))
	return h.Lease.Owner != (record.Owner{}) || other.Lease.Owner != (record.Owner{})
}

func (n *wireNetwork) faults() []option {
	all := []option{{"restart", "", func() {
		n.w.Redis.FlushAll()
		n.tr.fence = 0
		for _, p := range n.tr.players {
			n.w.Break(p.name)
			n.heard[p] = len(n.told)
		}
	}}}
	if len(n.raw()) > 0 {
		all = append(all, option{"evict", "", func() {
			n.w.Redis.Del(trialFull)
			n.tr.fence = 0
		}})
	}
	if n.w.Redis.Exists("cache:user") {
		all = append(all, option{"barriers", "", func() { n.w.Redis.Del("cache:user") }})
	}
	return all
}

// unsubscribe is not to be had here: connections break with what is on them.
func (n *wireNetwork) unsubscribe(*player) {}

func (n *wireNetwork) crash(p *player) { n.w.CutOff(p.name, false) }

func (n *wireNetwork) open() { n.w.Conduct(nil) }

func (n *wireNetwork) arrived() <-chan struct{} { return n.w.Arrived() }

func (n *wireNetwork) close() {
	for _, p := range n.tr.players {
		_ = p.rds.Close()
	}
	for _, c := range n.clients {
		_ = c.Close()
	}
	n.w.Close()
}
