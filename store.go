package cache

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/singleflight"

	"github.com/bellwether-go/cache/internal/record"
)

//go:embed script/record.lua
var recordLua string

//go:embed script/acquire.lua
var acquireLua string

//go:embed script/commit.lua
var commitLua string

//go:embed script/abort.lua
var abortLua string

//go:embed script/renew.lua
var renewLua string

// scriptStore is the store in Redis, one script a verb. Where scripts are forbidden it passes verbs on to nativeStore.
type scriptStore struct {
	r                                 *Redis
	native                            nativeStore
	acquireL, commitL, abortL, renewL verb
	stampL, invalidateL, permitsL     verb
	inbox, everybody                  string // channels
	loading                           singleflight.Group
	forbidden                         atomic.Int64 // until when scripts are taken to be forbidden, on r.clock.local
}

// verb is a script. The first call sends its text, which saves the round trip of an EVALSHA that fails on a server that
// does not know it yet; the others send its hash, and the text again where a server has lost it.
type verb struct {
	script *redis.Script
	sent   *atomic.Bool
	loads  *atomic.Int64 // for batches
}

// askAgain is how long scripts are not tried after the server forbade them.
const askAgain = time.Minute

// newVerb makes one of a script, which has record.lua before it.
func newVerb(lua string) verb {
	return verb{redis.NewScript(recordLua + lua), new(atomic.Bool), new(atomic.Int64)}
}

func newScriptStore(r *Redis) *scriptStore {
	return &scriptStore{
		r: r, native: nativeStore{r},
		acquireL: newVerb(acquireLua), commitL: newVerb(commitLua), abortL: newVerb(abortLua), renewL: newVerb(renewLua),
		stampL: newVerb(barrierLua + stampLua), invalidateL: newVerb(barrierLua + invalidateLua),
		permitsL: newVerb(permitsLua),
		inbox:    r.inboxChannel(""), everybody: r.everybodyChannel(),
	}
}

// errForbidden means that scripts are not to be had here.
var errForbidden = errors.New("cache: scripts forbidden")

// run runs a script on what is under key. args begin with the owner, with which each reply ends.
func (s *scriptStore) run(ctx context.Context, v verb, key string, args ...any) ([]any, error) {
	return s.runBy(ctx, s.r.pipeline.do, v, []string{key}, args...)
}

// promise is run for what has to be done: it has Delete's budget, and does not ask the breaker.
func (s *scriptStore) promise(ctx context.Context, v verb, key string, args ...any) ([]any, error) {
	return s.runBy(ctx, func(ctx context.Context, send sender) (redis.Cmder, error) {
		return insist(ctx, s.r, patient*s.r.timeout, func(ctx context.Context) (redis.Cmder, error) {
			cmd := send.send(ctx, s.r.client)
			return cmd, silence(cmd.Err())
		})
	}, v, []string{key}, args...)
}

func (s *scriptStore) runBy(
	ctx context.Context,
	do func(context.Context, sender) (redis.Cmder, error),
	v verb, keys []string, args ...any,
) ([]any, error) {
	if until := s.forbidden.Load(); until != 0 && int64(s.r.clock.local(time.Now())) < until {
		return nil, errForbidden
	}
	var sent time.Time
	full := v.sent.CompareAndSwap(false, true)
	m, together := ctx.(*member)
	loads := v.loads.Load()
	if together && (full || loads == 0) { // the others would not find it, and each would have to send the text
		full = !s.load(m, v, 0)
	}
	for {
		cmd, err := do(ctx, sending(func(ctx context.Context, c commands) redis.Cmder {
			sent = time.Now()
			if full {
				return v.script.Eval(ctx, c, keys, args...)
			}
			return v.script.EvalSha(ctx, c, keys, args...)
		}))
		if err != nil {
			return nil, err
		}
		reply, err := cmd.(*redis.Cmd).Result()
		switch {
		case err == nil:
		case forbids(err):
			if v.script != s.permitsL.script { // which needs commands that the others do not need
				s.forbidden.Store(int64(s.r.clock.local(time.Now()) + askAgain))
			}
			return nil, errForbidden
		case redis.HasErrorPrefix(err, "NOSCRIPT") && !full:
			full = !together || loads < 0 || !s.load(m, v, loads)
			loads = -1 // not again
			continue
		default:
			return nil, err
		}
		list, _ := reply.([]any)
		if len(list) < 3 || list[len(list)-1] != args[0] {
			return nil, errReply // it answers another command
		}
		if now, ok := list[1].(int64); ok {
			s.r.clock.observe(sent, time.Now(), now)
		}
		return list, nil
	}
}

// load loads a script for the members of a batch, unless that has been done more than so many times, and reports whether it
// should be there.
func (s *scriptStore) load(m *member, v verb, done int64) bool {
	loaded, _, _ := s.loading.Do(v.script.Hash(), func() (any, error) {
		if v.loads.Load() > done {
			return true, nil
		}
		_, err := call(m.f.batch.ctx, s.r, s.r.timeout, func(ctx context.Context) (string, error) {
			return v.script.Load(ctx, s.r.client).Result() // in a cluster on all nodes
		})
		v.loads.Add(1) // also if it failed: the text does it then
		return err == nil, nil
	})
	return loaded == true
}

