package cache

import (
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
)

// lone makes one permit and gives it to A, which loads for as long as told. Then B waits for it.
func lone(t *testing.T, w *lab.World, o Options, long time.Duration) (ps map[string]*proc, origin *narrow, b *answer) {
	t.Helper()
	o.MaxLoads = 1
	ps = fleet(t, w, o, "A", "B")
	origin = &narrow{took: time.Second}
	ps["A"].get(background, "a", (&narrow{took: long}).load)
	synctest.Wait()
	b = ps["B"].get(background, "b", origin.load)
	synctest.Wait()
	return ps, origin, b
}

// The permit of a process that is gone is had again when its lease would have ended.
func TestPermitOfTheDead(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps, _, b := lone(t, w, Options{}, time.Minute)
		defer stopAll(ps)
		time.Sleep(10 * time.Second)
		if b.done {
			t.Error("it has not waited")
		}
		w.CutOff("A", false)
		at := time.Now()
		ps["B"].calls.Wait()
		if gone := time.Since(at) - time.Second; b.err != nil || gone > 2*time.Second+lookSoon {
			t.Errorf("%v after %v", b.err, gone)
		}
	})
}

// A process that has more than its share hands permits on, though loads of its own wait too.
func TestPermitHandedOn(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{MaxLoads: 2, FairLoads: true}, "A", "B")
		defer stopAll(ps)
		origin := &narrow{took: time.Second}
		for i := range 20 {
			ps["A"].get(background, strconv.Itoa(i), origin.load)
		}
		time.Sleep(500 * time.Millisecond)
		b := ps["B"].get(background, "b", origin.load)
		ps["B"].calls.Wait()
		if b.err != nil || b.took > 3*time.Second {
			t.Errorf("%v after %v", b.err, b.took)
		}
	})
}

// A permit that was handed over, and whose message was lost, is found.
func TestPermitMessageLost(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps, _, b := lone(t, w, Options{}, time.Second)
		defer stopAll(ps)
		w.Lose(func(m *lab.Message) bool { return m.Kind == lab.Push && m.Process == "B" })
		ps["B"].calls.Wait()
		if b.err != nil || b.took > 3*time.Second+lookSoon {
			t.Errorf("%v after %v", b.err, b.took)
		}
	})
}

// Without messages, processes look.
func TestPermitsWithoutMessages(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps, _, b := lone(t, w, Options{}, time.Second)
		defer stopAll(ps)
		ps["B"].rds.stream.up.Store(false)
		ps["A"].calls.Wait()
		at := time.Now()
		ps["B"].calls.Wait()
		if late := time.Since(at) - time.Second; b.err != nil || late > pollMost {
			t.Errorf("%v, %v late", b.err, late)
		}
	})
}

// A load whose lease gets lost while it waits is not begun without need.
func TestLeaseLostWhileWaiting(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps, origin, b := lone(t, w, Options{}, 10*time.Second)
		defer stopAll(ps)
		raw, _ := w.Redis.Get("cache:user:b")
		w.Redis.Del("cache:user:b")
		if raw == "" {
			t.Fatal("no lease")
		}
		if err := ps["A"].cache.Set(background, "b", "set"); err != nil {
			t.Error(err)
		}
		ps["B"].calls.Wait()
		if b.value != "set" || b.err != nil || b.took > time.Second || len(origin.all) != 0 {
			t.Errorf("%+v, %q", b, origin.all)
		}
	})
}

// A cache that is closed gives its permits back.
func TestPermitsOfClosed(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps, _, b := lone(t, w, Options{}, time.Hour)
		defer stopAll(ps)
		_ = ps["A"].cache.Close()
		ps["B"].calls.Wait()
		if b.err != nil || b.took > 2*time.Second {
			t.Errorf("%v after %v", b.err, b.took)
		}
	})
}

// A process that has few loads needs no command for them, but to renew what it holds.
func TestPermitsAreKept(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{MaxLoads: 10}, nil)
		defer p.stop()
		origin := &narrow{took: 10 * time.Millisecond}
		var commands atomic.Int32
		w.Hold(func(m *lab.Message) bool {
			if m.Kind == lab.Request && verbOf(m) == "PERMITS" {
				commands.Add(1)
			}
			return false
		})
		for i := range 100 {
			p.get(background, strconv.Itoa(i), origin.load)
			p.calls.Wait()
		}
		before := commands.Load()
		if before > 3 { // one takes, and one renews at each third of a lease
			t.Errorf("%d commands", before)
		}
		if time.Sleep(10 * time.Second); commands.Load() > before+2 {
			t.Errorf("%d commands more", commands.Load()-before)
		}
	})
}

// A server that refuses keeps nobody waiting, and leases are by scripts still.
func TestPermitsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{MaxLoads: 2}, "A", "B")
		defer stopAll(ps)
		refusing(w, "ERR The user executing the script can't run this command or subcommand script: 0, on @user_script:1.", "PERMITS")
		origin := &narrow{took: time.Second}
		var answers []*answer
		for name, p := range ps {
			for i := range 4 {
				answers = append(answers, p.get(background, name+strconv.Itoa(i), origin.load))
			}
		}
		for _, p := range ps {
			p.calls.Wait()
		}
		for _, a := range answers {
			if a.err != nil || a.took > 2*time.Second {
				t.Errorf("%v after %v", a.err, a.took)
			}
		}
		if origin.most != 4 { // they do not know of each other
			t.Errorf("%d at a time", origin.most)
		}
		if ps["A"].rds.store.(*scriptStore).forbidden.Load() != 0 {
			t.Error("scripts are taken to be forbidden")
		}
	})
}
