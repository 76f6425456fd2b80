package cache

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// stream is the subscription of one process: wake-ups on a channel of its own, its inbox, and what other processes
// invalidate on the channel of everybody. Messages may be lost, late, doubled or foreign: wake-ups are hints, and whoever
// waits looks for itself in the end; when events were missed, and when the connection was lost and is back, all of L1 is
// dropped.
type stream struct {
	r        *Redis
	canWake  bool // scripts' messages reach this subscription
	channels []string
	tracking *redis.Client // of our own, if the server tells of invalidations itself
	up       atomic.Bool
	lost     atomic.Bool   // it stood before, and nothing was answered since
	answered chan struct{} // one token: Redis answers again
	stop     context.CancelFunc
	done     chan struct{}
	stood    bool          // once at least; used by the goroutine that handles messages
	heard    heard         // used by the goroutine that handles messages
	last     atomic.Int64  // when a message for everybody came, on r.clock.local
	tried    time.Duration // when a heartbeat was sent; used by the goroutine that handles messages
	asked    atomic.Int64  // when one of ours was sent that was published and has not come, on r.clock.local

	mu  sync.Mutex
	sub *redis.PubSub // guarded by mu
}

const (
	quiet     = time.Second     // without a message, after which a PING asks whether anybody is there
	silences  = 3               // after so many the connection is taken for dead: go-redis would not notice in 25 s
	heartbeat = 5 * time.Second // and up to twice that, without an event from anybody, after which a process publishes an empty one
	again     = 50 * time.Millisecond
	againMax  = 5 * time.Second
)

// Channel names are at least 24 bytes long: go-redis 9.20.1 to 9.21 held back RESP3 pushes of less than 36 bytes. Their
// hash tag puts them on one node of a cluster: one connection can listen to all, and what is published there arrives in
// order.

func (r *Redis) inboxChannel(process string) string { return "{" + r.prefix + "}:inbox:" + process }

func (r *Redis) everybodyChannel() string { return "{" + r.prefix + "}:every-process-of-this-cache" }

