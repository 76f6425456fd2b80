// Package cachehttp serves a page about caches, in the way of /debug/pprof:
//
//	http.Handle("/debug/cache", cachehttp.Handler(users, orders))
//
// It shows, for each cache of the process, the hit ratio over time, the keys that are asked for most, loads under way, who loads what this
// process waits for or is asked for most, the last changes of leases, deletions and of Redis, and what Explain says of a key that is
// typed in. It needs nothing from elsewhere, changes nothing, and shows keys: put it where only you can see it, or mask them.
//
// The same URL with ?json=1 is for scripts; with ?cache=NAME&key=KEY it is what Explain says of a key, as text, or with &json=1 as JSON.
package cachehttp

import (
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/bellwether-go/cache"
)

// Source is a cache: *cache.Cache[V] for any V.
type Source interface {
	Name() string
	Status() cache.Status
	Explain(ctx context.Context, key string) (cache.Explanation, error)
}

// Handler returns the page about caches. It keeps a sample of their counters each time that it is asked, at most one in a second, for
// the charts; and starts no goroutine.
func Handler(caches ...Source) http.Handler { return Masked(nil, caches...) }

// Masked is Handler, but shows of keys and tags what mask makes of them: nothing, or a hash, or what is left without the part that is
// nobody else's business. A key that is typed in is explained all the same.
func Masked(mask func(string) string, caches ...Source) http.Handler {
	if mask == nil {
		mask = func(key string) string { return key }
	}
	return &handler{
		mask: mask, caches: caches, html: template.Must(template.New("page").Parse(pageHTML)), samples: make([][]Sample, len(caches)),
	}
}

// Page is what ?json=1 answers.
type Page struct {
	At     time.Time
	Caches []Cache
}

// Cache is one of the caches of a Page.
type Cache struct {
	Status  cache.Status // without Hot
	Hot     []HotKey     // the most asked for first
	Holders []Holder     // of keys that are loaded here, waited for, or asked for most: those that somebody loads now
	Samples []Sample     // the oldest first
}

// HotKey is a key and what part of the calls it makes up.
type HotKey struct {
	Key   string
	Share float64
}

// Holder is who loads a key.
type Holder struct {
	Key     string
	Process string
	Here    bool
	Held    time.Duration // since when
	Left    time.Duration // unless the lease is renewed
	Waiting int           // calls that wait for it here
}

// Sample is what the counters said at a time.
type Sample struct {
	At     time.Time
	Hits   uint64 // in memory and in Redis
	Misses uint64
	Loads  uint64
}

const (
	mostSamples = 300
	mostHeld    = 20 // keys that are looked at for a lease
	patience    = time.Second
)

type handler struct {
	mask   func(string) string
	caches []Source
	html   *template.Template

	mu      sync.Mutex
	samples [][]Sample // of each cache; guarded by mu
}

//go:embed page.html
var pageHTML string

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	head, query := w.Header(), r.URL.Query()
	head.Set("Cache-Control", "no-store")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Referrer-Policy", "no-referrer")
	switch asJSON := query.Get("json") != ""; {
	case query.Has("key"):
		h.explain(w, r, query.Get("cache"), query.Get("key"), asJSON)
	case asJSON:
		answer(w, h.page(r.Context()))
	default:
		nonce := rand.Text()
		head.Set("Content-Type", "text/html; charset=utf-8")
		head.Set("Content-Security-Policy",
			"default-src 'none'; connect-src 'self'; style-src 'nonce-"+nonce+"'; script-src 'nonce-"+nonce+"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		_ = h.html.Execute(w, nonce)
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v)
}

func (h *handler) explain(w http.ResponseWriter, r *http.Request, name, key string, asJSON bool) {
	for _, c := range h.caches {
		if c.Name() != name {
			continue
		}
		x, err := c.Explain(r.Context(), key)
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case asJSON:
			answer(w, x)
		default:
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = w.Write([]byte(x.String() + "\n"))
		}
		return
	}
	http.Error(w, "no such cache", http.StatusNotFound)
}

func (h *handler) page(ctx context.Context) Page {
	p := Page{At: time.Now(), Caches: make([]Cache, len(h.caches))}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var all sync.WaitGroup
	for i := range h.caches {
		all.Go(func() { p.Caches[i] = h.look(ctx, i) })
	}
	all.Wait()
	return p
}

// look looks at one cache.
func (h *handler) look(ctx context.Context, i int) Cache {
	source := h.caches[i]
	c := Cache{Status: source.Status()}
	for _, key := range slices.SortedFunc(maps.Keys(c.Status.Hot), func(a, b string) int {
		return cmp.Or(cmp.Compare(c.Status.Hot[b], c.Status.Hot[a]), cmp.Compare(a, b))
	}) {
		c.Hot = append(c.Hot, HotKey{key, c.Status.Hot[key]})
	}
	c.Holders = holders(ctx, source, &c)
	h.hide(&c)
	s := c.Status.Stats
	now := Sample{
		At: c.Status.At, Hits: s.LocalHits + s.RedisHits, Loads: s.Loads,
		Misses: s.MissesAbsent + s.MissesExpired + s.MissesLeased + s.MissesDeleted + s.MissesUndeleted + s.MissesUnreadable + s.MissesOther + s.MissesUnreachable,
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := h.samples[i]
	if n := len(kept); n == 0 || now.At.Sub(kept[n-1].At) >= time.Second {
		kept = append(kept, now)
	}
	if len(kept) > mostSamples {
		kept = slices.Clone(kept[len(kept)-mostSamples:])
	}
	h.samples[i] = kept
	c.Samples = slices.Clone(kept)
	return c
}

// holders asks who loads the keys that matter here.
func holders(ctx context.Context, source Source, c *Cache) (found []Holder) {
	if !c.Status.Redis.Used {
		return nil
	}
	var keys []string
	add := func(key string) {
		if len(keys) < mostHeld && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	for _, w := range c.Status.Waits {
		add(w.Key)
	}
	for _, l := range c.Status.Loads {
		for _, key := range l.Keys[:min(len(l.Keys), 3)] {
			add(key)
		}
	}
	for _, k := range c.Hot {
		add(k.Key)
	}
	explained := make([]cache.Explanation, len(keys))
	var all sync.WaitGroup
	for i, key := range keys {
		all.Go(func() { explained[i], _ = source.Explain(ctx, key) })
	}
	all.Wait()
	for i, x := range explained {
		if l := x.Lease; l.Holder != "" {
			found = append(found, Holder{keys[i], l.Holder, l.Here, l.Held, l.Left, x.Here.Waiting})
		}
	}
	return found
}

// hide masks all keys.
func (h *handler) hide(c *Cache) {
	s := &c.Status
	s.Hot = nil
	for i := range c.Hot {
		c.Hot[i].Key = h.mask(c.Hot[i].Key)
	}
	for i := range c.Holders {
		c.Holders[i].Key = h.mask(c.Holders[i].Key)
	}
	for i := range s.Waits {
		s.Waits[i].Key = h.mask(s.Waits[i].Key)
	}
	for i := range s.Leases {
		s.Leases[i].Key = h.mask(s.Leases[i].Key)
	}
	for i := range s.Deletions {
		s.Deletions[i].Name = h.mask(s.Deletions[i].Name)
	}
	for i := range s.Loads {
		keys := slices.Clone(s.Loads[i].Keys)
		for j := range keys {
			keys[j] = h.mask(keys[j])
		}
		s.Loads[i].Keys = keys
	}
}
