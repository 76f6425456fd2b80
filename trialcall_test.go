package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/bellwether-go/cache/internal/record"
)

// trialCall is a caller: it does one thing after the other.
type trialCall struct {
	p            *player
	name         string
	cancel       context.CancelFunc // of what it does
	began        time.Time
	started      bool // it does something
	reads        bool // ... that does not write
	done         bool // ... and nothing any more
	cancelled    bool
	strict, weak perKey // versions older than that must not be returned
}

// op is something that a caller does with some keys: get (them all at once, if there are several), strict (without what
// is stale), look (whether it is cached), refresh; delete, delete tags, clear or set, after it has changed the origin; sleep.
type op struct {
	kind string
	keys []int
}

func (o op) writes() bool {
	return o.kind == "set" || o.kind == "clear" || strings.HasPrefix(o.kind, "delete")
}

// call starts the n-th caller of p, which does each thing once its gate lets it.
func (p *player) call(n int, ops ...op) {
	tr := p.tr
	c := &trialCall{p: p, name: fmt.Sprintf("%s%d", strings.ToLower(p.name), n), cancel: func() {}}
	p.calls = append(p.calls, c)
	go func() {
		for _, o := range ops {
			label := "calls " + c.name
			if tr.random != nil {
				label = fmt.Sprintf("calls %s to %s %v", c.name, o.kind, o.names())
			}
			if tr.park(context.Background(), p, "call", label) != pass {
				break
			}
			switch {
			case o.kind == "sleep":
				<-time.NewTimer(trialLease).C // of the bubble
				tr.meet()
			case o.writes():
				c.write(o)
			default:
				c.get(o)
			}
			tr.notify()
		}
		c.done = true
		tr.notify()
	}()
}

func (o op) names() (names []string) {
	for _, k := range o.keys {
		names = append(names, trialKeys[k])
	}
	return names
}

// begin makes a context for what follows.
func (c *trialCall) begin() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	c.began, c.cancel, c.started, c.cancelled = time.Now(), cancel, true, false
	return ctx
}

func (c *trialCall) get(o op) {
	p := c.p
	ctx := c.begin()
	defer c.cancel()
	c.reads = o.kind != "look" // which takes as long as one command
	c.strict, c.weak = p.told, p.tr.acked
	refreshes := o.kind == "refresh" && !p.tr.setting(o.keys[0]) && !p.tr.real
	origin := p.tr.origin
	p.remember(fmt.Sprint("must not have less than ", c.strict, c.weak)) // the check depends on it
	began := p.tr.begin()
	values, err := p.get(ctx, o)
	p.tr.meet()
	c.started = false
	if refreshes && p.tr.seen["forward"] == 0 { // it returns what was loaded since, by the server's clock
		c.strict.raise(origin, o.keys)
	}
	if !p.gone {
		p.tr.reads(p, began, o.keys, values)
	}
	p.tr.returned(c, o, values, err)
}

// get returns the versions of the keys, 0 where there is none.
func (p *player) get(ctx context.Context, o op) (found perKey, err error) {
	if len(o.keys) > 1 {
		return p.getMany(ctx, o)
	}
	var opts []CallOption
	k := o.keys[0]
	if p.tr.tags {
		opts = append(opts, WithTags(tagOf(k)))
	}
	switch o.kind {
	case "look":
		found[k], _ = p.cache.Get(ctx, trialKeys[k])
		return found, nil
	case "refresh":
		found[k], err = p.cache.Refresh(ctx, trialKeys[k], p.load, opts...)
		return found, err
	case "strict":
		opts = append(opts, WithoutStale())
	}
	found[k], err = p.cache.GetOrLoad(ctx, trialKeys[k], p.load, opts...)
	return found, err
}

func (p *player) getMany(ctx context.Context, o op) (found perKey, err error) {
	names := o.names()
	values, err := p.cache.GetOrLoadMany(ctx, names, func(ctx context.Context, names []string) (map[string]int, error) {
		keys := make([]int, len(names))
		for i, name := range names {
			keys[i] = slices.Index(trialKeys[:], name)
		}
		loaded, err := p.loadKeys(ctx, keys...)
		if err != nil {
			return nil, err
		}
		values := make(map[string]int)
		for i, name := range names {
			values[name] = loaded[keys[i]]
			if p.tr.tags {
				LoadFrom(ctx).ForKey(name).SetTags(tagOf(keys[i]))
			}
		}
		return values, nil
	})
	for i, k := range o.keys {
		found[k] = values[names[i]]
	}
	return found, err
}

// invalidate deletes keys, their tag, or everything.
func (p *player) invalidate(ctx context.Context, o op) error {
	switch o.kind {
	case "clear":
		return p.cache.Clear(ctx)
	case "delete tags":
		return p.cache.DeleteTags(ctx, tagOf(o.keys[0]))
	}
	return p.cache.Delete(ctx, o.names()...)
}

