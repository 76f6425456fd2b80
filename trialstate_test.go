package cache

import (
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strings"
	"time"
)

// state identifies all that the rest of the trial depends on. Processes that are alike may change their names: of all the
// states that differ only by that, the least identifies them.
func (tr *trial) state() uint64 {
	var gates []string
	for _, g := range tr.sorted() {
		gates = append(gates, g.label)
	}
	common := fmt.Sprint(time.Since(tr.began), tr.left, tr.excused, tr.next)
	for _, k := range tr.keys() {
		common += fmt.Sprint("|", tr.origin[k], tr.unlinked[k], tr.acked[k], tr.fence[k], tr.loads[k])
	}
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
			if tr.left > 0 {
				_, _ = fmt.Fprint(h, "|", tr.touched[p]) // which decides what can go wrong next
			}
			if p.finished() {
				_, _ = fmt.Fprint(h, "|", p.remains())
				continue
			}
			_, _ = fmt.Fprint(h, "|", p.digest(i), p.gone, p.closed, p.held, p.deaf)
			for _, k := range tr.keys() {
				_, _ = fmt.Fprint(h, "|", p.told[k], p.served[k])
			}
		}
		least = min(least, h.Sum64())
	}
	return least
}

// plain is a digest of a process and of its gates, without anybody's name.
func (p *player) plain(gates []*parked) uint64 {
	h := fnv.New64a()
	if p.finished() {
		_, _ = io.WriteString(h, p.remains())
	} else {
		_, _ = fmt.Fprint(h, p.digest(len(p.tr.namings)))
	}
	for _, g := range gates {
		if g.p == p {
			_, _ = io.WriteString(h, "|"+rename(g.label, p.anonymous()))
		}
	}
	return h.Sum64()
}

// anonymous is the last naming: this process, and the others.
func (p *player) anonymous() string { return "OOOOOOOO"[:p.index] + "S" + "OOOOOOOO"[p.index+1:] }

// finished reports whether nothing but messages will reach the process any more, or it is gone: what it went through makes
// no difference then.
func (p *player) finished() bool {
	if p.gone {
		return true
	}
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
	for _, k := range p.tr.keys() {
		key := trialKeys[k]
		if e, value := p.cache.core.local.find(key); e.localEntry != nil {
			memory += fmt.Sprint(" and ", value, e.until, e.is(stale))
		}
		if err, failed := p.cache.core.failures.last(key); failed {
			memory += fmt.Sprint(err, " until ", p.cache.core.failures.m[key].until)
		}
	}
	sent := 0
	for _, n := range p.sent {
		sent += n
	}
	return fmt.Sprint(p.closed, p.deaf, sent, p.pushed, p.cache.core.undone.n.Load(), p.rds.cutOff(), memory)
}

// digest is the hash of what the process has been told, by the i-th naming.
func (p *player) digest(i int) uint64 {
	names := p.anonymous()
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

// namings returns the ways to name n processes so that each gets the name of one that does the same: the i-th letter is
// the name that process i gets.
func namings(n int, does func(i int) string) []string {
	all := []string{""}
	for i := range n {
		var longer []string
		for _, names := range all {
			for j, c := range "ABCDEFGH"[:n] {
				if does(i) == does(j) && !strings.ContainsRune(names, c) {
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
