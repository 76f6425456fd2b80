package cache

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/bellwether-go/cache/internal/record"
)

const everybody = "*"

// memStore is the way of one process to a memServer.
type memStore struct {
	r        *Redis
	server   *memServer
	process  string
	attempts map[string]int // to acquire, by key; guarded by server.mu
	// send runs requests one after the other when they reach the server, and returns when the replies have come back, or
	// an error.
	send func(ctx context.Context, requests ...*memRequest) error
}

// memRequest is a command on its way.
type memRequest struct {
	text string
	run  func() string // returns the reply
	keys []int         // that it is about
	err  error
}

// ask sends a command within the budget of one; or, if it is one of a batch, with others.
func ask[T any](ctx context.Context, m *memStore, request string, run func() (T, string)) (T, error) {
	sent := time.Now()
	var now int64
	var v T
	req := &memRequest{text: request, run: func() string {
		now = m.server.now()
		var reply string
		v, reply = run()
		return reply
	}}
	if member, ok := ctx.(*member); ok {
		member.meet(req)
	} else {
		m.trip(ctx, []any{req})
	}
	if req.err != nil {
		var none T
		return none, req.err
	}
	if !strings.HasPrefix(request, "read") {
		m.r.clock.observe(sent, time.Now(), now)
	}
	return v, nil
}

func (m *memStore) trip(ctx context.Context, requests []any) {
	reqs := make([]*memRequest, len(requests))
	for i, r := range requests {
		reqs[i] = r.(*memRequest)
	}
	_, err := call(ctx, m.r, m.r.timeout, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, m.send(ctx, reqs...)
	})
	for _, r := range reqs {
		r.err = err
	}
}

func (m *memStore) read(ctx context.Context, key string, _ int) ([]byte, error) {
	return ask(ctx, m, m.about("read", key), func() ([]byte, string) {
		raw := bytes.Clone(m.server.get(key))
		return raw, m.server.describe(raw)
	})
}

func (m *memStore) begin(rd *reading) {
	go func() {
		defer close(rd.done)
		rd.raw, rd.err = m.read(rd.ctx, rd.key, rd.limit)
	}()
}

func (m *memStore) readAll(ctx context.Context, keys []string, limit int) ([][]byte, []error) {
	raws, errs := make([][]byte, len(keys)), make([]error, len(keys))
	reqs := make([]any, len(keys))
	for i, key := range keys {
		reqs[i] = &memRequest{text: m.about("read", key), run: func() string {
			raws[i] = bytes.Clone(m.server.get(key))
			return m.server.describe(raws[i])
		}}
	}
	m.trip(ctx, reqs)
	for i, r := range reqs {
		if errs[i] = r.(*memRequest).err; errs[i] != nil {
			raws[i] = nil
		}
	}
	return raws, errs
}

// about adds to a verb which key it is about, if that is not the usual one.
func (m *memStore) about(verb, key string) string {
	if key == trialFull[0] {
		return verb
	}
	return verb + " " + key
}

func (m *memStore) readWith(ctx context.Context, key string, _ int, _ string, tags []string) ([]byte, int64, error) {
	type both struct {
		raw     []byte
		barrier int64
	}
	found, err := ask(ctx, m, m.about("read", key), func() (both, string) {
		found := both{bytes.Clone(m.server.get(key)), m.server.barrier(tags)}
		return found, m.server.describe(found.raw) + fmt.Sprint(", barriers ", found.barrier)
	})
	return found.raw, found.barrier, err
}

func (m *memStore) acquire(ctx context.Context, a acquireArgs) (acquired, error) {
	m.server.mu.Lock()
	if m.server.owners[a.owner] == "" {
		if m.attempts == nil {
			m.attempts = make(map[string]int)
		}
		m.attempts[a.key]++
		m.server.owners[a.owner] = m.process + strconv.Itoa(m.attempts[a.key])
	}
	m.server.mu.Unlock()
	got, err := ask(ctx, m, m.about("acquire "+m.server.name(a.owner), a.key), func() (acquired, string) {
		var inbox string
		if m.r.stream.wakes() && !a.quiet {
			inbox = m.r.process
		}
		got := m.server.acquire(a, inbox)
		switch got.outcome {
		case hit:
			return got, "HIT " + m.server.describe(got.record)
		case busy:
			return got, "BUSY with " + m.server.name(got.holder)
		case later:
			return got, "LATER"
		}
		if got.stays != (record.Owner{}) {
			return got, "WON on " + m.server.name(got.stays)
		}
		return got, "WON"
	})
	got.received = time.Now()
	return got, err
}

