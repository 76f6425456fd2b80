package cache

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/realredis"
	"github.com/bellwether-go/cache/internal/record"
)

// contract is what a cache does, whatever it stands on: the promises P1 to P10, and what lies at the edges of the API.
var contract = []struct {
	name string
	test func(*testing.T, *backend)
}{
	{"P1 lock-free reads", lockFreeReads},
	{"P2 one load", oneLoad},
	{"P3 never the lock's fault", neverTheLocksFault},
	{"P4 invalidation wins", invalidationWins},
	{"P5 a late holder never overwrites", lateHolder},
	{"P6 own deadline", ownDeadline},
	{"P7 accidents are contained", accidents},
	{"P8 bounded waiting", boundedWaiting},
	{"P9 nothing left behind", nothingLeft},
	{"P10 unreadable is a miss", unreadableIsAMiss},
	{"errors", errorMatrix},
	{"time to live", timeToLive},
	{"values", values},
	{"values not stored", valuesNotStored},
	{"keys", keysOfAnyBytes},
	{"loaders that call the cache", nestedCalls},
	{"a loader that waits for itself", waitsForItself},
	{"a loader that deletes", deleteInLoader},
	{"Close", closeInEveryState},
	{"tags", tags},
	{"tags deleted in mid-load", tagsInMidLoad},
	{"mistakes with tags", tagMistakes},
}

func TestContract(t *testing.T) {
	for _, c := range contract {
		t.Run(c.name, func(t *testing.T) {
			t.Run("memory", func(t *testing.T) { onMemory(t, c.test) })
			t.Run("miniredis", func(t *testing.T) { onMiniredis(t, c.test) })
			if c.name != "mistakes with tags" { // for which some caches have none
				t.Run("miniredis, tags", func(t *testing.T) {
					onMiniredis(t, func(t *testing.T, b *backend) {
						b.tags = true
						c.test(t, b)
					})
				})
			}
			if strings.Contains(c.name, "tags") {
				t.Run("miniredis without scripts", func(t *testing.T) { onWorld(t, withoutScripts, c.test) })
			}
		})
	}
}

func TestContractOnRealServer(t *testing.T) {
	t.Parallel()
	s := realredis.Start(t)
	for _, c := range contract {
		t.Run(c.name, func(t *testing.T) { onRealServer(t, s, c.test) })
	}
}

// lockFreeReads: a fresh value is served from memory without a command, from Redis with one, and nobody waits for a lease
// while it is there.
func lockFreeReads(t *testing.T, b *backend) {
	a := cacheOf[string](b, "A", "user", Options{})
	if v, err := a.GetOrLoad(background, "k", constant("v")); v != "v" || err != nil {
		t.Fatal(v, err)
	}
	if b.client != nil { // somebody refreshes it
		full := b.full("k")
		raw, err := a.core.store.read(background, full, 1000)
		if err != nil {
			t.Fatal(err)
		}
		h, _, _ := a.core.coder.header(full, raw)
		got, err := a.core.store.acquire(background, acquireArgs{
			key: full, owner: newOwner(), seen: h.ID, lease: time.Minute, life: time.Hour, coder: a.core.coder,
		})
		if err != nil || got.outcome != won {
			t.Fatal(got, err)
		}
		c := cacheOf[string](b, b.last(), "user", Options{})
		if err := b.redisOf(b.last()).learnTime(background); err != nil { // only then memory is filled
			t.Fatal(err)
		}
		sent := b.commands[b.last()]
		_ = sent.take()
		if v, err := c.GetOrLoad(background, "k", nil); v != "v" || err != nil {
			t.Error(v, err)
		}
		want := []string{"getrange"}
		if b.tags { // the barriers are asked for at the same time
			want = append(want, "hmget")
		}
		commands := sent.take()
		if slices.Sort(commands); !slices.Equal(commands, want) {
			t.Errorf("a hit in Redis: %q", commands)
		}
		defer func() {
			if got := sent.take(); len(got) != 0 {
				t.Errorf("hits in memory: %q", got)
			}
		}()
	}
	c := cacheOf[string](b, b.last(), "user", Options{})
	for range 10 {
		if v, err := c.GetOrLoad(background, "k", nil); v != "v" || err != nil {
			t.Error(v, err)
		}
	}
}

