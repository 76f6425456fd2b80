package cache

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"
)

// Options configure a Cache. The zero value is ready to use: a memory cache with the defaults below. A negative value
// turns a thing off where its comment says so and is a mistake elsewhere. New reports all mistakes at once.
type Options struct {
	// Redis shares entries and loads with other processes. Nil: the cache lives in this process's memory alone,
	// with the same behaviour.
	Redis *Redis

	// TTL is how long a value is fresh, counted from the end of its load. From 1 ms to 100 years.
	// Default: 5 minutes.
	TTL time.Duration

	// NegativeTTL is how long ErrNotFound is remembered. It is never served stale nor refreshed early. Negative: not at
	// all; then a loader's ErrNotFound removes the value that was there. Default: a tenth of TTL, at most 30 s.
	NegativeTTL time.Duration

	// Jitter is the random share, at most, by which each TTL is shortened when a value is stored, for all processes
	// alike, so that values stored at the same time do not expire at the same time. Up to 1. Negative: none.
	// Default: 0.1.
	Jitter float64

	// EarlyRefresh lets one process load a value that is asked for anew, in the background, a little before its TTL is
	// over: so long before as its loads take, deviations allowed for, and a random time more, whose mean is this share
	// of that; at most a quarter of the TTL. So who asks for it often never waits for it. Up to 10. Negative: off.
	// Default: 0.5.
	EarlyRefresh float64

	// StaleWhileRevalidate is how long after its TTL a value is still served, while it is loaded anew in the background
	// (RFC 5861). At most 10 years. Default: off.
	StaleWhileRevalidate time.Duration

	// StaleIfError is how long after its TTL a value is still served if loading it anew fails (RFC 5861). The first
	// callers wait for that; until a load succeeds, others do not, and at most one process tries, see Backoff. At most
	// 10 years. Default: off.
	StaleIfError time.Duration

	// Backoff is how long a key is not loaded after a load of it has failed, doubled with each failure in a row, up to 16
	// times. While there is a value to serve, all processes keep to it together; without one each for itself, and
	// GetOrLoad returns the last error of this process meanwhile, unless it is one of a context. At most 5 minutes.
	// Negative: off, and each call tries. Default: 100 ms.
	Backoff time.Duration

	// LocalTTL bounds how long a value from Redis is kept in this process's memory, and so how old an answer can be
	// while this process is cut off from Redis. Values are never kept longer than they may be served; but a
	// hit compares with a clock that a timer reads every 10 ms, and where the machine is so short of processors that timers
	// are late, the end of a value may be noticed so late. Negative: values are not kept in memory. Without Redis it has
	// no meaning. Default: TTL, at most 1 minute.
	LocalTTL time.Duration

	// LocalEntries bounds the number of entries kept in memory. Negative: no bound.
	// Default: 10,000, or no bound if LocalBytes is set.
	LocalEntries int

	// LocalBytes bounds the memory used by entries, measured by their encoded size; without Redis, setting it
	// means that values are encoded only to be measured. Default: no bound.
	LocalBytes int64

	// LoadTimeout ends a load: the loader's context expires. A loader that has not returned 10 ms later is left to
	// itself: its callers get an error that is context.DeadlineExceeded, the key is free, its late result is
	// dropped. Default: 30 s.
	LoadTimeout time.Duration

	// OnStuckLoad is told of each load that has not returned after StuckAfter, and once more if it is abandoned after LoadTimeout. It
	// is called in a goroutine of its own, also after Close; if it panics, that is all. To get the stack stops the whole
	// process for as long as it takes to write down those of all goroutines. StuckLoad.String does not show keys. Default: none.
	OnStuckLoad func(StuckLoad)

	// StuckAfter is when a load is called stuck; at most LoadTimeout. Default: half of LoadTimeout.
	StuckAfter time.Duration

	// MaxBatchKeys bounds the number of keys that a BatchLoader is called with, and that GetOrLoadMany asks Redis for in one
	// round trip. More are loaded one batch after the other. Databases have limits of their own on the parameters of a
	// query: 32,766 in SQLite, 65,535 in PostgreSQL. At most 10,000. Default: 1,000.
	MaxBatchKeys int

	// MaxLoads bounds the loads of this cache that run at a time, in all processes together: for when thousands of keys
	// have to be loaded at once, for which a lease of each is no help. A batch is one load. A load for which there is no room
	// waits, without a bound of its own, and is given up when all its callers have left; those that most callers wait
	// for go first, refreshes last. A process needs no command for its share of them, MaxLoads through the number of processes
	// that load; beyond that it takes permits from Redis, which end with Lease unless they are renewed. While Redis does not
	// answer, or forbids scripts, each process takes its share by the last known number of processes, but at least one. A
	// loader that LoadTimeout has left to itself is not counted any more, nor are the loads that a loader of this cache waits for
	// itself. All processes must use the same. At most 10,000. Default: no bound.
	MaxLoads int

	// FairLoads lets loads begin in the order in which they came.
	FairLoads bool

	// StrictLoads keeps to MaxLoads also while Redis does not answer: loads that would need a permit then fail, with
	// ErrOverloaded.
	StrictLoads bool

	// LimitBy gives each load a limit, of which there may be one for each host that is asked, or each tenant: MaxLoads is
	// for each of them. It is called often and at the same time; the first 1,000 bytes of what it returns count. A batch is
	// loaded in parts, one for each limit. If it panics, the limit is "". Default: one limit.
	LimitBy func(key string) string

	// MaxWaiting bounds the callers of this process that wait for a flight: for Redis, for other processes or for a load. A call for
	// many keys is one for each of them, once it is let in. One that comes when there are as many or more gets a value past its TTL,
	// if this process has one in memory (see LocalTTL) that StaleWhileRevalidate or StaleIfError allows for, or ErrOverloaded. Calls
	// that memory answers do not wait, and those that a loader makes are not counted out. Default: no bound.
	MaxWaiting int

	// MaxWaitingPerKey is MaxWaiting for the callers of one key. Default: no bound.
	MaxWaitingPerKey int

	// CancelAbandoned cancels a load when its last caller has left. By default a load goes on, for a load that
	// dies with its callers fills nothing.
	CancelAbandoned bool

	// Lease is how long the other processes wait for a process that has stopped working on a value before one of
	// them takes over. It is renewed at each third while the loader runs, so it need not be longer than a load.
	// From 1 ms to 1 hour. Default: 2 s.
	Lease time.Duration

	// Codec turns values into bytes for Redis. Default: Msgpack.
	Codec Codec

	// CompressAbove is the encoded size in bytes from which values are compressed (S2) for Redis. Negative: never.
	// Default: 4 KiB.
	CompressAbove int

	// MaxValueBytes bounds the encoded size of a value, before and after compression. A larger one is returned to
	// its callers and kept in memory, but not stored in Redis; a larger one found in Redis is a miss and is
	// replaced. What a value takes in memory is bounded only in proportion: an element of a slice takes its Go size,
	// and may be one byte in MessagePack. At most 512 MiB. Default: 8 MiB.
	MaxValueBytes int

	// Secrets encrypt and authenticate the values in Redis (AES-256-GCM), so that who can write there, but has no
	// secret, cannot make up a value, change it, move it to another key or prolong its life. The first one seals;
	// entries sealed with any of them are read, so that secrets can be replaced one after the other. Each is at least
	// 32 random bytes long, which a password is not. Keys, sizes and times stay readable, and an old entry of the same
	// key can be put back until its time is over: see SECURITY.md. Processes with and without secrets leave each
	// other's entries alone, like those of another type; raise Version to replace them. Default: none.
	Secrets []Secret

	// Tags makes WithTags, SetTags, DeleteTags and Clear work. A load then takes two commands of Redis more, and a hit from
	// Redis one, in the same round trip, for what was invalidated is looked up along with the value. Processes with and without it leave
	// each other's entries alone, like those of another type; raise Version to replace them. Default: off.
	Tags bool

	// Observer is told what the cache does. Default: none.
	Observer Observer

	// Version orders the formats of values. Raise it when stored values cannot be read as V any more: entries of
	// lower versions are replaced, and processes that still use a lower version leave yours alone and load for
	// themselves. Default: 0.
	Version uint32
}

