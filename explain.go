package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bellwether-go/cache/internal/early"
	"github.com/bellwether-go/cache/internal/record"
)

// Explanation is what a cache knows of a key: see Cache.Explain. Times between two processes' clocks are good to the round trip
// to Redis. Its String is for people.
type Explanation struct {
	Cache string
	Key   string
	At    time.Time // when this was true

	Answer string // what GetOrLoad would find now: "fresh", "stale", "not found" (ErrNotFound is remembered) or "miss"
	Tier   string // where: "memory" or "Redis"; empty for a miss
	Why    string // it is not "fresh"

	Memory struct {
		Found    bool
		Fresh    time.Duration // the rest of its TTL; negative: it has been over for so long
		Asks     time.Duration // until it is looked up in Redis again
		Refresh  time.Duration // until the next call has it loaded anew in the background
		LoadCost time.Duration // what a load takes, smoothed; 0: not known
	}
	Redis struct {
		Key                 string        // there; empty without Redis
		Err                 string        // why it could not be read, if so
		Found               bool          // there is something
		Bytes               int           // of it
		State               string        // "value", "not found", "stub" (a lease without a value), "unreadable" or "other" (a newer version, or another type)
		Age                 time.Duration // since its load began
		Fresh               time.Duration // the rest of its TTL; negative: it has been over for so long
		Stale               time.Duration // until its end
		Refresh             time.Duration // until this process has it loaded anew in the background; others draw other times
		LoadCost, Deviation time.Duration // what loads take, smoothed
		Version             uint32        // Options.Version of who stored it
		Fence               int64         // see Load.Fence
		StoredBy            string        // the name of a process
		Compressed, Sealed  bool
		Failures            int           // loads that have failed since it was stored, 4 for more
		Pause               time.Duration // until the next one, because of them
	}
	Tags []struct { // of the value in Redis
		Tag      string
		Deleted  time.Time // when it was deleted last, or the cache was cleared; zero: not in the time that counts
		Outdated bool      // the value is older
	}
	Lease struct { // under which somebody loads the key; it is in Redis
		Holder string        // the name of a process; empty: nobody
		Here   bool          // it is this one
		Held   time.Duration // since it was won
		Left   time.Duration // unless it is renewed
	}
	Here struct { // what this process does
		Waiting    int           // calls that wait for the key
		Loading    time.Duration // since its loader was called here; 0: it is not running
		Queued     bool          // for a permit of MaxLoads
		Undeleted  bool          // a deletion that Redis has not confirmed: what Redis has is not believed
		LastError  string        // of the last load that failed here
		Pause      time.Duration // until the next one, because of it
		Missed     time.Time     // the last miss that is remembered; zero: none
		MissedFor  string        // why
		Loaded     time.Time     // the end of the last load that is remembered; zero: none
		LoadedWith string        // what came of it: "stored", "not stored", the Outcome of LoadEvent otherwise
		LoadTook   time.Duration
	}
}

// Explain tells why a key is cached or not, for how long, who loads it and who waits. It changes nothing, but that Redis, if it
// evicts what is not used, takes it for a use. It blocks for at most three commands, each for RedisOptions.Timeout, and not longer
// than ctx. Trouble with Redis is in the Explanation; the errors are that of ctx and ErrClosed.
func (c *Cache[V]) Explain(ctx context.Context, key string) (Explanation, error) {
	return c.core.explain(ctx, key)
}

func (c *core) explain(ctx context.Context, key string) (Explanation, error) {
	x := Explanation{Cache: c.name, Key: key, At: time.Now()}
	if err := ctx.Err(); err != nil {
		return x, err
	}
	old := c.explainMemory(&x)
	if c.redis == nil || len(key) > MaxKeyBytes {
		c.explainHere(&x)
		if c.closed() {
			return x, ErrClosed
		}
		if x.Answer == "" {
			x.Answer, x.Why = "miss", "not in memory: never stored, deleted, evicted or past its end"
			switch {
			case old:
				x.Why = "past its end"
			case len(key) > MaxKeyBytes:
				x.Why = "its key is too long: it is never kept"
			}
		}
		return x, nil
	}
	there := x
	err := c.detached(ctx, func(ctx context.Context) error {
		c.explainRedis(ctx, &there)
		return nil
	})
	if err != nil {
		return x, err
	}
	c.explainHere(&there)
	return there, nil
}

