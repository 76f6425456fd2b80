package cache

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Kinds of messages. Each begins with its kind and 16 bytes of who: a lease's owner, or a process.
const (
	wakeCommitted = 'C'
	wakeAborted   = 'A'
	eventful      = 'E' // a numbered message of a process: what it has invalidated
	deleted       = 'D' // the same without a number, about keys only
	permit        = 'P' // was handed over; with its number
)

// Kinds of events in a message.
const (
	keyEvent   = 'k' // a key was deleted or set
	tagEvent   = 't' // a tag's entries were deleted
	clearEvent = 'c' // all of a cache's were
)

// events publishes what this process invalidates, so that other processes forget it. One message is under way at a
// time: what is to be told meanwhile is gathered for the next one, for Redis's work grows with messages times
// processes, and hardly with what is in them. Messages are numbered, and say how long ago the one before was sent: who
// has not heard that one knows what to do.
type events struct {
	r *Redis

	mu       sync.Mutex
	underWay bool          // guarded by mu
	gathered []*bundle     // guarded by mu
	number   uint64        // of the last message; guarded by mu
	sent     time.Time     // when; guarded by mu
	last     time.Time     // when the last message was made, heartbeats included; zero: it has come; guarded by mu
	took     time.Duration // of the last one that has come; guarded by mu
	told     bool          // ... and its number was published once more; guarded by mu
}

// bundle is what goes into one message.
type bundle struct {
	events []byte
	done   chan struct{}
	err    error
}

const bundleBytes = 1 << 20 // from which on a message takes no more

// appendEvent appends one to b.
func appendEvent(b []byte, kind byte, text string) []byte {
	return appendText(append(b, kind), text)
}

// appendText appends a text and its length, in 8 digits as the scripts write it.
func appendText(b []byte, text string) []byte {
	return append(fmt.Appendf(b, "%08d", len(text)), text...)
}

func keyEvents(keys []string) (b []byte) {
	for _, k := range keys {
		b = appendEvent(b, keyEvent, k)
	}
	return b
}

// beat is begin for a heartbeat; number is that of the last message.
func (e *events) beat() (message string, number uint64, ok bool) {
	message, ok = e.begin(nil)
	e.mu.Lock()
	defer e.mu.Unlock()
	return message, e.number, ok
}

// said notes that the number of the last message was published once more.
func (e *events) said(number uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.told = e.told || e.number == number
}

// begin returns the message for events, if none is under way; who gets it has to send it, and to call end.
func (e *events) begin(events []byte) (message string, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.underWay {
		return "", false
	}
	e.underWay = true
	return e.messageLocked(events), true
}

func (e *events) messageLocked(events []byte) string {
	now := time.Now()
	e.last = now
	ago := time.Duration(0)
	if e.number > 0 {
		ago = min(now.Sub(e.sent), longAgo)
	}
	if len(events) > 0 { // a heartbeat has the number of the last message, and says how long ago that was
		e.number++
		e.sent, e.told = now, false
	}
	return fmt.Sprintf("%c%s%016d%010d%s", eventful, e.r.process, e.number, ago.Milliseconds(), events)
}

// longAgo is the longest time that fits.
const longAgo = 9_999_999_999 * time.Millisecond

// back notes that a message of ours has come.
func (e *events) back(number uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if number == e.number && e.last != (time.Time{}) {
		e.took = time.Since(e.last)
		e.last = time.Time{}
	}
}

// lag returns how long the last message of ours took to come, or how long it is awaited if that is longer.
func (e *events) lag() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.last == (time.Time{}) {
		return e.took
	}
	return max(e.took, time.Since(e.last))
}

// end is called when the message has been answered, or will not be. What has gathered goes next.
func (e *events) end() {
	b := e.next()
	if b == nil {
		return
	}
	counted := e.r.begin()
	go func() {
		if counted {
			defer e.r.work.Done()
		}
		for ; b != nil; b = e.next() {
			e.mu.Lock()
			message := e.messageLocked(b.events)
			e.mu.Unlock()
			b.err = e.send(context.Background(), message)
			close(b.done)
		}
	}()
}

func (e *events) next() *bundle {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.gathered) == 0 {
		e.underWay, e.gathered = false, nil
		return nil
	}
	b := e.gathered[0]
	e.gathered = e.gathered[1:]
	return b
}

// publish tells the other processes of events, and blocks until the message that has them is answered: its own, or the one
// after that which is under way.
func (e *events) publish(ctx context.Context, events []byte) error {
	if message, ok := e.begin(events); ok {
		defer e.end()
		return e.send(ctx, message)
	}
	b := e.gather(events)
	if b == nil { // the message has been answered meanwhile
		return e.publish(ctx, events)
	}
	<-b.done
	return b.err
}

