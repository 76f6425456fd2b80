package cache

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/realredis"
)

// backend is what the contract is tested on: memory alone, a miniredis in a bubble, a real server.
type backend struct {
	t         *testing.T
	virtual   bool                                     // time is a bubble's
	tags      bool                                     // all caches have Options.Tags
	processes []string                                 // that share it: one, for memory
	client    func(process string) *redis.Client       // nil for memory
	prefix    string                                   // of this test's keys
	redises   map[string]*Redis                        // by process
	caches    map[[2]string]interface{ Close() error } // by process and name
	commands  map[string]*counter                      // by process
	closers   []interface{ Close() error }
}

// counter is a hook that counts a client's commands.
type counter struct {
	mu   sync.Mutex
	sent []string // guarded by mu
}

// take returns the commands since the last call.
func (c *counter) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	sent := c.sent
	c.sent = nil
	return sent
}

func (c *counter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		m, _ := cmd.Args()[len(cmd.Args())-1].(string)
		switch {
		case cmd.Name() == "time", cmd.Name() == "hello", cmd.Name() == "client": // in the background
		case cmd.Name() == "publish" && len(m) == emptyEvent:
		default:
			c.mu.Lock()
			c.sent = append(c.sent, cmd.Name())
			c.mu.Unlock()
		}
		return next(ctx, cmd)
	}
}

func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if len(cmds) == 2 && cmds[1].Name() == "hmget" { // a read along with the barriers of tags
			c.mu.Lock()
			c.sent = append(c.sent, cmds[0].Name(), cmds[1].Name())
			c.mu.Unlock()
		}
		return next(ctx, cmds)
	}
}

// onMemory, onMiniredis and onRealServer run f on a backend.
func onMemory(t *testing.T, f func(*testing.T, *backend)) {
	lab.Bubble(t, func(t *testing.T) {
		b := &backend{t: t, virtual: true, processes: []string{"A"}}
		defer b.close()
		f(t, b)
	})
}

func onMiniredis(t *testing.T, f func(*testing.T, *backend)) { onWorld(t, func(*lab.World) {}, f) }

// withoutScripts makes a server forbid them.
func withoutScripts(w *lab.World) {
	refusing(w, "NOPERM this user has no permissions to run the 'eval' command", "EVAL", "EVALSHA")
}

func onWorld(t *testing.T, change func(*lab.World), f func(*testing.T, *backend)) {
	bubble(t, func(t *testing.T, w *lab.World) {
		change(w)
		b := &backend{t: t, virtual: true, processes: []string{"A", "B", "C"}, client: func(process string) *redis.Client {
			return w.Client(process, nil)
		}}
		defer b.close()
		f(t, b)
	})
}

func onRealServer(t *testing.T, s *realredis.Server, f func(*testing.T, *backend)) {
	b := &backend{
		t: t, processes: []string{"A", "B", "C"}, client: func(string) *redis.Client { return s.Client(nil) },
		prefix: strings.NewReplacer("'", "", "#", "-").Replace(t.Name()),
	}
	defer b.close()
	f(t, b)
}

func (b *backend) close() {
	for _, c := range b.closers {
		_ = c.Close()
	}
}

// closing closes c before everything that was made earlier.
func (b *backend) closing(c interface{ Close() error }) {
	b.closers = append([]interface{ Close() error }{c}, b.closers...)
}

// redisOf is the Redis of a process; its budget on a real server is generous, for a test must not depend on how busy
// its machine is.
func (b *backend) redisOf(process string) *Redis {
	b.t.Helper()
	if b.client == nil {
		return nil
	}
	if r := b.redises[process]; r != nil {
		return r
	}
	if b.redises == nil {
		b.redises, b.commands = map[string]*Redis{}, map[string]*counter{}
	}
	client := b.client(process)
	b.commands[process] = new(counter)
	client.AddHook(b.commands[process])
	o := RedisOptions{Prefix: b.prefix}
	if !b.virtual {
		o.Timeout = 10 * time.Second
	}
	r, err := NewRedis(client, o)
	if err != nil {
		b.t.Fatal(err)
	}
	r.name = "" // for commands are counted
	b.closing(client)
	b.closing(r)
	b.redises[process] = r
	b.eventually("a subscription", r.stream.wakes)
	return r
}

// cacheOf makes a cache of a process, or returns the one that it has under that name.
func cacheOf[V any](b *backend, process, name string, o Options) *Cache[V] {
	b.t.Helper()
	at := [2]string{process, name}
	if c, ok := b.caches[at]; ok {
		return c.(*Cache[V])
	}
	o.Redis = b.redisOf(process)
	o.Tags = o.Tags || b.tags
	c, err := New[V](name, exact(o))
	if err != nil {
		b.t.Fatal(err)
	}
	b.closing(c)
	if b.caches == nil {
		b.caches = map[[2]string]interface{ Close() error }{}
	}
	b.caches[at] = c
	return c
}

// last is a process that is another than the first, where there is one.
func (b *backend) last() string { return b.processes[len(b.processes)-1] }

// full is the key in Redis of a key of the cache "user".
func (b *backend) full(key string) string { return cmp.Or(b.prefix, "cache") + ":user:" + key }

// eventually waits for something that comes by itself.
func (b *backend) eventually(what string, ok func() bool) {
	b.t.Helper()
	if !b.virtual {
		eventually(b.t, what, ok)
		return
	}
	for range 10_000 {
		if synctest.Wait(); ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	b.t.Fatalf("never: %s", what)
}

// short is a LoadTimeout for what is to run into it; a busy machine must not run into it elsewhere.
func (b *backend) short() time.Duration {
	if b.virtual {
		return 50 * time.Millisecond
	}
	return time.Second
}

// pass lets virtual time pass.
func (b *backend) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// joined waits until n callers share a flight.
func (b *backend) joined(c *core, key string, n int) {
	b.t.Helper()
	b.eventually("callers in a flight", func() bool { return callers(c, key) == n })
}

// callers is how many wait in flights for a key.
func callers(c *core, key string) (n int) {
	c.flights.mu.Lock()
	defer c.flights.mu.Unlock()
	for f := range c.flights.all { // also those that were forgotten, because the subscription was lost
		if f.key == key {
			n += int(f.callers)
		}
	}
	for b := range c.flights.batches {
		for _, f := range b.flights {
			if f.key == key {
				n += int(f.callers)
			}
		}
	}
	return n
}

// gate is a loader that begins, and returns when it is let go.
type gate struct {
	once        sync.Once
	begun, free chan struct{}
	value       string
	err         error
}

func newGate(value string, err error) *gate {
	return &gate{begun: make(chan struct{}), free: make(chan struct{}), value: value, err: err}
}

func (g *gate) load(ctx context.Context, _ string) (string, error) {
	g.once.Do(func() { close(g.begun) })
	select {
	case <-g.free:
		return g.value, g.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// constant is a loader that returns v.
func constant[V any](v V) Loader[V] {
	return func(context.Context, string) (V, error) { return v, nil }
}
