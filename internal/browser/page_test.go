package browser

import (
	"context"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/chromedp/chromedp"
	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/cachehttp"
)

// process is a cache as in one process of a fleet.
func process(t *testing.T, redisAddr, name string) *cache.Cache[string] {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: redisAddr})
	rds, err := cache.NewRedis(client, cache.RedisOptions{Process: name, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	c, err := cache.New[string]("user", cache.Options{Redis: rds, Tags: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		_ = rds.Close()
		_ = client.Close()
	})
	return c
}

// The page shows hits, loads, who loads what is waited for, deletions, and what Explain says; and it says when its process is gone.
func TestPage(t *testing.T) {
	t.Parallel()
	browser := start(t)
	addr := miniredis.RunT(t).Addr()
	here, there := process(t, addr, "web-1"), process(t, addr, "web-2")
	load := func(context.Context, string) (string, error) { return "v", nil }
	get := func(c *cache.Cache[string], key string, load cache.Loader[string]) {
		if _, err := c.GetOrLoad(t.Context(), key, load, cache.WithTags("<b>tag</b>")); err != nil {
			t.Error(err)
		}
	}
	held, begun := make(chan struct{}), make(chan struct{})
	slow := func(context.Context, string) (string, error) {
		close(begun)
		<-held
		return "v", nil
	}
	release := sync.OnceFunc(func() { close(held) })
	defer release()
	go get(there, "order:held", slow)
	<-begun
	go get(here, "order:held", load)

	memory, err := cache.New[int]("memory", cache.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	server := httptest.NewServer(cachehttp.Handler(here, memory))
	defer server.Close()
	page := tab(t, browser, server.URL+"/debug/cache")
	await(t, page, `document.querySelectorAll("section[data-cache]").length === 2`)
	n := 0
	traffic := func() { // between two samples of the page
		for i := range 200 {
			get(here, "order:"+strconv.Itoa(i%20), load)
		}
		n++
		get(here, "order:new:"+strconv.Itoa(n), load)
	}
	for samples := 0; samples < 4; {
		traffic()
		if err := here.Delete(t.Context(), `<script>alert(1)</script>`); err != nil {
			t.Error(err)
		}
		redrawn(t, page)
		samples++
	}
	await(t, page, `document.querySelector("path.hit").getAttribute("d").includes("L")`)
	awaitText(t, page, "web-2", "order:held", "Redis answers", "hears deletions", "<script>alert(1)</script>", "waits", "memory only")
	do(t, page, chromedp.SendKeys(chromedp.CSS("#key"), "order:held\r"))
	awaitText(t, page, `user "order:held": miss`, "web-2 has it")
	look(t, page, "page")
	release()
	awaitText(t, page, "nobody loads a key that is waited for or hot here")
	server.CloseClientConnections()
	server.Close()
	awaitText(t, page, "no answer from the process")
}

// Masked keys are on no page.
func TestMasked(t *testing.T) {
	t.Parallel()
	browser := start(t)
	c := process(t, miniredis.RunT(t).Addr(), "web-1")
	for range 100 {
		if _, err := c.GetOrLoad(t.Context(), "secret", func(context.Context, string) (string, error) { return "v", nil }); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(cachehttp.Masked(func(string) string { return "(a key)" }, c))
	defer server.Close()
	page := tab(t, browser, server.URL+"/")
	awaitText(t, page, "(a key)")
	if html := ask(t, page, chromedp.OuterHTML(chromedp.CSS("html"))); strings.Contains(html, "secret") {
		t.Error(html)
	}
}
