package cache

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/record"
)

// begins counts a load that begins, or with -1 ends, and looks who else loads: P2.
func (tr *trial) begins(p *player, keys []int, by int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.crowded()
	for _, k := range keys {
		tr.loads[k] += max(by, 0)
		p.loading[k] += by
		if p.loading[k] > loadsPerKey {
			tr.s.Failf("%s runs %d loads of %s", p.name, p.loading[k], trialKeys[k])
		}
		all := 0
		for _, p := range tr.players {
			all += p.loading[k]
		}
		if all > 1 && by > 0 && tr.nodes > 0 {
			tr.locked(k)
		}
		if all > 1 && by > 0 && tr.writes == 0 && tr.refreshes == 0 && tr.harmless("slow repeat stream") && !tr.auto {
			tr.s.Failf("P2: %d loads of %s at a time", all, trialKeys[k])
		}
	}
}

// locked looks how many of the loads of a key have the lock on it. Of the nodes, one that is silent or forgets keeps nobody from it.
func (tr *trial) locked(key int) {
	n := 0
	for _, p := range tr.players {
		if p.loading[key] == 0 {
			continue
		}
		fs := p.cache.core.flights
		fs.mu.Lock()
		all := slices.Collect(maps.Keys(fs.all))
		for b := range fs.batches {
			all = append(all, b.flights...)
		}
		fs.mu.Unlock()
		for _, f := range all {
			if f.key != trialKeys[key] || f.over.Load() || f.lock == nil {
				continue
			}
			f.lock.mu.Lock()
			if time.Now().Before(f.lock.until) && !f.lock.over {
				n++
			}
			f.lock.mu.Unlock()
		}
		if away := tr.seen["lost"] + tr.seen["late"] + tr.seen["refuse"] + tr.seen["node"]; tr.random == nil && away < 2 && p.cache.Stats().LocksUnavailable > 0 {
			tr.s.Failf("%s finds no majority, and %d nodes are not there", p.name, away)
		}
	}
	if n > 1 {
		tr.s.Failf("%d loads of %s at a time have the lock", n, trialKeys[key])
	}
}

// crowded looks how many loads there may be now: of those whose commands have all been answered, as many as there are permits.
func (tr *trial) crowded() {
	harmless := "slow repeat error panic exit cancel close drop twice stream noise evict crash garbage expire barriers"
	if tr.strict {
		harmless += " fail late lost refuse"
	}
	if tr.limit == 0 || tr.auto || !tr.harmless(harmless) {
		return
	}
	n := 0
	for _, p := range tr.players {
		if !p.gone {
			ls := p.cache.core.limits
			ls.mu.Lock()
			for _, l := range ls.m {
				n += l.running
			}
			ls.mu.Unlock()
		}
	}
	if n > tr.limit {
		tr.s.Failf("%d loads at a time", n)
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

// over reports whether nothing passes any more.
func (tr *trial) over() bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.dead
}

// returned checks what a call got: P3 and P4.
func (tr *trial) returned(c *trialCall, o op, values perKey, err error) {
	p := c.p
	if tr.over() || p.gone {
		return
	}
	for _, k := range o.keys {
		v := values[k]
		tr.s.Note("%s gets %s %d, %v", c.name, trialKeys[k], v, err)
		switch {
		case v == 0 && (err != nil || o.kind == "look"):
		case v < c.strict[k] && !tr.excused:
			tr.s.Failf("P4: %s gets %s %d, and %s knew before that it was deleted", c.name, trialKeys[k], v, p.name)
		case v < c.weak[k] && (!tr.local || p.served[k]&(1<<v) == 0) && !tr.excused:
			tr.s.Failf("P4: %s gets %s %d, which was deleted before, and not from memory", c.name, trialKeys[k], v)
		case v < 1 || v > tr.origin[k]:
			tr.s.Failf("%s gets %s %d, which was never the origin's", c.name, trialKeys[k], v)
		}
	}
	var panicked *PanicError
	switch {
	case err == nil:
	case errors.Is(err, context.Canceled) && c.cancelled:
	case errors.Is(err, ErrClosed) && p.closed:
	case errors.Is(err, ErrOverloaded) && (tr.room > 0 || tr.strict && !tr.harmless("error panic exit cancel close drop twice noise evict")):
	case errors.Is(err, context.DeadlineExceeded) && tr.seen["pause"]+tr.seen["slow"] > 0: // of the load
	case errors.Is(err, errLoad) && tr.stale && tr.writes == 0 && tr.harmless("error panic cancel close crash"):
		tr.s.Failf("%s gets the loader's error, and there is a stale value", c.name)
	case errors.Is(err, errLoad) && tr.seen["error"] > 0:
	case errors.As(err, &panicked) && tr.seen["panic"]+tr.seen["exit"] > 0:
	default:
		tr.s.Failf("P3: %s gets an error: %v", c.name, err)
	}
	took := time.Since(c.began)
	switch {
	case tr.random != nil && took < trialPatience:
	case took > 0 && tr.limit+tr.nodes == 0 && tr.harmless("fail repeat error panic cancel close") && tr.faults-tr.left < 2: // who waits is told at once
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
	if tr.abandoned && !tr.stale && p.loading != (perKey{}) { // a refresh in the background has no callers
		tr.s.Failf("nobody waits for %s any more, and it loads", p.name)
	}
}

// probe asks once more in the end, with all gates open: no process may be wedged, or be left with an old value.
func (tr *trial) probe() {
	if tr.random != nil {
		tr.settle()
		return
	}
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
	time.Sleep(tr.pause()) // until then who has failed does not try again
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
			o := tr.asks(p)
			values, err := p.get(context.Background(), o)
			took := time.Since(began)
			for _, k := range o.keys {
				switch v := values[k]; {
				case err != nil:
					tr.s.Failf("in the end %s gets an error: %v", p.name, err)
				case v < tr.acked[k] && !tr.excused:
					tr.s.Failf("P4: in the end %s gets %s %d, and the newest is %d", p.name, trialKeys[k], v, tr.origin[k])
				case took > trialLease+time.Second:
					tr.s.Failf("P8: in the end %s waits for %v", p.name, took)
				}
			}
		})
	}
	calls.Wait()
	for _, k := range tr.keys() {
		if tr.loads[k] > before[k]+most {
			tr.s.Failf("P2: in the end there are %d loads of %s", tr.loads[k]-before[k], trialKeys[k])
		}
		if most := tr.mostLoads() + min(k, 1); before[k] > most {
			tr.s.Failf("P2: %d loads of %s, want at most %d", before[k], trialKeys[k], most)
		}
	}
}

