package cache

import (
	"bytes"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
)

// Loads that take too long.

// StuckLoad is a load that has not returned for Options.StuckAfter.
type StuckLoad struct {
	Keys      []string      // one, or those that a BatchLoader was called for
	Age       time.Duration // since the loader was called
	Abandoned bool          // LoadTimeout is over, and the loader is left to itself: its goroutine is there until it returns
	Stack     []byte        // of the goroutine in which the loader was called; nil if it was not found among the first 64 MiB
}

// String does not show the keys, which may be nobody else's business.
func (s StuckLoad) String() string {
	what, state := "a load", "has not returned"
	if len(s.Keys) > 1 {
		what = fmt.Sprintf("a load of %d keys", len(s.Keys))
	}
	if s.Abandoned {
		state = "was abandoned"
	}
	return fmt.Sprintf("cache: %s %s after %v\n%s", what, state, s.Age, s.Stack)
}

// watch is what is known of the goroutine of a load.
type watch struct {
	c         *core
	keys      []string
	began     int64 // on local's clock
	timer     *time.Timer
	goroutine atomic.Pointer[[]byte]
}

// watches begins to watch a load; nil: nobody wants to know.
func (c *core) watches(t task) (w *watch, overdue <-chan time.Time) {
	if c.opts.OnStuckLoad == nil {
		return nil, nil
	}
	w = &watch{c: c, keys: t.names(), began: c.local.now(), timer: time.NewTimer(c.opts.StuckAfter)}
	return w, w.timer.C
}

func (w *watch) stop() {
	if w != nil {
		w.timer.Stop()
	}
}

// here is called in the goroutine of the load.
func (w *watch) here() {
	if w == nil {
		return
	}
	var buf [64]byte
	head := buf[:runtime.Stack(buf[:], false)]
	if i := bytes.IndexByte(head, '['); i >= 0 {
		head = bytes.Clone(head[:i+1])
		w.goroutine.Store(&head)
	}
}

// report tells the user, in a goroutine of its own, as the load goes on.
func (w *watch) report(abandoned bool) {
	if w == nil {
		return
	}
	s := StuckLoad{Keys: w.keys, Age: time.Duration(w.c.local.now() - w.began), Abandoned: abandoned}
	if !abandoned {
		w.c.stats.stuck.Add(1)
	}
	go func() {
		defer func() { _ = recover() }()
		s.Stack = w.stack()
		w.c.opts.OnStuckLoad(s)
	}()
}

// mostStacks is how much of the stacks of all goroutines is looked at.
const mostStacks = 64 << 20

// stack is that of the load. There is no way to ask for that of one other goroutine.
func (w *watch) stack() []byte {
	head := w.goroutine.Load()
	if head == nil { // it has not begun to run
		return nil
	}
	for size := 1 << 20; size <= mostStacks; size *= 4 {
		buf := make([]byte, size)
		n := runtime.Stack(buf, true)
		for one := range bytes.SplitSeq(buf[:n], []byte("\n\n")) {
			if bytes.HasPrefix(one, *head) {
				return bytes.Clone(one)
			}
		}
		if n < size {
			break
		}
	}
	return nil
}
