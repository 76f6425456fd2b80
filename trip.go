package cache

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// worker sends what it is given, and then what has gathered meanwhile, in a goroutine that ends when there is nothing left.
// It is used again, for its timer. A worker whose command is not answered in time is left behind, because go-redis does not
// return when its context ends: with a frozen server it was seen to return after 5.0 s whatever the context.
type worker struct {
	p        *pipeline
	run      func() // work
	reqs     []*request
	one      [1]*request
	alone    bool // it does not look for what has gathered
	gathered bool // reqs is of that
	lost     bool // left behind
	now      atomic.Pointer[trip]
	timer    *time.Timer // gives now up
}

// trip is one round trip. It is the context of its commands: with the values of its first request's, and an end of its own.
type trip struct {
	context.Context
	deadline time.Time
	done     chan struct{}
	state    atomic.Int32
	report   func(error) // to the breaker
	cmd      [1]redis.Cmder
}

const (
	underWay int32 = iota
	answered
	givenUp
)

func (t *trip) Deadline() (time.Time, bool) { return t.deadline, true }
func (t *trip) Done() <-chan struct{}       { return t.done }

func (t *trip) Err() error {
	switch t.state.Load() {
	case underWay:
		return nil
	case answered:
		return context.Canceled
	}
	return context.DeadlineExceeded
}

// idleWorkers is how many are kept.
const idleWorkers = 2 * pipelineWidth

func (p *pipeline) hireLocked() *worker {
	if n := len(p.idle); n > 0 {
		w := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return w
	}
	w := &worker{p: p}
	w.run = w.work
	return w
}

func (w *worker) work() {
	ended := true // by a hook of the user's client
	defer func() {
		if ended && !w.lost && w.next() {
			go w.run()
		}
	}()
	for more := true; more; more = !w.lost && w.next() {
		w.trip()
	}
	ended = false
}

// next takes what has gathered, and reports whether there is anything. Otherwise the worker is idle.
func (w *worker) next() bool {
	p := w.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.gathered {
		w.gathered = false
		p.gathered--
	}
	n := min(len(p.queue), pipelineLength)
	if !w.alone && n > 0 && p.gathered < pipelineGathered {
		p.gathered++
		w.gathered = true
		w.reqs = p.queue[:n:n]
		if p.queue = p.queue[n:]; len(p.queue) == 0 {
			p.queue = nil
		}
		return true
	}
	if !w.alone {
		p.running--
	}
	w.alone, w.reqs, w.one[0] = false, nil, nil
	if len(p.idle) < idleWorkers {
		p.idle = append(p.idle, w)
	}
	return false
}

// trip makes a round trip, unless the breaker is open, and tells those who wait for its requests.
func (w *worker) trip() {
	r := w.p.r
	report, err := r.breaker.Allow()
	if err != nil {
		w.answer(nil, errCutOff)
		return
	}
	if !r.begin() {
		report(r.note(errRedisClosed))
		w.answer(nil, errRedisClosed)
		return
	}
	defer r.work.Done()
	budget := w.p.budget(len(w.reqs))
	t := &trip{Context: w.reqs[0].ctx, deadline: time.Now().Add(budget), done: w.reqs[len(w.reqs)-1].done, report: report}
	w.now.Store(t)
	if w.timer == nil {
		w.timer = time.AfterFunc(budget, w.giveUp)
	} else {
		w.timer.Reset(budget)
	}
	var cmds []redis.Cmder
	err = errReply // if a hook of the user's client ends the goroutine
	defer func() {
		if p := recover(); p != nil { // or panics
			err = fmt.Errorf("cache: client panicked with a %T", p) // which may hold anything
		}
		if !t.state.CompareAndSwap(underWay, answered) {
			w.lost = true
			return
		}
		w.timer.Stop()
		w.now.Store(nil)
		t.report(silence(r.note(err)))
		w.answer(cmds, err)
	}()
	cmds, err = w.exchange(t)
}

// giveUp ends the trip for those who wait for it. Another worker goes on.
func (w *worker) giveUp() {
	t := w.now.Load()
	if t == nil || time.Now().Before(t.deadline) || !t.state.CompareAndSwap(underWay, givenUp) {
		return
	}
	t.report(w.p.r.note(context.DeadlineExceeded))
	w.answer(nil, context.DeadlineExceeded)
	w.p.mu.Lock()
	other := w.p.hireLocked()
	w.p.mu.Unlock()
	other.alone, other.gathered = w.alone, w.gathered
	if other.next() {
		other.work()
	}
}

// exchange sends the requests and returns their commands, or an error if the server did not answer.
func (w *worker) exchange(t *trip) ([]redis.Cmder, error) {
	client, reqs := w.p.r.client, w.reqs
	if len(reqs) == 1 && len(reqs[0].sends) == 1 {
		t.cmd[0] = reqs[0].sends[0].send(t, client)
		return t.cmd[:], silence(t.cmd[0].Err())
	}
	cmds, err := client.Pipelined(t, func(pipe redis.Pipeliner) error {
		for _, req := range reqs {
			for _, s := range req.sends {
				s.send(t, pipe)
			}
		}
		return nil
	})
	if err := unsent(cmds, err); err != nil {
		return nil, err
	}
	return cmds, silence(err)
}

// answer tells those who wait what came of their requests.
func (w *worker) answer(cmds []redis.Cmder, err error) {
	for _, req := range w.reqs {
		switch n := len(req.sends); {
		case n <= len(cmds):
			req.cmds, cmds = cmds[:n], cmds[n:] // each with its own error, if there was no answer to it
		case err != nil:
			req.err = err
		default:
			req.err = errReply
		}
		if req.done != nil {
			close(req.done)
		}
	}
}
