package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
)

// plain is a cache as simple as it can be: what a Cache does, seen from outside, when one thing is done after the other and
// nothing fails.
type plain struct {
	ttl, negative, stale time.Duration
	entries              map[string]plainEntry
}

type plainEntry struct {
	value   int
	missing bool // it is known not to exist
	ends    time.Time
	stale   time.Time
}

// plainOrigin is what it loads from.
type plainOrigin struct {
	values map[string]int // 0: there is none
	down   bool

	mu    sync.Mutex
	loads int // keys; guarded by mu
}

func (o *plainOrigin) load(key string) (int, error) {
	o.mu.Lock()
	o.loads++
	o.mu.Unlock()
	switch {
	case o.down:
		return 0, errLoad
	case o.values[key] == 0:
		return 0, ErrNotFound
	}
	return o.values[key], nil
}

func (c *plain) store(key string, value int, err error, ttl time.Duration) {
	switch {
	case err == nil:
		ends := time.Now().Add(ttl)
		c.entries[key] = plainEntry{value, false, ends, ends.Add(c.stale)}
	case errors.Is(err, ErrNotFound):
		ends := time.Now().Add(c.negative)
		c.entries[key] = plainEntry{0, true, ends, ends}
	}
}

func (c *plain) load(o *plainOrigin, key string, ttl time.Duration) (int, error) {
	value, err := o.load(key)
	c.store(key, value, err, ttl)
	return value, err
}

// get returns what is cached, and whether that is fresh.
func (c *plain) get(key string) (e plainEntry, cached, fresh bool) {
	e, cached = c.entries[key]
	return e, cached && time.Now().Before(e.stale), time.Now().Before(e.ends)
}

func (c *plain) getOrLoad(o *plainOrigin, key string, ttl time.Duration, strict bool) (int, error) {
	switch e, cached, fresh := c.get(key); {
	case !cached, strict && !fresh:
		return c.load(o, key, ttl)
	case e.missing:
		return 0, ErrNotFound
	default:
		if !fresh { // which is done in the background
			_, _ = c.load(o, key, ttl)
		}
		return e.value, nil
	}
}

func (c *plain) delete(which func(key string) bool) {
	maps.DeleteFunc(c.entries, func(key string, _ plainEntry) bool { return which(key) })
}

const plainKeys = 5

func plainKey(n int) string      { return fmt.Sprint("key", n) }
func plainTag(key string) string { return key[:3] + string('a'+(key[3]-'0')%2) }

// Random lists of operations, one after the other in any process, have the results that they have with plain, and as many
// loads. Times are such that nothing ends at the moment in which it is looked at.
func TestPlain(t *testing.T) {
	lists := 30
	if lab.Race {
		lists = 5
	}
	for name, setup := range map[string]struct {
		processes int // 0: one, without Redis
		o         Options
	}{
		"memory":              {0, Options{}},
		"redis":               {2, Options{LocalTTL: -1}},
		"memory and redis":    {2, Options{}},
		"memory, stale":       {0, Options{StaleWhileRevalidate: 5 * time.Second}},
		"redis, stale":        {2, Options{LocalTTL: -1, StaleWhileRevalidate: 5 * time.Second}},
		"both, stale":         {2, Options{StaleWhileRevalidate: 5 * time.Second}},
		"both, with deadline": {3, Options{LocalTTL: 3*time.Second + 50*time.Millisecond, LocalEntries: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(lists) {
				bubble(t, func(t *testing.T, w *lab.World) {
					o := setup.o
					o.Tags, o.TTL, o.NegativeTTL = true, 10100*time.Millisecond, 2050*time.Millisecond
					p := &plainTrial{
						t: t, rng: rand.New(rand.NewPCG(seed, 0)),
						plain: plain{o.TTL, o.NegativeTTL, o.StaleWhileRevalidate, map[string]plainEntry{}},
					}
					for i := range setup.processes {
						proc := start(t, w, string(rune('A'+i)), Options{}, nil)
						defer proc.stop()
						o.Redis = proc.rds
						defer p.add(o)()
					}
					if setup.processes == 0 {
						defer p.add(o)()
					}
					for range 60 {
						if p.step(); t.Failed() {
							t.Fatalf("seed %d:\n%s", seed, strings.Join(p.steps, "\n"))
						}
					}
				})
			}
		})
	}
}

type plainTrial struct {
	t             *testing.T
	rng           *rand.Rand
	caches        []*Cache[int]
	plain         plain
	real, pretend plainOrigin // the same values, and who has loaded how many
	steps         []string
}

// add makes a cache, and returns what closes it.
func (p *plainTrial) add(o Options) (end func()) {
	c, err := New[int]("user", exact(o))
	if err != nil {
		p.t.Fatal(err)
	}
	if l := c.core.local; l.tags != nil && l.barrier(plainTag("key0")) == l.barrier(plainTag("key1")) {
		_ = c.Close() // in memory these two tags would be deleted together
		return p.add(o)
	}
	c.core.soon = atOnce
	p.caches = append(p.caches, c)
	return func() { _ = c.Close() }
}

