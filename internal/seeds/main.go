// Seeds plays random schedules for as long as it is told, on all processors, each time with seeds that were never played before,
// and writes what it has done to a ledger. It fails if a schedule does; TestSeeds has made that one shorter then, and kept it in
// testdata/seeds.
//
//	go run ./internal/seeds -for 10m [-ledger docs/ledger.md]
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// kind is a kind of seeds. See seed_test.go.
type kind struct {
	name  string
	chunk int // played at a time: some seconds
	share int // of a hundred chunks' time
}

func kinds() []kind {
	return []kind{{"memory", 5000, 50}, {"history", 2000, 20}, {"real", 500, 30}}
}

// tally is what was played of a kind.
type tally struct {
	from, to  int // seeds, but for the ranges that were not ended
	schedules int
	draws     int
	seconds   float64 // of one processor
	counts    map[string]int
	failed    []string // what was printed
}

func main() {
	d := flag.Duration("for", 10*time.Minute, "how long")
	ledger := flag.String("ledger", "", "a file to add a line to for each kind of schedules")
	flag.Parse()
	if err := run(*d, *ledger, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(d time.Duration, ledger string, out io.Writer) error {
	dir, err := os.MkdirTemp("", "seeds")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	text := ""
	if ledger != "" {
		b, err := os.ReadFile(filepath.Clean(ledger))
		if err != nil {
			return err
		}
		text = string(b)
	}
	test := filepath.Join(dir, "test")
	if b, err := exec.Command("go", "test", "-c", "-o", test, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("%s%w", b, err)
	}
	began := time.Now()
	all := playAll(d, firsts(text), out, func(ctx context.Context, seeds string) (string, error) {
		cmd := exec.CommandContext(ctx, test, "-test.run", "^TestSeeds$", "-test.v", "-test.timeout", "0")
		cmd.Env = append(os.Environ(), "CACHE_SEEDS="+seeds, "CACHE_EXPLORE_HERE=1", "GOMAXPROCS=1", "GOGC=1000")
		b, err := cmd.CombinedOutput()
		return string(b), err
	})
	head := fmt.Sprintf("| %s | %s | %s,", began.Format(time.DateOnly), commit(), machine())
	var lines []string
	failed := 0
	for _, k := range kinds() {
		t := all[k.name]
		lines = append(lines, fmt.Sprintf("%s %v | %s | %d-%d | %d | %.0f | %.0f | %d |", head, time.Since(began).Round(time.Second), k.name,
			t.from, t.to, t.schedules, float64(t.draws)/float64(max(1, t.schedules)), t.rate(), len(t.failed)))
		_, _ = fmt.Fprintln(out, lines[len(lines)-1])
		_, _ = fmt.Fprintln(out, t.what())
		failed += len(t.failed)
	}
	if ledger != "" {
		if err := os.WriteFile(ledger, []byte(text+strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d ranges of seeds have failed: see testdata/seeds", failed)
	}
	return nil
}

// firsts returns from which seeds on none was played, by kind. Those below a million are for the tests.
func firsts(ledger string) map[string]int {
	next := map[string]int{}
	for _, k := range kinds() {
		next[k.name] = 1_000_000
		for _, m := range regexp.MustCompile(`\| `+k.name+` \| \d+-(\d+) \|`).FindAllStringSubmatch(ledger, -1) {
			n, _ := strconv.Atoi(m[1])
			next[k.name] = max(next[k.name], n)
		}
	}
	return next
}

// enough failures are these, each of so many seeds.
const enough = 10

// playAll plays until the time is over or enough has failed.
func playAll(d time.Duration, next map[string]int, out io.Writer, play func(ctx context.Context, seeds string) (string, error)) map[string]*tally {
	all := map[string]*tally{}
	for name, n := range next {
		all[name] = &tally{from: n, to: n, counts: map[string]int{}}
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	began := time.Now()
	failed := 0
	var mu sync.Mutex
	var work sync.WaitGroup
	for range runtime.NumCPU() {
		work.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				k := due(all)
				from := next[k.name]
				next[k.name] += k.chunk
				mu.Unlock()
				text, err := play(ctx, fmt.Sprintf("%s-%d-%d", k.name, from, from+k.chunk))
				mu.Lock()
				t := all[k.name]
				switch {
				case ctx.Err() != nil: // cut off
				case err != nil || !t.add(text):
					t.failed = append(t.failed, text)
					_, _ = fmt.Fprintln(out, text)
					if failed++; failed == enough {
						cancel()
					}
				default:
					t.to = max(t.to, from+k.chunk)
					_, _ = fmt.Fprintf(out, "%6s  %s\n", time.Since(began).Round(time.Second), t)
				}
				mu.Unlock()
			}
		})
	}
	work.Wait()
	return all
}

// due returns the kind that has had the least of its share.
func due(all map[string]*tally) kind {
	return slices.MinFunc(kinds(), func(a, b kind) int {
		return int(1000 * (all[a.name].seconds/float64(a.share) - all[b.name].seconds/float64(b.share)))
	})
}

var explored = regexp.MustCompile(`explored: (\d+) schedules, (\d+) draws; ([0-9.]+) s, \d+/s; (.*)`)

// add adds what a test has printed, and reports whether it is all there.
func (t *tally) add(text string) bool {
	m := explored.FindStringSubmatch(text)
	if m == nil {
		return false
	}
	schedules, _ := strconv.Atoi(m[1])
	draws, _ := strconv.Atoi(m[2])
	seconds, _ := strconv.ParseFloat(m[3], 64)
	t.schedules, t.draws, t.seconds = t.schedules+schedules, t.draws+draws, t.seconds+seconds
	for pair := range strings.SplitSeq(m[4], ", ") {
		name, n, _ := strings.Cut(pair, " ")
		count, _ := strconv.Atoi(n)
		t.counts[name] += count
	}
	return true
}

func (t *tally) rate() float64 { return float64(t.schedules) / max(t.seconds, 0.001) }

func (t *tally) String() string {
	return fmt.Sprintf("%d-%d: %d schedules, %.0f/s on one processor", t.from, t.to, t.schedules, t.rate())
}

// what tells how often each kind of fault has happened.
func (t *tally) what() string {
	var words []string
	for name, n := range t.counts {
		words = append(words, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

func commit() string {
	b, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=10").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// machine names the processors.
func machine() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	name := "unknown processors"
	if m := regexp.MustCompile(`model name\s*: (.*)`).FindSubmatch(b); m != nil {
		name = string(m[1])
	}
	return fmt.Sprintf("%d x %s, %s", runtime.NumCPU(), name, runtime.Version())
}