// forbids reports whether the server refused to run scripts at all: by its ACL, or because the command is gone.
func forbids(err error) bool {
	var answer redis.Error
	if !errors.As(err, &answer) {
		return false
	}
	text := strings.ToLower(answer.Error())
	return strings.Contains(text, "eval") &&
		(strings.HasPrefix(text, "noperm") || strings.HasPrefix(text, "err unknown command")) ||
		strings.Contains(text, "the user executing the script can't run this command")
}

func (s *scriptStore) trip(ctx context.Context, requests []any) { s.r.pipeline.company(requests) }

func (s *scriptStore) read(ctx context.Context, key string, limit int) ([]byte, error) {
	cmd, err := s.r.pipeline.do(ctx, get(key, limit))
	if err != nil {
		return nil, err
	}
	return got(cmd)
}

func (s *scriptStore) begin(rd *reading) { s.r.pipeline.start(&rd.request) }

func (s *scriptStore) readAll(ctx context.Context, keys []string, limit int) ([][]byte, []error) {
	reqs, raws, errs := make([]*request, len(keys)), make([][]byte, len(keys)), make([]error, len(keys))
	for i, key := range keys {
		reqs[i] = &request{ctx: ctx, sends: []sender{get(key, limit)}}
	}
	s.r.pipeline.sendAll(reqs)
	for i, req := range reqs {
		if errs[i] = req.err; req.err == nil {
			raws[i], errs[i] = got(req.cmds[0])
		}
	}
	return raws, errs
}

// recordGet reads a record. One byte more than the longest one tells that it is longer.
type recordGet struct {
	key   string
	limit int
}

func get(key string, limit int) sender { return &recordGet{key, limit} }

func (g *recordGet) send(ctx context.Context, c commands) redis.Cmder {
	return c.GetRange(ctx, g.key, 0, int64(g.limit))
}

func got(cmd redis.Cmder) ([]byte, error) {
	b, err := cmd.(*redis.StringCmd).Bytes()
	if wrongType(err) {
		return []byte("?"), nil
	}
	return b, err
}

// wrongType reports whether somebody keeps another kind of value under the key.
func wrongType(err error) bool {
	if err == nil {
		return false
	}
	var answer redis.Error
	return errors.As(err, &answer) && strings.HasPrefix(answer.Error(), "WRONGTYPE")
}

func (s *scriptStore) acquire(ctx context.Context, a acquireArgs) (acquired, error) {
	var seen, inbox, force, serving string
	if a.seen != (record.Owner{}) {
		seen = string(a.seen[:])
	}
	if s.r.stream.wakes() && !a.quiet {
		inbox = s.r.process
	}
	if a.force {
		force = "1"
	}
	if a.serving {
		serving = "1"
	}
	reply, err := s.run(ctx, s.acquireL, a.key, string(a.owner[:]), a.lease.Microseconds(), a.life.Milliseconds(), seen,
		a.coder.stub(a.key, a.cost), inbox, a.coder.maxRecord(), force, a.broken, serving, a.patience.Microseconds())
	if err != nil {
		if errors.Is(err, errForbidden) {
			return s.native.acquire(ctx, a)
		}
		return acquired{}, err
	}
	return parseAcquired(reply)
}

// parseAcquired reads ACQUIRE's reply. A reply of another shape, as a client that mixes up replies would give, is an
// error like any other of Redis.
func parseAcquired(reply []any) (got acquired, err error) {
	field := func(i int) (n int64, text string) {
		if i >= len(reply) {
			err = errReply
			return 0, ""
		}
		switch v := reply[i].(type) {
		case int64:
			return v, ""
		case string:
			return 0, v
		}
		err = errReply
		return 0, ""
	}
	fence := func(i int) {
		if got.fence, _ = field(i); got.fence < 0 || got.fence > latest {
			err = errReply
		}
	}
	_, word := field(0)
	got.now, _ = field(1)
	if got.now < 0 || got.now > latest {
		err = errReply
	}
	got.received = time.Now()
	switch word {
	case "HIT":
		var text string
		_, text = field(2)
		got.outcome, got.record = hit, []byte(text)
	case "WON":
		got.outcome = won
		fence(2)
		if _, id := field(3); id != "" && copy(got.stays[:], id) != len(got.stays) {
			err = errReply
		}
	case "BUSY":
		got.outcome = busy
		var text string
		_, text = field(2)
		if copy(got.holder[:], text) != len(got.holder) {
			err = errReply
		}
		left, _ := field(3)
		got.left = time.Duration(left) * time.Microsecond
		fence(4)
		noted, _ := field(5)
		got.wakes = noted == 1
	case "LATER":
		got.outcome = later
	case "OTHER":
		got.outcome = other
	default:
		err = errReply
	}
	return got, err
}

