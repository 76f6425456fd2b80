package cache

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
	"github.com/bellwether-go/cache/internal/scenario"
)

// TestScenarios plays the files in testdata/scenario, each race in one of them. Their language is described in
// docs/scenarios.md; go test -run TestScenarios . -rewrite writes what happens into them.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/scenario/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			scenario.Run(t, path, func(t *testing.T, script func(do func(string) []string)) {
				lab.Bubble(t, func(t *testing.T) {
					s := newStage(t)
					defer s.close()
					script(s.do)
				})
			})
		})
	}
}

// stage is where a scenario is played: processes, a server between them, an origin behind them, and the transcript.
// Loads and calls run in goroutines of their own and note what happens to them; everything else is done by the test's
// goroutine, while nothing else moves.
type stage struct {
	t      *testing.T
	w      *lab.World
	began  time.Time
	procs  map[string]*actor
	calls  map[string]*asked
	origin map[string][]string // values of a key, the newest last
	holds  []func(*lab.Message) bool
	copies map[string]*lab.Message // the last request, by process and verb
	saved  map[string]saved        // for a failover
	hung   chan struct{}           // closed at the end, for loaders that hang
	script transcript

	// What must be true in the end.
	fences map[string]int64
	honest bool                       // nothing keeps deletions from reaching other processes' memory
	floor  map[string]int             // by key: versions older than this were deleted
	tagged map[string]map[string]bool // by cache and tag: keys that may carry it
}

// actor is a process with what the scenario remembers of it.
type actor struct {
	*proc
	calls int
	dead  bool
}

// asked is a call under way.
type asked struct {
	key    string
	cancel context.CancelFunc
	done   bool
	floor  int
}

type saved struct {
	value string
	ttl   time.Duration
}

func newStage(t *testing.T) *stage {
	s := &stage{
		t: t, w: newWorld(t), began: time.Now(), procs: map[string]*actor{}, calls: map[string]*asked{},
		origin: map[string][]string{}, copies: map[string]*lab.Message{}, hung: make(chan struct{}),
		fences: map[string]int64{}, honest: true, floor: map[string]int{},
		tagged: map[string]map[string]bool{},
	}
	s.script = transcript{began: s.began, owners: map[record.Owner]string{}, told: map[*lab.Message]bool{}}
	s.w.Conduct(s.watch)
	s.w.Hold(func(m *lab.Message) bool {
		return slices.ContainsFunc(s.holds, func(f func(*lab.Message) bool) bool { return f(m) })
	})
	return s
}

// close ends what is left and checks what is true of every scenario.
func (s *stage) close() {
	for name, c := range s.calls {
		if !c.done && !s.procs[strings.ToUpper(name[:1])].dead {
			s.t.Errorf("%s has not returned", name)
		}
	}
	s.w.Conduct(nil)
	s.w.Hold(nil)
	close(s.hung)
	for name, a := range s.procs {
		a.stop()
		s.nothingLeft(name, a.cache.core)
	}
	for _, key := range s.w.Redis.Keys() {
		if s.w.Redis.TTL(key) <= 0 {
			s.t.Errorf("%q has no TTL", key)
		}
	}
	s.w.Close()
}

// left counts what is remembered of flights.
func (fs *flights) left() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := len(fs.all) + len(fs.batches) + len(fs.loading)
	for _, current := range fs.current {
		n += len(current)
	}
	return n
}

// nothingLeft looks into what a closed cache remembers of calls.
func (s *stage) nothingLeft(name string, c *core) {
	n := c.flights.left()
	if c.redis != nil {
		c.redis.waiters.mu.Lock()
		n += len(c.redis.waiters.m)
		c.redis.waiters.mu.Unlock()
	}
	if n > 0 {
		s.t.Errorf("%s still remembers flights, loads or waiters", name)
	}
}

// settle moves messages until nothing moves, and for d longer.
func (s *stage) settle(d time.Duration) {
	s.w.Play(d)
	synctest.Wait()
	s.script.flush()
}

