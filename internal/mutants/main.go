// Mutants breaks the protocol on purpose, in one place at a time, and looks whether the tests notice: first the
// exploration of schedules, then the scenarios, then all tests of the package. It fails if a mutant is not found.
//
//	go run ./internal/mutants [name ...]
//	go run ./internal/mutants -remove lock.go,loader.go
//
// The second form removes each statement of the files in turn; some of those make no difference, and some do not compile.
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
	chosen := slices.DeleteFunc(slices.Clone(mutants), func(m mutant) bool {
		return flag.NArg() > 0 && !slices.Contains(flag.Args(), m.name)
	})
	if *remove != "" {
		chosen = nil
		for file := range strings.SplitSeq(*remove, ",") {
			more, err := removals(file)
			if err != nil {
				return 0, err
			}
			chosen = append(chosen, more...)
		}
	}
	verdicts := make([]string, len(chosen))
	var work sync.WaitGroup
	free := make(chan struct{}, runtime.NumCPU())
	for i, m := range chosen {
		work.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			verdicts[i] = m.try(filepath.Join(dir, fmt.Sprint(i)))
			fmt.Printf("| %s | %s | %s |\n", m.name, m.file, verdicts[i])
		})
	}
	work.Wait()
	for _, v := range verdicts {
		if strings.HasPrefix(v, "NOT") {
			missed++
		}
	}
	fmt.Printf("%d of %d found\n", len(chosen)-missed, len(chosen))
	return missed, nil
}

// try tells what finds the mutant.
func (m mutant) try(dir string) string {
	test, err := m.compile(dir)
	if err != nil {
		return "NOT TRIED: " + err.Error()
	}
	if m.space != "" {
		name := regexp.QuoteMeta(strings.ReplaceAll(m.space, " ", "-"))
		out, ok := run(test, "^TestExplore$/^"+name+"$")
		switch {
		case !ok:
			return "exploration: " + m.space + ", " + after(out)
		case !strings.Contains(out, "explored: "):
			return "NOT TRIED: there is no space " + m.space
		}
	}
	if out, ok := run(test, "^TestScenarios$"); !ok {
		how := "scenario " + failed(out)
		if m.space != "" {
			return "NOT FOUND by " + m.space + ", but by " + how
		}
		return how
	}
	if out, ok := run(test, "."); !ok {
		return "test " + failed(out)
	}
	return "NOT FOUND"
}

// compile makes a test binary of the package with the mutant in it.
func (m mutant) compile(dir string) (string, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	path, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		return "", fmt.Errorf("its text occurs %d times", n)
	}
	changed := filepath.Join(dir, "changed"+filepath.Ext(m.file))
	if err := os.WriteFile(changed, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o600); err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
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
func run(test, pattern string) (string, bool) {
	cmd := exec.Command(test, "-test.run", pattern, "-test.v", "-test.failfast", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), "CACHE_EXPLORE=some", "GOMAXPROCS=1", "GOGC=1000")
	if strings.Contains(pattern, "TestExplore") {
		cmd.Env = append(cmd.Env, "CACHE_EXPLORE=long", "CACHE_EXPLORE_HERE=1")
	}
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

var (
	numbers = regexp.MustCompile(`(\d+) states, (\d+) schedules, (\d+) ended early`)
	subtest = regexp.MustCompile(`--- FAIL: (?:TestScenarios/)?(\S+)`)
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

func failed(out string) string {
	var names []string
	for _, f := range subtest.FindAllStringSubmatch(out, -1) {
		names = append(names, f[1])
	}
	if len(names) == 0 {
		return "(the test ends)"
	}
	if len(names) > 2 {
		return fmt.Sprintf("%s and %d more", names[0], len(names)-1)
	}
	return strings.Join(names, ", ")
}
