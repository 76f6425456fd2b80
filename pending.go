package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// undone are deletions that Redis has not confirmed: they are repeated, in their order, until it has. What is to be
// deleted is not believed meanwhile. What Redis has deleted, and the other processes were not told, waits here too.
type undone struct {
	c *core
	n atomic.Int64 // how many there are

	mu      sync.Mutex
	queue   []deletion        // guarded by mu
	in      map[deletion]todo // those in queue; guarded by mu
	bytes   int               // of the names in queue; guarded by mu
	running bool              // somebody repeats them; guarded by mu
}

// deletion is something to be deleted: of which kind, as in events, and its name.
type deletion struct {
	kind byte
	name string // of the key or tag, in the cache
}

type todo struct {
	asked int  // how often: what was asked for again while it was being repeated has to be repeated again
	done  bool // in Redis; the others have to be told
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

// untoldError is returned when Redis has deleted, and the message to the other processes failed.
type untoldError struct{ err error }

func (e untoldError) Error() string { return e.err.Error() }
func (e untoldError) Unwrap() error { return e.err }

// add keeps deletions that have failed with err, which it returns, with another one if there are too many already.
func (u *undone) add(kind byte, names []string, err error) error {
	var untold untoldError
	done := errors.As(err, &untold)
	u.mu.Lock()
	defer u.mu.Unlock()
	var fresh []deletion
	bytes := 0
	for _, name := range names {
		d := deletion{kind, name}
		if t, known := u.in[d]; known {
			u.in[d] = todo{t.asked + 1, t.done && done}
			continue
		}
		fresh = append(fresh, d)
		bytes += len(name)
	}
	if len(u.queue)+len(fresh) > mostUndone || u.bytes+bytes > mostUndoneBytes {
		u.c.stats.deletesDropped.Add(uint64(len(fresh)))
		return errors.Join(err, errTooManyUndone)
	}
	if u.in == nil {
		u.in = make(map[deletion]todo)
	}
	for _, d := range fresh {
		if _, twice := u.in[d]; !twice {
			u.in[d] = todo{done: done}
			u.queue = append(u.queue, d)
			u.bytes += len(d.name)
		}
	}
	u.n.Store(int64(len(u.queue)))
	if !u.running && len(u.queue) > 0 && u.c.flights.begin() {
		u.running = true
		go u.repeat()
	}
	return err
}

// has reports whether a key is to be deleted in Redis.
func (u *undone) has(key string) bool { return u.hasAny(deletion{keyEvent, key}) }

// hasTags reports whether what has these tags is to be deleted in Redis, or everything.
func (u *undone) hasTags(tags []string) bool {
	ds := []deletion{{kind: clearEvent}}
	for _, t := range tags {
		ds = append(ds, deletion{tagEvent, t})
	}
	return u.hasAny(ds...)
}

func (u *undone) hasAny(ds ...deletion) bool {
	if u.n.Load() == 0 {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, d := range ds {
		if t, found := u.in[d]; found && !t.done {
			return true
		}
	}
	return false
}

// repeat goes on until nothing is left, or the cache is closed.
func (u *undone) repeat() {
	defer u.c.flights.running.Done()
	closing := func() bool {
		select {
		case <-u.c.closing:
			return true
		default:
			return false
		}
	}
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
		if u.try(closing) == nil {
			return
		}
	}
}

// try repeats all there is, once. What fails is put behind the rest, unless there is one server, and it is silent. If it returns nil, nothing is left, and
// repeat is over.
func (u *undone) try(enough func() bool) (err error) {
	u.mu.Lock()
	left := len(u.queue)
	u.mu.Unlock()
	for left > 0 && !enough() {
		kind, names, todos := u.batch(left)
		left -= len(names)
		var failed error
		if todos[0].done {
			failed = u.c.tell(context.Background(), kind, names)
		} else {
			failed = u.c.invalidateThere(context.Background(), kind, names)
			if failed == nil { // this process does not hear of it; a cache of the same name has gone on reading
				u.c.dropHere(kind, names)
				u.c.wakeHere(kind, names)
			}
		}
		u.tried(kind, names, todos, failed)
		if failed != nil {
			err = failed
		}
		if silence(failed) != nil {
			break
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.queue) == 0 {
		u.running = false
		return nil
	}
	return cmp.Or(err, errUndone)
}

// batch returns the first ones that are of one kind, at most so many.
func (u *undone) batch(most int) (kind byte, names []string, todos []todo) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, d := range u.queue[:min(most, deleteKeys)] {
		t := u.in[d]
		if len(names) > 0 && (d.kind != kind || t.done != todos[0].done) {
			break
		}
		kind = d.kind
		names, todos = append(names, d.name), append(todos, t)
	}
	return kind, names, todos
}

// tried removes the first ones if they did not fail and were not asked for again.
func (u *undone) tried(kind byte, names []string, todos []todo, err error) {
	var untold untoldError
	u.mu.Lock()
	defer u.mu.Unlock()
	var rest []deletion
	for i, name := range names {
		d := deletion{kind, name}
		t := u.in[d]
		switch {
		case err == nil && t.asked == todos[i].asked:
			delete(u.in, d)
			u.bytes -= len(name)
			u.c.stats.deletesRepeated.Add(1)
			continue
		case errors.As(err, &untold) && t.asked == todos[i].asked:
			t.done = true
			u.in[d] = t
		}
		rest = append(rest, d)
	}
	if silence(err) != nil && u.c.redis.oneServer {
		return // nothing is answered: the order stays
	}
	u.queue = append(u.queue[len(names):], rest...)
	u.n.Store(int64(len(u.queue)))
}

// close tries once more, unless Redis is out of reach. The error says what is lost.
func (u *undone) close() error {
	if u.n.Load() == 0 {
		return nil
	}
	err := errCutOff
	if !u.c.redis.cutOff() || u.c.redis.learnTime(context.Background()) == nil {
		until := time.Now().Add(patient * u.c.redis.timeout)
		if err = u.try(func() bool { return !time.Now().Before(until) }); err == nil {
			return nil
		}
	}
	left := u.n.Load()
	u.c.stats.deletesDropped.Add(uint64(left))
	return fmt.Errorf("cache: closed with %d deletions that Redis has not confirmed: %w", left, err)
}
