package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

// taggedLoader is a loader that returns v and sets tags.
func taggedLoader(v string, tags ...string) Loader[string] {
	return func(ctx context.Context, _ string) (string, error) {
		LoadFrom(ctx).SetTags(tags...)
		return v, nil
	}
}

// wants calls GetOrLoad with a loader that would return v2, and compares.
func wants(t *testing.T, c *Cache[string], key, want string) {
	t.Helper()
	if v, err := c.GetOrLoad(background, key, constant("v2")); v != want || err != nil {
		t.Errorf("%s is %q, %v; want %q", key, v, err, want)
	}
}

func deleteTags(t *testing.T, c *Cache[string], tags ...string) {
	t.Helper()
	if err := c.DeleteTags(background, tags...); err != nil {
		t.Error(err)
	}
}

// tags: DeleteTags invalidates what carries one of the tags, in all tiers of all processes, and nothing else.
func tags(t *testing.T, b *backend) {
	o := Options{Tags: true}
	a, z := cacheOf[string](b, "A", "user", o), cacheOf[string](b, b.last(), "user", o)
	other := cacheOf[string](b, "A", "order", o)
	all := slices.Compact([]*Cache[string]{a, z})
	// forgotten waits until what another process invalidated has reached this one's memory.
	forgotten := func(c *Cache[string], key string) {
		t.Helper()
		b.eventually(key+" forgotten", func() bool { _, ok := c.core.local.get(key); return !ok })
	}
	fill := func() {
		t.Helper()
		for _, c := range append(all, other) {
			for key, set := range map[string]struct{ call, loader []string }{
				"ab": {[]string{"a"}, []string{"b"}}, "b": {[]string{"b"}, nil}, "c": {nil, []string{"c", "c", ""}}, "none": {},
			} {
				if v, err := c.GetOrLoad(background, key, taggedLoader("v1", set.loader...), WithTags(set.call...)); v != "v1" || err != nil {
					t.Fatalf("%s: %q, %v", key, v, err)
				}
			}
			if _, err := c.GetOrLoad(background, "gone", func(ctx context.Context, _ string) (string, error) {
				LoadFrom(ctx).SetTags("b")
				return "", ErrNotFound
			}); !errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
		}
	}
	fill()
	loads := func() (n uint64) {
		for _, c := range all {
			n += c.Stats().Loads
		}
		return n
	}
	if n := loads(); n != 5 {
		t.Errorf("%d loads of 5 keys", n) // tags that were never seen cost no load
	}
	deleteTags(t, a, "b")
	for _, c := range all {
		wants(t, c, "none", "v1")
		wants(t, c, "c", "v1")
		for _, key := range []string{"ab", "b", "gone"} {
			forgotten(c, key)
		}
	}
	for _, c := range all {
		for _, key := range []string{"ab", "b", "gone"} {
			wants(t, c, key, "v2")
		}
	}
	for _, key := range []string{"ab", "b", "c", "none"} {
		wants(t, other, key, "v1") // another cache has tags of its own
	}
	if n := loads(); n != 8 {
		t.Errorf("%d loads in all", n)
	}
	deleteTags(t, z, "", "c", "never used")
	for _, c := range all {
		forgotten(c, "c")
		wants(t, c, "none", "v1")
	}
	for _, c := range all {
		wants(t, c, "c", "v2")
	}
	deleteTags(t, a) // nothing
	if err := z.Clear(background); err != nil {
		t.Error(err)
	}
	for _, c := range all {
		for _, key := range []string{"ab", "b", "c", "none", "gone"} {
			forgotten(c, key)
		}
	}
	for _, c := range all {
		for _, key := range []string{"ab", "b", "c", "none", "gone"} {
			wants(t, c, key, "v2")
		}
	}
	for _, key := range []string{"ab", "b", "c", "none"} {
		wants(t, other, key, "v1")
	}
	// Set takes tags as well.
	if err := a.Set(background, "set", "v1", WithTags("s")); err != nil {
		t.Error(err)
	}
	wants(t, z, "set", "v1")
	wants(t, a, "set", "v1")
	deleteTags(t, z, "s")
	forgotten(a, "set")
	wants(t, a, "set", "v2")
	wants(t, z, "set", "v2")
}