// describe tells what raw is, without what is random in it.
func (s *memServer) describe(raw []byte) string {
	if len(raw) == 0 {
		return "nothing"
	}
	h, payload, err := record.Open(raw)
	switch {
	case err != nil:
		return "garbage"
	case h.State == record.Stub:
		return fmt.Sprintf("stub, lease of %s until %d", s.name(h.Lease.Owner), h.Lease.Until)
	}
	text := fmt.Sprintf("%c%q of %s", h.State, payload, s.name(h.ID))
	if h.Tagged {
		text += fmt.Sprint(" stamped ", h.Stamp)
	}
	if h.Lease.Owner != (record.Owner{}) {
		text += fmt.Sprintf(", lease of %s until %d", s.name(h.Lease.Owner), h.Lease.Until)
	}
	if h.Lease.Failures > 0 {
		text += fmt.Sprintf(", %d failures, marked until %d", h.Lease.Failures, h.Lease.Until)
	}
	return text
}

func (m *memStore) commit(ctx context.Context, c commitArgs) (committed, error) {
	return ask(ctx, m, m.about("commit "+m.server.name(c.owner), c.key), func() (committed, string) {
		done := m.server.commit(c)
		return done, map[committed]string{stored: "STORED", taken: "TAKEN", missing: "MISSING", refused: "REFUSED"}[done]
	})
}

func (m *memStore) abort(
	ctx context.Context, key string, owner record.Owner, fence int64, pause time.Duration,
) (bool, error) {
	return ask(ctx, m, m.about("abort "+m.server.name(owner)+abortArgs(fence != 0, pause), key), func() (bool, string) {
		mine := m.server.abort(key, owner, fence, pause)
		return mine, fmt.Sprint(mine)
	})
}

// abortArgs is what an ABORT says besides its owner. It is in the labels of gates, for the process that has sent it may be gone.
func abortArgs(won bool, pause time.Duration) string {
	text := ""
	if !won {
		text += ", unanswered"
	}
	if pause != 0 {
		text += fmt.Sprint(", pause ", pause)
	}
	return text
}

func (m *memStore) renew(
	ctx context.Context, key string, owner record.Owner, fence int64, lease, life time.Duration,
) (bool, error) {
	return ask(ctx, m, m.about("renew "+m.server.name(owner), key), func() (bool, string) {
		mine := m.server.renew(key, owner, fence, lease, life)
		return mine, fmt.Sprint(mine)
	})
}

// delete sends UNLINK and PUBLISH, which other commands may come between.
func (m *memStore) delete(ctx context.Context, keys []string) error {
	_, err := insist(ctx, m.r, patient*m.r.timeout, func(ctx context.Context) (struct{}, error) {
		var about []int
		for _, k := range keys {
			about = append(about, keyIn(k))
		}
		err := m.send(ctx, &memRequest{text: "unlink", keys: about, run: func() string {
			for _, k := range keys {
				delete(m.server.entries, k)
			}
			return ""
		}})
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, untold(m.publish(ctx, keyEvents(keys)))
	})
	return err
}

func (m *memStore) publish(ctx context.Context, events []byte) error {
	m.r.events.mu.Lock()
	message := m.r.events.messageLocked(events)
	m.r.events.mu.Unlock()
	return m.send(ctx, &memRequest{text: "publish", run: func() string {
		m.server.publish(everybody, message)
		return ""
	}})
}

func (m *memStore) tell(ctx context.Context, events []byte) error {
	_, err := insist(ctx, m.r, patient*m.r.timeout, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, m.publish(ctx, events)
	})
	return err
}
