package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bellwether-go/cache/internal/record"
)

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
		v, err := p.get(ctx)
		c.done = true
		tr.returned(c, v, err)
		tr.notify()
	}()
}

func (p *player) get(ctx context.Context) (int, error) {
	if p.index < p.tr.batches {
		return p.getBoth(ctx)
	}
	if p.tr.tags {
		return p.cache.GetOrLoad(ctx, trialKey, p.load, WithTags(trialTag))
	}
	return p.cache.GetOrLoad(ctx, trialKey, p.load)
}

// invalidate deletes the key, its tag, or everything.
func (p *player) invalidate() error {
	switch {
	case p.tr.clear:
		return p.cache.Clear(context.Background())
	case p.tr.tags:
		return p.cache.DeleteTags(context.Background(), trialTag)
	}
	return p.cache.Delete(context.Background(), trialKey)
}

var errLoad = errors.New("the origin is down")

// load is the loader of a process: it reads the origin when it is let to begin, and returns when it is let to end.
func (p *player) load(ctx context.Context, _ string) (int, error) {
	return p.loadKeys(ctx, trialKey)
}

// loadKeys loads trialKey, otherKey or both, and returns the value of the first.
func (p *player) loadKeys(ctx context.Context, keys ...string) (int, error) {
	tr := p.tr
	which := ""
	if len(keys) > 1 || keys[0] != trialKey {
		which = " of " + strings.Join(keys, ", ")
	}
	tr.mu.Lock()
	p.asked++
	n := p.asked
	tr.mu.Unlock()
	if tr.park(ctx, p, "load", fmt.Sprintf("begins load %d%s", n, which)) != pass {
		return 0, loadErr(ctx)
	}
	tr.begins(p, keys, 1)
	defer tr.begins(p, keys, -1)
	v := tr.origin
	switch tr.park(ctx, p, "loaded", fmt.Sprintf("has loaded %d in load %d%s", v, n, which)) {
	case pass:
		return v, nil
	case fail:
		return 0, errLoad
	case "panic":
		panic("the loader panics")
	}
	return 0, loadErr(ctx)
}

// getBoth asks for both keys and returns the value of the first.
func (p *player) getBoth(ctx context.Context) (int, error) {
	keys := []string{trialKey, otherKey}
	if p.index%2 == 1 {
		slices.Reverse(keys)
	}
	values, err := p.cache.GetOrLoadMany(ctx, keys, func(ctx context.Context, keys []string) (map[string]int, error) {
		v, err := p.loadKeys(ctx, keys...)
		values := make(map[string]int)
		for _, k := range keys {
			if values[k] = v; k == otherKey {
				values[k] = 1
			}
		}
		if err != nil {
			values = nil
		}
		return values, err
	})
	if err == nil && (len(values) != 2 || values[otherKey] != 1) {
		p.tr.s.Failf("%s gets %v", p.name, values)
	}
	return values[trialKey], err
}

func loadErr(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return errLoad
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
			if err := p.invalidate(); err == nil && !p.gone {
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
		if tr.park(context.Background(), p, "refresh", "refreshes") != pass {
			return
		}
		h, _, err := record.Open(tr.net.raw())
		if err != nil || h.State == record.Stub {
			return
		}
		p.remember("refreshes " + tr.net.state())
		f := &flight{order: &order{c: p.cache.core}, flightID: flightID{key: trialKey}, full: trialFull, ctx: context.Background()}
		f.loader = Loader[int](p.load)
		_ = refreshNow(p.cache.core, f, h.ID)
	}()
}
