package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

// orders are the orders of aiocache #979 (https://github.com/aio-libs/aiocache/issues/979), in which two or three actors
// take a lock one after the other: +L the server executes the acquisition, +E its reply is handled, -L the server
// executes the release, -E its reply is handled. aiocache raises KeyError in 44 of these 50.
func orders(t *testing.T) map[string][]string {
	b, err := os.ReadFile("testdata/aiocache-979.txt")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]string)
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		found[words[0]] = words[1 : len(words)-1] // the last one is what aiocache makes of it
	}
	if len(found) != 50 {
		t.Fatalf("%d orders", len(found))
	}
	return found
}

// variant says how the actors release.
type variant struct {
	name   string
	fail   bool // their loaders fail: the release is an ABORT; else it is a COMMIT, and somebody deletes the value
	repeat bool // the reply of the release is lost: at -E the client has repeated it, and the copy is executed
}

var variants = []variant{
	{name: "abort", fail: true},
	{name: "abort repeated", fail: true, repeat: true},
	{name: "commit"},
	{name: "commit repeated", repeat: true},
}

// replay plays one order and returns what went wrong. breakIt changes the scripts of all actors; it may be nil.
func replay(t *testing.T, order []string, v variant, breakIt func(*scriptStore)) (faults []string) {
	complain := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	lab.Bubble(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.Close()
		const full = "cache:user:42"
		procs, answers := map[string]*proc{}, map[string]*answer{}
		owners := map[string]record.Owner{}
		gated := func(m *lab.Message) bool {
			switch verbOf(m) {
			case "ACQUIRE", "COMMIT", "ABORT", "SCRIPT":
				return m.Kind != lab.Push
			}
			return false
		}
		w.Hold(gated)
		loaderErr := func(name string) error { return fmt.Errorf("origin is down for %s", name) }
		errs := map[string]error{}
		for _, name := range []string{"A", "B", "C"} {
			if !strings.Contains(strings.Join(order, " "), name) {
				continue
			}
			p := start(t, w, name, Options{}, nil)
			defer p.stop()
			if breakIt != nil {
				breakIt(p.rds.store.(*scriptStore))
			}
			procs[name], errs[name] = p, loaderErr(name)
			answers[name] = p.get(t.Context(), "42", func(context.Context, string) (string, error) {
				if v.fail {
					return "", errs[name]
				}
				return "of " + name, nil
			})
		}
		next := func(name string, kind lab.Kind) *lab.Message {
			for _, m := range w.Held() {
				if m.Process == name && m.Kind == kind {
					return m
				}
			}
			return nil
		}
		var inForce string // who holds the lease by the order
		for _, step := range order {
			name, what := step[:1], step[1:]
			m := next(name, map[byte]lab.Kind{'L': lab.Request, 'E': lab.Reply}[what[1]])
			if m == nil {
				complain("%s: nothing of %s is under way", step, name)
				break
			}
			switch what {
			case "+L":
				m.Deliver()
				inForce, owners[name] = name, holder(w, full)
			case "+E":
				m.Deliver()
			case "-L":
				m.Deliver()
				inForce = ""
				if !v.fail {
					w.Redis.Del(full) // by somebody: so that the next actor takes the lease too
				}
			case "-E":
				if v.repeat {
					m.Lose()
					if m = next(name, lab.Request); m == nil {
						complain("%s: the client did not repeat the release", step)
						break
					}
					m.Deliver()
					if m = next(name, lab.Reply); m == nil {
						complain("%s: no reply to the repeated release", step)
						break
					}
				}
				m.Deliver()
			}
			if got := holder(w, full); inForce == "" && got != (record.Owner{}) {
				complain("%s: a lease is in force that nobody should hold", step)
			} else if inForce != "" && (got != owners[inForce] || got == (record.Owner{})) {
				complain("%s: the lease of %s is gone", step, inForce)
			}
			if w.Redis.Exists(full) && inForce == "" {
				complain("%s: something was stored", step)
			}
		}
		w.Hold(nil)
		for name, p := range procs {
			p.calls.Wait()
			a := answers[name]
			switch {
			case v.fail && !errors.Is(a.err, errs[name]):
				complain("%s got error %v", name, a.err)
			case !v.fail && (a.err != nil || a.value != "of "+name):
				complain("%s got %q, %v", name, a.value, a.err)
			case a.took != 0:
				complain("%s waited %v", name, a.took)
			}
			if s := p.cache.Stats(); s.Loads != 1 || s.LeasesWon != 1 {
				complain("%s: %d loads under %d leases", name, s.Loads, s.LeasesWon)
			}
		}
	})
	return faults
}

// TestAiocache979 is the bug that this package grew out of: a release must not touch what belongs to another attempt,
// however requests and replies of two or three processes interleave, and however often it is executed.
func TestAiocache979(t *testing.T) {
	for name, order := range orders(t) {
		for _, v := range variants {
			t.Run(name+"/"+v.name, func(t *testing.T) {
				for _, f := range replay(t, order, v, nil) {
					t.Error(f)
				}
			})
		}
	}
}

// TestAiocache979CatchesABrokenRelease shows that the orders would notice: a release that does not ask whose lease it
// is fails those in which it is repeated while another actor holds the lease.
func TestAiocache979CatchesABrokenRelease(t *testing.T) {
	const check = "return r and r.owner == owner and (fence == '' or r.lease_fence == tonumber(fence))"
	if !strings.Contains(recordLua, check) {
		t.Fatal("the owner check is not where this test expects it")
	}
	broken := strings.Replace(recordLua, check, "return r ~= nil", 1)
	breakIt := func(s *scriptStore) {
		s.abortL.script = redis.NewScript(broken + abortLua)
		s.commitL.script = redis.NewScript(broken + commitLua)
	}
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			var failed []string
			for name, order := range orders(t) {
				faults := replay(t, order, v, breakIt)
				if (len(faults) > 0) != (v.repeat && releasesUnderAnother(order)) {
					t.Errorf("%s: faults %q", name, faults)
				}
				if len(faults) > 0 {
					failed = append(failed, name)
				}
			}
			slices.Sort(failed)
			t.Logf("fails %d of 50: %s", len(failed), strings.Join(failed, " "))
		})
	}
}

// releasesUnderAnother reports whether some actor's -E comes while another one holds the lock.
func releasesUnderAnother(order []string) bool {
	var inForce string
	for _, step := range order {
		switch name := step[:1]; step[1:] {
		case "+L":
			inForce = name
		case "-L":
			inForce = ""
		case "-E":
			if inForce != "" && inForce != name {
				return true
			}
		}
	}
	return false
}