// tagsInMidLoad: what was being loaded when its tag was deleted is not for calls that come later, and is kept nowhere.
func tagsInMidLoad(t *testing.T, b *backend) {
	o := Options{Tags: true}
	for i, how := range []string{"tag of the call", "tag of the loader", "Clear"} {
		for j, deleter := range []string{"A", b.last()} {
			loader, key := cacheOf[string](b, "A", "user", o), fmt.Sprint(i, j)
			g := newGate("old", nil)
			var wg sync.WaitGroup
			get := func() {
				wg.Go(func() {
					var co []CallOption
					if how == "tag of the call" {
						co = append(co, WithTags(key))
					}
					if v, err := loader.GetOrLoad(background, key, func(ctx context.Context, k string) (string, error) {
						if how == "tag of the loader" {
							LoadFrom(ctx).SetTags(key)
						}
						return g.load(ctx, k)
					}, co...); v != "old" || err != nil {
						t.Errorf("%s: %q, %v", how, v, err)
					}
				})
			}
			get()
			<-g.begun
			c := cacheOf[string](b, deleter, "user", o)
			if how == "Clear" {
				if err := c.Clear(background); err != nil {
					t.Fatal(err)
				}
			} else {
				deleteTags(t, c, key)
			}
			var late sync.WaitGroup
			for _, p := range b.processes {
				c := cacheOf[string](b, p, "user", o)
				late.Go(func() { wants(t, c, key, "v2") })
			}
			// They join the load, or wait for it, or for a place of their own.
			if b.virtual {
				synctest.Wait()
			}
			close(g.free)
			wg.Wait()
			late.Wait()
			for _, p := range b.processes {
				wants(t, cacheOf[string](b, p, "user", o), key, "v2")
			}
		}
	}
}

