// Mutants breaks the protocol on purpose, in one place at a time, and looks whether the tests notice: first the
// exploration of schedules, then the scenarios, then all tests of the package. It fails if a mutant is not found.
//
//	go run ./internal/mutants [name ...]
//	go run ./internal/mutants -random [name ...]
//	go run ./internal/mutants -remove lock.go,loader.go [lock.go:130 ...]
//
// The second form looks which of them random schedules find. The third removes each statement of the files in turn; some of those make no difference, and some do not compile.
// It takes many minutes, because each mutant is compiled.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// mutant is a change of the source.
type mutant struct {
	name  string
	file  string
	old   string // occurs once
	new   string
	space string // the space of TestExplore that is meant to find it; "": none, a scenario is
}

var random = flag.Bool("random", false, "try random schedules, and nothing else")

var remove = flag.String("remove", "", "remove each statement of these files, with commas between them")

func main() {
	flag.Parse()
	missed, err := try()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil || missed > 0 {
		os.Exit(1)
	}
}

func try() (missed int, err error) {
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if *remove != "" {
		return 0, tryRemovals(dir, strings.Split(*remove, ","), flag.Args())
	}
	chosen := slices.DeleteFunc(slices.Clone(mutants), func(m mutant) bool {
		return flag.NArg() > 0 && !slices.Contains(flag.Args(), m.name)
	})
	found := atWork(len(chosen), func(i int) string {
		m := chosen[i]
		return fmt.Sprintf("| %s | %s | %s |", m.name, m.file, m.try(filepath.Join(dir, fmt.Sprint(i))))
	})
	fmt.Printf("%d of %d found\n", found, len(chosen))
	return len(chosen) - found, nil
}

// atWork does things side by side, prints what comes of each, and counts those without a NOT.
func atWork(n int, do func(i int) string) (found int) {
	verdicts := make([]string, n)
	var work sync.WaitGroup
	free := make(chan struct{}, 1+runtime.NumCPU()) // some wait for a real server
	for i := range verdicts {
		free <- struct{}{}
		work.Go(func() {
			defer func() { <-free }()
			verdicts[i] = do(i)
			fmt.Println(verdicts[i])
		})
	}
	work.Wait()
	for _, v := range verdicts {
		if !strings.Contains(v, "| NOT") {
			found++
		}
	}
	return found
}

// try tells what finds the mutant.
func (m mutant) try(dir string) string {
	source, err := os.ReadFile(m.file)
	if err != nil {
		return "NOT TRIED: " + err.Error()
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		return fmt.Sprintf("NOT TRIED: its text occurs %d times", n)
	}
	test, err := compile(dir, map[string]string{m.file: strings.Replace(string(source), m.old, m.new, 1)})
	if err != nil {
		return "NOT TRIED: " + err.Error()
	}
	if *random {
		return atRandom(test, dir)
	}
	if m.space == "" {
		return inTests(test)
	}
	name := regexp.QuoteMeta(strings.ReplaceAll(m.space, " ", "-"))
	out, ok := run(test, "^TestExplore$/^"+name+"$", "5m", "CACHE_EXPLORE=long", "CACHE_EXPLORE_HERE=1")
	switch {
	case strings.Contains(out, "panic: test timed out"): // the space is too large
	case !ok:
		return "exploration: " + m.space + ", " + after(out)
	case !strings.Contains(out, "explored: "):
		return "NOT TRIED: there is no space " + m.space
	}
	return "NOT FOUND by " + m.space + ", but by " + inTests(test)
}

// inTests tells which of the tests finds what is compiled into them: scenarios first.
func inTests(test string, env ...string) string {
	for _, pattern := range []string{"^TestScenarios$", "."} {
		if out, ok := run(test, pattern, "5m", append(env, "CACHE_EXPLORE=some")...); !ok {
			return failed(out)
		}
	}
	return "NOT FOUND"
}

// atRandom tells after how many random schedules the mutant is found, of each kind.
func atRandom(test, dir string) string {
	for _, seeds := range []struct{ kind, to string }{{"memory", "4000"}, {"history", "1000"}, {"real", "500"}} {
		cmd := command(test, "^TestSeeds$", "10m", "CACHE_SEEDS="+seeds.kind+"-0-"+seeds.to, "CACHE_EXPLORE_HERE=1")
		cmd.Dir = dir // where it keeps what has failed
		if out, err := cmd.CombinedOutput(); err != nil {
			if s := seed.FindSubmatch(out); s != nil {
				return fmt.Sprintf("%s, %s schedules: %s", seeds.kind, s[1], strings.TrimSpace(promise.FindString(string(out))))
			}
			return seeds.kind + ": the test ends"
		}
	}
	return "NOT FOUND"
}

// compile makes a test binary of the package in which these files are others.
func compile(dir string, files map[string]string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	replace := map[string]string{}
	for file, text := range files {
		path, err := filepath.Abs(file)
		if err != nil {
			return "", err
		}
		replace[path] = filepath.Join(dir, "changed-"+filepath.Base(file))
		if err := os.WriteFile(replace[path], []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return "", err
	}
	test := filepath.Join(dir, "test")
	out, err := exec.Command("go", "test", "-overlay", list, "-c", "-o", test, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("it does not compile: %s", out)
	}
	return test, nil
}

// run reports whether the tests pass.
func run(test, pattern, timeout string, env ...string) (string, bool) {
	out, err := command(test, pattern, timeout, env...).CombinedOutput()
	return string(out), err == nil
}

func command(test, pattern, timeout string, env ...string) *exec.Cmd {
	cmd := exec.Command(test, "-test.run", pattern, "-test.v", "-test.failfast", "-test.timeout="+timeout)
	cmd.Env = append(append(os.Environ(), "GOMAXPROCS=1", "GOGC=1000"), env...)
	return cmd
}

var (
	numbers = regexp.MustCompile(`(\d+) states, (\d+) schedules, (\d+) ended early`)
	seed    = regexp.MustCompile(`to play it: .*-(\d+)\$'`)
	subtest = regexp.MustCompile(`--- FAIL: (\S+)`)
	promise = regexp.MustCompile(`(?m)^ *(P\d+|stuck|panic|.* has never happened|[^ ]+ runs \d+ loads)\b.*$`)
)

// after tells after how many schedules a search failed, and why.
func after(out string) string {
	text := "the test ends"
	if n := numbers.FindStringSubmatch(out); n != nil {
		text = fmt.Sprintf("%s schedules (and %s that ended early)", n[2], n[3])
	}
	if p := promise.FindString(out); p != "" {
		text += ": " + strings.TrimSpace(p)
	}
	return text
}

// failed names a test that failed, with its subtest.
func failed(out string) string {
	name := ""
	for _, f := range subtest.FindAllStringSubmatch(out, -1) {
		if strings.HasPrefix(f[1], name) {
			name = f[1]
		}
	}
	if name == "" {
		return "(the tests end)"
	}
	return name
}
