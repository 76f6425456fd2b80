package cache

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/anishathalye/porcupine"
)

// history is what was done to the keys of a trial, and when: P4 says that it is linearizable. Each load has read a version of its
// own. At any moment some loads are valid: one is from when it reads the origin, a deletion ends all that there are, and so does
// a Set, which is valid itself. What is read must be valid at some moment between the beginning and the end of the call.
//
// Times are numbers that rise.
type history struct {
	mu    sync.Mutex // guards what follows
	now   int64
	done  []*done
	heard []learned
}

type doneKind byte

const (
	loaded doneKind = iota
	read
	removed
	set
)

// done is something that was done to a key.
type done struct {
	kind    doneKind
	by      string // process
	key     int
	version int // of what was loaded, read or set; what was removed is older
	from    int64
	to      int64 // endless: nobody knows whether it has taken place or will
	lags    bool  // memory follows some time after Redis: what was loaded meanwhile is valid
}

const endless = math.MaxInt64

// learned notes that a process knows that versions older than that were removed.
type learned struct {
	by      string
	key     int
	version int
	at      int64
}

func (d *done) String() string {
	return fmt.Sprintf("%4d %s %s %s %d (until %d)", d.from, d.by, []string{"loads", "reads", "removes", "sets"}[d.kind], trialKeys[d.key], d.version, d.to)
}

// begin returns the time.
func (tr *trial) begin() int64 {
	if !tr.own {
		return 0
	}
	tr.history.mu.Lock()
	defer tr.history.mu.Unlock()
	tr.history.now++
	return tr.history.now
}

// did adds what has begun and may take place from now on.
func (tr *trial) did(kind doneKind, p *player, keys []int, versions perKey) (begun []*done) {
	if !tr.own {
		return nil
	}
	now := tr.begin()
	tr.history.mu.Lock()
	defer tr.history.mu.Unlock()
	for _, k := range keys {
		begun = append(begun, &done{kind: kind, by: p.name, key: k, version: versions[k], from: now, to: endless})
	}
	tr.history.done = append(tr.history.done, begun...)
	return begun
}

// ended notes that all of this has taken place.
func (tr *trial) ended(all []*done) {
	now := tr.begin()
	tr.history.mu.Lock()
	defer tr.history.mu.Unlock()
	for _, d := range all {
		d.to = now
	}
}

// reads adds what a call has returned that began then.
func (tr *trial) reads(p *player, from int64, keys []int, versions perKey) {
	keys = slices.DeleteFunc(slices.Clone(keys), func(k int) bool { return versions[k] == 0 })
	all := tr.did(read, p, keys, versions)
	for _, d := range all {
		d.from = from
	}
	tr.ended(all)
}

// knows notes that the process knows of the removal of older versions.
func (p *player) knows(versions perKey, keys []int) {
	p.told.raise(versions, keys)
	if !p.tr.own {
		return
	}
	now := p.tr.begin()
	p.tr.history.mu.Lock()
	defer p.tr.history.mu.Unlock()
	for _, k := range keys {
		p.tr.history.heard = append(p.tr.history.heard, learned{p.name, k, versions[k], now})
	}
}

// whole returns all of it.
func (h *history) whole() (all []done) {
	for _, d := range h.done {
		all = append(all, *d)
	}
	return all
}

// as returns what a process with a memory has to do with: its own calls, and what the others remove or set from when it has heard
// of that. All others see the server.
func (h *history) as(p *player) (seen []done) {
	for _, d := range h.whole() {
		if d.by != p.name {
			if d.kind == read {
				continue
			}
			if d.kind == set { // it may be read from then on; that it has taken the place of others is heard later
				added := d
				added.kind = loaded
				seen = append(seen, added)
			}
			if d.kind != loaded {
				d.kind = removed
				i := slices.IndexFunc(h.heard, func(e learned) bool {
					return e.by == p.name && e.key == d.key && e.version >= d.version && e.at > d.from
				})
				if d.to = endless; i >= 0 {
					d.to = h.heard[i].at
				}
			}
		}
		d.lags = true
		seen = append(seen, d)
	}
	return seen
}

// registers is the model of one key: of which loads the values are valid, as bits.
var registers = porcupine.Model{
	Partition: func(all []porcupine.Operation) (parts [][]porcupine.Operation) {
		for k := range mostKeys {
			part := slices.DeleteFunc(slices.Clone(all), func(o porcupine.Operation) bool { return o.Input.(done).key != k })
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return uint64(0) },
	Step: func(state, input, _ any) (bool, any) {
		valid, d := state.(uint64), input.(done)
		switch bit := uint64(1) << d.version; d.kind {
		case loaded:
			return true, valid | bit
		case removed:
			if d.lags {
				return true, valid &^ (bit - 1)
			}
			return true, uint64(0)
		case set:
			if d.lags {
				return true, valid&^(bit-1) | bit
			}
			return true, bit
		default:
			return valid&bit != 0, valid
		}
	},
}

func linearizable(all []done) bool {
	var ops []porcupine.Operation
	for _, d := range all {
		ops = append(ops, porcupine.Operation{Input: d, Call: d.from, Return: d.to})
	}
	return porcupine.CheckOperations(registers, ops)
}

// views returns the histories that have to be linearizable: the whole one, or, with memories, that of each process.
func (tr *trial) views() (views [][]done) {
	if !tr.local {
		return [][]done{tr.history.whole()}
	}
	for _, p := range tr.players {
		views = append(views, tr.history.as(p))
	}
	return views
}

// plant returns a history in which a call gets what was removed before it began, if there is something to plant it in.
func plant(all []done) []done {
	for i, r := range all {
		if r.kind != read {
			continue
		}
		for _, d := range all {
			if d.key != r.key || d.kind != removed || d.to >= r.from {
				continue
			}
			for _, old := range all {
				if old.key == r.key && old.kind == loaded && old.to < d.from {
					planted := slices.Clone(all)
					planted[i].version = old.version
					return planted
				}
			}
		}
	}
	return nil
}

func text(all []done) string {
	var lines []string
	slices.SortFunc(all, func(a, b done) int { return int(a.from - b.from) })
	for _, d := range all {
		lines = append(lines, d.String())
	}
	return strings.Join(lines, "\n")
}

// check looks whether the histories are linearizable, with a checker that knows nothing of caches (porcupine, after Wing and Gong,
// "Testing and Verifying Concurrent Objects", 1993, and Lowe, "Testing for Linearizability", 2017); and whether that finds what is
// read after it was removed.
func (tr *trial) check(seen map[string]int) (failure string) {
	for _, view := range tr.views() {
		seen["histories"]++
		if !linearizable(view) {
			return "P4: this is not linearizable:\n" + text(view)
		}
		if stale := plant(view); stale != nil {
			seen["planted"]++
			if linearizable(stale) {
				return "a stale read is not noticed:\n" + text(stale)
			}
		}
	}
	return ""
}