// tagMistakes: what cannot be kept is returned, and tags without Options.Tags are an error.
func tagMistakes(t *testing.T, b *backend) {
	on, off := cacheOf[string](b, "A", "on", Options{Tags: true}), cacheOf[string](b, "A", "off", Options{})
	for name, err := range map[string]error{
		"WithTags":   second(off.GetOrLoad(background, "k", constant("v"), WithTags("t"))),
		"SetTags":    second(off.GetOrLoad(background, "k", taggedLoader("v", "t"))),
		"Set":        off.Set(background, "k", "v", WithTags("t")),
		"DeleteTags": off.DeleteTags(background, "t"),
		"Clear":      off.Clear(background),
	} {
		if !errors.Is(err, errTagsOff) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wants(t, off, "k", "v2")
	var many []string
	for i := range record.MostTags + 1 {
		many = append(many, fmt.Sprint("tag", i))
	}
	for name, c := range map[string]struct {
		tags []string
		kept bool
	}{
		"as many":  {append(slices.Clone(many[1:]), many[1]), true},
		"too many": {many, false},
		"as long":  {[]string{strings.Repeat("x", record.LongestTag)}, true},
		"too long": {[]string{strings.Repeat("x", record.LongestTag+1)}, false},
	} {
		key, want := name, "v2"
		if c.kept {
			want = "v1"
		}
		if v, err := on.GetOrLoad(background, key, taggedLoader("v1", c.tags...)); v != "v1" || err != nil {
			t.Errorf("%s: %q, %v", name, v, err)
		}
		wants(t, on, key, want)
		if err := on.Set(background, key, "v1", WithTags(c.tags...)); (err == nil) != c.kept {
			t.Errorf("%s: Set: %v", name, err)
		}
	}
	var none *Load
	none.SetTags("x")
	if LoadFrom(background) != nil {
		t.Error("a Load without a load")
	}
}

func second[V any](_ V, err error) error { return err }

// Losing the barriers never brings an old value back, and costs one load of each key.
func TestLostBarriers(t *testing.T) {
	for name, lose := range map[string]func(w *lab.World){
		"evicted": func(w *lab.World) { w.Redis.Del("cache:user") },
		"string":  func(w *lab.World) { _ = w.Redis.Set("cache:user", "x") },
		"no base": func(w *lab.World) { w.Redis.HDel("cache:user", "base") },
		"garbage": func(w *lab.World) { w.Redis.HSet("cache:user", "base", "x") },
		"future":  func(w *lab.World) { w.Redis.HSet("cache:user", "last", "9999999999999999") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *lab.World) {
				ps := fleet(t, w, Options{Tags: true, LocalTTL: -1}, "A", "B")
				defer stopAll(ps)
				a, b := ps["A"].cache, ps["B"].cache
				if _, err := a.GetOrLoad(background, "k", taggedLoader("v1", "t")); err != nil {
					t.Fatal(err)
				}
				deleteTags(t, b, "t")
				raw, _ := w.Redis.Get(fullKey)
				lose(w)
				_ = w.Redis.Set(fullKey, raw) // nobody has touched it anyway
				for range 2 {
					wants(t, a, "k", "v2")
					wants(t, b, "k", "v2")
				}
				deleteTags(t, a, "t")
				if v, err := b.GetOrLoad(background, "k", constant("v3")); v != "v2" && v != "v3" || err != nil {
					t.Error(v, err)
				}
				if n := a.Stats().Loads + b.Stats().Loads; n > 3 {
					t.Errorf("%d loads", n)
				}
				if ttl := w.Redis.TTL("cache:user"); ttl <= 0 {
					t.Errorf("TTL of the barriers: %v", ttl)
				}
			})
		})
	}
}

// The barriers forget the older half of too many tags, and with it whatever may have carried them.
func TestManyTags(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{Tags: true, LocalTTL: -1}, nil)
		defer p.stop()
		load := func(key, tag string) {
			if _, err := p.cache.GetOrLoad(background, key, taggedLoader("v1", tag)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		load("before", "x")
		load("deleted", "0")
		for i := range 11 {
			if i == 8 {
				load("between", "y")
			}
			deleteTags(t, p.cache, manyKeys(1000, fmt.Sprint(i))...)
			time.Sleep(time.Millisecond)
		}
		fields, _ := w.Redis.HKeys("cache:user")
		if len(fields) > 10_002 || len(fields) < 4000 {
			t.Errorf("%d fields", len(fields))
		}
		load("after", "z")
		wants(t, p.cache, "before", "v2")
		wants(t, p.cache, "deleted", "v2")
		wants(t, p.cache, "between", "v1")
		wants(t, p.cache, "after", "v1")
	})
}

// Stamps and barriers rise, whatever the server's clock does.
func TestStampsRise(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{Tags: true}, nil)
		defer p.stop()
		scripts, _ := p.rds.store.(*scriptStore)
		rng := rand.New(rand.NewPCG(1, 2))
		last := int64(0)
		for i := range 200 {
			if i%20 == 19 {
				w.Redis.SetTime(time.Now().Add(time.Duration(rng.IntN(7)-3) * time.Hour))
			}
			stamp, err := scripts.stamp(background, "user", 1000*time.Hour)
			if err != nil || stamp <= last {
				t.Fatalf("%d after %d, %v", stamp, last, err)
			}
			if i%3 == 0 {
				if err := scripts.invalidate(background, "user", []string{"t"}, 1000*time.Hour); err != nil {
					t.Fatal(err)
				}
				barrier, err := scripts.barrier(background, "user", []string{"t"})
				if err != nil || barrier <= stamp {
					t.Fatalf("barrier %d after stamp %d, %v", barrier, stamp, err)
				}
				stamp = barrier
			}
			last = stamp
		}
	})
}

