package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache"
)

// workerVariable makes this test binary a worker: it holds a job.
const workerVariable = "FAULTS_WORKER"

// job is what a process of the fleet does.
type job struct {
	Board    string
	Slot     int // on the board
	Seed     uint64
	Name     int // of 0, 1, ...; whoever takes the place of a process that was killed has its name
	Where    string
	Addrs    []string          // for the client
	Proxies  map[string]string // the address to dial, by that of the server
	Protocol int
	TTL      time.Duration
	LocalTTL time.Duration
	Abandon  bool
	Stale    bool // values may be served past their TTL
	Tags     bool // keys carry tags of their own, and tags are deleted instead
	Replicas bool // are read
}

const (
	lease       = 300 * time.Millisecond
	loadTimeout = 1500 * time.Millisecond
	longLoad    = 500 * time.Millisecond
	hotKeys     = 12 // deleted by anybody
	setKeys     = 3  // set by the process of that number, after the hot ones
	absentKey   = hotKeys + setKeys
	probeKeys   = absentKey + 1 // and all after it: for the conductor's questions
	callers     = 6
	// A call without a deadline waits for another process's load, runs one of its own, and goes round once more: P8.
	longest = 2*(2*loadTimeout+lease) + 5*time.Second
	// What a busy machine may add to a caller's deadline. Without our own waiting, go-redis takes 3 s and more.
	tardy = 2 * time.Second
)

// value is what the origin returns.
type value struct {
	Key     string
	Version uint64
	Filling []byte
}

var errOrigin = errors.New("origin: sorry")

// worker is a process under test.
type worker struct {
	job
	board  *board
	me     *boardWorker
	client redis.UniversalClient
	rds    *cache.Redis
	cache  *cache.Cache[value]
	floors [boardKeys]atomic.Uint64 // like those of the board, by this process's own deletions
	out    sync.Mutex
}

// work is the main function of a worker. It is told what to do on its standard input and ends with it.
func work(spec string) error {
	redis.SetLogger(quiet{})
	w := &worker{}
	err := json.Unmarshal([]byte(spec), &w.job)
	if err != nil {
		return err
	}
	if w.board, err = mapBoard(w.Board); err != nil {
		return err
	}
	w.me = &w.board.workers[w.Slot]
	w.client = w.connect()
	if w.rds, err = cache.NewRedis(w.client, cache.RedisOptions{ReplicaReads: w.Replicas}); err != nil {
		return err
	}
	o := cache.Options{
		Redis: w.rds, TTL: w.TTL, LocalTTL: w.LocalTTL, Lease: lease, LoadTimeout: loadTimeout, CancelAbandoned: w.Abandon,
		Tags: w.Tags,
	}
	if w.Stale {
		o.StaleWhileRevalidate, o.StaleIfError = w.TTL, 5*w.TTL
	}
	if w.cache, err = cache.New[value]("faults", o); err != nil {
		return err
	}
	end := make(chan struct{})
	var load sync.WaitGroup
	for i := range callers {
		load.Go(func() { w.call(i, end) })
	}
	closed := make(chan struct{})
	go w.watch(closed)
	w.say("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		switch words[0] {
		case "quiet":
			close(end)
			load.Wait()
			w.say("quiet")
		case "probe": // a key that nobody has asked for
			var i int
			_, _ = fmt.Sscan(words[1], &i)
			var all sync.WaitGroup
			for range callers {
				all.Go(func() { w.get(context.Background(), nil, i, 50*time.Millisecond) })
			}
			all.Wait()
			w.say("probed")
		case "read": // a key that is there
			var i, n int
			_, _ = fmt.Sscan(words[1], &i)
			_, _ = fmt.Sscan(words[2], &n)
			for range n {
				w.get(context.Background(), nil, i, 0)
			}
			w.say("read")
		case "verify":
			w.say("%d stale", w.stale())
		case "close": // but not exit, which would close what Close has forgotten
			_ = w.cache.Close()
			_ = w.rds.Close()
			if n := w.client.PoolStats().PubSubStats.Active; n > 0 {
				w.broken("P9", "%d subscriptions are left", n)
			}
			close(closed)
			_ = w.client.Close()
			w.leaks()
			w.say("closed")
		}
	}
	return in.Err()
}

func (w *worker) say(format string, args ...any) {
	w.out.Lock()
	defer w.out.Unlock()
	fmt.Printf(format+"\n", args...)
}

// broken reports a promise that was not kept.
func (w *worker) broken(promise, format string, args ...any) {
	w.say("BROKEN %s process %c: %s", promise, 'A'+w.Name, fmt.Sprintf(format, args...))
}

