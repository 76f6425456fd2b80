package cachehttp_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/cachehttp"
	"github.com/bellwether-go/cache/cachetest"
)

func get(t *testing.T, h http.Handler, url string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, url, nil))
	return w
}

func page(t *testing.T, h http.Handler) (p cachehttp.Page) {
	t.Helper()
	w := get(t, h, "/debug/cache?json=1")
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return p
}

// What scripts get of two processes, one of which loads what the other waits for.
func TestFleet(t *testing.T) {
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		t := fleet.T
		var caches []*cache.Cache[int]
		for _, p := range fleet.Processes() {
			c, err := cache.New[int]("user", cache.Options{Redis: p.Redis()})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			caches = append(caches, c)
		}
		fleet.Settle()
		for _, c := range caches {
			go func() {
				_, _ = c.GetOrLoad(t.Context(), "secret", func(context.Context, string) (int, error) {
					time.Sleep(1500 * time.Millisecond)
					return 1, nil
				})
			}()
			fleet.Settle()
			time.Sleep(time.Second / 2)
		}
		h := cachehttp.Masked(func(key string) string { return key[:2] + "..." }, caches[1])
		p := page(t, h)
		c := p.Caches[0]
		if len(c.Holders) != 1 {
			t.Fatalf("%+v", c.Holders)
		}
		got := c.Holders[0]
		got.Held, got.Left = got.Held.Round(time.Second/10), 0
		if got != (cachehttp.Holder{Key: "se...", Process: fleet.Process(0).String(), Held: time.Second, Waiting: 1}) {
			t.Errorf("%+v", c.Holders)
		}
		if len(c.Status.Waits) != 1 || c.Status.Waits[0].Key != "se..." || c.Status.Leases[0].What != "waits" || c.Hot[0].Key != "se..." {
			t.Errorf("%+v", c)
		}
		time.Sleep(time.Second)
		if err := caches[0].Delete(t.Context(), "secret"); err != nil {
			t.Error(err)
		}
		fleet.Settle()
		w := get(t, h, "/?json=1")
		if strings.Contains(w.Body.String(), "secret") {
			t.Errorf("a key is shown: %s", w.Body)
		}
		if c = page(t, h).Caches[0]; c.Status.Deletions[0].Name != "se..." || c.Status.Deletions[0].From != fleet.Process(0).String() || c.Status.Leases[0].What != "woken" {
			t.Errorf("%+v", c.Status)
		}
		if n := len(c.Samples); n != 2 {
			t.Errorf("%d samples", n)
		}
	})
}

// Explain of a key, as text and as JSON; samples at most one in a second, and a bounded number of them.
func TestHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := cache.New[int]("user", cache.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Set(t.Context(), "<b>k&y</b>", 1); err != nil {
			t.Fatal(err)
		}
		h := cachehttp.Handler(c)
		w := get(t, h, "/debug/cache?cache=user&key=%3Cb%3Ek%26y%3C%2Fb%3E")
		if !strings.HasPrefix(w.Body.String(), `user "<b>k&y</b>": fresh, in memory`) || w.Header().Get("Content-Type") != "text/plain; charset=utf-8" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%v %s", w.Header(), w.Body)
		}
		var x cache.Explanation
		if err := json.Unmarshal(get(t, h, "/?cache=user&key=k&json=1").Body.Bytes(), &x); err != nil || x.Answer != "miss" {
			t.Error(x, err)
		}
		if w := get(t, h, "/?cache=other&key=k"); w.Code != http.StatusNotFound {
			t.Error(w.Code)
		}
		w = get(t, h, "/debug/cache")
		if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") ||
			strings.Contains(w.Body.String(), "http://") && !strings.Contains(w.Body.String(), "www.w3.org/2000/svg") || strings.Contains(w.Body.String(), "https://") {
			t.Errorf("%s", csp)
		}
		w = httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Error(w.Code)
		}
		for range 320 {
			time.Sleep(time.Second)
			if n := len(page(t, h).Caches[0].Samples); n > 301 {
				t.Fatalf("%d samples", n)
			}
		}
		if n := len(page(t, h).Caches[0].Samples); n < 200 {
			t.Errorf("%d samples", n)
		}
		_ = c.Close()
		if w := get(t, h, "/?cache=user&key=k"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), cache.ErrClosed.Error()) {
			t.Error(w.Code, w.Body)
		}
	})
}