// found is the first answer; what is found behind it is not what a call gets.
func (x *Explanation) found(tier, answer, why string) {
	if x.Answer == "" {
		x.Tier, x.Answer, x.Why = tier, answer, why
	}
}

const whyStale = "past its TTL"

// explainMemory reports whether there is something that is over.
func (c *core) explainMemory(x *Explanation) (old bool) {
	g, _ := c.local.memory.glimpse(x.Key)
	if g.localEntry == nil || !c.local.valid(g) {
		return false
	}
	now, m := c.local.now(), &x.Memory
	fresh := g.until
	if g.more != nil {
		fresh = g.more.fresh
	}
	m.Found, m.LoadCost = true, g.cost.Unpack().Mean
	m.Fresh, m.Asks = time.Duration(fresh-now), max(time.Duration(g.until-now), 0)
	if !g.is(stale) {
		m.Refresh = max(time.Duration(g.due-now), 0)
	}
	switch {
	case now < g.until && g.is(negative):
		x.found("memory", "not found", "the last load has said so")
	case now < g.until && g.is(stale):
		x.found("memory", "stale", whyStale)
	case now < g.until:
		x.found("memory", "fresh", "")
	case c.redis == nil:
		if old := c.kept(x.Key); old != nil && c.serves(old, ordinary) {
			x.found("memory", "stale", whyStale)
		}
	}
	return now >= g.until
}

func (c *core) explainHere(x *Explanation) {
	h := &x.Here
	h.Waiting, h.Queued = c.flights.waiting(x.Key)
	h.Loading = c.running.age(x.Key)
	h.Undeleted = c.undone.has(x.Key)
	if f, ok := c.failures.recall(x.Key); ok {
		if f.err != nil {
			h.LastError = f.err.Error()
		}
		h.Pause = max(time.Until(f.until), 0)
	}
	if o, ok := c.outcomes.of(x.Key); ok {
		h.Missed, h.MissedFor, h.Loaded, h.LoadedWith, h.LoadTook = o.missed, o.reason.String(), o.loaded, o.with, o.took
		if o.missed.IsZero() {
			h.MissedFor = ""
		}
	}
}

// explainRedis says what is in Redis, in the order in which a flight would look at it.
func (c *core) explainRedis(ctx context.Context, x *Explanation) {
	full := c.redis.key(c.name, x.Key)
	r := &x.Redis
	r.Key = full
	raw, err := c.store.read(ctx, full, c.coder.maxRecord())
	switch {
	case c.undone.has(x.Key):
		x.found("", "miss", "a deletion that Redis has not confirmed")
	case err != nil:
		x.found("", "miss", "Redis does not answer")
	}
	if err != nil {
		r.Err = err.Error()
		return
	}
	if r.Bytes = len(raw); r.Bytes == 0 {
		x.found("", "miss", "not in Redis: never stored, deleted, evicted or past its end")
		return
	}
	r.Found = true
	h, payload, err := c.coder.header(full, raw)
	c.explainHeader(ctx, x, &h, err)
	switch {
	case errors.Is(err, errOther):
		r.State = "other"
		x.found("", "miss", "an entry of a newer version or another type, which is left alone")
		return
	case err != nil:
		r.State = "unreadable"
		x.found("", "miss", "what is there cannot be read, and is replaced")
		return
	case h.State == record.Stub:
		r.State = "stub"
		x.found("", "miss", "there is no value yet")
		return
	}
	r.State = "value"
	if h.State == record.Negative {
		r.State = "not found"
	}
	if outdated := c.explainTags(ctx, x, &h, payload); outdated != "" {
		x.found("", "miss", outdated)
		return
	}
	if _, err := c.coder.value(full, &h, payload); err != nil {
		r.State = "unreadable"
		x.found("", "miss", "what is there cannot be decoded, and is replaced")
		return
	}
	e := &entry{res: &result{negative: h.State == record.Negative}, at: time.Now(), left: r.Fresh, fresh: r.Fresh > 0, failures: r.Failures}
	switch {
	case e.fresh && e.res.negative:
		x.found("Redis", "not found", "the last load has said so")
	case e.fresh:
		x.found("Redis", "fresh", "")
	case c.serves(e, ordinary) && r.Stale > 0:
		x.found("Redis", "stale", whyStale)
	case r.Stale > 0:
		x.found("", "miss", "past its TTL; it is there in case that the next load fails")
	default:
		x.found("", "miss", "past its end")
	}
}

