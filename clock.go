package cache

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// askTime asks for the server's time, in the background: the next reader knows it.
func (r *Redis) askTime(ctx context.Context) {
	if !r.asking.CompareAndSwap(false, true) {
		return
	}
	if !r.begin() {
		return // and never ask again
	}
	go func() {
		defer r.work.Done()
		defer r.asking.Store(false)
		_ = r.learnTime(ctx)
	}()
}

// learnTime asks for the server's time, once for all who want to know it at the same time.
func (r *Redis) learnTime(ctx context.Context) error {
	_, err, _ := r.learning.Do("", func() (any, error) { return nil, r.learnTimeNow(ctx) })
	return err
}

func (r *Redis) learnTimeNow(ctx context.Context) error {
	_, err := call(ctx, r, r.timeout, func(ctx context.Context) (struct{}, error) {
		sent := time.Now()
		now, err := r.client.Time(ctx).Result()
		switch {
		case err == nil:
			r.clock.observe(sent, time.Now(), now.UnixMicro())
		case redis.HasErrorPrefix(err, "NOPERM"): // then the only clock is ours
			r.clock.observe(sent, time.Now(), time.Now().UnixMicro())
		}
		return struct{}{}, err
	})
	return err
}

// serverClock estimates the server's clock from its replies: the true offset lies in the intersection of the intervals
// that they allow (Marzullo's algorithm for one source). In a cluster it is an estimate of all nodes' clocks at once.
type serverClock struct {
	started time.Time

	mu     sync.Mutex
	known  bool
	lo, hi int64         // bounds of server us - local us; guarded by mu
	at     time.Duration // of the last observation; guarded by mu
}

// drift widens the bounds with time: quartz is good to 100 ppm, and virtual machines to a little less.
const drift = 500e-6

func (k *serverClock) local(t time.Time) time.Duration { return t.Sub(k.started) }

// observe learns from a reply that the server's clock showed now at some time between sent and received.
func (k *serverClock) observe(sent, received time.Time, now int64) {
	lo, hi := now-k.local(received).Microseconds(), now-k.local(sent).Microseconds()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known {
		wider := int64(float64((k.local(received) - k.at).Microseconds()) * drift)
		l, h := max(lo, k.lo-wider), min(hi, k.hi+wider)
		if l <= h { // otherwise somebody set a clock: believe the newest
			lo, hi = l, h
		}
	}
	k.known, k.lo, k.hi, k.at = true, lo, hi, k.local(received)
}

// now returns the server's time in microseconds: it is not before early, nor after late.
func (k *serverClock) now() (early, late int64, known bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	local := k.local(time.Now())
	wider := int64(float64((local - k.at).Microseconds()) * drift)
	return local.Microseconds() + k.lo - wider, local.Microseconds() + k.hi + wider, k.known
}

// old reports whether it is time to ask again.
func (k *serverClock) old() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.known || k.local(time.Now())-k.at > time.Minute
}
