package cache

import (
	"context"
	"time"
)

// loading bounds the loads of a key in this process: one whose result was made worthless by a deletion, and the next.
type loading struct {
	running int
	waiting int
	ended   chan struct{} // a token for each that has ended while others were waiting; nil before that
}

const loadsPerKey = 2

// enter waits until fewer than two loads of f's key run, and takes a slot for one: f.leave gives it back, at the latest
// when the flight lands. While it waits it looks whether a load is still needed: look returns a result if it is not, or
// has become pointless. A background flight does not wait.
func (fs *flights) enter(f *flight, look func() *result) *result {
	if fs.enterNow(f) {
		return nil
	}
	if f.kind == unasked {
		return &result{}
	}
	ended := fs.wait(f)
	f.away()
	defer f.back()
	tick := time.NewTicker(pollMost)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			if fs.entersLast(f) {
				f.back()
				return look()
			}
		case <-tick.C:
			f.back()
			if res := look(); res != nil {
				fs.waitsNoMore(f)
				return res
			}
			f.away()
		case <-f.ctx.Done():
			fs.waitsNoMore(f)
			return &result{err: context.Cause(f.ctx)}
		}
	}
}

// enterNow is enter for who does not wait: it reports whether it has a slot.
func (fs *flights) enterNow(f *flight) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.enterLocked(f)
}

// enterAll enters for several that do not wait, for older flights of the key neither, and returns those that have to.
func (fs *flights) enterAll(all []*flight) (entered, left []*flight) {
	entered = make([]*flight, 0, len(all))
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range all {
		if (f.kind > strict || fs.beforeLocked(f) == nil) && fs.enterLocked(f) {
			entered = append(entered, f)
		} else {
			left = append(left, f)
		}
	}
	return entered, left
}

func (fs *flights) enterLocked(f *flight) bool {
	l := fs.loading[f.key]
	if l.running == loadsPerKey {
		return false
	}
	l.running++
	fs.loading[f.key] = l
	f.entered = true
	return true
}

// wait returns what tells that a load of the key has ended. One that has ended already is told again.
func (fs *flights) wait(f *flight) <-chan struct{} {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	l := fs.loading[f.key]
	if l.ended == nil {
		l.ended = make(chan struct{}, loadsPerKey)
	}
	l.waiting++
	if l.running < loadsPerKey {
		l.tell()
	}
	fs.loading[f.key] = l
	return l.ended
}

// entersLast is enterNow after wait.
func (fs *flights) entersLast(f *flight) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if !fs.enterLocked(f) {
		return false
	}
	fs.changeLocked(f, 0, -1)
	return true
}

func (fs *flights) waitsNoMore(f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.changeLocked(f, 0, -1)
}

// leave gives the slot back that enter took, if there is one.
func (f *flight) leave() {
	fs := f.of.flights
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.leaveLocked(fs)
}

func (f *flight) leaveLocked(fs *flights) {
	if f.entered {
		f.entered = false
		fs.changeLocked(f, -1, 0)
	}
}

func (fs *flights) changeLocked(f *flight, running, waiting int) {
	l := fs.loading[f.key]
	l.running += running
	l.waiting += waiting
	if l.running+l.waiting == 0 {
		delete(fs.loading, f.key)
		return
	}
	fs.loading[f.key] = l
	if l.waiting > 0 && l.running < loadsPerKey { // also if who was told has gone
		l.tell()
	}
}

func (l *loading) tell() {
	select {
	case l.ended <- struct{}{}:
	default:
	}
}