func newStream(r *Redis, canWake bool) *stream {
	s := &stream{
		r: r, canWake: canWake, channels: []string{r.everybodyChannel()},
		answered: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if canWake { // a Ring's scripts publish on the shard of their key
		s.channels = append(s.channels, r.inboxChannel(r.process))
	}
	return s
}

func (s *stream) start() {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.run(ctx)
}

// wakes reports whether a process that waits will be told.
func (s *stream) wakes() bool { return s.canWake && s.up.Load() }

// close ends the connection and the goroutine.
func (s *stream) close() {
	s.stop()
	s.mu.Lock()
	sub := s.sub
	s.mu.Unlock()
	if sub != nil {
		_ = sub.Close() // or it would listen for a while
	}
	<-s.done
	if s.tracking != nil {
		_ = s.tracking.Close()
	}
}

func (s *stream) run(ctx context.Context) {
	defer close(s.done)
	pause := again
	for ctx.Err() == nil {
		if s.listen(ctx) {
			pause = again
		} else if cluster, ok := s.r.client.(*redis.ClusterClient); ok {
			cluster.ReloadState(ctx) // another node may have the channel
		}
		if s.up.Swap(false) {
			s.lost.Store(true)
			s.r.deaf()
			s.r.askTime(ctx) // if there is no answer, nobody need wait for one: see ReadyToTrip
		}
		select {
		case <-ctx.Done():
		case <-s.answered:
		case <-time.After(pause):
		}
		pause = min(2*pause, againMax)
	}
}

// hurry ends a pause between two attempts.
func (s *stream) hurry() {
	select {
	case s.answered <- struct{}{}:
	default:
	}
}

// subscribe returns a subscription that is being made, and how many confirmations it will get.
func (s *stream) subscribe(ctx context.Context) (*redis.PubSub, int, error) {
	switch {
	case s.tracking != nil:
		return s.tracking.Subscribe(ctx, s.channels...), len(s.channels), nil
	case s.r.sharded == nil:
		return s.r.client.Subscribe(ctx, s.channels...), len(s.channels), nil
	}
	sub := s.r.sharded.SSubscribe(ctx, s.channels[0])
	err := sub.Subscribe(ctx, s.channels...) // scripts publish in the old way: wake-ups come from all nodes
	return sub, len(s.channels) + 1, err
}

// listen subscribes and handles messages until the connection is lost. It reports whether it ever stood. A client
// that panics (a Ring without a shard does, and so may a hook of the user's) has lost it; its subscription is left
// alone then, for it may hold a lock of its own for ever.
func (s *stream) listen(ctx context.Context) (stood bool) {
	defer func() {
		panicked := recover() != nil
		s.mu.Lock()
		sub := s.sub
		s.sub = nil
		s.mu.Unlock()
		if sub != nil && !panicked {
			_ = sub.Close()
		}
	}()
	sub, confirmations, err := s.subscribe(ctx)
	s.mu.Lock()
	s.sub = sub
	s.mu.Unlock()
	if err != nil {
		return false
	}
	confirmed, silent := 0, 0
	var patience time.Duration // how long the next message for everybody is waited for
	for ctx.Err() == nil {
		if stood && !s.beat(patience) {
			return stood
		}
		wait := quiet
		if left := time.Duration(s.last.Load()) + patience - s.now(); left > 0 && left < quiet {
			wait = max(left, again) // go-redis loses a message of which it has read a part by then
		}
		msg, err := sub.ReceiveTimeout(ctx, wait)
		if err != nil {
			var t interface{ Timeout() bool }
			if !errors.As(err, &t) || !t.Timeout() {
				return stood
			}
			if wait == quiet {
				if silent++; silent >= silences || sub.Ping(ctx) != nil {
					return stood
				}
			}
			continue
		}
		silent = 0
		switch m := msg.(type) {
		case *redis.Subscription:
			if m.Kind != "subscribe" && m.Kind != "ssubscribe" { // the channel's slot has moved
				return stood
			}
			if confirmed++; confirmed%confirmations == 0 { // also after go-redis has reconnected by itself
				stood = true
				s.stands()
				s.hears()
				patience = heartbeat + rand.N(heartbeat)
			}
		case *redis.Message:
			if m.Channel == s.channels[0] && strings.HasPrefix(m.Payload, string(eventful)) {
				s.hears()
				patience = heartbeat + rand.N(heartbeat)
			}
			s.handle(m.Payload)
		}
	}
	return stood
}

// stands is called when the subscription is there, for the first time or again. What was published before is lost.
func (s *stream) stands() {
	s.heard = heard{since: time.Now()}
	s.lost.Store(false)
	s.up.Store(true)
	s.r.invalidateAll()
	if s.stood {
		s.r.each("", func(c *core) { c.tellRedis("events back") })
	}
	s.stood = true
}

func (s *stream) now() time.Duration { return s.r.clock.local(time.Now()) }

// hears notes that something came which was for everybody.
func (s *stream) hears() { s.last.Store(int64(s.now())) }

// asks notes that a message of ours was published, which has to come as well, if err is nil. A PUBLISH that is forbidden is
// forgiven: where it is, nobody listens, and LocalTTL is the bound.
func (s *stream) asks(sent time.Duration, err error) error {
	switch {
	case redis.HasErrorPrefix(err, "NOPERM"):
		s.hears()
		return nil
	case err == nil:
		if asked := s.asked.Load(); asked <= s.last.Load() {
			s.asked.CompareAndSwap(asked, int64(sent))
		}
	}
	return err
}

// beat says how many events this process has published if the last one may have been lost without anybody noticing, and
// asks for a sign of life if none has come from anybody for a while: the connection may stand, and what is published not
// reach it, as after a failover that the other end has missed. It reports whether to go on listening. In a fleet without
// events one process in turn publishes, and the others hear it: the timers of SRM (Floyd and others, "A Reliable
// Multicast Framework for Light-weight Sessions and Application Level Framing", SIGCOMM 1995).
func (s *stream) beat(patience time.Duration) bool {
	now, last, asked := s.now(), time.Duration(s.last.Load()), time.Duration(s.asked.Load())
	switch {
	case asked > last && now-asked >= silences*quiet:
		return false
	case asked <= last && now-max(last, s.tried) >= patience, s.r.events.restless() && now-s.tried >= quiet:
	default:
		return true
	}
	s.tried = now
	if !s.r.begin() {
		return true
	}
	message, number, ok := s.r.events.beat()
	if !ok { // another one is under way
		s.r.work.Done()
		return true
	}
	go func() {
		defer s.r.work.Done()
		defer s.r.events.end()
		if s.r.events.send(context.Background(), message) == nil {
			s.r.events.said(number)
		}
	}()
	return true
}