// call is one caller: it asks, and now and then writes to the origin and deletes or sets, until the end.
func (w *worker) call(number int, end <-chan struct{}) {
	rng := rand.New(rand.NewPCG(w.Seed, uint64(w.Slot*callers+number)))
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-end:
			return
		case <-tick.C:
		}
		switch n := rng.IntN(1000); {
		case n < 60:
			w.update(rng.IntN(hotKeys))
		case n < 80 && number == 0 && w.Name < setKeys:
			w.set(hotKeys+w.Name, rng)
		case n < 150:
			w.peek(rng.IntN(hotKeys + setKeys))
		case n < 170:
			w.ask(context.Background(), rng, absentKey)
		case n < 300:
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rng.IntN(100_000))*time.Microsecond)
			w.ask(ctx, rng, rng.IntN(hotKeys+setKeys))
			cancel()
		case n < 400 && w.Seed%2 == 0:
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rng.IntN(1000))*time.Millisecond)
			w.many(ctx, rng, time.Duration(rng.IntN(20_000))*time.Microsecond)
			cancel()
		case n < 500 && w.Seed%2 == 0:
			w.many(context.Background(), rng, time.Duration(rng.IntN(20_000))*time.Microsecond)
		case n < 340:
			ctx, cancel := context.WithCancel(context.Background())
			timer := time.AfterFunc(time.Duration(rng.IntN(50_000))*time.Microsecond, cancel)
			w.ask(ctx, rng, rng.IntN(hotKeys+setKeys))
			timer.Stop()
			cancel()
		default:
			w.ask(context.Background(), rng, rng.IntN(hotKeys+setKeys))
		}
	}
}

func (w *worker) ask(ctx context.Context, rng *rand.Rand, key int) {
	d := time.Duration(rng.IntN(20_000)) * time.Microsecond
	if rng.IntN(50) == 0 {
		d = time.Duration(rng.Int64N(int64(longLoad)))
	}
	w.get(ctx, rng, key, d)
}

// get is GetOrLoad, or Refresh now and then, with a load that takes d, and, if there is rng, may fail.
func (w *worker) get(ctx context.Context, rng *rand.Rand, i int, d time.Duration) {
	k := &w.board.keys[i]
	accident, filling := 1000, 0
	if rng != nil {
		accident, filling = rng.IntN(1000), rng.IntN(3)
	}
	asked := w.asks(i)
	var co []cache.CallOption
	if w.Tags && i%2 == 0 {
		co = append(co, cache.WithTags(tagName(i)))
	}
	get := w.cache.GetOrLoad
	if accident >= 950 && accident < 1000 {
		get = w.cache.Refresh
	}
	v, err := get(ctx, keyName(i), func(ctx context.Context, key string) (value, error) {
		if w.Tags && i%2 == 1 {
			cache.LoadFrom(ctx).SetTags(tagName(i), "other")
		}
		k.loads.Add(1)
		w.me.loads.Add(1)
		version := k.version.Load()
		defer w.loading(k, version)()
		switch {
		case accident < 20:
			return value{}, errOrigin
		case accident < 25:
			panic("boom")
		case accident < 27:
			<-ctx.Done()
			return value{}, errOrigin
		}
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return value{}, errOrigin
		}
		if i == absentKey {
			return value{}, fmt.Errorf("origin: %w", cache.ErrNotFound)
		}
		// Sometimes to be compressed, or too large for a wake-up even so.
		fill := make([]byte, []int{0, 5000, 20_000}[filling])
		for i := range fill {
			fill[i] = byte(rand.IntN(256 >> (4 * (version % 2))))
		}
		return value{key, version, fill}, nil
	}, co...)
	w.me.calls.Add(1)
	w.waited(ctx, asked.at, asked.stopped)
	var p *cache.PanicError
	switch {
	case err == nil:
		asked.answered(v)
	case errors.Is(err, errOrigin):
		w.me.own.Add(1)
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		w.me.ended.Add(1)
	case errors.As(err, &p) && p.Value == "boom":
		w.me.panics.Add(1)
	case errors.Is(err, cache.ErrNotFound) && i == absentKey:
	case errors.Is(err, context.DeadlineExceeded) && strings.Contains(err.Error(), "load abandoned"):
		w.me.abandoned.Add(1) // the loader was too slow to see the end of its context
	default:
		w.broken("P3", "GetOrLoad(%s): %v", keyName(i), err)
	}
}

// loading marks on the board what is being loaded, and counts a load that another process is at already.
func (w *worker) loading(k *boardKey, version uint64) (done func()) {
	for i := range k.loading {
		if i != w.Slot && k.loading[i].Load() == version+1 {
			w.me.duplicates.Add(1)
			break
		}
	}
	k.loading[w.Slot].Store(version + 1)
	return func() { k.loading[w.Slot].CompareAndSwap(version+1, 0) }
}

// waited looks at how long a call took.
func (w *worker) waited(ctx context.Context, began time.Time, stopped int64) {
	now := time.Now()
	paused := time.Duration(w.me.stopped.Load() - stopped)
	took := now.Sub(began)
	raise(&w.me.longestWait, int64(took-paused))
	if took > longest+paused {
		w.broken("P8", "a call took %v", took)
	}
	if end, ok := ctx.Deadline(); ok && now.After(end) {
		late := now.Sub(end) - paused
		raise(&w.me.latestEnded, int64(late))
		if late > tardy {
			w.broken("P6", "a caller returned %v after its deadline", late)
		}
	}
}

