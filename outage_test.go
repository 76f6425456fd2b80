package cache

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/realredis"
)

// outage is the case of an outage in which other libraries return errors, or wait for seconds: processes ask 1,000 times
// a second for 100 keys while Redis is gone for four seconds and comes back empty.
type outage struct {
	caches          []*Cache[string]
	stop, goOn      func() // of Redis
	before, after   time.Duration
	began           time.Time
	stopped, wentOn time.Duration // since then

	mu    sync.Mutex
	loads [][outageKeys][]time.Duration // when they began, by process and key; guarded by mu
	took  []time.Duration               // calls during the outage; guarded by mu
}

const (
	outageKeys  = 100
	outageLife  = 2 * time.Second      // TTL, and so LocalTTL
	outageLeast = 27 * outageLife / 40 // less 10 % jitter, and a quarter for early refresh
	outageLoad  = 20 * time.Millisecond
	outageTime  = 4 * time.Second
)

func (o *outage) run(t *testing.T) {
	o.began = time.Now()
	o.loads = make([][outageKeys][]time.Duration, len(o.caches))
	rng := rand.New(rand.NewPCG(1, 1))
	var calls sync.WaitGroup
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for now := time.Duration(0); o.wentOn == 0 || now < o.wentOn+o.after; now = time.Since(o.began) {
		switch {
		case o.stopped == 0 && now >= o.before:
			o.stopped = now
			o.stop()
		case o.stopped > 0 && o.wentOn == 0 && now >= o.stopped+outageTime:
			o.wentOn = now
			o.goOn()
		}
		for i := range o.caches {
			key := rng.IntN(outageKeys)
			down := o.stopped > 0 && o.wentOn == 0
			calls.Go(func() { o.call(t, i, key, down) })
		}
		<-tick.C
	}
	calls.Wait()
}

func (o *outage) call(t *testing.T, i, key int, down bool) {
	at := time.Since(o.began)
	v, err := o.caches[i].GetOrLoad(background, strconv.Itoa(key), func(context.Context, string) (string, error) {
		o.mu.Lock()
		o.loads[i][key] = append(o.loads[i][key], time.Since(o.began))
		o.mu.Unlock()
		<-time.NewTimer(outageLoad).C
		return "v", nil
	})
	if v != "v" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if down {
		o.took = append(o.took, time.Since(o.began)-at)
	}
}

// judge looks at the loads: during the outage each process loads a key once in a life of its memory. In the first such life
// after it, the fleet loads a key once, and a process that has not found Redis yet once for itself, which it forgets when
// its subscription stands again: at most so many loads of a key. There is no stampede.
func (o *outage) judge(t *testing.T, most int) {
	t.Helper()
	o.mu.Lock() // refreshes may be under way still
	defer o.mu.Unlock()
	perSecond := make([]int, int((o.wentOn+o.after)/time.Second)+2)
	for key := range outageKeys {
		back := 0
		for i := range o.caches {
			var last time.Duration
			for _, at := range o.loads[i][key] {
				perSecond[int(at/time.Second)]++
				// Until the first failures nobody knows: a load without an answer is not remembered.
				if last > o.stopped+outageLife/4 && at < o.wentOn && at-last < outageLeast {
					t.Errorf("process %d loads key %d at %v and again at %v", i, key, last, at)
				}
				if last = at; at >= o.wentOn && at < o.wentOn+outageLife {
					back++
				}
			}
		}
		if back > most {
			t.Errorf("key %d is loaded %d times after the return", key, back)
		}
	}
	slices.Sort(o.took)
	n := len(o.took)
	t.Logf("Redis stops at %v and is back at %v; loads in each second: %v", o.stopped, o.wentOn, perSecond)
	t.Logf("%d calls during the outage: p50 %v, p99 %v, p99.9 %v, longest %v", n, o.took[n/2], o.took[n*99/100], o.took[n*999/1000], o.took[n-1])
}

// No caller gets an error, and 99 of 100 wait for no more than two loads.
func TestOutage(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{TTL: outageLife}, "A", "B")
		defer stopAll(ps)
		o := outage{
			caches: []*Cache[string]{ps["A"].cache, ps["B"].cache}, before: 5 * time.Second, after: 5 * time.Second,
			stop: func() {
				w.CutOff("A", false)
				w.CutOff("B", false)
				w.Redis.FlushAll()
			},
			goOn: func() {
				w.CutOff("A", true)
				w.CutOff("B", true)
			},
		}
		o.run(t)
		o.judge(t, 2)
		if p99 := o.took[len(o.took)*99/100]; p99 > 2*outageLoad {
			t.Errorf("p99 %v", p99)
		}
	})
}

// The same with a server that is killed. What it took is told and not judged: that depends on the machine.
func TestRealServerOutage(t *testing.T) {
	t.Parallel()
	s := realredis.Start(t)
	o := outage{stop: s.Kill, goOn: s.Restart, before: 3 * time.Second, after: 3 * time.Second}
	for range 2 {
		r, err := NewRedis(s.Client(nil), RedisOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c, err := New[string]("user", Options{Redis: r, TTL: outageLife})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = c.Close()
			_ = r.Close()
		})
		eventually(t, "a subscription", r.stream.wakes)
		o.caches = append(o.caches, c)
	}
	o.run(t)
	o.judge(t, 3)
}