// explainHeader fills in what the header says; bad is why it is not believed, or nil.
func (c *core) explainHeader(ctx context.Context, x *Explanation, h *record.Header, bad error) {
	if h.State == 0 { // it is none
		return
	}
	_, now, known := c.redis.clock.now()
	if !known {
		_ = c.redis.learnTime(ctx)
		if _, now, known = c.redis.clock.now(); !known {
			now = time.Now().UnixMicro()
		}
	}
	since := func(at int64) time.Duration { return time.Duration(now-at) * time.Microsecond }
	r, l := &x.Redis, &x.Lease
	r.Version = h.Version
	if h.State != record.Stub {
		r.Age = max(since(cmp.Or(h.Fence, h.Stamp)), 0) // without scripts there is no fence
		r.Fresh, r.Stale = -since(h.FreshUntil), max(-since(h.StaleUntil), 0)
		r.Fence, r.StoredBy = h.Fence, c.redis.nameOf(ctx, processOf(h.ID))
		r.Compressed, r.Sealed = h.Compressed, h.Sealed
	}
	r.LoadCost, r.Deviation = h.Cost, h.Deviation
	if bad != nil {
		return
	}
	e := &entry{
		id: h.ID, cost: early.Cost{Mean: h.Cost, Deviation: h.Deviation}, left: r.Fresh, failures: h.Lease.Failures,
		res: &result{negative: h.State == record.Negative},
	}
	c.schedule(e, h, now)
	if h.State != record.Stub {
		r.Failures, r.Pause, r.Refresh = e.failures, e.pause, max(e.due, 0)
	}
	if e.leased {
		l.Holder, l.Here = c.redis.nameOf(ctx, processOf(h.Lease.Owner)), processOf(h.Lease.Owner) == c.redis.id
		l.Left = h.Lease.Duration
		if h.Lease.Until > 0 {
			l.Left = -since(h.Lease.Until)
		}
		if h.Lease.Fence > 0 {
			l.Held = max(since(h.Lease.Fence), 0)
		}
	}
}

// explainTags returns why the entry is older than a deletion, or nothing.
func (c *core) explainTags(ctx context.Context, x *Explanation, h *record.Header, payload []byte) (outdated string) {
	tags, err := c.coder.tags(h, payload)
	if err != nil || !h.Tagged {
		return ""
	}
	if c.undone.hasTags(tags) {
		outdated = "a deletion of its tags that Redis has not confirmed"
	}
	times, err := c.store.barriers(ctx, c.name, tags)
	if err != nil {
		x.Redis.Err = err.Error()
		return "what was deleted cannot be looked up"
	}
	for i, at := range times {
		deleted := at >= h.Stamp
		tag := ""
		switch {
		case i > 0:
			tag = tags[i-1]
		case !deleted: // that of the whole cache is there always
			continue
		}
		one := struct {
			Tag      string
			Deleted  time.Time
			Outdated bool
		}{Tag: tag, Outdated: deleted}
		if at > 0 && at < math.MaxInt64 {
			one.Deleted = time.UnixMicro(at)
		}
		x.Tags = append(x.Tags, one)
		switch {
		case !deleted || outdated != "":
		case i == 0:
			outdated = "older than a Clear, or than the oldest deletion that is remembered"
		default:
			outdated = "its tag " + strconv.Quote(tag) + " was deleted"
		}
	}
	return outdated
}

