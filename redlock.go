package cache

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/record"
)

// A lock on several nodes, beside the lease: Redlock (https://redis.io/docs/latest/develop/use/patterns/distributed-locks/,
// and http://antirez.com/news/101 for what it assumes). The lease lives where the value lives, and may be lost with a failover, and
// is not to be had while that server is away: then several processes load at the same time. Where that costs too much, who has
// won the lease, or cannot ask for it, asks RedisOptions.LockNodes for the lock as well. It decides only who loads when. What
// is stored decides the lease.

//go:embed script/vote.lua
var voteLua string

//go:embed script/release.lua
var releaseLua string

// voter is one of several independent nodes. Errors mean that there was no answer.
type voter interface {
	// vote asks for the lock on a key, or for more time with it.
	vote(ctx context.Context, key string, token record.Owner, lease time.Duration) (vote, error)
	release(ctx context.Context, key string, token record.Owner) error
	close()
}

type vote int

const (
	none vote = iota // there was no answer
	yes
	no    // the lock is another's
	young // the node may have forgotten whose it is, and does not vote
)

// leastLocked is the shortest lease that leaves a lock time to be won.
const leastLocked = 100 * time.Millisecond

// margin is by how much the clocks of nodes may gain on ours in a lease, and what Redis's expiry is off.
func margin(lease time.Duration) time.Duration { return lease/100 + 2*time.Millisecond }

// lockNode is a voter in Redis.
type lockNode struct {
	r             *Redis // of its own: its breaker, and its pipeline
	scripts       *scriptStore
	voteL, leaveL verb
}

func newLockNode(client Client, o RedisOptions) *lockNode {
	r := newRedis(client, o, true, false)
	return &lockNode{r: r, scripts: newScriptStore(r), voteL: newVerb(voteLua), leaveL: newVerb(releaseLua)}
}

// lockKey is none that anything else has, if a node is used for something else as well.
func lockKey(full string) string { return "{" + full + "}:lock" }

func (n *lockNode) vote(ctx context.Context, key string, token record.Owner, lease time.Duration) (vote, error) {
	keys := []string{lockKey(key), n.r.prefix + ":born"}
	reply, err := n.scripts.runBy(ctx, n.r.pipeline.do, n.voteL, keys, string(token[:]), lease.Milliseconds())
	if err != nil {
		return 0, err
	}
	switch reply[0] {
	case "YES":
		return yes, nil
	case "NO":
		return no, nil
	case "YOUNG":
		return young, nil
	}
	return 0, errReply
}

func (n *lockNode) release(ctx context.Context, key string, token record.Owner) error {
	_, err := n.scripts.promise(ctx, n.leaveL, lockKey(key), string(token[:]))
	return err
}

func (n *lockNode) close() {
	n.r.mu.Lock()
	n.r.closed = true
	n.r.mu.Unlock()
	n.r.pipeline.close()
	n.r.work.Wait()
}

// checkLockNodes returns what is wrong with RedisOptions.LockNodes.
func checkLockNodes(client Client, nodes []Client) error {
	if len(nodes) == 0 {
		return nil
	}
	var errs []error
	if len(nodes)%2 == 0 {
		errs = append(errs, fmt.Errorf("cache: RedisOptions.LockNodes are %d: want an odd number, for a majority", len(nodes)))
	}
	seen := map[*redis.Client]bool{}
	if c, ok := client.(*redis.Client); ok {
		seen[c] = true
	}
	for i, n := range nodes {
		problem := ""
		switch n := n.(type) {
		case nil:
			problem = "is nil"
		case *redis.ClusterClient, *redis.Ring:
			problem = fmt.Sprintf("is a %T: want the client of one server", n)
		case *redis.Client:
			if seen[n] {
				problem = "is there twice, or has the values as well: want independent servers"
			}
			seen[n] = true
		}
		if problem != "" {
			errs = append(errs, fmt.Errorf("cache: RedisOptions.LockNodes[%d] %s", i, problem))
		}
	}
	return errors.Join(errs...)
}

// redlock is the lock on all keys.
type redlock struct {
	r     *Redis // counts what goes on
	nodes []voter
}

// unavailable is an outcome besides won and busy: there is no majority that answers, or it answers too late.
const unavailable = other + 1

// keyLock is the lock on the key of a flight, while it has it or asks for it.
type keyLock struct {
	l     *redlock
	key   string
	token record.Owner
	lease time.Duration

	mu    sync.Mutex
	over  bool      // it is not wanted any more; guarded by mu
	asked []bool    // nodes that may have voted for it; guarded by mu
	until time.Time // it is ours so long; zero: it is not; guarded by mu
}

func (l *redlock) newLock(key string, lease time.Duration) *keyLock {
	return &keyLock{l: l, key: key, token: newOwner(), lease: lease, asked: make([]bool, len(l.nodes))}
}

