package browser

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"
)

// stampede builds the demonstration.
func stampede(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "stampede")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./cmd/stampede")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// The process that holds the lease is killed. On the page of another one sees who holds it, that the lease is lost, who takes over, and
// that the value is there in the end.
func TestKill(t *testing.T) {
	t.Parallel()
	browser := start(t)
	cmd := exec.CommandContext(context.Background(), stampede(t), "-kill", "-processes", "3", "-callers", "50", "-load", "12s", "-http", "127.0.0.1:0")
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	var home string
	lines := bufio.NewScanner(said)
	for home == "" && lines.Scan() {
		home = regexp.MustCompile(`http://\S+`).FindString(lines.Text())
	}
	index := tab(t, browser, home)
	look(t, index, "fleet")
	pages := make(map[string]context.Context)
	for _, path := range ask(t, index, chromedp.Evaluate[[]string](`[...document.querySelectorAll("a")].map(a => a.getAttribute("href"))`)) {
		pages[strings.Trim(path, "/")] = tab(t, browser, home+strings.Trim(path, "/")+"/")
	}
	if len(pages) != 3 {
		t.Fatalf("%d pages", len(pages))
	}

	// Who holds the lease? The page of the holder says that it is here, those of the others that they wait for it.
	holder := func(not string) (pid string) {
		awaitFunc(t, index, "a process that holds the lease", func() bool {
			for pid = range pages {
				if pid != not && strings.Contains(under(t, pages[pid], "Who loads what"), ":"+pid+" (here)") {
					return true
				}
			}
			return false
		})
		return pid
	}
	first := holder("")
	dead := pages[first]
	delete(pages, first)
	for _, page := range pages {
		awaitFunc(t, page, "who is waited for", func() bool { return strings.Contains(under(t, page, "Waiting for other processes"), ":"+first) })
		look(t, page, "held")
		break
	}

	// Then it is killed, and another one takes over.
	awaitText(t, dead, "no answer from the process")
	second := holder(first)
	look(t, pages[second], "taken-over")
	for _, page := range pages {
		awaitFunc(t, page, "what became of the leases", func() bool {
			said := under(t, page, "Last changes of leases")
			if page == pages[second] {
				return strings.Contains(said, "taken over") && strings.Contains(said, "stored")
			}
			return strings.Contains(said, ":"+first) && strings.Contains(said, ":"+second) && strings.Contains(said, "woken")
		})
	}
	look(t, pages[second], "done")
	do(t, index, chromedp.Reload())
	awaitText(t, index, "process "+first+" (killed while it held the lease)")
	look(t, index, "fleet-after")
}

// under returns what a page says below a heading.
func under(t *testing.T, page context.Context, heading string) string {
	t.Helper()
	return ask(t, page, chromedp.Evaluate[string](`[...document.querySelectorAll("h3")].
		filter(h => h.textContent === "`+heading+`").map(h => h.parentElement.innerText).join("\n")`))
}

// The report has a chart for each mode, and what it says is what was measured.
func TestReport(t *testing.T) {
	t.Parallel()
	browser := start(t)
	file := filepath.Join(t.TempDir(), "report.html")
	out, err := exec.CommandContext(t.Context(), stampede(t), "-load", "200ms", "-kill", "-html", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if dir := os.Getenv("CACHE_PICTURES"); dir != "" {
		t.Logf("%s", out)
	}
	page := tab(t, browser, "file://"+file)
	awaitText(t, page, "no protection", "singleflight", "this package", "1600 at a time", "The lease holder was killed", "embedded (miniredis)")
	if n := ask(t, page, chromedp.Evaluate[int](`document.querySelectorAll("svg polyline.loads").length`)); n != 3 {
		t.Errorf("%d charts", n)
	}
	look(t, page, "report")
}