// The barriers get lost while the server's clock steps back: what was invalid stays so.
func TestLostBarriersAndClock(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{Tags: true, LocalTTL: -1}, nil)
		defer p.stop()
		if _, err := p.cache.GetOrLoad(background, "other", taggedLoader("v1", "t")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute) // until times are those of the clock
		if _, err := p.cache.GetOrLoad(background, "k", taggedLoader("v1", "t"), WithTTL(time.Hour)); err != nil {
			t.Fatal(err)
		}
		deleteTags(t, p.cache, "t")
		w.Redis.SetTime(time.Now().Add(-30 * time.Second))
		w.Redis.Del("cache:user")
		wants(t, p.cache, "x", "v2") // has a stamp
		wants(t, p.cache, "k", "v2")
	})
}

// Sealed entries authenticate their tags: without one of them, a deletion would miss the entry.
func TestSealedTags(t *testing.T) {
	c := coderFor[string](t, Options{Tags: true, Secrets: []Secret{newSecret(1)}})
	raw := c.seal("k", life{owner: record.Owner{1}, stamp: 7, tags: []string{"a", "b"}}, []byte("\xa1v"))
	if v, err := open(c, "k", raw); v != "v" || err != nil {
		t.Fatal(v, err)
	}
	h, payload, _ := record.Open(raw)
	block, sealed, err := record.CutTags(payload)
	if err != nil {
		t.Fatal(err)
	}
	less := record.Append(nil, &h, append(record.AppendTags(nil, []string{"a"}), sealed...))
	if v, err := open(c, "k", less); !errors.Is(err, errUnreadable) {
		t.Errorf("with a tag less: %v, %v", v, err)
	}
	h.Stamp++
	if v, err := open(c, "k", record.Append(nil, &h, append(slices.Clone(block), sealed...))); !errors.Is(err, errUnreadable) {
		t.Errorf("with another stamp: %v, %v", v, err)
	}
}

// A process that could not delete tags does not believe entries that carry them until it has.
func TestTagDeletionRepeated(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{Tags: true, LocalTTL: -1}, "A", "B")
		defer stopAll(ps)
		a, b := ps["A"].cache, ps["B"].cache
		for _, key := range []string{"k", "other"} {
			if _, err := b.GetOrLoad(background, key, taggedLoader("v1", key)); err != nil {
				t.Fatal(err)
			}
		}
		w.CutOff("A", false)
		if err := a.DeleteTags(background, "k"); err == nil {
			t.Error("deleted without Redis")
		}
		time.Sleep(3 * time.Second)
		w.Hold(func(m *lab.Message) bool { return m.Process == "A" && verbOf(m) == "INVALIDATE" })
		w.CutOff("A", true)
		time.Sleep(1500 * time.Millisecond)
		wants(t, a, "k", "v2")
		wants(t, a, "other", "v1")
		w.Hold(nil)
		time.Sleep(5 * time.Second)
		if s := a.Stats(); s.DeletesPending != 0 || s.DeletesRepeated != 1 {
			t.Errorf("%+v", s)
		}
		if v, err := b.GetOrLoad(background, "k", constant("v3")); v == "v1" || err != nil {
			t.Error(v, err)
		}
	})
}

// Processes with and without Tags leave each other's entries alone.
func TestTagsOnAndOff(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{LocalTTL: -1}, "A")
		b := start(t, w, "B", Options{LocalTTL: -1, Tags: true}, nil)
		defer b.stop()
		defer stopAll(ps)
		for range 3 {
			wants(t, ps["A"].cache, "k", "v2")
			wants(t, b.cache, "k", "v2")
		}
		if n := b.cache.Stats().OtherEntries; n != 3 {
			t.Errorf("%d entries left alone", n)
		}
	})
}