// oneLoad: a cold key is loaded once, however many goroutines and processes ask.
func oneLoad(t *testing.T, b *backend) {
	var loads atomic.Int32
	free := make(chan struct{})
	var calls sync.WaitGroup
	for _, p := range b.processes {
		c := cacheOf[string](b, p, "user", Options{})
		for range 20 {
			calls.Go(func() {
				v, err := c.GetOrLoad(background, "k", func(context.Context, string) (string, error) {
					loads.Add(1)
					<-free
					return "v", nil
				})
				if v != "v" || err != nil {
					t.Errorf("%q, %v", v, err)
				}
			})
		}
		b.joined(c.core, "k", 20)
	}
	close(free)
	calls.Wait()
	if n := loads.Load(); n != 1 {
		t.Errorf("%d loads", n)
	}
}

// neverTheLocksFault: whatever becomes of the lease in mid-load, callers get the value, and the next ones too.
func neverTheLocksFault(t *testing.T, b *backend) {
	sabotage := map[string]func(full string) error{"nothing": func(string) error { return nil }}
	if b.client != nil {
		admin := b.client("admin")
		b.closing(admin)
		sabotage["deleted"] = func(full string) error { return admin.Del(background, full).Err() }
		sabotage["garbage"] = func(full string) error { return admin.Set(background, full, "garbage", time.Hour).Err() }
		sabotage["another type"] = func(full string) error {
			return errors.Join(admin.Del(background, full).Err(), admin.LPush(background, full, "x").Err(),
				admin.PExpire(background, full, time.Hour).Err())
		}
		sabotage["expired"] = func(full string) error { return admin.PExpireAt(background, full, time.Unix(1, 0)).Err() }
		sabotage["scripts flushed"] = func(string) error { return admin.ScriptFlush(background).Err() }
		sabotage["cut short"] = func(full string) error {
			return admin.Set(background, full, admin.GetRange(background, full, 0, 150).Val(), time.Hour).Err()
		}
		sabotage["taken"] = func(full string) error {
			c := cacheOf[string](b, b.last(), "user", Options{})
			_, err := c.core.store.acquire(background, acquireArgs{
				key: full, owner: newOwner(), lease: time.Second, life: time.Hour, coder: c.core.coder, force: true,
			})
			return err
		}
	}
	a, z := cacheOf[string](b, "A", "user", Options{}), cacheOf[string](b, b.last(), "user", Options{})
	for name, do := range sabotage {
		g := newGate("v", nil)
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() {
				if v, err := a.GetOrLoad(background, name, g.load); v != "v" || err != nil {
					t.Errorf("%s: %q, %v", name, v, err)
				}
			})
		}
		<-g.begun
		if err := do(b.full(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		close(g.free)
		calls.Wait()
		if v, err := z.GetOrLoad(background, name, constant("v")); v != "v" || err != nil {
			t.Errorf("after %s: %q, %v", name, v, err)
		}
	}
}

// invalidationWins: a call that starts after Delete does not get what a load that began before it has read, and that
// is not stored.
func invalidationWins(t *testing.T, b *backend) {
	a, z := cacheOf[string](b, "A", "user", Options{}), cacheOf[string](b, b.last(), "user", Options{})
	old := newGate("old", nil)
	var calls sync.WaitGroup
	calls.Go(func() {
		if v, err := a.GetOrLoad(background, "k", old.load); v != "old" || err != nil {
			t.Errorf("before: %q, %v", v, err)
		}
	})
	<-old.begun
	if err := z.Delete(background, "k"); err != nil {
		t.Fatal(err)
	}
	for _, p := range b.processes {
		c := cacheOf[string](b, p, "user", Options{})
		calls.Go(func() {
			if v, err := c.GetOrLoad(background, "k", constant("new")); v != "new" || err != nil {
				t.Errorf("in %s: %q, %v", p, v, err)
			}
		})
	}
	close(old.free)
	calls.Wait()
	for _, p := range b.processes { // at rest it is "new" everywhere, and one more deletion reaches all of them
		c := cacheOf[string](b, p, "user", Options{})
		if v, err := c.GetOrLoad(background, "k", constant("newer")); v != "new" || err != nil {
			t.Errorf("afterwards in %s: %q, %v", p, v, err)
		}
	}
	if err := a.Delete(background, "k"); err != nil {
		t.Fatal(err)
	}
	if v, ok := a.Get(background, "k"); ok {
		t.Errorf("in the deleting process: %q", v)
	}
	b.eventually("the deletion in another process's memory", func() bool {
		_, ok := z.Get(background, "k")
		return !ok
	})
}

