package cache

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
	"github.com/bellwether-go/cache/internal/resp"
)

// TestMain keeps go-redis quiet, which logs every connection that the tests break, and looks whether a goroutine of ours
// is left in the end. (Bubbles see to theirs.)
func TestMain(m *testing.M) {
	redis.SetLogger(quietLogger{})
	code := m.Run()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	for code == 0 {
		left := goroutines()
		if len(left) == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			fmt.Fprintf(os.Stderr, "%d goroutines are left:\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// goroutines returns the stacks of goroutines that run code of this module, but for the one that runs TestMain.
func goroutines() (found []string) {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(stack, "github.com/bellwether-go/cache") && !strings.Contains(stack, ".TestMain(") {
			found = append(found, stack)
		}
	}
	return found
}

type quietLogger struct{}

func (quietLogger) Printf(context.Context, string, ...any) {}

// proc is a process in a bubble: a client, a Redis and a Cache of its own.
type proc struct {
	t      *testing.T
	w      *lab.World
	name   string
	client *redis.Client
	nodes  []*redis.Client // for locks
	rds    *Redis
	cache  *Cache[string]
	calls  sync.WaitGroup
}

// start makes a process whose subscription stands.
func start(t *testing.T, w *lab.World, name string, o Options, set func(*redis.Options)) *proc {
	t.Helper()
	return (&proc{t: t, w: w, name: name, client: w.Client(name, set)}).start(o, RedisOptions{})
}

func (p *proc) start(o Options, ro RedisOptions) *proc {
	t := p.t
	t.Helper()
	for _, c := range p.nodes {
		ro.LockNodes = append(ro.LockNodes, c)
	}
	var err error
	if p.rds, err = NewRedis(p.client, ro); err != nil {
		t.Fatal(err)
	}
	p.rds.name = ro.Process // or nobody asks for it
	o = exact(o)
	o.Redis = p.rds
	if p.cache, err = New[string]("user", o); err != nil {
		t.Fatal(err)
	}
	p.cache.core.soon = atOnce
	synctest.Wait()
	if !p.rds.stream.wakes() {
		t.Fatalf("%s: no subscription", p.name)
	}
	return p
}

// exact turns off what o does not ask for and makes times depend on chance, or what follows on what came before.
func exact(o Options) Options {
	o.Jitter, o.EarlyRefresh, o.Backoff = cmp.Or(o.Jitter, -1), cmp.Or(o.EarlyRefresh, -1), cmp.Or(o.Backoff, -1)
	return o
}

// atOnce is soon without the time that it takes.
func atOnce(f func()) { go f() }

func (p *proc) stop() {
	p.calls.Wait()
	_ = p.cache.Close()
	if p.rds != nil {
		_ = p.rds.Close()
		_ = p.client.Close()
	}
	for _, c := range p.nodes {
		_ = c.Close()
	}
}

// answer is what a call returned.
type answer struct {
	value string
	err   error
	took  time.Duration
	done  bool
}

// get calls GetOrLoad in the background.
func (p *proc) get(ctx context.Context, key string, loader Loader[string], opts ...CallOption) *answer {
	return p.call(func() (string, error) { return p.cache.GetOrLoad(ctx, key, loader, opts...) })
}

// call calls in the background.
func (p *proc) call(f func() (string, error)) *answer {
	a := new(answer)
	began := time.Now()
	p.calls.Go(func() {
		v, err := f()
		*a = answer{v, err, time.Since(began), true}
	})
	return a
}

// scriptNames has the scripts by their hashes.
var scriptNames = sync.OnceValue(func() map[string]string {
	names := map[string]string{}
	for name, lua := range scriptTexts {
		names[redis.NewScript(recordLua+lua).Hash()] = name
	}
	return names
})

var scriptTexts = map[string]string{
	"ACQUIRE":    acquireLua,
	"COMMIT":     commitLua,
	"ABORT":      abortLua,
	"RENEW":      renewLua,
	"PERMITS":    permitsLua,
	"VOTE":       voteLua,
	"RELEASE":    releaseLua,
	"STAMP":      barrierLua + stampLua,
	"INVALIDATE": barrierLua + invalidateLua,
}

// verbOf names the script of a request.
func verbOf(m *lab.Message) string {
	switch m.Command() {
	case "EVALSHA":
		return cmp.Or(scriptNames()[m.Args[1]], "SCRIPT")
	case "EVAL":
		for name, lua := range scriptTexts {
			if strings.HasSuffix(m.Args[1], lua) {
				return name
			}
		}
		return "SCRIPT"
	}
	return m.Command()
}

// holder returns the owner of the lease under a key.
func holder(w *lab.World, full string) (o record.Owner) {
	raw, err := w.Redis.Get(full)
	if err != nil {
		return o
	}
	h, _, err := record.Open([]byte(raw))
	if err != nil {
		return o
	}
	return h.Lease.Owner
}

// newWorld makes a World in which heartbeats go their own way.
func newWorld(t *testing.T) *lab.World {
	w := lab.New(t)
	w.Aside = isHeartbeat
	return w
}

// isHeartbeat recognizes messages without events.
func isHeartbeat(m *lab.Message) bool {
	payload := ""
	switch {
	case m.Kind == lab.Push:
		words, err := resp.Words(m.Raw)
		if err != nil {
			return false
		}
		payload = words[len(words)-1]
	case m.Command() == "PUBLISH":
		payload = m.Args[2]
	}
	return len(payload) == emptyEvent && payload[0] == eventful
}

// emptyEvent is the length of a message without events.
const emptyEvent = 1 + 16 + 16 + 10

// bubble runs f in a bubble with a World.
func bubble(t *testing.T, f func(t *testing.T, w *lab.World)) {
	lab.Bubble(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.Close()
		f(t, w)
	})
}

// alike runs f twice, each time in a bubble: with a memory cache, and with a process that has Redis.
func alike(t *testing.T, o Options, f func(t *testing.T, p *proc)) {
	t.Run("memory", func(t *testing.T) {
		lab.Bubble(t, func(t *testing.T) {
			c, err := New[string]("user", exact(o))
			if err != nil {
				t.Fatal(err)
			}
			c.core.soon = atOnce
			p := &proc{t: t, name: "A", cache: c}
			f(t, p)
			p.calls.Wait()
			_ = c.Close()
		})
	})
	t.Run("redis", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *lab.World) {
			p := start(t, w, "A", o, nil)
			f(t, p)
			p.stop()
		})
	})
}

