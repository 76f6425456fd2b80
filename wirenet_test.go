package cache

import (
	"fmt"
	"slices"
	"strconv"
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
	parked  map[*lab.Message]*parked
	ghosts  []*lab.Message // requests that will be executed without their clients
	heard   map[*player]int
	told    []perKey // versions whose deletion was published
	skew    time.Duration
}

func newWireNetwork(t *testing.T) *wireNetwork {
	n := &wireNetwork{w: newWorld(t), tries: map[string]int{}, heard: map[*player]int{}, parked: map[*lab.Message]*parked{}}
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
	p.rds.name = ""
	n.clients = append(n.clients, client)
	synctest.Wait()
	p.rds.clock.observe(time.Now(), time.Now(), time.Now().UnixMicro())
}

// ready is called when the processes stand.
func (n *wireNetwork) ready() {
	n.w.Conduct(func(*lab.Message, bool) {})
	n.skew = time.Millisecond // more than there were commands
	n.tick()
}

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
		if g := n.parked[m]; g != nil {
			gates = append(gates, g)
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
				if m.Kind == lab.Request && verbOf(m) == "ABORT" {
					µs, _ := strconv.Atoi(m.Args[8])
					g.label += abortArgs(m.Args[5] != "", time.Duration(µs)*time.Microsecond)
				}
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
			g.kind, g.lossy = "push", true
			g.do = func(v verdict) { n.push(p, m, v) }
		}
		n.parked[m] = g
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
	switch v {
	case late:
		n.ghosts = append(n.ghosts, m)
		m.Lose()
		return
	case fail:
		m.Lose()
		return
	case refuse:
		n.w.Redis.SetError("OOM command not allowed when used memory > 'maxmemory'.")
		m.Deliver()
		n.w.Redis.SetError("")
		return
	}
	n.tick()
	m.Deliver()
	n.executed(p, m)
}

// tick moves the server's clock, as it has moved when the next command is executed. Where all schedules are played it
// stands still, or there would be more states.
func (n *wireNetwork) tick() {
	if n.tr.random != nil {
		n.skew += time.Microsecond
		n.w.Redis.SetTime(time.Now().Add(n.skew))
	}
}

// executed looks what a command has done.
func (n *wireNetwork) executed(p *player, m *lab.Message) {
	tr := n.tr
	verb := verbOf(m)
	switch verb {
	case "UNLINK":
		for _, full := range m.Args[1:] {
			k := keyIn(full)
			tr.unlinks([]int{k})
			tr.fence[k] = 0
		}
		return
	case "INVALIDATE":
		tags := m.Args[6:] // none: everything
		tr.unlinks(slices.DeleteFunc(slices.Clone(tr.keys()), func(k int) bool { return len(tags) > 0 && !slices.Contains(tags, tagOf(k)) }))
		return
	case "PUBLISH":
		n.told = append(n.told, tr.unlinked)
		return
	}
	k := slices.IndexFunc(trialFull[:], func(full string) bool { return slices.Contains(m.Args, full) })
	if k < 0 {
		return
	}
	raw := n.raw(k)
	if len(raw) == 0 && tr.random != nil {
		tr.fence[k] = 0
	}
	switch verb {
	case "COMMIT":
		h, _, err := record.Open(raw)
		if err == nil && n.script.owners[h.ID] == n.script.owner(m.Args[4]) {
			if !n.outdated(k, raw) {
				tr.serves(p, k, raw)
			}
			tr.stores(k, raw)
		}
	case "GETRANGE", "ACQUIRE":
		if !n.outdated(k, raw) {
			tr.serves(p, k, raw)
		}
	}
}

// outdated reports whether the barriers make what is stored invalid.
func (n *wireNetwork) outdated(key int, raw []byte) bool {
	h, _, err := record.Open(raw)
	if err != nil || !h.Tagged {
		return false
	}
	values := []any{nil, nil, nil}
	for i, field := range []string{"last", "base", "t" + tagOf(key)} {
		if v := n.w.Redis.HGet("cache:user", field); v != "" {
			values[i] = v
		}
	}
	barrier, _ := latestOf(values)
	return barrier >= h.Stamp
}