// peek is Get.
func (w *worker) peek(i int) {
	asked := w.asks(i)
	v, ok := w.cache.Get(context.Background(), keyName(i))
	w.me.calls.Add(1)
	w.waited(context.Background(), asked.at, asked.stopped)
	if ok {
		asked.answered(v)
	}
}

// question is what a caller knows before it asks.
type question struct {
	w        *worker
	i        int
	at       time.Time
	stopped  int64
	restores uint64
	turns    uint64
	judged   bool
	own      uint64 // the oldest version that this process may return from anywhere
	floor    uint64 // ... that any may return, but for its memory
	lost     uint64
}

func (w *worker) asks(i int) question {
	k, restores := &w.board.keys[i], w.board.restores.Load()
	turns := w.board.turns.Load()
	return question{
		w: w, i: i, restores: restores, turns: turns, judged: w.board.open.Load() == 0, own: leastOf(&w.floors[i], restores), floor: k.least(restores), lost: k.lost.Load(),
		at: time.Now(), stopped: w.me.stopped.Load(),
	}
}

// answered judges an answer.
func (q *question) answered(v value) {
	w, k := q.w, &q.w.board.keys[q.i]
	switch {
	case v.Key != keyName(q.i):
		w.broken("P10", "%s has the value of %q", keyName(q.i), v.Key)
	case v.Version > k.version.Load():
		w.broken("P10", "%s has version %d, which is not there yet", keyName(q.i), v.Version)
	case !q.judged || w.board.turns.Load() != q.turns || w.board.restores.Load() != q.restores:
		w.me.unjudged.Add(1)
	case v.Version < q.floor:
		age := w.board.outdated(k, v.Version, q.floor, q.at)
		switch {
		case w.Replicas:
			w.me.replicaStale.Add(1)
			raise(&w.me.replicaOldest, int64(age))
		case w.LocalTTL < 0 || v.Version < q.own:
			w.broken("P4", "%s: version %d, and the deletion for %d (%d by itself) had been confirmed for %v",
				keyName(q.i), v.Version, q.floor, q.own, age)
		case age > w.LocalTTL+longLoad+time.Duration(w.me.stopped.Load())+time.Second:
			w.broken("P4", "%s: version %d in memory for %v after the deletion for %d was confirmed",
				keyName(q.i), v.Version, age, q.floor)
		default:
			w.me.memoryStale.Add(1)
			raise(&w.me.memoryOldest, int64(age))
		}
	case v.Version < q.lost:
		w.me.lostStale.Add(1)
	}
}

// stale counts the keys that are cached here with a version that was deleted.
func (w *worker) stale() (n int) {
	restores := w.board.restores.Load()
	for i := range hotKeys + setKeys {
		if v, ok := w.cache.Get(context.Background(), keyName(i)); ok && v.Version < w.board.keys[i].least(restores) {
			n++
		}
	}
	return n
}

// update changes the origin and deletes the key.
func (w *worker) update(i int) {
	w.change(i, func(version uint64) error {
		if w.Tags && version%3 > 0 {
			return w.cache.DeleteTags(context.Background(), tagName(i))
		}
		return w.cache.Delete(context.Background(), keyName(i))
	})
}

func tagName(i int) string { return fmt.Sprint("tag", i) }

// set changes the origin and the key.
func (w *worker) set(i int, rng *rand.Rand) {
	fill := make([]byte, rng.IntN(6000))
	w.change(i, func(version uint64) error {
		var co []cache.CallOption
		if w.Tags {
			co = append(co, cache.WithTags(tagName(i)))
		}
		return w.cache.Set(context.Background(), keyName(i), value{keyName(i), version, fill}, co...)
	})
}

func (w *worker) change(i int, tell func(version uint64) error) {
	k := &w.board.keys[i]
	restores := w.board.restores.Load()
	version := k.version.Add(1)
	k.confirmed[version%confirmKept].Store(0) // that of a version long ago
	w.me.updates.Add(1)
	for range 3 {
		if tell(version) == nil {
			k.confirm(&w.floors[i], restores, version)
			return
		}
	}
	w.me.unconfirmed.Add(1)
}

// leaks looks for goroutines after everything was closed. Loaders that hang end with their context, which Close has
// cancelled. go-redis 9.22.0 does not close a connection that a server in trouble did not greet in time, and leaves it to
// the garbage collector (9.23.0 does close it; it needs Go 1.26).
func (w *worker) leaks() {
	runtime.GC()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	buf := make([]byte, 1<<20)
	for {
		var left []string
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			ours := strings.Contains(stack, "bellwether-go/cache") || strings.Contains(stack, "redis/go-redis")
			if ours && !strings.Contains(stack, "faults.work(") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 {
			return
		}
		select {
		case <-deadline:
			w.broken("P9", "%d goroutines are left, one of them: %s", len(left), strings.ReplaceAll(left[0], "\n", " | "))
			return
		case <-tick.C:
		}
	}
}
