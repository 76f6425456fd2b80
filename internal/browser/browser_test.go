package browser

import (
	"bytes"
	"cmp"
	"context"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is how long anything may take.
const patience = time.Minute

// start starts a Chromium that ends with the test. Each chromedp.NewContext of what it returns is a tab.
func start(t *testing.T) context.Context {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = cmp.Or(path, found)
		}
	}
	if path == "" {
		if os.Getenv("CACHE_REQUIRE_BROWSER") == "1" {
			t.Fatal("CACHE_REQUIRE_BROWSER is 1, and there is no chromium in PATH")
		}
		t.Skip("SKIPPED: no chromium in PATH")
	}
	all, stop := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("lang", "en-US"),
	)...)
	t.Cleanup(stop)
	ctx, end := chromedp.NewContext(all)
	t.Cleanup(end)
	if err := chromedp.Do(ctx); err != nil { // it lives as long as the context that it is first used with
		t.Fatal(err)
	}
	return ctx
}

// tab opens a URL. What the page complains of, or asks for elsewhere, fails the test.
func tab(t *testing.T, browser context.Context, url string) context.Context {
	t.Helper()
	ctx, end := chromedp.NewContext(browser)
	t.Cleanup(end)
	home := url[:strings.LastIndex(url, "/")+1]
	if err := chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			t.Errorf("%s: %s", url, e.ExceptionDetails.Text)
		case *log.EventEntryAdded:
			if e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork { // a page may find that its process is gone
				t.Errorf("%s: %s", url, e.Entry.Text)
			}
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(e.Request.URL, home) && !strings.HasSuffix(e.Request.URL, "/favicon.ico") {
				t.Errorf("%s asks for %s", url, e.Request.URL)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	call(t, ctx, network.Enable, network.EnableParams{})
	call(t, ctx, log.Enable, cdp.Empty{})
	do(t, ctx, chromedp.Navigate(url))
	return ctx
}

func do(t *testing.T, tab context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(tab, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

func call[P, R any](t *testing.T, tab context.Context, command cdp.Command[P, R], params P) {
	t.Helper()
	ctx, cancel := context.WithTimeout(tab, patience)
	defer cancel()
	if _, err := chromedp.Call(ctx, command, params); err != nil {
		t.Fatal(err)
	}
}

// ask returns what an action finds.
func ask[V any](t *testing.T, tab context.Context, action chromedp.Action[V]) V {
	t.Helper()
	ctx, cancel := context.WithTimeout(tab, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// text returns what can be read on a page.
func text(t *testing.T, tab context.Context) string {
	t.Helper()
	return ask(t, tab, chromedp.Evaluate[string]("document.body.innerText"))
}

// await waits until a JavaScript expression is true. (What chromedp has for this the page's own policy forbids.)
func await(t *testing.T, tab context.Context, expression string) {
	t.Helper()
	awaitFunc(t, tab, expression, func() bool { return ask(t, tab, chromedp.Evaluate[bool](expression)) })
}

// awaitText waits until all of these can be read on a page.
func awaitText(t *testing.T, tab context.Context, all ...string) {
	t.Helper()
	awaitFunc(t, tab, strings.Join(all, ", "), func() bool {
		seen := text(t, tab)
		return !slices.ContainsFunc(all, func(s string) bool { return !strings.Contains(seen, s) })
	})
}

func awaitFunc(t *testing.T, tab context.Context, what string, ok func() bool) {
	t.Helper()
	tick, timeout := time.NewTicker(20*time.Millisecond), time.After(patience)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("in vain waited for: %s\n%s", what, text(t, tab))
		}
	}
}

// look takes pictures of a page, light and dark, wide and narrow, and holds against it what a machine can see: nothing sticks out to the
// side, the colours are those that were asked for, and something is on it.
func look(t *testing.T, tab context.Context, name string) {
	t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		for size, width := range map[string]int64{"wide": 1280, "phone": 390} {
			call(t, tab, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
				Width: width, Height: 800, DeviceScaleFactor: 1, Mobile: size == "phone",
			})
			call(t, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
			})
			redrawn(t, tab)
			shot := ask(t, tab, chromedp.FullScreenshot(100))
			picture := name + "-" + scheme + "-" + size
			if dir := os.Getenv("CACHE_PICTURES"); dir != "" {
				if err := os.WriteFile(filepath.Join(dir, picture+".png"), shot, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if over := ask(t, tab, chromedp.Evaluate[int64]("document.documentElement.scrollWidth")) - width; over > 0 {
				t.Errorf("%s: %d pixels stick out", picture, over)
			}
			img, err := png.Decode(bytes.NewReader(shot))
			if err != nil {
				t.Fatal(err)
			}
			if back := brightness(img, 1, 1); back > 0.5 != (scheme == "light") {
				t.Errorf("%s: the background's brightness is %.2f", picture, back)
			}
			if share := contrast(img); share < 0.005 {
				t.Errorf("%s: only %.2f %% of it is not background", picture, 100*share)
			}
		}
	}
	call(t, tab, emulation.ClearDeviceMetricsOverride, cdp.Empty{})
}

// redrawn waits until a page that draws itself anew now and then has done so.
func redrawn(t *testing.T, tab context.Context) {
	t.Helper()
	if !ask(t, tab, chromedp.Evaluate[bool](`document.getElementById("state") !== null`)) {
		return
	}
	do(t, tab, chromedp.Evaluate[chromedp.Void](`document.getElementById("caches").firstChild.id = "old"; undefined`))
	await(t, tab, `document.getElementById("old") === null`)
}

func brightness(img image.Image, x, y int) float64 {
	r, g, b, _ := img.At(x, y).RGBA()
	return float64(r+g+b) / (3 * 0xffff)
}

// contrast is the share of what can be told from the background well.
func contrast(img image.Image) float64 {
	back, n := brightness(img, 1, 1), 0
	size := img.Bounds().Size()
	for y := range size.Y {
		for x := range size.X {
			if d := brightness(img, x, y) - back; d > 0.25 || d < -0.25 {
				n++
			}
		}
	}
	return float64(n) / float64(size.X*size.Y)
}
