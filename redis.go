package cache

import (
	"cmp"
	"context"
	cryptorand "crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/singleflight"

	"github.com/bellwether-go/cache/internal/host"
)

// Client is what a cache needs of Redis. *redis.Client (also for Sentinel), *redis.ClusterClient, *redis.Ring and
// redis.UniversalClient have it.
type Client interface {
	redis.Scripter
	GetRange(ctx context.Context, key string, start, end int64) *redis.StringCmd
	HMGet(ctx context.Context, key string, fields ...string) *redis.SliceCmd
	SetArgs(ctx context.Context, key string, value any, a redis.SetArgs) *redis.StatusCmd
	Unlink(ctx context.Context, keys ...string) *redis.IntCmd
	Publish(ctx context.Context, channel string, message any) *redis.IntCmd
	Time(ctx context.Context) *redis.TimeCmd
	Pipelined(ctx context.Context, fn func(redis.Pipeliner) error) ([]redis.Cmder, error)
	Watch(ctx context.Context, fn func(*redis.Tx) error, keys ...string) error
	Subscribe(ctx context.Context, channels ...string) *redis.PubSub
}

// RedisOptions configure a Redis. The zero value is ready to use.
type RedisOptions struct {
	// Prefix begins every key and channel: letters, digits and - _ . / only. Caches meet in Redis if Prefix and
	// name are the same. Default: "cache".
	Prefix string

	// Timeout is the budget of one command. When it is spent, callers go on without Redis. Delete, which
	// promises something, gets ten times as much. Default: 50 ms.
	Timeout time.Duration

	// ShardedEvents publishes what a process invalidates on a sharded channel (SPUBLISH, Redis 7), so that in a Redis
	// Cluster it stays on one node, where it would go to all of them over the cluster bus. All processes must use the
	// same: who does not, does not hear of the others' deletions, and keeps values for LocalTTL. Wake-ups are published
	// in the old way. For a *redis.ClusterClient or *redis.Client. Default: off.
	ShardedEvents bool

	// ReplicaReads accepts a *redis.ClusterClient that reads from replicas (ReadOnly, RouteByLatency or RouteRandomly), of a Redis
	// Cluster or of Sentinel (redis.NewFailoverClusterClient). What is read there may have been deleted or replaced: for as long
	// as the replica lags, and for LocalTTL more where it got into memory, in the process that deleted it, too. Leases, loads and
	// what is stored stay with the masters: a replica that lacks a value costs one more command, not a load. Default: such a
	// client is refused.
	ReplicaReads bool

	// LockNodes are the clients of an odd number of independent servers, without replicas, that keep locks (Redlock): three, so
	// that one may fail, or five. A load then begins when no other process loads the key, also where Redis has lost the lease or is
	// away, as in a failover: then loads come one after the other that would come at the same time. It costs each load a round trip
	// to all of these servers at once, and those that wait for another process a look there up to every 250 ms, not longer than
	// LoadTimeout and Lease together. A lock is for Options.Lease, at least 100 ms, and renewed like the lease. Where no majority
	// answers within Timeout, loads begin without it. So they do in the first Lease after a server was started or emptied: it may
	// have forgotten a lock, and does not vote. The lock is no promise of mutual exclusion: docs/lease.md. Default: none.
	LockNodes []Client

	// Process is the name by which Explain shows this process to the others: at most 100 bytes. A process that loads keeps it in Redis
	// for a day, under a key of its own. Default: the name of the host and the process ID.
	Process string

	// Tracking makes the server say itself what was changed under our prefix, by whatever tool (CLIENT TRACKING in
	// broadcasting mode, Redis 6, RESP3): a DEL in redis-cli reaches every memory like a Delete. Each write is then told
	// to each process, and a value gets into memory with the first read after it was stored. Processes with and without
	// it work together. For a *redis.Client. A server that refuses is used as if it were off. Default: off.
	Tracking bool
}