// MaxKeyBytes is the length of the longest key that is cached. For a longer one GetOrLoad calls the loader, collapsed
// within the process, and keeps nothing; Get misses; Set returns an error; Delete has nothing to do.
const MaxKeyBytes = 65536

const (
	defaultLoadTimeout = 30 * time.Second

	maxTTL     = 100 * 365 * 24 * time.Hour
	maxStale   = 10 * 365 * 24 * time.Hour
	maxBackoff = 5 * time.Minute
	maxValue   = 512 << 20 // of a string in Redis
)

// withDefaults returns o with defaults filled in, or every mistake in it.
func (o Options) withDefaults() (Options, error) {
	var errs []error
	check := func(ok bool, field string, value any, want string) {
		if !ok {
			errs = append(errs, fmt.Errorf("cache: Options.%s is %v: want %s", field, value, want))
		}
	}
	check(o.TTL == 0 || o.TTL >= time.Millisecond && o.TTL <= maxTTL, "TTL", o.TTL, "1ms to 100 years")
	check(o.NegativeTTL <= maxTTL && (o.NegativeTTL <= 0 || o.NegativeTTL >= time.Millisecond),
		"NegativeTTL", o.NegativeTTL, "1ms to 100 years, or negative")
	check(o.Jitter <= 1, "Jitter", o.Jitter, "at most 1")
	check(o.EarlyRefresh <= 10, "EarlyRefresh", o.EarlyRefresh, "at most 10")
	check(o.StaleWhileRevalidate <= maxStale, "StaleWhileRevalidate", o.StaleWhileRevalidate, "at most 10 years")
	check(o.StaleIfError <= maxStale, "StaleIfError", o.StaleIfError, "at most 10 years")
	check(o.Backoff <= maxBackoff && (o.Backoff <= 0 || o.Backoff >= time.Millisecond),
		"Backoff", o.Backoff, "1ms to 5 minutes, or negative")
	check(o.LoadTimeout >= 0 && o.LoadTimeout <= maxTTL, "LoadTimeout", o.LoadTimeout, "a positive duration")
	check(o.StuckAfter >= 0 && o.StuckAfter <= cmp.Or(o.LoadTimeout, defaultLoadTimeout), "StuckAfter", o.StuckAfter, "at most LoadTimeout")
	check(o.StuckAfter == 0 || o.OnStuckLoad != nil, "StuckAfter", o.StuckAfter, "OnStuckLoad with it")
	check(o.Lease == 0 || o.Lease >= time.Millisecond && o.Lease <= time.Hour, "Lease", o.Lease, "1ms to 1h")
	check(o.Lease == 0 || o.Redis == nil || o.Redis.lock == nil || o.Lease >= leastLocked, "Lease", o.Lease, "100ms or more with LockNodes")
	check(o.MaxBatchKeys >= 0 && o.MaxBatchKeys <= 10_000, "MaxBatchKeys", o.MaxBatchKeys, "1 to 10000")
	check(o.MaxLoads >= 0 && o.MaxLoads <= 10_000, "MaxLoads", o.MaxLoads, "1 to 10000")
	check(o.MaxLoads > 0 || !o.FairLoads, "FairLoads", o.FairLoads, "MaxLoads with it")
	check(o.MaxLoads > 0 || !o.StrictLoads, "StrictLoads", o.StrictLoads, "MaxLoads with it")
	check(o.MaxLoads > 0 || o.LimitBy == nil, "LimitBy", "set", "MaxLoads with it")
	check(o.MaxWaiting >= 0, "MaxWaiting", o.MaxWaiting, "a positive number")
	check(o.MaxWaitingPerKey >= 0, "MaxWaitingPerKey", o.MaxWaitingPerKey, "a positive number")
	check(o.LocalBytes >= 0, "LocalBytes", o.LocalBytes, "a positive size")
	check(o.MaxValueBytes >= 0 && o.MaxValueBytes <= maxValue, "MaxValueBytes", o.MaxValueBytes, "1 to 536870912")
	check(o.LocalEntries <= math.MaxInt32, "LocalEntries", o.LocalEntries, "at most 2147483647")
	for i, s := range o.Secrets {
		check(len(s) >= secretBytes, fmt.Sprintf("Secrets[%d]", i), fmt.Sprintf("%d bytes long", len(s)), "32 or more")
	}
	if err := errors.Join(errs...); err != nil {
		return o, err
	}
	o.TTL = cmp.Or(o.TTL, 5*time.Minute)
	o.NegativeTTL = cmp.Or(o.NegativeTTL, max(min(o.TTL/10, 30*time.Second), time.Millisecond))
	o.Jitter = cmp.Or(o.Jitter, 0.1)
	o.EarlyRefresh = cmp.Or(o.EarlyRefresh, 0.5)
	o.Backoff = cmp.Or(o.Backoff, 100*time.Millisecond)
	o.LocalTTL = cmp.Or(o.LocalTTL, min(o.TTL, time.Minute))
	if o.LocalBytes > 0 {
		o.LocalEntries = cmp.Or(o.LocalEntries, -1)
	}
	o.LocalEntries = cmp.Or(o.LocalEntries, 10_000)
	o.LoadTimeout = cmp.Or(o.LoadTimeout, defaultLoadTimeout)
	if o.OnStuckLoad != nil {
		o.StuckAfter = cmp.Or(o.StuckAfter, o.LoadTimeout/2)
	}
	o.MaxBatchKeys = cmp.Or(o.MaxBatchKeys, 1000)
	o.Lease = cmp.Or(o.Lease, 2*time.Second)
	o.CompressAbove = cmp.Or(o.CompressAbove, 4<<10)
	o.MaxValueBytes = cmp.Or(o.MaxValueBytes, 8<<20)
	if o.Codec == nil {
		o.Codec = Msgpack{}
	}
	return o, nil
}