// writeOp is a write of a caller. Of those that overlap with a Set of the same key the order is not defined.
type writeOp struct {
	op
	mixed bool
	over  bool
}

// write changes the origin, and then invalidates or sets.
func (c *trialCall) write(o op) {
	p, tr := c.p, c.p.tr
	ctx := c.begin()
	defer c.cancel()
	c.reads = false
	for _, k := range o.keys {
		tr.origin[k]++
	}
	versions := tr.origin
	w := &writeOp{op: o}
	for _, other := range tr.written {
		if other.over || !slices.ContainsFunc(other.keys, func(k int) bool { return slices.Contains(o.keys, k) }) {
			continue
		}
		if o.kind == "set" || other.kind == "set" {
			w.mixed, other.mixed = true, true
		}
	}
	tr.written = append(tr.written, w)
	p.remember("writes")
	kind := removed
	if o.kind == "set" {
		kind = set
	}
	begun := tr.did(kind, p, o.keys, versions)
	var err error
	if k := o.keys[0]; o.kind == "set" {
		var opts []CallOption
		if tr.tags {
			opts = append(opts, WithTags(tagOf(k)))
		}
		p.served[k] |= 1 << versions[k] // which it may remember
		err = p.cache.Set(ctx, trialKeys[k], versions[k], opts...)
	} else {
		err = p.invalidate(ctx, o)
	}
	tr.meet()
	c.started = false
	tr.s.Note("%s's %s returns %v", c.name, o.kind, err)
	if tr.over() || p.gone {
		return
	}
	w.over = err == nil || o.kind != "set" // otherwise it may still be stored
	if err == nil {
		tr.ended(begun)
	}
	if err == nil && !w.mixed {
		tr.acked.raise(versions, o.keys)
		p.told.raise(versions, o.keys)
	}
	p.remember("has written")
}

// setting reports whether a Set of a key is under way, or was not confirmed.
func (tr *trial) setting(key int) bool {
	return slices.ContainsFunc(tr.written, func(w *writeOp) bool {
		return !w.over && w.kind == "set" && w.keys[0] == key
	})
}

var errLoad = errors.New("the origin is down")

// load is the loader of a process: it reads the origin when it is let to begin, and returns when it is let to end.
func (p *player) load(ctx context.Context, key string) (int, error) {
	k := slices.Index(trialKeys[:], key)
	values, err := p.loadKeys(ctx, k)
	return values[k], err
}

func (p *player) loadKeys(ctx context.Context, keys ...int) (values perKey, err error) {
	tr := p.tr
	which := ""
	if len(keys) > 1 || keys[0] > 0 {
		var names []string
		for _, k := range keys {
			names = append(names, trialKeys[k])
		}
		which = " of " + strings.Join(names, ", ")
	}
	tr.mu.Lock()
	p.asked++
	n := p.asked
	tr.mu.Unlock()
	if tr.park(ctx, p, "load", fmt.Sprintf("begins load %d%s", n, which)) != pass {
		return perKey{}, loadErr(ctx)
	}
	tr.begins(p, keys, 1)
	defer tr.begins(p, keys, -1)
	if tr.own {
		for _, k := range keys {
			tr.origin[k]++
		}
	}
	values = tr.origin
	tr.ended(tr.did(loaded, p, keys, values))
	if tr.random != nil { // and may keep it if Redis does not answer
		for _, k := range keys {
			p.served[k] |= 1 << values[k]
		}
	}
	switch tr.park(ctx, p, "loaded", fmt.Sprintf("has loaded %d in load %d%s", values[keys[0]], n, which)) {
	case pass:
		return values, nil
	case fail:
		return perKey{}, errLoad
	case "panic":
		panic("the loader panics")
	case "exit":
		runtime.Goexit()
	}
	return perKey{}, loadErr(ctx)
}

func loadErr(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return errLoad
}

// write does this so many times: it changes the origin and invalidates through p, each time its gate lets it.
func (p *player) write(o op, times int) {
	tr := p.tr
	tr.writing++
	p.busy = true
	go func() {
		defer func() { tr.writing--; p.busy = false }()
		for range times {
			if tr.park(context.Background(), p, "write", "writes") != pass {
				return
			}
			for _, k := range o.keys {
				tr.origin[k]++
			}
			versions := tr.origin
			if err := p.invalidate(context.Background(), o); err == nil && !p.gone {
				tr.s.Note("%s's deletion is confirmed", p.name)
				tr.acked.raise(versions, o.keys)
				p.told.raise(versions, o.keys)
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
		h, _, err := record.Open(tr.net.raw(0))
		if err != nil || h.State == record.Stub {
			return
		}
		p.remember("refreshes " + tr.net.state())
		f := &flight{order: &order{c: p.cache.core}, flightID: flightID{key: trialKeys[0]}, full: trialFull[0], ctx: context.Background()}
		f.loader = Loader[int](p.load)
		_ = refreshNow(p.cache.core, f, h.ID)
	}()
}