// watch is told of each message.
func (s *stage) watch(m *lab.Message, held bool) {
	s.script.flush()
	if a := s.procs[m.Process]; a != nil && a.dead {
		return
	}
	if m.Kind == lab.Push {
		s.copies[m.Process+" push"] = m
	}
	if m.Kind == lab.Request {
		s.copies[m.Process+" "+verbOf(m)] = m
		var o record.Owner
		switch verbOf(m) {
		case "ACQUIRE":
			copy(o[:], m.Args[4])
		case "SET": // without scripts
			if h, _, err := record.Open([]byte(m.Args[2])); err == nil {
				o = h.Lease.Owner
			}
		}
		if o != (record.Owner{}) {
			s.script.owners[o] = strings.TrimPrefix(m.Process, "ghost of ")
		}
	}
	s.script.message(m, held)
	keys := s.w.Redis.Keys()
	maps.DeleteFunc(s.fences, func(key string, _ int64) bool { return !slices.Contains(keys, key) })
	for _, key := range keys { // each has a TTL, and fences rise while it lives
		if s.w.Redis.TTL(key) <= 0 {
			s.t.Errorf("%q has no TTL", key)
		}
		raw, _ := s.w.Redis.Get(key)
		if h, _, err := record.Open([]byte(raw)); err == nil {
			f := max(h.Fence, h.Lease.Fence)
			if f < s.fences[key] {
				s.t.Errorf("the fence of %q went back", key)
			}
			s.fences[key] = f
		} else {
			delete(s.fences, key)
		}
	}
}

var step = regexp.MustCompile(`^[A-Z][+-][LE]$`)

// do performs one step and returns what came of it.
func (s *stage) do(line string) []string {
	words := strings.Fields(line)
	s.script.lines = nil
	fail := func(format string, args ...any) { s.t.Errorf("%s: %s", line, fmt.Sprintf(format, args...)) }
	defer func() {
		if p := recover(); p != nil {
			fail("%v", p)
		}
	}()
	a := s.procs[words[0]]
	switch {
	case step.MatchString(words[0]):
		for _, w := range words {
			s.step(w)
		}
	case a != nil:
		s.act(a, words[1:])
	default:
		s.command(words)
	}
	s.settle(0)
	return s.script.lines
}

// step is one of aiocache #979: +L the server executes the acquisition, +E its reply is handled, -L and -E the same of
// the release.
func (s *stage) step(w string) {
	verbs := map[byte][]string{'+': {"ACQUIRE"}, '-': {"COMMIT", "ABORT"}}[w[1]]
	kind := map[byte]lab.Kind{'L': lab.Request, 'E': lab.Reply}[w[2]]
	s.find(func(m *lab.Message) bool {
		return m.Process == w[:1] && m.Kind == kind && slices.Contains(verbs, verbOf(m))
	}).Deliver()
	s.settle(0)
}

// find returns a message that is held.
func (s *stage) find(f func(*lab.Message) bool) *lab.Message {
	for _, m := range s.w.Held() {
		if f(m) {
			return m
		}
	}
	panic("no such message is held")
}

// swap exchanges the contents of the two replies that are held.
func (s *stage) swap(f func(*lab.Message) bool) {
	a := s.find(f)
	b := s.find(func(m *lab.Message) bool { return m != a && f(m) })
	a.Raw, b.Raw = b.Raw, a.Raw
	s.script.told[a], s.script.told[b] = false, false // to be written once more, as they are delivered
}

// matching understands "A ACQUIRE reply", "* COMMIT request", "A push".
func matching(words []string) func(*lab.Message) bool {
	kind := map[string]lab.Kind{"request": lab.Request, "reply": lab.Reply, "push": lab.Push}[words[len(words)-1]]
	return func(m *lab.Message) bool {
		return m.Kind == kind && (words[0] == "*" || words[0] == m.Process) &&
			(kind == lab.Push || words[1] == "*" || words[1] == verbOf(m))
	}
}
