package main

import (
	"math"
	"time"

	"github.com/bellwether-go/cache/internal/early"
)

// process is one process of the fleet: its memory, and what it is about.
type process struct {
	*world
	value *value
	cost  early.Cost    // the newest it has heard of
	look  time.Duration // perValue: not before that does a request make it look whether to refresh

	blocked bool          // requests wait,
	since   time.Duration // since then,
	held    bool          // for a load: not just for an answer of Redis

	refreshing bool // in the background
	serving    time.Duration

	expected int // the number of the last request that was expected: earlier ones do not come
}

// expect plans the next request that will change something. All before it are hits.
func (p *process) expect() {
	p.expected++
	if p.blocked {
		return // who comes now waits as well: see waited
	}
	n := p.expected
	p.at(p.next(), func() {
		if n == p.expected {
			p.request()
		}
	})
}

func (p *process) next() time.Duration {
	v := p.value
	switch {
	case v == nil:
		return p.now + p.gap()
	case p.refreshing:
		return max(p.now, v.expiry+p.stale) + p.gap()
	case p.draw == perRequest && p.now < v.expiry:
		return p.drawn()
	case p.draw == perValue && p.now < v.expiry:
		return max(p.now, min(p.look, v.expiry)) + p.gap() // expired, it asks Redis in any case
	case p.draw == perValue && p.now < v.expiry+p.stale:
		return max(p.now, min(p.look, v.expiry+p.stale)) + p.gap()
	default:
		return max(p.now, v.expiry) + p.gap()
	}
}

// drawn is the time of the first request that draws an early refresh, or else of the first one after the expiry. At rate r,
// those that draw are a Poisson process of rate r*exp(-(expiry-t)/spread), whose integral can be inverted.
func (p *process) drawn() time.Duration {
	spread := p.spread()
	x := p.rng.ExpFloat64()/(p.share()*spread) + math.Exp(-(p.value.expiry-p.now).Seconds()/spread)
	if x >= 1 {
		return p.value.expiry + p.gap()
	}
	return max(p.now, p.value.expiry+seconds(spread*math.Log(x)))
}

func (p *process) spread() float64 { return p.beta * p.value.last.Seconds() }

func (p *process) request() {
	switch {
	case !p.single:
		p.alone()
		p.expect()
	case p.draw == perValue && p.value != nil && p.now < p.value.expiry:
		p.refresh(func() {
			p.get(func(v *value) {
				if p.newer(v) {
					p.adopt(v)
				} else {
					p.acquire()
				}
			})
		})
	default:
		p.blocked, p.since = true, p.now
		p.expect()
		if !p.refreshing {
			p.ask()
		}
	}
}

// alone is a request that nobody else waits for.
func (p *process) alone() {
	since, mine := p.now, p.value // another request's load may replace it meanwhile
	p.get(func(v *value) {
		if p.hear(v); v != nil && p.now < v.expiry && v != mine {
			p.adopt(v)
			return
		}
		p.load(p.cost, func(v *value) {
			p.counts.blocked += (p.now - since).Seconds()
			p.adopt(v)
		})
	})
}

// ask looks at Redis while requests wait.
func (p *process) ask() {
	p.get(func(v *value) {
		p.hear(v)
		switch {
		case p.newer(v):
			p.adopt(v)
		case p.stale > 0 && (v != nil || p.value != nil && p.now < p.value.expiry+p.stale):
			if v != nil {
				p.value = v
			}
			p.counts.stale += 1 + p.share()*(p.now-p.since).Seconds()
			p.counts.oldest = max(p.counts.oldest, p.now-p.value.expiry)
			p.blocked = false
			p.refresh(p.acquire)
		case p.lease:
			p.acquire()
		default:
			p.loadAnew()
		}
	})
}

func (p *process) refresh(begin func()) {
	p.refreshing, p.serving = true, p.now
	p.expect()
	begin()
}

// acquire tries the lease. When another process has it, those who wait here wait for its commit, and a refresh looks again
// later.
func (p *process) acquire() {
	var found *value
	var won, woken bool
	p.command(func() {
		switch {
		case p.newer(p.stored):
			found = p.stored
		case !p.leased:
			p.leased, won = true, true
		case p.blocked:
			p.waiting = append(p.waiting, p)
			p.held, woken = true, true
		}
	}, func() {
		switch {
		case found != nil:
			p.adopt(found)
		case won:
			p.loadAnew()
		case woken:
		case p.blocked: // only since the command was executed
			p.acquire()
		default:
			p.lost()
		}
	})
}

func (p *process) lost() {
	const least, most = 5 * time.Millisecond, 250 * time.Millisecond
	p.refreshing = false
	p.look = p.now + min(max(p.cost.Bound()/4, least), most)
	until := p.now
	if p.now >= p.value.expiry {
		until = min(p.look, p.value.expiry+p.stale) // the next request is the first after that
	}
	p.serveExpired(p.value, p.serving, until)
	p.expect()
}

func (p *process) loadAnew() {
	p.held = true
	p.load(p.cost, p.adopt)
}

// newer reports whether v can be served instead of what the process has.
func (p *process) newer(v *value) bool {
	return v != nil && p.now < v.expiry && (p.value == nil || v.loaded > p.value.loaded)
}

func (p *process) hear(v *value) {
	if v != nil {
		p.cost = v.cost
	}
}

// adopt ends all waiting: v is what the process serves from now on.
func (p *process) adopt(v *value) {
	if p.blocked && p.held {
		p.counts.blocked += p.waited()
	}
	if p.refreshing && p.value != nil {
		p.serveExpired(p.value, p.serving, min(p.now, p.value.expiry+p.stale))
	}
	p.blocked, p.held, p.refreshing = false, false, false
	p.hear(v)
	if p.value == nil || v.loaded >= p.value.loaded {
		p.value = v
	}
	if p.draw == perValue {
		p.look = v.expiry - early.Ahead(v.expiry-v.loaded, v.cost, p.beta, p.rng.Float64())
	}
	p.expect()
}

// waited is for how many seconds requests have waited: the one that was the first, and the expected number of those that
// came later. With XFetch, before the expiry only those wait that drew a refresh.
func (p *process) waited() float64 {
	all := p.since
	total := (p.now - p.since).Seconds()
	if p.value != nil && p.since < p.value.expiry {
		all = min(p.now, p.value.expiry)
		spread := p.spread()
		rest := func(t time.Duration) float64 { // the integral of exp(-(expiry-t)/spread) * (now-t)
			return spread * math.Exp(-(p.value.expiry-t).Seconds()/spread) * ((p.now - t).Seconds() + spread)
		}
		total += p.share() * (rest(all) - rest(p.since))
	}
	late := (p.now - all).Seconds()
	return total + p.share()*late*late/2
}
