package cache

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// worker sends what it is given, then what has gathered meanwhile, and then rests: a new goroutine for each round trip would
// spend 5 us on the growth of its stack. A worker whose command is not answered in time is left behind, because go-redis does
// not return when its context ends: with a frozen server it was seen to return after 5.0 s whatever the context.
type worker struct {
	p        *pipeline
	reqs     []*request
	one      [1]*request
	alone    bool          // it does not look for what has gathered
	gathered bool          // reqs is of that
	lost     bool          // left behind
	wake     chan struct{} // with new reqs, or none: then it is to end; nil before it has rested
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

// idleWorkers is how many rest.
const idleWorkers = pipelineWidth + pipelineWholes

// hireLocked returns a worker to be given something to do.
func (p *pipeline) hireLocked() *worker {
	n := len(p.idle)
	if n == 0 {
		return &worker{p: p}
	}
	w := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return w
}

// does gives a worker that was hired something to do.
func (w *worker) does(reqs []*request) {
	w.reqs = reqs
	if w.wake != nil {
		w.wake <- struct{}{}
	} else {
		go w.work()
	}
}

// close ends the workers that rest; others end when they would.
func (p *pipeline) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, w := range p.idle {
		w.wake <- struct{}{}
	}
	p.idle = nil
}

func (w *worker) work() {
	exits := true // because of a hook of the user's client
	defer func() {
		if exits && !w.lost {
			go w.successor().work()
		}
	}()
	for w.reqs != nil || w.next() || w.rests() {
		if w.trip(); w.lost {
			break
		}
		w.reqs, w.one[0] = nil, nil
	}
	exits = false
}

// successor is a worker that goes on in the place of one that cannot.
func (w *worker) successor() *worker {
	return &worker{p: w.p, alone: w.alone, gathered: w.gathered}
}

// next takes what has gathered, and reports whether there is anything.
func (w *worker) next() bool {
	p := w.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.gathered {
		w.gathered = false
		p.gathered--
	}
	if w.alone {
		w.alone = false
		return false
	}
	n := min(len(p.queue), pipelineLength)
	if n == 0 || p.gathered >= pipelineGathered {
		p.running--
		return false
	}
	p.gathered++
	w.gathered = true
	w.reqs = p.queue[:n:n]
	if p.queue = p.queue[n:]; len(p.queue) == 0 {
		p.queue = nil
	}
	return true
}

// rests waits for something to do, and reports whether there is anything.
func (w *worker) rests() bool {
	p := w.p
	p.mu.Lock()
	if p.closed || len(p.idle) == idleWorkers {
		p.mu.Unlock()
		return false
	}
	if w.wake == nil {
		w.wake = make(chan struct{}, 1)
	}
	p.idle = append(p.idle, w)
	p.mu.Unlock()
	<-w.wake
	return w.reqs != nil
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
	t := &trip{Context: context.WithoutCancel(w.reqs[0].ctx), deadline: time.Now().Add(budget), done: w.reqs[len(w.reqs)-1].done, report: report}
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
	w.successor().work()
}

// exchange sends the requests and returns their commands, or an error if the server did not answer.
func (w *worker) exchange(t *trip) ([]redis.Cmder, error) {
	client, reqs := w.p.r.client, w.reqs
	if len(reqs) == 1 && len(reqs[0].sends) == 1 {
		t.cmd[0] = reqs[0].sends[0].send(t, client)
		return t.cmd[:], silence(t.cmd[0].Err())
	}
	var p proofs
	cmds, err := client.Pipelined(t, func(pipe redis.Pipeliner) error {
		for _, req := range reqs {
			for _, s := range req.sends {
				s.send(t, pipe)
				p.note(s)
			}
		}
		p.send(t, pipe)
		return nil
	})
	if err := unsent(cmds, err); err != nil {
		return nil, err
	}
	if !p.given() {
		return nil, cmp.Or(silence(err), errReply)
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