// latest is the largest time and fence that are believed: in a record they have 16 digits, and a TTL is added.
const latest = 6e15

var errRefused = errors.New("refused the value")

var errReply = errors.New("cache: unexpected reply from Redis")

func (s *scriptStore) commit(ctx context.Context, c commitArgs) (committed, error) {
	reply, err := s.run(ctx, s.commitL, c.key, string(c.owner[:]), strconv.FormatInt(c.fence, 10), c.record,
		c.life.Milliseconds(), s.inbox, s.everybody, wakeBytes)
	if err != nil {
		if errors.Is(err, errForbidden) {
			return s.native.commit(ctx, c)
		}
		return 0, err
	}
	word, _ := reply[0].(string)
	switch word {
	case "STORED", "ALREADY":
		return stored, nil
	case "TAKEN":
		return taken, nil
	case "MISSING":
		return missing, nil
	case "EXPIRED", "FAILED":
		return refused, nil
	}
	return 0, errReply
}

func (s *scriptStore) abort(
	ctx context.Context, key string, owner record.Owner, fence int64, pause time.Duration,
) (bool, error) {
	var tenure string
	if fence != 0 {
		tenure = strconv.FormatInt(fence, 10)
	}
	reply, err := s.run(ctx, s.abortL, key, string(owner[:]), tenure, s.inbox, s.everybody, pause.Microseconds())
	if errors.Is(err, errForbidden) {
		return s.native.abort(ctx, key, owner, pause)
	}
	return err == nil && reply[0] == int64(1), err
}

func (s *scriptStore) renew(
	ctx context.Context, key string, owner record.Owner, fence int64, lease, life time.Duration,
) (bool, error) {
	reply, err := s.run(ctx, s.renewL, key, string(owner[:]), strconv.FormatInt(fence, 10), lease.Microseconds(),
		life.Milliseconds())
	if errors.Is(err, errForbidden) {
		return s.native.renew(ctx, key, owner, fence, lease, life)
	}
	return err == nil && reply[0] == int64(1), err
}

func (s *scriptStore) delete(ctx context.Context, keys []string) error {
	var chunks [][]string
	for rest := keys; len(rest) > 0; {
		n, size := 0, 0
		for n < len(rest) && n < deleteKeys && (n == 0 || size+len(rest[n]) <= deleteBytes) {
			size += len(rest[n])
			n++
		}
		chunks = append(chunks, rest[:n])
		rest = rest[n:]
	}
	return inChunks(chunks, func(chunk []string) error { return s.deleteSome(ctx, chunk) })
}

// inChunks does something for one chunk after the other, until Redis does not answer. The error is an untoldError only if
// all of it was done in Redis.
func inChunks(chunks [][]string, do func([]string) error) (failed error) {
	var untold error
	for i, chunk := range chunks {
		err := do(chunk)
		var u untoldError
		if !errors.As(err, &u) {
			failed = cmp.Or(err, failed)
		} else if untold = err; silence(err) != nil && i+1 < len(chunks) {
			failed = &redisError{u.err}
		}
		if silence(err) != nil { // and there would be no answer for the rest
			break
		}
	}
	return cmp.Or(failed, untold)
}

// What is deleted in one round trip, within one budget and one message.
const (
	deleteKeys  = 1000
	deleteBytes = 1 << 20
)

func (s *scriptStore) deleteSome(ctx context.Context, keys []string) error {
	events := keyEvents(keys)
	var message string
	rides := false // it goes along, in the same round trip
	if s.r.oneServer {
		if message, rides = s.r.events.begin(events); rides {
			defer s.r.events.end()
		}
	}
	_, err := insist(ctx, s.r, patient*s.r.timeout, func(ctx context.Context) (struct{}, error) {
		var told *redis.IntCmd
		sent := s.r.stream.now()
		cmds, err := s.r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, k := range keys {
				p.Unlink(ctx, k) // one by one: keys of a cluster lie in different slots
			}
			switch {
			case rides && s.r.sharded != nil:
				told = p.SPublish(ctx, s.everybody, message)
			case rides:
				told = p.Publish(ctx, s.everybody, message)
			}
			return nil
		})
		if err = unsent(cmds, err); len(cmds) < len(keys) || err != nil {
			return struct{}{}, cmp.Or(err, errReply)
		}
		for _, cmd := range cmds[:len(keys)] {
			if cmd.Err() != nil {
				return struct{}{}, cmd.Err()
			}
		}
		if rides {
			return struct{}{}, untold(s.r.stream.asks(sent, told.Err()))
		}
		return struct{}{}, nil
	})
	if err == nil && !rides {
		err = untold(s.r.events.publish(ctx, events))
	}
	if err != nil {
		return &redisError{err}
	}
	return nil
}

func untold(err error) error {
	if err != nil {
		err = untoldError{err}
	}
	return err
}

func (s *scriptStore) tell(ctx context.Context, events []byte) error {
	return s.r.events.publish(ctx, events)
}
