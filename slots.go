package cache

import (
	"context"
	"slices"
	"time"
)

// loadsPerKey bounds the loads of a key in this process: one whose result was made worthless by a deletion, and the next.
const loadsPerKey = 2

// loading is about the loads of a key for which it is not enough to know the current flights.
type loading struct {
	forgotten int           // flights that have a slot, and are not current any more
	waiting   int           // flights that wait for a slot
	ended     chan struct{} // a token for each load that has ended while others were waiting; nil before that
}

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
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range all {
		if f.yields() && fs.beforeLocked(f) != nil || !fs.enterLocked(f) {
			left = append(left, f)
		}
	}
	if left == nil {
		return all, nil
	}
	return slices.DeleteFunc(slices.Clone(all), func(f *flight) bool { return !f.entered }), left
}

func (fs *flights) enterLocked(f *flight) bool {
	if fs.runningLocked(f) == loadsPerKey {
		return false
	}
	f.entered = true
	if !f.current {
		fs.changeLocked(f, 1, 0)
	}
	return true
}

// runningLocked counts the slots taken for f's key.
func (fs *flights) runningLocked(f *flight) (n int) {
	for k, current := range fs.current {
		other := f
		if !f.current || f.kind != kind(k) {
			other = current[f.key]
		}
		if other != nil && other.entered {
			n++
		}
	}
	if l := fs.loading[f.key]; l != nil {
		n += l.forgotten
	}
	return n
}

// wait returns what tells that a load of the key has ended. One that has ended already is told again.
func (fs *flights) wait(f *flight) <-chan struct{} {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.changeLocked(f, 0, 1).ended
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
	fs := f.c.flights
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.leaveLocked(fs)
}

func (f *flight) leaveLocked(fs *flights) {
	switch {
	case !f.entered:
		return
	case f.current:
		f.entered = false
		if fs.loading[f.key] != nil {
			fs.changeLocked(f, 0, 0)
		}
	default:
		f.entered = false
		fs.changeLocked(f, -1, 0)
	}
}

// changeLocked changes what is known of the key besides its current flights, and tells one who waits if there is a slot.
func (fs *flights) changeLocked(f *flight, forgotten, waiting int) *loading {
	l := fs.loading[f.key]
	if l == nil {
		l = &loading{ended: make(chan struct{}, loadsPerKey)}
		fs.loading[f.key] = l
	}
	l.forgotten += forgotten
	l.waiting += waiting
	if l.forgotten+l.waiting == 0 {
		delete(fs.loading, f.key)
	}
	if l.waiting > 0 && fs.runningLocked(f) < loadsPerKey { // also if who was told has gone
		select {
		case l.ended <- struct{}{}:
		default:
		}
	}
	return l
}
