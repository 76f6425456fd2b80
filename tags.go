package cache

import (
	"context"
	_ "embed"
	"errors"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/record"
)

// Tags. A tag has a barrier: a time before which everything that carries it is invalid, so that one command invalidates
// any number of entries. A load takes a stamp from the clock of the barriers before its loader runs, and the entry keeps
// it: it is valid while all its barriers are older. Clear sets a barrier that all entries carry. A cache's barriers lie
// in one hash in Redis, which judges all of them by one clock; memory compares with what the events say.

//go:embed script/barrier.lua
var barrierLua string

//go:embed script/stamp.lua
var stampLua string

//go:embed script/invalidate.lua
var invalidateLua string

// noBarriersError is that of a command that asks for barriers.
type noBarriersError struct{ err error }

func (e noBarriersError) Error() string { return e.err.Error() }
func (e noBarriersError) Unwrap() error { return e.err }

var (
	errTagsOff  = errors.New("cache: tags and Clear need Options.Tags")
	errOutdated = errors.New("cache: entry older than a deletion of its tags")
)

// allTags joins the tags of a call and of a loader; false if they are too many or too long: an entry that has them is not kept.
func allTags(a, b []string) ([]string, bool) {
	tags := slices.Concat(a, b)
	slices.Sort(tags)
	tags = slices.Compact(tags)
	return tags, len(tags) <= record.MostTags && !slices.ContainsFunc(tags, func(t string) bool { return len(t) > record.LongestTag })
}

// barriersKey is the key of a cache's barriers. It has one colon, and those of entries have two or more.
func (r *Redis) barriersKey(name string) string { return r.prefix + ":" + name }

// stamp takes a time from the clock of the barriers. What a load that begins afterwards has read may be older than
// what is invalidated later only.
func (s *scriptStore) stamp(ctx context.Context, name string, life time.Duration) (int64, error) {
	token := newOwner()
	reply, err := s.run(ctx, s.stampL, s.r.barriersKey(name), string(token[:]), life.Milliseconds())
	if errors.Is(err, errForbidden) {
		return s.native.stamp(ctx, name, life)
	}
	if err != nil {
		return 0, err
	}
	time, ok := reply[2].(int64)
	if !ok || time <= 0 || time > latest {
		return 0, errReply
	}
	return time, nil
}

// barrier returns the latest of the barriers of these tags and of the whole cache.
func (s *scriptStore) barrier(ctx context.Context, name string, tags []string) (int64, error) {
	cmd, err := s.r.pipeline.do(ctx, s.getBarriers(name, tags))
	if err != nil {
		return 0, noBarriersError{err}
	}
	return s.gotBarriers(ctx, name, cmd)
}

// readWith is read and barrier in one round trip.
func (s *scriptStore) readWith(
	ctx context.Context, key string, limit int, name string, tags []string,
) (raw []byte, barrier int64, err error) {
	cmds, err := s.r.pipeline.together(ctx, get(key, limit), s.getBarriers(name, tags))
	if err != nil {
		if !s.r.oneServer { // perhaps only the node of the barriers
			err = noBarriersError{err}
		}
		return nil, 0, err
	}
	if raw, err = got(cmds[0]); err == nil { // also if there is no entry: without barriers there will be none
		barrier, err = s.gotBarriers(ctx, name, cmds[1])
	}
	return raw, barrier, err
}

// barriersGet reads barriers.
type barriersGet struct {
	key    string
	fields []string
}

func (s *scriptStore) getBarriers(name string, tags []string) sender {
	fields := make([]string, 2, 2+len(tags))
	fields[0], fields[1] = "last", "base"
	for _, t := range tags {
		fields = append(fields, "t"+t)
	}
	return &barriersGet{s.r.barriersKey(name), fields}
}

func (g *barriersGet) send(ctx context.Context, c commands) redis.Cmder {
	return c.HMGet(ctx, g.key, g.fields...)
}

// proofs find out that the barriers which one round trip asks for are those of other tags, as when a reply comes twice and the
// next command takes it for its own. All other replies tell what they are about, but for that there is nothing, which costs a
// load. Behind the questions goes one more, whose reply has one value, as theirs never have.
type proofs struct {
	asked []string // keys
	cmds  []*redis.SliceCmd
}

func (p *proofs) note(s sender) {
	if g, ok := s.(*barriersGet); ok {
		p.asked = append(p.asked, g.key)
	}
}

func (p *proofs) send(ctx context.Context, c commands) {
	slices.Sort(p.asked)
	for i, key := range p.asked {
		again := i > 0 && p.asked[i-1] == key
		if last := i+1 == len(p.asked) || p.asked[i+1] != key; again && last {
			p.cmds = append(p.cmds, c.HMGet(ctx, key, "last"))
		}
	}
}

// given reports whether the last replies are those to the last questions. What is of another type has no barriers.
func (p *proofs) given() bool {
	for _, cmd := range p.cmds {
		if values, err := cmd.Result(); len(values) != 1 && !wrongType(err) {
			return false
		}
	}
	return true
}

func (s *scriptStore) gotBarriers(ctx context.Context, name string, cmd redis.Cmder) (int64, error) {
	values, err := barrierValues(cmd)
	if err != nil {
		return 0, err
	}
	barrier, ok := latestOf(values)
	if !ok { // somebody else has written there: without any, all begins anew
		_, err = call(ctx, s.r, s.r.timeout, func(ctx context.Context) (int64, error) {
			return s.r.client.Unlink(ctx, s.r.barriersKey(name)).Result()
		})
	}
	return barrier, err
}