// ask asks all nodes at the same time, and returns once a majority has decided: won, busy or unavailable. It blocks for at most
// the budget of a command. Time is taken before and after, on the monotonic clock, so that what is won is not over, however
// long the answers were on their way or this process stood still.
func (t *keyLock) ask(ctx context.Context) outcome {
	before := time.Now()
	votes := make(chan vote, len(t.l.nodes))
	for i := range t.l.nodes {
		if !t.l.r.begin() {
			return unavailable
		}
		go func() {
			defer t.l.r.work.Done()
			votes <- t.askNode(ctx, i)
		}()
	}
	var count [young + 1]int
	majority := len(t.l.nodes)/2 + 1
	for range t.l.nodes {
		count[<-votes]++
		if count[yes] == majority || count[no] == majority || count[none]+count[young] == majority {
			break
		}
	}
	switch until := before.Add(t.lease - margin(t.lease)); {
	case count[yes] == majority && time.Now().Before(until):
		t.mu.Lock()
		defer t.mu.Unlock()
		t.until = until
		return won
	case count[yes] == majority, count[none]+count[young] == majority:
		return unavailable
	}
	return busy // also if the votes are split
}

func (t *keyLock) askNode(ctx context.Context, i int) vote {
	v, err := t.l.nodes[i].vote(ctx, t.key, t.token, t.lease)
	if v == yes || err != nil && !errors.Is(err, errCutOff) && !errors.Is(err, errRedisClosed) { // which were not sent
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.asked[i] = true; t.over {
			t.releaseLocked()
		}
	}
	return v
}

// release gives all votes back and does not wait for it: also to nodes that have not answered, for they may have voted. t may be
// nil.
func (t *keyLock) release() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	t.releaseLocked()
}

func (t *keyLock) releaseLocked() {
	for i, n := range t.l.nodes {
		if !t.asked[i] || !t.l.r.begin() {
			continue
		}
		t.asked[i] = false
		go func() {
			defer t.l.r.work.Done()
			_ = n.release(context.Background(), t.key, t.token)
		}()
	}
}

// period is the time between two renewals; 0 if t is nil.
func (t *keyLock) period() time.Duration {
	if t == nil {
		return 0
	}
	return t.lease / 3
}

// extend renews the lock at the nodes where it is ours or free, and reports whether this is how it got lost. If it was another's in
// between, that one is done. t may be nil.
func (t *keyLock) extend(ctx context.Context) (lost bool) {
	if t == nil || t.ask(ctx) == won {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.until.IsZero() || time.Now().Before(t.until) {
		return false
	}
	t.until = time.Time{}
	return true
}

var (
	errElsewhere = errors.New("cache: another process loads the key")
	errAnswers   = errors.New("cache: Redis answers again")
)

// takeLock waits until the flight has the lock on its key, if there is one, and returns nothing then; nor if the flight is to load
// without it, because no majority of the nodes answers, or because another process has it for too long. Otherwise the flight is
// not to load: it returns what comes of it instead.
func (c *core) takeLock(f *flight) *result {
	if c.redis == nil || c.redis.lock == nil {
		return nil
	}
	last := c.local.started.Add(time.Duration(f.until))
	if p := c.patience(f); p > 0 && time.Until(last) > p {
		last = time.Now().Add(p)
	}
	f.lock = nil
	leases := c.renewing(unlocked{f, f.lease, f.aside()}, f.lease.period())
	defer leases.stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for poll := time.Duration(0); ; {
		t := c.redis.lock.newLock(f.full, c.opts.Lease) // what is late of this attempt does nothing to the next one
		switch t.ask(f.aside()) {
		case won:
			c.stats.locks.Add(1)
			f.lock = t
			return nil
		case unavailable:
			c.stats.lockless.Add(1)
			t.release()
			return nil
		}
		t.release()
		if poll == 0 {
			c.stats.locksBusy.Add(1)
		}
		if f.kind == unasked {
			c.local.rearm(f.key, pollMost)
			return &result{err: errElsewhere, abandoned: true, unbegun: true}
		}
		if !time.Now().Before(last) {
			c.stats.waitTimeouts.Add(1)
			return nil
		}
		poll = min(max(2*poll, pollFirst), pollMost)
		next := min(poll/2+c.redis.spread(poll), time.Until(last)) // +-50 %: two that have split the votes do not meet again
		if err := f.sleep(timer, next, leases); err != nil {
			return &result{err: err, abandoned: true, unbegun: true}
		}
		if f.lease != nil {
			continue
		}
		switch res, _, err := c.look(f); { // the server of the value was away
		case res != nil:
			c.stats.redisHits.Add(1)
			return res
		case err == nil || replaceable(err):
			return &result{err: errAnswers, abandoned: true, unbegun: true}
		}
	}
}

// unlocked is a flight that waits for the lock: of its renewals the last one may still be under way when it has that.
type unlocked struct {
	task
	lease *tenure
	ctx   context.Context
}

func (u unlocked) renew() bool  { return u.lease.keep(u.ctx) }
func (u unlocked) locked() bool { return false }

// sleep waits, renews leases meanwhile, and returns an error if that ends it.
func (f *flight) sleep(timer *time.Timer, d time.Duration, leases *renewals) error {
	var bell <-chan struct{}
	if f.batch == nil {
		timer.Reset(d)
	} else {
		bell = f.batch.sleep(&f.company, d)
	}
	defer f.back()
	for {
		select {
		case <-timer.C:
			return nil
		case <-bell:
			return nil
		case <-leases.due:
			leases.begin()
		case held := <-leases.answer:
			if !leases.end(held) {
				return ErrLeaseLost
			}
		case <-f.ctx.Done():
			return context.Cause(f.ctx)
		}
	}
}