// String is for people: one line for each thing that is known.
func (x Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %s", x.Cache, strconv.Quote(x.Key), x.Answer)
	if x.Tier != "" {
		b.WriteString(", in " + x.Tier)
	}
	if x.Why != "" {
		b.WriteString(": " + x.Why)
	}
	line := func(what string, parts ...string) {
		parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
		if len(parts) > 0 {
			fmt.Fprintf(&b, "\n  %-7s %s", what, strings.Join(parts, "; "))
		}
	}
	when := func(is bool, format string, args ...any) string {
		if !is {
			return ""
		}
		for i, a := range args {
			if d, ok := a.(time.Duration); ok {
				args[i] = short(d)
			}
		}
		return fmt.Sprintf(format, args...)
	}
	m, r, l, h := &x.Memory, &x.Redis, &x.Lease, &x.Here
	line("memory",
		when(m.Found && m.Fresh > 0, "fresh for %v", m.Fresh), when(m.Found && m.Fresh <= 0, "past its TTL for %v", -m.Fresh),
		when(m.Asks > 0 && r.Key != "", "asks Redis in %v", m.Asks), when(m.Found && m.Asks == 0 && r.Key != "", "asks Redis"),
		when(m.Refresh > 0 && m.Refresh < m.Asks, "is loaded anew in %v", m.Refresh),
		when(!m.Found, "nothing"))
	entry := r.State == "value" || r.State == "not found"
	line("Redis",
		when(r.Err != "", "%s", r.Err), when(r.Found, "%s of %d bytes under %s", r.State, r.Bytes, strconv.Quote(r.Key)),
		when(r.Key != "" && r.Err == "" && !r.Found, "nothing under %s", strconv.Quote(r.Key)),
		when(entry, "loaded %v ago by %s", r.Age, r.StoredBy),
		when(entry && r.Fresh > 0, "fresh for %v", r.Fresh), when(entry && r.Fresh <= 0, "past its TTL for %v", -r.Fresh),
		when(entry && r.Stale > max(r.Fresh, 0), "gone in %v", r.Stale),
		when(entry && r.Fresh > 0 && r.Refresh < r.Fresh, "is loaded anew in %v", r.Refresh),
		when(r.LoadCost > 0, "a load takes %v, give or take %v", r.LoadCost, r.Deviation),
		when(r.Version > 0, "version %d", r.Version), when(r.Fence > 0, "fence %d", r.Fence),
		when(r.Compressed, "compressed"), when(r.Sealed, "sealed"),
		when(r.Failures > 0, "loads failed since: %d", r.Failures), when(r.Pause > 0, "no load for %v", r.Pause))
	for _, t := range x.Tags {
		what := "the whole cache"
		if t.Tag != "" {
			what = strconv.Quote(t.Tag)
		}
		line("tag", what, when(!t.Deleted.IsZero(), "deleted at %s", t.Deleted.Format(time.RFC3339Nano)), when(t.Outdated, "the value is older"))
	}
	line("lease", when(l.Holder != "", "%s has it", l.Holder), when(l.Here, "which is this process"), when(l.Held > 0, "for %v", l.Held),
		when(l.Holder != "", "ends in %v unless it is renewed", l.Left))
	line("here",
		when(h.Waiting > 0, "calls that wait: %d", h.Waiting), when(h.Loading > 0, "loading for %v", h.Loading), when(h.Queued, "waits for a permit"),
		when(h.Undeleted, "to be deleted in Redis"), when(h.LastError != "", "the last load failed: %s", h.LastError),
		when(h.Pause > 0, "no load for %v", h.Pause))
	line("last",
		when(!h.Missed.IsZero(), "missed %v ago: %s", x.At.Sub(h.Missed), h.MissedFor),
		when(!h.Loaded.IsZero(), "loaded %v ago in %v: %s", x.At.Sub(h.Loaded), h.LoadTook, h.LoadedWith))
	return b.String()
}

// short is a duration without digits that nobody reads.
func short(d time.Duration) time.Duration {
	unit := time.Nanosecond
	for _, u := range []time.Duration{time.Microsecond, time.Millisecond, time.Second} {
		if d.Abs() >= 100*u {
			unit = u
		}
	}
	return d.Round(unit)
}