// Redis is a connection to what processes share: one for each process and Redis, used by all of its caches. It is safe
// for concurrent use.
type Redis struct {
	client   Client
	prefix   string
	timeout  time.Duration
	process  string    // this process's inbox: 16 bytes
	id       processID // with which owners begin
	name     string    // of this process; empty: it is not told
	breaker  *gobreaker.TwoStepCircuitBreaker[struct{}]
	clock    serverClock
	waiters  waiters
	stream   *stream
	events   events
	sharded  shardedClient // nil without ShardedEvents
	store    store
	pipeline pipeline
	// transactions are those of nativeStore that are under way.
	transactions chan struct{}
	lock         *redlock // nil without LockNodes
	oneServer    bool     // one server gets all commands, in the order of a pipeline
	asking       atomic.Bool
	learning     singleflight.Group
	sweeping     atomic.Int32
	spread       func(time.Duration) time.Duration // a random part of it, so that processes do not move in step
	topology     func(context.Context)             // has the client ask who has which slots; nil but in a cluster
	asked        atomic.Int64                      // when it was last called, on clock.local
	silent       atomic.Int64                      // since when no command has been answered, on clock.local; 0: the last one was

	toldCutOff atomic.Bool
	curious    atomic.Bool  // somebody asks who is who
	met        atomic.Int64 // when another's name was asked for, on clock.local; 0: never
	introduced atomic.Int64 // when the name was told, on clock.local; 0: never

	mu     sync.Mutex
	closed bool                 // guarded by mu
	caches map[string]cores     // by name; guarded by mu
	names  map[processID]string // of other processes; guarded by mu
	work   sync.WaitGroup       // commands under way; Add under mu while not closed
}

type cores map[*core]struct{}

const (
	trips    = 5           // failures in a row that open the breaker; one is enough if the stream was lost and nothing was answered since
	tripped  = time.Second // until it lets one command through to look
	patient  = 10          // times Timeout, for Delete
	sweepers = 4           // goroutines that look for dead connections
)

// NewRedis wraps a client, which stays the caller's: Close does not close it. It does not wait for the server, which
// may be down. One connection of the client is used for a subscription; without permission for channels, waiting
// processes poll and other processes' deletions reach this one's memory within LocalTTL.
//
// Clients that cache on their side are refused, and those that read from replicas, but with RedisOptions.ReplicaReads: they
// may return a value after its deletion.
func NewRedis(client Client, o RedisOptions) (*Redis, error) {
	var errs []error
	if o.Prefix == "" {
		o.Prefix = "cache"
	}
	if err := checkName("RedisOptions.Prefix", o.Prefix); err != nil {
		errs = append(errs, err)
	}
	switch {
	case o.Timeout < 0:
		errs = append(errs, fmt.Errorf("cache: RedisOptions.Timeout is %v: want a positive duration", o.Timeout))
	case o.Timeout == 0:
		o.Timeout = 50 * time.Millisecond
	}
	if len(o.Process) > longestName {
		errs = append(errs, fmt.Errorf("cache: RedisOptions.Process is %d bytes long: want at most %d", len(o.Process), longestName))
	}
	oneServer, wakes, replicas := false, true, false
	var topology func(context.Context)
	switch c := client.(type) {
	case nil:
		errs = append(errs, errors.New("cache: NewRedis: no client"))
	case *redis.Client:
		oneServer = true
		if co := c.Options(); co != nil && (co.ClientSideCache != nil || co.ClientSideCacheConfig != nil) {
			errs = append(errs, errors.New("cache: NewRedis: the client has a client-side cache: want it off"))
		}
	case *redis.ClusterClient:
		co := c.Options()
		if replicas = co.ReadOnly || co.RouteByLatency || co.RouteRandomly; replicas && !o.ReplicaReads {
			errs = append(errs, errors.New("cache: NewRedis: the client reads from replicas: "+
				"want ReadOnly, RouteByLatency and RouteRandomly off, or RedisOptions.ReplicaReads"))
		}
		topology = c.ReloadState
	case *redis.Ring:
		wakes = false // scripts publish on the key's shard, a subscription listens on the channel's
	}
	if o.ReplicaReads && !replicas {
		errs = append(errs, fmt.Errorf("cache: RedisOptions.ReplicaReads with a %T that reads from no replicas: "+
			"want a *redis.ClusterClient with ReadOnly, RouteByLatency or RouteRandomly", client))
	}
	if _, ok := client.(shardedClient); o.ShardedEvents && !ok {
		errs = append(errs, fmt.Errorf("cache: RedisOptions.ShardedEvents with a %T: want a client that has SPublish and SSubscribe", client))
	}
	if _, ok := client.(*redis.Client); o.Tracking && !ok {
		errs = append(errs, fmt.Errorf("cache: RedisOptions.Tracking with a %T: want a *redis.Client", client))
	}
	if o.Tracking && o.ShardedEvents {
		errs = append(errs, errors.New("cache: RedisOptions.Tracking and ShardedEvents: want one of them"))
	}
	errs = append(errs, checkLockNodes(client, o.LockNodes))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	r := newRedis(client, o, oneServer, wakes)
	r.name = cmp.Or(o.Process, host.Process())
	if len(o.LockNodes) > 0 {
		r.lock = &redlock{r: r}
		for _, n := range o.LockNodes {
			r.lock.nodes = append(r.lock.nodes, newLockNode(n, o))
		}
	}
	r.store, r.topology = newScriptStore(r), topology
	if o.ShardedEvents {
		r.sharded = client.(shardedClient)
	}
	if o.Tracking {
		r.stream.tracking = r.tracker(client.(*redis.Client))
	}
	r.stream.start()
	return r, nil
}

