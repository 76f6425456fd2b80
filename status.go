package cache

import (
	"maps"
	"slices"
	"time"
)

// Status is what a cache does now, and what it did last, for a page or a script: see Cache.Status.
type Status struct {
	Cache   string
	Process string // the name by which others know this process; empty without Redis
	At      time.Time
	Stats   Stats

	// Hot are the keys that are asked for most, with what part of the calls of the last minute or so each makes up, at least. They
	// are told from a sample of 1,600 calls a second at most, and keys of more than 1,024 bytes are not among them.
	Hot map[string]float64

	Loads []struct { // under way in this process, the oldest first
		Keys []string // one, or those that a BatchLoader is called for
		Age  time.Duration
	}
	Waits []struct { // keys that other processes load for this one, those that were waited for longest first
		Key     string
		Process string // that loads it
		Age     time.Duration
	}

	// The last 64 of each, the newest first.
	Leases    []LeaseEvent
	Deletions []DeletionEvent
	Changes   []RedisEvent

	Redis struct {
		Used   bool
		CutOff bool          // nothing was answered for a while, and the cache goes on without, but for a command in a second
		Events bool          // the subscription stands by which this process hears of others' deletions
		Lag    time.Duration // that a message of this process took to come back to it, the last time; 0: not known
	}
}

// Status returns what the cache does now, and what it did last. It changes nothing and does not block.
func (c *Cache[V]) Status() Status { return c.core.status() }

func (c *core) status() Status {
	s := Status{
		Cache: c.name, At: time.Now(), Stats: c.counters(), Hot: c.hot.shares(),
		Leases: c.leases.list(), Deletions: c.deletions.list(), Changes: c.changes.list(),
	}
	loads := c.running.list()
	for _, t := range slices.SortedFunc(maps.Keys(loads), func(a, b task) int { return loads[a].Compare(loads[b]) }) {
		s.Loads = append(s.Loads, struct {
			Keys []string
			Age  time.Duration
		}{t.names(), s.At.Sub(loads[t])})
	}
	r := c.redis
	if r == nil {
		return s
	}
	r.curious.Store(true)
	s.Process = r.name
	s.Redis.Used, s.Redis.CutOff, s.Redis.Events = true, r.cutOff(), r.stream.up.Load()
	s.Redis.Lag = r.events.lag()
	for i := range s.Leases {
		s.Leases[i].Process = r.renamed(s.Leases[i].Process)
	}
	for i := range s.Deletions {
		s.Deletions[i].From = r.renamed(s.Deletions[i].From)
	}
	waits := c.waits.list()
	for _, f := range slices.SortedFunc(maps.Keys(waits), func(a, b *flight) int { return waits[a].since.Compare(waits[b].since) }) {
		s.Waits = append(s.Waits, struct {
			Key     string
			Process string
			Age     time.Duration
		}{f.key, r.knownAs(processOf(waits[f].holder)), s.At.Sub(waits[f].since)})
	}
	return s
}
