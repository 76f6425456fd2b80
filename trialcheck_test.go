package cache

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/record"
)

// begins counts a load that begins, or with -1 ends, and looks who else loads: P2.
func (tr *trial) begins(p *player, keys []string, by int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, k := range keys {
		loads, loading := &tr.loads, &p.loading
		if k == otherKey {
			loads, loading = &tr.others, &p.other
		}
		*loads += max(by, 0)
		*loading += by
	}
	if p.loading > loadsPerKey || p.other > loadsPerKey {
		tr.s.Failf("%s runs %d and %d loads", p.name, p.loading, p.other)
	}
	all, others := 0, 0
	for _, p := range tr.players {
		all += p.loading
		others += p.other
	}
	if max(all, others) > 1 && by > 0 && tr.writes == 0 && tr.refreshes == 0 && tr.harmless("slow repeat stream") && !tr.auto {
		tr.s.Failf("P2: %d and %d loads at a time", all, others)
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
		case v < c.weak && (!tr.local || p.served&(1<<v) == 0) && !tr.excused:
			tr.s.Failf("P4: %s gets %d, which was deleted before, and not from memory", c.name, v)
		case v < 1 || v > tr.origin:
			tr.s.Failf("%s gets %d, which was never the origin's", c.name, v)
		}
	case errors.Is(err, context.Canceled) && c.cancelled:
	case errors.Is(err, ErrClosed) && p.closed:
	case errors.Is(err, context.DeadlineExceeded) && tr.seen["pause"]+tr.seen["slow"] > 0: // of the load
	case errors.Is(err, errLoad) && tr.stale && tr.writes == 0 && tr.harmless("error panic cancel close crash"):
		tr.s.Failf("%s gets the loader's error, and there is a stale value", c.name)
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

// gaveUp checks a process all of whose callers have left: with CancelAbandoned its loads must have ended.
func (tr *trial) gaveUp(p *player) {
	for _, c := range p.calls {
		if !c.cancelled || !c.done {
			return
		}
	}
	if tr.abandoned && p.loading+p.other > 0 {
		tr.s.Failf("nobody waits for %s any more, and it loads", p.name)
	}
}

// probe asks once more in the end, with all gates open: no process may be wedged, or be left with an old value.
func (tr *trial) probe() {
	if tr.net.leased() && tr.harmless("fail repeat error panic cancel close stream evict slow") {
		tr.s.Failf("P7: a lease is left: %s", tr.net.state())
	}
	tr.openAll(false)
	synctest.Wait()
	before, most := tr.loads, 1
	if tr.warm && tr.writes == 0 && tr.harmless("fail repeat late slow pause stream crash close cancel error panic") {
		most = 0 // the value has always been there
		if tr.stale {
			most = 1
		}
	}
	var calls sync.WaitGroup
	for _, p := range tr.players {
		if p.gone || p.closed {
			continue
		}
		if p.cache.core.undone.n.Load() > 0 { // it does not believe Redis
			most++
		}
		if p.rds.cutOff() || tr.real && tr.seen["restart"] > 0 { // the client's idle connections are broken
			most++
		}
		calls.Go(func() {
			began := time.Now()
			v, err := p.get(context.Background())
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
	if most := tr.mostLoads(); before > most || tr.others > most+1 {
		tr.s.Failf("P2: %d and %d loads, want at most %d", before, tr.others, most)
	}
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
	if v < tr.unlinked && !tr.excused && !tr.tags { // with tags it may be there, and is not valid
		tr.s.Failf("P4: %d is stored after its deletion", v)
	}
	if h.Fence < tr.fence {
		tr.s.Failf("P5: fence %d replaces %d", h.Fence, tr.fence)
	}
	tr.fence = h.Fence
}
