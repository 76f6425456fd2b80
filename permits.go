package cache

import (
	"container/heap"
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"time"
)

// How the limiters of several processes come to an agreement, in Redis.

//go:embed script/permits.lua
var permitsLua string

// lackLocked is how many permits to stand in Redis's queue for: beyond the share for one at a time.
func (l *limiter) lackLocked() int {
	more := min(l.queue.Len(), max(l.share-len(l.held), 1))
	return max(l.running+more-len(l.held), 0)
}

// restLocked sees to it that Redis is asked again: when what is held is to be renewed, or is not needed any more, or when
// a permit ends that others hold, which may be gone. A limiter that has nothing to do is forgotten.
func (l *limiter) restLocked() {
	if l.running+l.queue.Len()+len(l.held)+len(l.wanted)+len(l.back) == 0 || l.closed {
		l.stopLocked()
		delete(l.m, l.name)
		return
	}
	if l.c.redis == nil {
		return
	}
	pause := l.renewed + max(l.c.opts.Lease/3, time.Millisecond) - l.now()
	switch {
	case l.cut:
	case len(l.wanted) > 0:
		pause = min(pause, max(l.ends, lookSoon))
		if !l.c.redis.stream.wakes() { // nobody tells us
			pause = min(pause, l.poll)
		}
	case len(l.held) > l.running:
		pause = min(pause, permitIdle)
	}
	if l.timer != nil && l.next <= l.now()+pause {
		return
	}
	l.stopLocked()
	l.next = l.now() + pause
	l.timer = time.AfterFunc(pause, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.timer == nil || l.now() < l.next { // it has been asked since
			return
		}
		l.timer = nil
		l.giveLocked(max(min(l.peak, l.share), l.running))
		l.peak = l.running
		if len(l.back)+len(l.wanted) > 0 || l.now() >= l.renewed+l.c.opts.Lease/3 {
			l.askLocked()
		} else {
			l.restLocked()
		}
	})
}

func (l *limiter) now() time.Duration { return l.c.redis.clock.local(time.Now()) }

func (l *limiter) stopLocked() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// askLocked has Redis asked. Without a Redis it is as if that did not answer.
func (l *limiter) askLocked() {
	l.stopLocked()
	if !l.c.redis.begin() {
		l.silentLocked(errRedisClosed)
		l.back, l.wanted, l.held = nil, nil, nil
		return
	}
	l.asking = true
	l.asks.Add(1)
	go func() {
		defer l.c.redis.work.Done()
		defer l.asks.Done()
		for l.ask() {
		}
	}()
}

// ask asks Redis, and reports whether there is more to ask for.
func (l *limiter) ask() bool {
	l.mu.Lock()
	lack := l.lackLocked()
	for len(l.wanted) < lack {
		l.number++
		l.wanted = append(l.wanted, fmt.Sprintf("%0*d", permitDigits, l.number))
	}
	l.back = append(l.back, l.wanted[lack:]...)
	l.wanted = l.wanted[:lack]
	a := permitArgs{
		name: l.c.redis.key(l.c.name, l.name), who: l.who, most: l.c.opts.MaxLoads, life: l.c.opts.Lease,
		back: slices.Clone(l.back), held: slices.Clone(l.held), wanted: slices.Clone(l.wanted), order: l.queue.order(),
	}
	if l.renewed = l.now(); len(l.wanted) == 0 {
		l.poll = 0
	}
	l.poll = min(max(2*l.poll, pollFirst), pollMost)
	l.mu.Unlock()
	got, err := l.c.store.permits(context.Background(), a)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.c.stats.redisErrors.Add(1)
		l.silentLocked(err)
	} else {
		l.answeredLocked(a, got)
		l.admitLocked()
		if len(l.back) > 0 || l.lackLocked() != len(l.wanted) {
			return true
		}
	}
	l.asking = false
	l.restLocked()
	return false
}

// silentLocked is called when Redis does not answer.
func (l *limiter) silentLocked(err error) {
	l.cut = true
	for l.c.opts.StrictLoads && l.queue.Len() > 0 {
		t := heap.Pop(&l.queue).(*ticket)
		t.err = fmt.Errorf("%w: %w", ErrOverloaded, &redisError{err})
		close(t.begins)
	}
	l.admitLocked()
}

// answeredLocked makes the limiter know what Redis has answered. What was handed over meanwhile, or is to be given back
// since, is not touched.
func (l *limiter) answeredLocked(a permitArgs, got permitted) {
	l.cut, l.ends, l.others = false, got.ends, got.waiting > 0
	l.processes = max(got.processes, 1)
	l.share = l.c.opts.MaxLoads / l.processes
	was := make(map[string]byte)
	for what, numbers := range map[byte][]string{'b': a.back, 'h': a.held} {
		for _, number := range numbers {
			was[number] = what
		}
	}
	for _, number := range got.mine {
		was[number] = 'm'
	}
	l.back = slices.DeleteFunc(l.back, func(number string) bool { return was[number] == 'b' })
	l.held = slices.DeleteFunc(l.held, func(number string) bool { return was[number] == 'h' }) // it is lost
	l.wanted = slices.DeleteFunc(l.wanted, func(number string) bool {
		if was[number] != 'm' {
			return false
		}
		l.held = append(l.held, number)
		return true
	})
}

type permitArgs struct {
	name, who          string
	most               int
	life               time.Duration
	back, held, wanted []string
	order              string
}

type permitted struct {
	processes int           // that have or want permits
	waiting   int           // permits that others wait for
	ends      time.Duration // until the next one ends that is not renewed
	mine      []string      // of those held and wanted
}

func (s *scriptStore) permits(ctx context.Context, a permitArgs) (got permitted, err error) {
	tag := "{" + a.name + "}:"
	token := newOwner()
	keys := []string{tag + "permits", tag + "queue", tag + "processes"}
	reply, err := s.runBy(ctx, s.r.pipeline.do, s.permitsL, keys,
		string(token[:]), a.who, a.most, a.life.Microseconds(), s.inbox, a.name,
		strings.Join(a.back, ""), strings.Join(a.held, ""), strings.Join(a.wanted, ""), a.order)
	if err != nil {
		return got, err
	}
	return parsePermitted(reply)
}

// parsePermitted reads the reply of PERMITS.
func parsePermitted(reply []any) (got permitted, err error) {
	if len(reply) != 7 {
		return got, errReply
	}
	var n [3]int64
	for i := range n {
		n[i], _ = reply[i+2].(int64)
		if n[i] < 0 || n[i] > latest {
			return got, errReply
		}
	}
	mine, ok := reply[5].(string)
	if !ok || len(mine)%permitDigits != 0 {
		return got, errReply
	}
	got.processes, got.waiting, got.ends = int(n[0]), int(n[1]), time.Duration(n[2])*time.Microsecond
	for ; mine != ""; mine = mine[permitDigits:] {
		got.mine = append(got.mine, mine[:permitDigits])
	}
	return got, nil
}