// gather adds events to what the next message says, if one is under way.
func (e *events) gather(events []byte) *bundle {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.underWay {
		return nil
	}
	if n := len(e.gathered); n > 0 && len(e.gathered[n-1].events)+len(events) <= bundleBytes {
		b := e.gathered[n-1]
		b.events = append(b.events, events...)
		return b
	}
	b := &bundle{events: append([]byte(nil), events...), done: make(chan struct{})}
	e.gathered = append(e.gathered, b)
	return b
}

// send publishes a message within the budget that Delete has.
func (e *events) send(ctx context.Context, message string) error {
	_, err := insist(ctx, e.r, patient*e.r.timeout, func(ctx context.Context) (struct{}, error) {
		sent := e.r.stream.now()
		return struct{}{}, e.r.stream.asks(sent, e.r.publish(ctx, message))
	})
	return err
}

// publish sends a message to all processes.
func (r *Redis) publish(ctx context.Context, message string) error {
	if r.sharded != nil {
		return r.sharded.SPublish(ctx, r.stream.channels[0], message).Err()
	}
	c := r.client
	if cluster, ok := c.(*redis.ClusterClient); ok { // it would take any node, and messages overtake each other
		node, err := cluster.MasterForKey(ctx, r.stream.channels[0])
		if err != nil {
			return err
		}
		c = node
	}
	return c.Publish(ctx, r.stream.channels[0], message).Err()
}

// shardedClient has sharded channels.
type shardedClient interface {
	SPublish(ctx context.Context, channel string, message any) *redis.IntCmd
	SSubscribe(ctx context.Context, channels ...string) *redis.PubSub
}

// restless reports whether a while has passed since the last message, which had events: if it got lost, nobody knows.
func (e *events) restless() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.number > 0 && !e.told && !e.underWay && time.Since(e.sent) >= quiet
}

// heard is what a process knows of the numbers of the others' messages since its subscription stands.
type heard struct {
	since time.Time
	last  map[string]uint64 // by process
}

// publishers is how many are remembered. With more, we begin anew.
const publishers = 10_000

// missing reports whether a message was missed before this one, which was sent ago after the one before it; a heartbeat
// has the number of that one.
func (h *heard) missing(process string, number uint64, ago time.Duration, beat bool) bool {
	last, known := h.last[process]
	if known && number <= last { // late or doubled; what came instead has been noticed
		return false
	}
	before := number // the number of the message before this one
	if !beat {
		before--
	}
	gap := known && before > last || !known && before > 0 && time.Since(h.since) >= ago
	if !known && len(h.last) >= publishers {
		*h, gap = heard{since: time.Now()}, true
	}
	if h.last == nil {
		h.last = make(map[string]uint64)
	}
	h.last[strings.Clone(process)] = number // which is a part of the message
	return gap
}

// handle takes a message apart. Whatever looks different is ignored.
func (s *stream) handle(m string) {
	if len(m) < 17 {
		return
	}
	kind, who, rest := m[0], m[1:17], m[17:]
	switch kind {
	case wakeCommitted, wakeAborted: // ends with the time and the record, if it is small
		if key, news, ok := cutText(rest); ok {
			at, rec := cutTime(news)
			w := wake{kind: kind, record: []byte(rec), at: at}
			copy(w.owner[:], who)
			s.r.waiters.tell(key, w)
		}
	case eventful:
		if len(rest) < 26 {
			return
		}
		number, err := strconv.ParseUint(rest[:16], 10, 64)
		ago, err2 := strconv.ParseUint(rest[16:26], 10, 64)
		if err != nil || err2 != nil {
			return
		}
		if who == s.r.process {
			s.r.events.back(number)
			return
		}
		if number > 0 && s.heard.missing(who, number, time.Duration(ago)*time.Millisecond, len(rest) == 26) {
			s.r.missed(idOfProcess(who))
		}
		for rest = rest[26:]; rest != ""; {
			text, more, ok := cutText(rest[1:])
			if !ok {
				return
			}
			s.r.hear(rest[0], text, idOfProcess(who))
			rest = more
		}
	case permit:
		if text, _, ok := cutText(rest); ok {
			s.r.permitted(text, who)
		}
	case deleted:
		for who != s.r.process {
			key, more, ok := cutText(rest)
			if !ok {
				return
			}
			s.r.hear(keyEvent, key, idOfProcess(who))
			rest = more
		}
	}
}

// cutText is the inverse of appendText.
func cutText(s string) (text, rest string, ok bool) {
	if len(s) < 8 {
		return "", "", false
	}
	n, err := strconv.ParseUint(s[:8], 10, 32)
	if err != nil || uint64(len(s)-8) < n {
		return "", "", false
	}
	return s[8 : 8+n], s[8+n:], true
}

// cutTime splits a time of the server's, us, from what follows it; 0: there is none.
func cutTime(s string) (at int64, rest string) {
	if len(s) < timeDigits {
		return 0, s
	}
	n, err := strconv.ParseUint(s[:timeDigits], 10, 63)
	if err != nil {
		return 0, s
	}
	return int64(n), s[timeDigits:]
}

const timeDigits = 16