// checkName refuses what would make keys ambiguous: a key is prefix:name:key, so that prefix and name end at the first
// two colons whatever the key holds. Braces are kept for Redis Cluster's hash tags.
func checkName(what, name string) error {
	if name == "" || len(name) > 100 {
		return fmt.Errorf("cache: %s is %d bytes long: want 1 to 100", what, len(name))
	}
	for _, r := range []byte(name) {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.', r == '/':
		default:
			return fmt.Errorf("cache: %s %q: want letters, digits and - _ . / only", what, name)
		}
	}
	return nil
}

// CallOption changes one call.
type CallOption func(*callOptions)

type callOptions struct {
	ttl     time.Duration // 0: Options.TTL; negative: not stored
	tags    []string
	noStale bool
	cached  bool // do not load
	forced  bool // load in any case
}

// kind is that of the flights which the call may join.
func (co *callOptions) kind() kind {
	switch {
	case co.forced:
		return forced
	case co.noStale:
		return strict
	}
	return ordinary
}

func newCallOptions(opts []CallOption) callOptions {
	if len(opts) == 0 { // nothing escapes to the heap
		return callOptions{}
	}
	var co callOptions
	for _, o := range opts {
		o(&co)
	}
	return co
}

// WithTTL makes the value that this call stores fresh for d instead of Options.TTL; at least 1 ms, at most 100 years.
// Zero means Options.TTL; negative, that the value is not stored at all. If the call joins a load that another one
// began, that one's TTL counts.
func WithTTL(d time.Duration) CallOption {
	d = boundTTL(d)
	return func(c *callOptions) { c.ttl = d }
}

func boundTTL(d time.Duration) time.Duration {
	if d > 0 {
		d = min(max(d, time.Millisecond), maxTTL)
	}
	return d
}

// WithoutStale makes the call wait for a fresh value where it would have been served a stale one, and fail if the load
// does.
func WithoutStale() CallOption {
	return func(c *callOptions) { c.noStale = true }
}

// OnlyIfCached makes GetOrLoad return ErrNotCached where it would have called the loader or waited for one. It loads
// nothing in the background either.
func OnlyIfCached() CallOption {
	return func(c *callOptions) { c.cached = true }
}

// WithTags gives the value that this call stores tags, by which DeleteTags finds it. They are any bytes. If the call joins
// a load that another one began, that one's tags count; a loader adds its own with SetTags. A value with more than 64
// tags, or with one of more than 256 bytes, is returned and not kept. Needs Options.Tags: without, the call fails.
func WithTags(tags ...string) CallOption {
	return func(c *callOptions) { c.tags = append(c.tags, tags...) }
}