// loads makes a loader that takes d and returns v.
func loads(d time.Duration, v string) Loader[string] {
	return func(ctx context.Context, _ string) (string, error) {
		select {
		case <-time.After(d):
			return v, nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// must checks a finished call.
func (a *answer) must(t *testing.T, value string, err error, took time.Duration) {
	t.Helper()
	synctest.Wait()
	switch {
	case !a.done:
		t.Errorf("the call has not returned")
	case a.value != value || a.err != err: //nolint:errorlint // unchanged is what is promised
		t.Errorf("got %q, %v; want %q, %v", a.value, a.err, value, err)
	case a.took != took:
		t.Errorf("took %v, want %v", a.took, took)
	}
}

const fullKey = "cache:user:k" // of key "k" in Redis

// fleet starts processes.
func fleet(t *testing.T, w *lab.World, o Options, names ...string) map[string]*proc {
	t.Helper()
	ps := make(map[string]*proc)
	for _, n := range names {
		p := start(t, w, n, o, nil)
		ps[n] = p
	}
	return ps
}

func stopAll(ps map[string]*proc) {
	for _, p := range ps {
		p.stop()
	}
}

// only holds messages of one process and verb.
func only(process, verb string, kind lab.Kind) func(*lab.Message) bool {
	return func(m *lab.Message) bool {
		return m.Kind == kind && (process == "" || m.Process == process) && verbOf(m) == verb
	}
}

// firstOf is only, but for the first of them.
func firstOf(process, verb string, kind lab.Kind) func(*lab.Message) bool {
	var first *lab.Message
	such := only(process, verb, kind)
	return func(m *lab.Message) bool {
		if first == nil && such(m) {
			first = m
		}
		return m == first
	}
}

// refreshNow loads under a lease that is taken while the entry with that id is there, and stays there. It returns nothing
// if the lease is not to be had.
func refreshNow(c *core, f *flight, id record.Owner) *result {
	args := acquireArgs{
		key: f.full, owner: newOwner(), seen: id, lease: c.opts.Lease, life: c.recordLife(), coder: c.coder,
	}
	since, sent := c.local.epoch(f.key), time.Now()
	got, err := c.store.acquire(f.ctx, args)
	if err != nil {
		c.redis.disown(f.ctx, f.full, args.owner)
	}
	if err != nil || got.outcome != won {
		return nil
	}
	return c.loadLeased(f, since, 0, sent, args, got)
}