// lateHolder: what a load returns after it has lost its right to store is not stored.
func lateHolder(t *testing.T, b *backend) {
	a, z := cacheOf[string](b, "A", "user", Options{}), cacheOf[string](b, b.last(), "user", Options{})
	late := newGate("late", nil)
	var calls sync.WaitGroup
	calls.Go(func() {
		if v, err := a.GetOrLoad(background, "k", late.load); v != "late" || err != nil {
			t.Errorf("its own caller: %q, %v", v, err)
		}
	})
	<-late.begun
	if err := z.Set(background, "k", "newer"); err != nil {
		t.Fatal(err)
	}
	close(late.free)
	calls.Wait()
	for _, p := range b.processes {
		c := cacheOf[string](b, p, "user", Options{})
		if v, ok := c.Get(background, "k"); v != "newer" || !ok {
			t.Errorf("in %s: %q, %v", p, v, ok)
		}
	}
}

// ownDeadline: each caller ends with its own context, and only that one.
func ownDeadline(t *testing.T, b *backend) {
	a, z := cacheOf[string](b, "A", "user", Options{}), cacheOf[string](b, b.last(), "user", Options{})
	g := newGate("v", nil)
	starter, cancel := context.WithCancel(background)
	var calls, patient sync.WaitGroup
	calls.Go(func() {
		if _, err := a.GetOrLoad(starter, "k", g.load); err != context.Canceled { //nolint:errorlint // unchanged
			t.Errorf("the cancelled one: %v", err)
		}
	})
	<-g.begun
	for _, c := range []*Cache[string]{a, z} {
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(background, 10*time.Millisecond)
			defer cancel()
			if _, err := c.GetOrLoad(ctx, "k", constant("own")); err != context.DeadlineExceeded { //nolint:errorlint // unchanged
				t.Errorf("the hasty one: %v", err)
			}
		})
		patient.Go(func() {
			if v, err := c.GetOrLoad(background, "k", constant("own")); v != "v" || err != nil {
				t.Errorf("the patient one: %q, %v", v, err)
			}
		})
	}
	cancel()
	calls.Wait()
	b.joined(a.core, "k", map[bool]int{true: 2, false: 1}[a == z])
	close(g.free)
	patient.Wait()
}

// accidents: an error, a panic or a Goexit of the loader reaches all of its callers as an error, and the key is free.
func accidents(t *testing.T, b *backend) {
	a, z := cacheOf[string](b, "A", "user", Options{}), cacheOf[string](b, b.last(), "user", Options{})
	own := errors.New("origin is down")
	for name, c := range map[string]struct {
		do    func() (string, error)
		check func(error) bool
	}{
		"error": {func() (string, error) { return "ignored", own }, func(err error) bool { return err == own }}, //nolint:errorlint // unchanged
		"panic": {func() (string, error) { panic("boom") }, func(err error) bool {
			var p *PanicError
			return errors.As(err, &p) && p.Value == "boom" && !p.Goexit && len(p.Stack) > 0
		}},
		"Goexit": {func() (string, error) { runtime.Goexit(); return "", nil }, func(err error) bool {
			var p *PanicError
			return errors.As(err, &p) && p.Goexit
		}},
	} {
		free := make(chan struct{})
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() {
				v, err := a.GetOrLoad(background, name, func(context.Context, string) (string, error) {
					<-free
					return c.do()
				})
				if v != "" || !c.check(err) {
					t.Errorf("%s: %q, %v", name, v, err)
				}
			})
		}
		b.joined(a.core, name, 3)
		close(free)
		calls.Wait()
		if v, err := z.GetOrLoad(background, name, constant("v")); v != "v" || err != nil {
			t.Errorf("after %s: %q, %v", name, v, err)
		}
	}
}