func (n *wireNetwork) push(p *player, m *lab.Message, v verdict) {
	if v == fail {
		m.Lose()
		n.heard[p] = len(n.told)
		return
	}
	words, _ := resp.Words(m.Raw)
	payload := words[len(words)-1]
	switch payload[0] {
	case eventful:
		if n.heard[p] < len(n.told) {
			if v != lose && payload[1:17] != p.rds.process { // it knows what it has deleted once that is confirmed
				p.knows(n.told[n.heard[p]], n.tr.about(payload))
			}
			n.heard[p]++
		}
	case wakeCommitted:
		if key, news, ok := cutText(payload[17:]); ok && v != lose {
			_, rec := cutTime(news)
			n.tr.serves(p, keyIn(key), []byte(rec))
		}
	}
	switch v {
	case lose:
		m.Drop()
	case repeat:
		m.Twice()
	default:
		m.Deliver()
	}
}

func (n *wireNetwork) raw(key int) []byte {
	raw, err := n.w.Redis.Get(trialFull[key])
	if err != nil {
		return nil
	}
	return []byte(raw)
}

func (n *wireNetwork) state() string {
	text := ""
	for _, k := range n.tr.keys() {
		raw := n.raw(k)
		text += " " + n.script.record(string(raw))
		if len(raw) == 0 {
			continue
		}
		h, rest, _ := record.Open(raw)
		if h.Tagged {
			text += fmt.Sprint(" stamped ", h.Stamp)
		}
		text += fmt.Sprintf(" %d %d %d %v %q %d %v", h.Fence, h.FreshUntil, h.Lease.Fence, h.Lease.All,
			n.inboxes(string(rest)), h.Lease.Until, n.w.Redis.TTL(trialFull[k]))
	}
	if fields, err := n.w.Redis.HKeys("cache:user"); err == nil {
		for _, f := range fields {
			text += " " + f + " " + n.w.Redis.HGet("cache:user", f)
		}
	}
	for _, what := range []string{"permits", "queue", "processes"} {
		scores, _ := n.w.Redis.SortedSet("{cache:user:}:" + what)
		whole := make(map[string]int64, len(scores))
		for id, score := range scores {
			whole[id] = int64(score)
		}
		if len(whole) > 0 {
			text += n.tr.permits(whole)
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
	for _, k := range n.tr.keys() {
		h, rest, err := record.Open(n.raw(k))
		if err == nil && (h.Lease.All || h.State == record.Stub && strings.Contains(string(rest), p.rds.process)) {
			return true
		}
	}
	return false
}

func (n *wireNetwork) leased() bool {
	for _, k := range n.tr.keys() {
		if h, _, _ := record.Open(n.raw(k)); h.Lease.Owner != (record.Owner{}) {
			return true
		}
	}
	return false
}

func (n *wireNetwork) faults() []option {
	flush := func() {
		n.w.Redis.FlushAll()
		n.tr.fence = [mostKeys]int64{}
	}
	all := []option{
		{kind: "flush", do: flush},
		{kind: "forward", do: func() { n.skew += 2 * trialLease }},
		{kind: "back", do: func() { n.skew -= 2 * trialLease }},
		{kind: "restart", do: func() {
			flush()
			for _, p := range n.tr.players {
				n.w.Break(p.name)
				n.heard[p] = len(n.told)
			}
		}},
	}
	for _, k := range n.tr.keys() {
		if len(n.raw(k)) == 0 {
			continue
		}
		key := trialFull[k]
		evict := func() {
			n.w.Redis.Del(key)
			n.tr.fence[k] = 0
		}
		all = append(all, option{kind: "evict", what: trialKeys[k], do: evict})
		all = append(all, option{kind: "garbage", what: trialKeys[k], do: func() {
			evict()
			_ = n.w.Redis.Set(key, trialGarbage)
			n.w.Redis.SetTTL(key, time.Minute)
		}})
		all = append(all, option{kind: "expire", what: trialKeys[k], do: func() {
			n.w.Redis.SetTTL(key, trialLease/4)
			n.tr.fence[k] = 0
		}})
	}
	if n.w.Redis.Exists("cache:user") {
		all = append(all, option{kind: "barriers", do: func() { n.w.Redis.Del("cache:user") }})
	}
	return all
}

// unsubscribe is not to be had here: connections break with what is on them.
func (n *wireNetwork) unsubscribe(*player) {}

func (n *wireNetwork) crash(p *player) { n.w.CutOff(p.name, false) }

func (n *wireNetwork) beat() {} // it does, each second

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
