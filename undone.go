package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// undone are deletions that Redis has not confirmed: they are repeated, in their order, until it has. What is to be
// deleted is not read from Redis meanwhile.
type undone struct {
	c *core
	n atomic.Int64 // how many there are

	mu      sync.Mutex
	queue   []deletion            // guarded by mu
	bytes   int                   // of the names in queue; guarded by mu
	in      map[deletion]struct{} // those in queue; guarded by mu
	running bool                  // somebody repeats them; guarded by mu
}

// deletion is something to be deleted: of which kind, as in events, and its name.
type deletion struct {
	kind byte
	name string // of the key or tag, in the cache
}

// How many deletions a cache keeps to repeat them, and how many bytes of names.
const (
	mostUndone      = 10_000
	mostUndoneBytes = 16 << 20
)

var (
	errUndone        = errors.New("cache: to be deleted in Redis")
	errTooManyUndone = errors.New("cache: too many deletions wait to be repeated: this one is not")
)

func deletions(kind byte, names []string) []deletion {
	all := make([]deletion, len(names))
	for i, name := range names {
		all[i] = deletion{kind, name}
	}
	return all
}

// add keeps deletions that have failed with err, which it returns, with another one if there are too many already.
func (u *undone) add(ds []deletion, err error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	fresh := slices.DeleteFunc(slices.Clone(ds), func(d deletion) bool {
		_, known := u.in[d]
		return known
	})
	bytes := 0
	for _, d := range fresh {
		bytes += len(d.name)
	}
	if len(u.queue)+len(fresh) > mostUndone || u.bytes+bytes > mostUndoneBytes {
		u.c.stats.deletesDropped.Add(uint64(len(fresh)))
		return errors.Join(err, errTooManyUndone)
	}
	for _, d := range fresh {
		if _, twice := u.in[d]; twice {
			continue
		}
		if u.in == nil {
			u.in = make(map[deletion]struct{})
		}
		u.in[d] = struct{}{}
		u.queue = append(u.queue, d)
		u.bytes += len(d.name)
	}
	u.n.Store(int64(len(u.queue)))
	if !u.running && len(u.queue) > 0 && u.c.flights.begin() {
		u.running = true
		go u.repeat()
	}
	return err
}

// has reports whether a key is to be deleted.
func (u *undone) has(key string) bool {
	if u.n.Load() == 0 {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	_, found := u.in[deletion{keyEvent, key}]
	return found
}

// hasTags reports whether what has these tags is to be deleted, or everything.
func (u *undone) hasTags(tags []string) bool {
	if u.n.Load() == 0 {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	_, found := u.in[deletion{kind: clearEvent}]
	for _, t := range tags {
		_, one := u.in[deletion{tagEvent, t}]
		found = found || one
	}
	return found
}

// repeat goes on until nothing is left, or the cache is closed.
func (u *undone) repeat() {
	defer u.c.flights.running.Done()
	for pause := again; ; pause = min(2*pause, time.Second) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-u.c.closing:
			timer.Stop()
			return
		}
		if u.c.redis.cutOff() && u.c.redis.learnTime(context.Background()) != nil {
			continue
		}
		if u.try() == nil {
			return
		}
	}
}

// try repeats all there is. If it returns nil, nothing is left, and repeat is over.
func (u *undone) try() error {
	for {
		u.mu.Lock()
		batch := u.queue[:min(len(u.queue), deleteKeys)]
		if len(batch) == 0 {
			u.running = false
			u.mu.Unlock()
			return nil
		}
		kind, n := batch[0].kind, 0
		var names []string
		for n < len(batch) && batch[n].kind == kind {
			names = append(names, batch[n].name)
			n++
		}
		u.mu.Unlock()
		if err := u.c.invalidateNow(context.Background(), kind, names); err != nil {
			return err
		}
		u.mu.Lock()
		for _, d := range u.queue[:n] {
			delete(u.in, d)
			u.bytes -= len(d.name)
		}
		u.queue = u.queue[n:]
		u.n.Store(int64(len(u.queue)))
		u.mu.Unlock()
		u.c.stats.deletesRepeated.Add(uint64(n))
	}
}

// close tries once more, unless Redis is out of reach. The error says what is lost.
func (u *undone) close() error {
	if u.n.Load() == 0 {
		return nil
	}
	err := errCutOff
	if !u.c.redis.cutOff() {
		if err = u.try(); err == nil {
			return nil
		}
	}
	left := u.n.Load()
	u.c.stats.deletesDropped.Add(uint64(left))
	return fmt.Errorf("cache: closed with %d deletions that Redis has not confirmed: %w", left, err)
}