// pause returns for how long processes keep from loading what they have failed to load.
func (tr *trial) pause() (longest time.Duration) {
	for _, p := range tr.players {
		for _, k := range tr.keys() {
			if _, failed := p.cache.core.failures.last(trialKeys[k]); failed {
				longest = max(longest, time.Until(p.cache.core.failures.m[trialKeys[k]].until))
			}
		}
	}
	return longest
}

// settle has everybody ask twice in the end, with time before it and all gates open: nobody fails or has an old value, and
// the second time nothing is loaded.
func (tr *trial) settle() {
	for range 1000 { // one after the other, so that it is the same each time
		gates := tr.sorted()
		if len(gates) == 0 {
			break
		}
		tr.open(gates[0], pass)
		synctest.Wait()
	}
	tr.openAll(false)
	tr.net.beat()
	tr.meet()
	time.Sleep(trialPatience)
	tr.net.tick()
	if tr.random != nil && tr.limit > 0 {
		time.Sleep(trialLease) // only now has a dead process's permit ended, and who waits for it looks now and then
	}
	synctest.Wait()
	// Of what a process has said that is gone, nobody notices that it was lost.
	unheard := tr.local && tr.seen["drop"] > 0 && slices.ContainsFunc(tr.players, func(p *player) bool { return p.gone || p.closed })
	o := op{"get", tr.keys()}
	idle := time.Duration(0)
	if tr.random != nil && tr.limit > 0 {
		idle = 2 * permitIdle // for so long a process keeps a permit that it does not need
	}
	for round := range 2 {
		before := tr.loads
		for _, p := range tr.players {
			if p.gone || p.closed {
				continue
			}
			began, from := time.Now(), tr.begin()
			values, err := p.get(context.Background(), o)
			tr.reads(p, from, o.keys, values)
			for _, k := range o.keys {
				switch v := values[k]; {
				case err != nil:
					tr.s.Failf("in the end %s gets an error: %v", p.name, err)
				case v < tr.acked[k] && !tr.excused && !unheard:
					tr.s.Failf("P4: in the end %s gets %s %d, and %d is confirmed", p.name, trialKeys[k], v, tr.acked[k])
				case time.Since(began) > idle:
					tr.s.Failf("P8: in the end %s waits for %v", p.name, time.Since(began))
				}
			}
			synctest.Wait()
		}
		if round > 0 && tr.loads != before {
			tr.s.Failf("P2: in the end there are loads again: %v, before %v", tr.loads, before)
		}
	}
}

// about returns which keys an event message is about.
func (tr *trial) about(message string) (keys []int) {
	if message[0] != eventful {
		return nil
	}
	for rest := message[43:]; rest != ""; {
		kind := rest[0]
		text, more, _ := cutText(rest[1:])
		for _, k := range tr.keys() {
			if kind == clearEvent || kind == keyEvent && text == trialFull[k] || kind == tagEvent && strings.HasSuffix(text, ":"+tagOf(k)) {
				keys = append(keys, k)
			}
		}
		rest = more
	}
	return keys
}

// serves notes that the server has let p have a value.
func (tr *trial) serves(p *player, key int, raw []byte) {
	if v, ok := version(raw); ok {
		p.served[key] |= 1 << v
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

// unlinks notes that older versions than the present ones are deleted.
func (tr *trial) unlinks(keys []int) {
	for _, k := range keys {
		if !tr.setting(k) {
			tr.unlinked[k] = tr.origin[k]
		}
	}
}

// stores checks what has just been written under the key: P4 and P5.
func (tr *trial) stores(key int, raw []byte) {
	v, ok := version(raw)
	if !ok {
		return
	}
	h, _, _ := record.Open(raw)
	if v < tr.unlinked[key] && !tr.excused && !tr.tags && !tr.setting(key) { // with tags it may be there, and is not valid
		tr.s.Failf("P4: %s %d is stored after its deletion", trialKeys[key], v)
	}
	if h.Fence < tr.fence[key] {
		tr.s.Failf("P5: fence %d of %s replaces %d", h.Fence, trialKeys[key], tr.fence[key])
	}
	tr.fence[key] = h.Fence
}