// newRedis makes a Redis without its store, and without starting its subscription.
func newRedis(client Client, o RedisOptions, oneServer, wakes bool) *Redis {
	r := &Redis{
		client: client, prefix: o.Prefix, timeout: o.Timeout, oneServer: oneServer,
		clock:  serverClock{started: time.Now()},
		caches: make(map[string]cores),
		spread: rand.N[time.Duration], transactions: make(chan struct{}, txMost),
	}
	var id [8]byte
	_, _ = cryptorand.Read(id[:]) // never fails
	r.process = hex.EncodeToString(id[:])
	copy(r.id[:], id[:])
	r.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout: tripped,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return r.stream.lost.Load() || c.ConsecutiveFailures >= trips && r.silentFor(2*r.timeout)
		},
		OnStateChange: func(_ string, _, now gobreaker.State) {
			switch now {
			case gobreaker.StateClosed:
				r.stream.hurry()
				r.tells(false)
			case gobreaker.StateOpen:
				r.sweep()
				r.tells(true)
			}
		},
	})
	r.pipeline.r, r.events.r = r, r
	r.pipeline.wholes = make(chan struct{}, pipelineWholes)
	r.stream = newStream(r, wakes)
	return r
}

// Close ends the connection and goroutines that caches share, and waits for commands under way, as long as the client
// lets them run. Caches that still use r go on as if Redis were down. Close is safe to call more than once.
func (r *Redis) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stream.close()
	r.pipeline.close()
	r.work.Wait()
	if r.lock != nil {
		for _, n := range r.lock.nodes {
			n.close()
		}
	}
	return nil
}

// key is injective: neither prefix nor name holds a colon.
func (r *Redis) key(name, key string) string { return r.prefix + ":" + name + ":" + key }

// split is the inverse of key.
func (r *Redis) split(full string) (name, key string, ok bool) {
	rest, ok := strings.CutPrefix(full, r.prefix+":")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, ":")
}

// register makes a cache hear of deletions by other processes.
func (r *Redis) register(name string, c *core) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.caches[name] == nil {
		r.caches[name] = make(cores)
	}
	r.caches[name][c] = struct{}{}
}

func (r *Redis) unregister(name string, c *core) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if delete(r.caches[name], c); len(r.caches[name]) == 0 {
		delete(r.caches, name)
	}
}

// each calls f for the caches of that name, or for all if name is "".
func (r *Redis) each(name string, f func(*core)) {
	r.mu.Lock()
	var found []*core
	for n, cs := range r.caches {
		if name == "" || name == n {
			for c := range cs {
				found = append(found, c)
			}
		}
	}
	r.mu.Unlock()
	for _, c := range found {
		f(c)
	}
}

// hear is told by the stream what another process has invalidated.
func (r *Redis) hear(kind byte, text string, from processID) {
	name, rest, ok := r.split(text)
	if !ok || name == "" {
		return
	}
	r.each(name, func(c *core) {
		c.drop(kind, []string{rest})
		c.tellDeletion(kind, []string{rest}, r.knownAs(from))
	})
	r.meet(from)
	if kind == keyEvent {
		r.waiters.lookAgain(text)
	}
}

// permitted is told by the stream that this process has a permit.
func (r *Redis) permitted(text, number string) {
	if name, limit, ok := r.split(text); ok && name != "" {
		number = strings.Clone(number) // which is a part of the message
		r.each(name, func(c *core) { c.limits.granted(limit, number) })
	}
}

// deaf is called when the stream is lost. Memory is kept, each entry for the rest of its LocalTTL: to drop all of it in
// all processes in the moment in which Redis fails would be the stampede that a cache is there to prevent.
func (r *Redis) deaf() {
	r.each("", func(c *core) {
		c.deaf()
		c.tellRedis("events lost")
	})
	r.waiters.lookAgain("")
}

// missed is called when messages of another process have not come.
func (r *Redis) missed(from processID) {
	r.each("", func(c *core) { c.stats.gaps.Add(1) })
	r.invalidateAll()
	r.each("", func(c *core) {
		c.tellDeleted(DeletionEvent{Cache: c.name, At: time.Now(), What: "missed", From: r.knownAs(from)})
	})
}

// invalidateAll is called when the stream is there, for the first time or again: what was missed is not known.
func (r *Redis) invalidateAll() {
	r.each("", func(c *core) { c.invalidateAll() })
	r.waiters.lookAgain("")
}

// begin counts a goroutine that Close has to wait for.
func (r *Redis) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.work.Add(1)
	}
	return !r.closed
}

func (r *Redis) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}
