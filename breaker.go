package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
)

// How long a command may take, and what happens when Redis does not answer.

var (
	errCutOff      = errors.New("cache: Redis out of reach")
	errRedisClosed = errors.New("cache: Redis closed")
)

// tells tells observers of the breaker, in a goroutine of its own: it holds a lock when it changes.
func (r *Redis) tells(cutOff bool) {
	if r.toldCutOff.Swap(cutOff) == cutOff || !r.begin() {
		return
	}
	what := "back"
	if cutOff {
		what = "cut off"
	}
	go func() {
		defer r.work.Done()
		r.each("", func(c *core) { c.tellRedis(what) })
	}()
}

// cutOff reports whether Redis has not answered for a while.
func (r *Redis) cutOff() bool { return r.breaker.State() != gobreaker.StateClosed }

// call runs one command within a budget of time, unless the breaker is open. A command runs in a goroutine of its
// own, because go-redis does not return when its context ends: with a frozen server it was seen to return after 5.0 s
// whatever the context. The context given to fn has the values of ctx, not its cancellation.
func call[T any](ctx context.Context, r *Redis, budget time.Duration, fn func(context.Context) (T, error)) (T, error) {
	report, err := r.breaker.Allow()
	if err != nil {
		var zero T
		return zero, errCutOff
	}
	v, err := insist(ctx, r, budget, fn)
	err = r.note(err)
	report(silence(err))
	return v, err
}

// note remembers since when nothing has been answered: many commands that fail at once are one failure.
func (r *Redis) note(err error) error {
	if silence(err) == nil {
		r.silent.Store(0)
		r.stream.lost.Store(false)
	} else {
		r.silent.CompareAndSwap(0, max(int64(r.clock.local(time.Now())), 1))
		r.askTopology()
	}
	return err
}

// askTopology has the client of a cluster ask who has which slots, at most once in a second. By itself go-redis asks when a node says
// that it does not have a slot any more, which one that is gone does not say, and after a minute otherwise: so long a
// replica that has taken over was not found (measured: 62 s, and 3 s with this).
func (r *Redis) askTopology() {
	now, last := int64(r.clock.local(time.Now())), r.asked.Load()
	if r.topology != nil && now-last >= int64(tripped) && r.asked.CompareAndSwap(last, now) {
		r.topology(context.Background())
	}
}

func (r *Redis) silentFor(d time.Duration) bool {
	since := r.silent.Load()
	return since != 0 && r.clock.local(time.Now())-time.Duration(since) >= d
}

// insist is call without the breaker.
func insist[T any](
	ctx context.Context, r *Redis, budget time.Duration, fn func(context.Context) (T, error),
) (T, error) {
	var zero T
	if !r.begin() {
		return zero, errRedisClosed
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), budget)
	type reply struct {
		v   T
		err error
	}
	replies := make(chan reply, 1)
	go func() {
		defer r.work.Done()
		defer cancel()
		rep := reply{err: errReply} // if a hook of the user's client ends the goroutine
		defer func() {
			if p := recover(); p != nil { // or panics
				rep.err = fmt.Errorf("cache: client panicked with a %T", p) // which may hold anything
			}
			replies <- rep
		}()
		rep.v, rep.err = fn(ctx)
	}()
	select {
	case rep := <-replies:
		return rep.v, rep.err
	case <-ctx.Done():
		select {
		case rep := <-replies: // cancel comes after the reply
			return rep.v, rep.err
		default:
		}
		return zero, ctx.Err()
	}
}

// silence returns err if it means that the server did not answer. An error reply is an answer.
func silence(err error) error {
	if err == nil {
		return nil
	}
	var answer redis.Error
	if errors.As(err, &answer) || errors.Is(err, redis.TxFailedErr) {
		return nil
	}
	return err
}

// sweep asks for the time, for nobody, from when the breaker opens until there is an answer: that is how go-redis finds
// connections of its pool that are half open, one after the other, each after its ReadTimeout. At the pace of the breaker,
// which lets one command through in a second, 9 s were seen after a partition of one, with a ReadTimeout of 500 ms. A
// server that is only slow gets a few commands more.
func (r *Redis) sweep() {
	for r.sweeping.Add(1) <= sweepers && r.begin() {
		go func() {
			defer r.work.Done()
			defer r.sweeping.Add(-1)
			for !r.answers() && !r.isClosed() {
				time.Sleep(r.timeout)
			}
		}()
	}
	r.sweeping.Add(-1)
}

// answers blocks as long as the client lets a command run.
func (r *Redis) answers() bool {
	defer func() { _ = recover() }() // a hook of the user's
	return silence(r.client.Time(context.Background()).Err()) == nil
}