// step does something, and compares.
func (p *plainTrial) step() {
	c := p.caches[p.rng.IntN(len(p.caches))]
	key := plainKey(p.rng.IntN(plainKeys))
	ttl := p.plain.ttl
	opts := []CallOption{WithTags(plainTag(key))}
	if p.rng.IntN(4) == 0 {
		ttl = 1600 * time.Millisecond
		opts = append(opts, WithTTL(ttl))
	}
	load := func(_ context.Context, key string) (int, error) { return p.real.load(key) }
	var did, got, want string
	say := func(v any, err error) string { return fmt.Sprintf("%v, %v", v, err) }
	switch p.rng.IntN(13) {
	case 0, 1, 2:
		did = "GetOrLoad " + key
		got = say(c.GetOrLoad(background, key, load, opts...))
		want = say(p.plain.getOrLoad(&p.pretend, key, ttl, false))
	case 3:
		did = "GetOrLoad without stale " + key
		got = say(c.GetOrLoad(background, key, load, append(opts, WithoutStale())...))
		want = say(p.plain.getOrLoad(&p.pretend, key, ttl, true))
	case 4:
		did = "Get " + key
		v, ok := c.Get(background, key)
		e, cached, _ := p.plain.get(key)
		got, want = fmt.Sprint(v, ok), fmt.Sprint(e.value, cached && !e.missing)
		if !cached {
			want = fmt.Sprint(0, false)
		}
	case 5, 6:
		did, got, want = p.many(c)
	case 7:
		did = "Set " + key
		p.change(key)
		value := max(1, p.real.values[key])
		got = say(nil, c.Set(background, key, value, opts...))
		p.plain.store(key, value, nil, ttl)
		want = say(nil, nil)
	case 8:
		if len(p.caches) > 1 && p.caches[0].core.opts.LocalTTL > 0 {
			return // the other processes keep what they remember
		}
		did = "Refresh " + key
		got = say(c.Refresh(background, key, load, opts...))
		want = say(p.plain.load(&p.pretend, key, ttl))
	case 9:
		did = "Delete " + key
		p.change(key)
		got, want = say(nil, c.Delete(background, key)), say(nil, nil)
		p.plain.delete(func(k string) bool { return k == key })
	case 10:
		did = "DeleteTags " + plainTag(key)
		got, want = say(nil, c.DeleteTags(background, plainTag(key))), say(nil, nil)
		p.plain.delete(func(k string) bool { return plainTag(k) == plainTag(key) })
	case 11:
		if did = "the origin changes"; p.rng.IntN(4) == 0 {
			did = "Clear"
			got, want = say(nil, c.Clear(background)), say(nil, nil)
			p.plain.delete(func(string) bool { return true })
		}
		p.change(key)
		if p.plain.stale == 0 { // a background load that fails is not seen from outside
			p.real.down = p.rng.IntN(4) == 0
			p.pretend.down = p.real.down
		}
	case 12:
		pause := time.Duration(1+p.rng.IntN(12)) * 300 * time.Millisecond
		did = fmt.Sprint("sleep ", pause)
		time.Sleep(pause)
	}
	synctest.Wait()
	p.steps = append(p.steps, fmt.Sprintf("%s: %s, %d loads", did, got, p.real.loads))
	if got != want || p.real.loads != p.pretend.loads {
		p.t.Errorf("%s: %s and %d loads, want %s and %d", did, got, p.real.loads, want, p.pretend.loads)
	}
}

// many gets some keys at once.
func (p *plainTrial) many(c *Cache[int]) (did, got, want string) {
	var keys []string
	for n := range plainKeys {
		if p.rng.IntN(2) == 0 {
			keys = append(keys, plainKey(n))
		}
	}
	values, err := c.GetOrLoadMany(background, keys, func(ctx context.Context, keys []string) (map[string]int, error) {
		found := map[string]int{}
		for _, key := range keys {
			v, err := p.real.load(key)
			switch {
			case err == nil:
				found[key] = v
			case !errors.Is(err, ErrNotFound):
				return nil, err
			}
			LoadFrom(ctx).ForKey(key).SetTags(plainTag(key))
		}
		return found, nil
	})
	expected := map[string]int{}
	failed := false
	for _, key := range keys {
		v, err := p.plain.getOrLoad(&p.pretend, key, p.plain.ttl, false)
		if err == nil {
			expected[key] = v
		}
		failed = failed || errors.Is(err, errLoad)
	}
	if failed { // the first key that fails ends the loader
		p.pretend.loads = p.real.loads
	}
	return "GetOrLoadMany " + strings.Join(keys, " "), fmt.Sprint(sorted(values), errors.Is(err, errLoad)), fmt.Sprint(sorted(expected), failed)
}

func sorted(values map[string]int) (all []string) {
	for _, k := range slices.Sorted(maps.Keys(values)) {
		all = append(all, fmt.Sprint(k, "=", values[k]))
	}
	return all
}

// change gives a key another value at the origin, or none.
func (p *plainTrial) change(key string) {
	if p.real.values == nil {
		p.real.values = map[string]int{}
		p.pretend.values = p.real.values
	}
	n := 1 + p.rng.IntN(1_000_000)
	if p.rng.IntN(4) == 0 {
		n = 0
	}
	p.real.values[key] = n
}