// boundedWaiting: nobody waits for ever, neither for a loader that ignores its context nor for a process that is gone.
func boundedWaiting(t *testing.T, b *backend) {
	o := Options{LoadTimeout: b.short(), Lease: 200 * time.Millisecond}
	a, z := cacheOf[string](b, "A", "user", o), cacheOf[string](b, b.last(), "user", o)
	hung := make(chan struct{})
	defer close(hung)
	_, err := a.GetOrLoad(background, "hung", func(context.Context, string) (string, error) {
		<-hung
		return "", nil
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a loader that hangs: %v", err)
	}
	if b.client != nil { // a lease that nobody will ever give back
		_, err := a.core.store.acquire(background, acquireArgs{
			key: b.full("gone"), owner: newOwner(), lease: o.Lease, life: time.Hour, coder: a.core.coder,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var calls sync.WaitGroup
	var loads atomic.Int32
	for _, c := range []*Cache[string]{a, z} {
		calls.Go(func() {
			v, err := c.GetOrLoad(background, "gone", func(context.Context, string) (string, error) {
				loads.Add(1)
				return "v", nil
			})
			if v != "v" || err != nil {
				t.Errorf("%q, %v", v, err)
			}
		})
	}
	calls.Wait()
	if n := loads.Load(); b.virtual && n != 1 { // on a busy machine a process may run out of patience
		t.Errorf("%d loads", n)
	}
}

// nothingLeft: every key has a TTL, and after Close only those are left. (A bubble fails if a goroutine is left; for the
// real server TestMain looks.)
func nothingLeft(t *testing.T, b *backend) {
	a := cacheOf[string](b, "A", "user", Options{})
	g := newGate("v", nil)
	var calls sync.WaitGroup
	calls.Go(func() { _, _ = a.GetOrLoad(background, "loading", g.load) })
	<-g.begun
	_, _ = a.GetOrLoad(background, "value", constant("v"))
	_, _ = a.GetOrLoad(background, "negative", func(context.Context, string) (string, error) { return "", ErrNotFound })
	_ = a.Set(background, "set", "v")
	ttls := func(when string, want int) {
		if b.client == nil {
			return
		}
		admin := b.client("admin")
		defer admin.Close()
		keys, err := admin.Keys(background, b.full("*")).Result()
		if err != nil || len(keys) != want {
			t.Errorf("%s: %d keys, %v: %q", when, len(keys), err, keys)
		}
		for _, k := range keys {
			if ttl := admin.PTTL(background, k).Val(); ttl <= 0 {
				t.Errorf("%s: %s has a TTL of %v", when, k, ttl)
			}
		}
	}
	ttls("in mid-load", 4)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	calls.Wait()
	ttls("after Close", 3)
	if b.client != nil {
		r := b.redisOf("A")
		r.each("", func(*core) { t.Error("a closed cache is still told of deletions") })
		_ = r.Close()
		if err := r.client.Publish(background, "x", "x").Err(); err != nil {
			t.Errorf("the user's client: %v", err)
		}
	}
}

// unreadableIsAMiss: bytes that are not ours, or damaged, are replaced without an error.
func unreadableIsAMiss(t *testing.T, b *backend) {
	a, z := cacheOf[string](b, "A", "user", Options{MaxValueBytes: 1000}), cacheOf[string](b, b.last(), "user", Options{MaxValueBytes: 1000})
	if b.client == nil {
		return
	}
	admin := b.client("admin")
	b.closing(admin)
	seal := func(key, payload string) []byte {
		return a.core.coder.seal(b.full(key), life{
			owner: record.Owner{1}, fence: 1, freshUntil: time.Now().Add(time.Hour).UnixMicro(),
		}, []byte(payload))
	}
	lying := seal("declares 4 GiB", "\xdb\xff\xff\xff\xffx")
	for name, raw := range map[string][]byte{
		"garbage":        []byte("garbage"),
		"cut short":      seal("cut short", "\xa1v")[:150],
		"another key's":  seal("somewhere else", "\xa1v"),
		"another type's": seal("another type's", "\x01"),
		"too large":      []byte(strings.Repeat("x", 2000)),
		"declares 4 GiB": lying,
		"a list":         nil,
	} {
		full := b.full(name)
		var err error
		if raw == nil {
			err = errors.Join(admin.LPush(background, full, "x").Err(), admin.PExpire(background, full, time.Hour).Err())
		} else {
			err = admin.Set(background, full, raw, time.Hour).Err()
		}
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := z.Get(background, name); ok {
			t.Errorf("%s: Get has %q", name, v)
		}
		if v, err := a.GetOrLoad(background, name, constant("v")); v != "v" || err != nil {
			t.Errorf("%s: %q, %v", name, v, err)
		}
		if v, err := z.GetOrLoad(background, name, constant("not replaced")); v != "v" || err != nil {
			t.Errorf("after %s: %q, %v", name, v, err)
		}
	}
}