// barrierValues returns what HMGET has answered; what is of another type is replaced by the next stamp, and has nothing.
func barrierValues(cmd redis.Cmder) ([]any, error) {
	values, err := cmd.(*redis.SliceCmd).Result()
	switch {
	case wrongType(err):
		return make([]any, len(cmd.Args())-2), nil
	case err != nil:
		return nil, noBarriersError{err}
	case len(values)+2 != len(cmd.Args()):
		return nil, errReply
	}
	return values, nil
}

// barriers returns the barrier of everything, and those of these tags; 0 for what was never deleted. All is, if they are lost.
func (s *scriptStore) barriers(ctx context.Context, name string, tags []string) ([]int64, error) {
	cmd, err := s.r.pipeline.do(ctx, s.getBarriers(name, tags))
	if err != nil {
		return nil, noBarriersError{err}
	}
	values, err := barrierValues(cmd)
	if err != nil {
		return nil, err
	}
	times := make([]int64, 1+len(tags))
	if lost, ok := latestOf(values); lost == math.MaxInt64 || !ok {
		times[0] = math.MaxInt64
		return times, nil
	}
	for i, v := range values[1:] {
		if text, ok := v.(string); ok {
			times[i], _ = strconv.ParseInt(text, 10, 64)
		}
	}
	return times, nil
}

// latestOf returns the latest barrier of values: the latest time that was given out, the barrier of everything, and those
// of tags, of which many were never deleted. Nothing is valid without the first two. It reports whether they can be true.
func latestOf(values []any) (barrier int64, ok bool) {
	if values[0] == nil && values[1] == nil {
		return math.MaxInt64, true
	}
	var last int64
	for i, v := range values {
		if v == nil && i > 1 {
			continue
		}
		text, _ := v.(string)
		n, err := strconv.ParseInt(text, 10, 64)
		if i == 0 {
			last = n
		}
		if err != nil || n < 0 || n > last || n > latest {
			return math.MaxInt64, false
		}
		if i > 0 {
			barrier = max(barrier, n)
		}
	}
	return barrier, true
}

// invalidate sets the barriers of tags, or that of the whole cache, to now, and tells the other processes.
func (s *scriptStore) invalidate(ctx context.Context, name string, tags []string, life time.Duration) error {
	if len(tags) == 0 {
		return s.invalidateSome(ctx, name, nil, appendEvent(nil, clearEvent, s.r.key(name, "")), life)
	}
	tags = slices.DeleteFunc(slices.Clone(tags), func(t string) bool { return len(t) > record.LongestTag }) // nothing carries them
	return inChunks(slices.Collect(slices.Chunk(tags, deleteKeys)), func(chunk []string) error {
		var events []byte
		for _, t := range chunk {
			events = appendEvent(events, tagEvent, s.r.key(name, t))
		}
		return s.invalidateSome(ctx, name, chunk, events, life)
	})
}

func (s *scriptStore) invalidateSome(ctx context.Context, name string, tags []string, events []byte, life time.Duration) error {
	token := newOwner()
	args := []any{string(token[:]), life.Milliseconds()}
	for _, t := range tags {
		args = append(args, t)
	}
	_, err := s.promise(ctx, s.invalidateL, s.r.barriersKey(name), args...)
	if errors.Is(err, errForbidden) {
		err = s.native.invalidate(ctx, name, tags, life)
	}
	if err == nil {
		err = untold(s.r.events.publish(ctx, events))
	}
	if err != nil {
		return &redisError{err}
	}
	return nil
}

// barriers are what was read from Redis along with an entry.
type barriers struct {
	of     []string
	latest int64
}

// outdated reports whether an entry that was stamped then is older than one of its barriers. known may be nil.
func (c *core) outdated(ctx context.Context, stamp int64, tags []string, known *barriers) (bool, error) {
	if c.undone.hasTags(tags) {
		return true, nil
	}
	if known != nil && !slices.ContainsFunc(tags, func(t string) bool { return !slices.Contains(known.of, t) }) {
		return known.latest >= stamp, nil
	}
	barrier, err := c.store.barrier(ctx, c.name, tags)
	return barrier >= stamp, err
}

// stampFor takes a stamp for what is stored with this TTL; 0 without Options.Tags.
func (c *core) stampFor(ctx context.Context, ttl time.Duration) (int64, error) {
	if !c.opts.Tags {
		return 0, nil
	}
	return c.store.stamp(ctx, c.name, c.tagLife(ttl))
}

// stillValid asks whether the tags of what was loaded under a lease have been deleted since its stamp, of which the lease
// knows nothing. If so, or if that is not known, only calls that came before the load may have it. It reports whether it
// may be kept: yes also while Redis is out of reach, and this process a memory cache.
func (c *core) stillValid(f *flight, stamp int64, res *result, began uint64) bool {
	switch {
	case !c.opts.Tags:
		return true
	case res.unfit:
		res.asOf = began
		return false
	}
	if c.undone.hasTags(res.tags) { // by this process, so that memory knows
		res.asOf = began
		return true
	}
	old, err := c.outdated(f.ctx, stamp, res.tags, nil)
	if old {
		c.stats.outdated.Add(1)
	}
	if old || err != nil {
		res.asOf = began
	}
	return !old && (err == nil || c.redis.cutOff() || c.redis.stream.up.Load())
}

// tagLife is how long a barrier may be needed for what is stored with this TTL.
func (c *core) tagLife(ttl time.Duration) time.Duration {
	return max(ttl, c.opts.TTL) + c.longestStale() + c.opts.LoadTimeout
}
