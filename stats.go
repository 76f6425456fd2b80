package cache

import "sync/atomic"

// Stats are counters since New. Each is exact, but for LocalHits; together they are no snapshot of one moment.
type Stats struct {
	// LocalHits are the calls answered from memory. While there are more than about a million a second it is an estimate: they
	// are counted a sixteenth of the time, in steps of 10 ms. The error grows with the traffic's swings within a sixth of a
	// second, and shrinks with the time looked at.
	LocalHits uint64

	RedisHits uint64 // answers found in Redis, each perhaps for many calls
	StaleHits uint64 // calls answered with a value past its TTL

	// Misses are keys that were looked for and not found, or not to be served, each perhaps for many calls. Refreshes are none.
	MissesAbsent      uint64 // there was nothing: never stored, deleted, evicted or past its end
	MissesExpired     uint64 // past its TTL, or its end
	MissesLeased      uint64 // somebody loads it
	MissesDeleted     uint64 // older than a deletion of its tags
	MissesUndeleted   uint64 // older than a deletion that Redis has not confirmed
	MissesUnreadable  uint64 // what was there is not ours, or damaged
	MissesOther       uint64 // of a newer version or another type
	MissesUnreachable uint64 // Redis did not answer

	Loads          uint64 // keys for which a loader was called
	LoadErrors     uint64 // ... that returned an error other than ErrNotFound, panics included
	LoadPanics     uint64 // ... that panicked or called runtime.Goexit
	LoadsAbandoned uint64 // ... that had not returned when their time was over
	LoadsStuck     uint64 // calls of loaders that took longer than StuckAfter, if there is an OnStuckLoad
	LoadsOutdated  uint64 // ... whose tags were deleted meanwhile: not for calls that came after that
	LateLoads      uint64 // ... that returned a value after that; it was dropped
	LoadsUnleased  uint64 // ... without a lease, because Redis did not answer or the entry is another version's
	BatchLoads     uint64 // calls of batch loaders, each for one or more of these keys

	Refreshes        uint64 // flights in the background, for values that are due or stale
	RefreshesSkipped uint64 // ... that were not begun, because there were too many
	LoadsPostponed   uint64 // flights that did not load, because the last load had failed a moment ago

	LoadsQueued  uint64 // loads that waited for others to end, see Options.MaxLoads
	LoadsDropped uint64 // ... and were not begun, because nobody wanted them any more

	CallsTurnedAway uint64 // by MaxWaiting, with a stale value or ErrOverloaded

	LeasesWon       uint64 // to load
	LeasesTakenOver uint64 // ... after waiting for another process
	LeasesLost      uint64 // ... and not ours any more at a renewal
	CommitsRejected uint64 // values not stored because the lease was not ours any more: deleted or taken over
	LoadsDuplicated uint64 // ... of which another process has loaded the same meanwhile
	ValuesUncached  uint64 // values not stored because they are too large, cannot be encoded, or Redis refused them

	LocksWon         uint64 // of RedisOptions.LockNodes, to load
	LocksBusy        uint64 // loads that another process's lock was in the way of
	LocksUnavailable uint64 // loads without the lock, because no majority of the nodes answered in time
	LocksLost        uint64 // locks that could not be renewed before their time was over

	Waits        uint64 // flights that waited for another process
	WaitTimeouts uint64 // ... and gave up
	Wakes        uint64 // ... and were woken with the value
	Polls        uint64 // ... and looked
	Rounds       uint64 // calls that started over, because a value may have been older than a deletion

	Waiting uint64 // calls that wait for a flight now: a gauge
	Loading uint64 // calls of loaders under way: a gauge

	DeletesPending  uint64 // deletions that Redis has not confirmed yet: a gauge
	DeletesRepeated uint64 // ... that it has confirmed when they were repeated
	DeletesDropped  uint64 // ... that are not repeated, because there were too many or the cache was closed

	EventGaps    uint64 // times that messages of other processes were missed, and memory was dropped
	RedisErrors  uint64 // commands without a usable answer
	Unreadable   uint64 // entries in Redis that were not ours or damaged
	OtherEntries uint64 // entries of a newer version or another type, left alone
}

type stats struct {
	misses                                                                [reasons]atomic.Uint64
	duplicated                                                            atomic.Uint64
	redisHits                                                             atomic.Uint64
	batchLoads, loads, loadErrors, panics, abandoned, lateLoads, unleased atomic.Uint64
	leases, takeovers, lost, rejected, uncached                           atomic.Uint64
	locks, locksBusy, lockless, locksLost                                 atomic.Uint64
	waits, waitTimeouts, wakes, polls, rounds                             atomic.Uint64
	deletesRepeated, deletesDropped, outdated                             atomic.Uint64
	redisErrors, unreadable, others, gaps                                 atomic.Uint64
	queued, dropped, turnedAway, stuck                                    atomic.Uint64
	staleHits, refreshes, refreshesSkipped, postponed                     atomic.Uint64
}

func (s *stats) snapshot() Stats {
	return Stats{
		MissesAbsent: s.misses[absent].Load(), MissesExpired: s.misses[expired].Load(), MissesLeased: s.misses[leased].Load(),
		MissesDeleted: s.misses[outdated].Load(), MissesUndeleted: s.misses[undeleted].Load(), MissesUnreadable: s.misses[garbage].Load(),
		MissesOther: s.misses[foreign].Load(), MissesUnreachable: s.misses[unreachable].Load(), LoadsDuplicated: s.duplicated.Load(),
		RedisHits: s.redisHits.Load(), StaleHits: s.staleHits.Load(),
		Refreshes: s.refreshes.Load(), RefreshesSkipped: s.refreshesSkipped.Load(), LoadsPostponed: s.postponed.Load(),
		Loads: s.loads.Load(), BatchLoads: s.batchLoads.Load(), LoadErrors: s.loadErrors.Load(), LoadPanics: s.panics.Load(),
		LoadsAbandoned: s.abandoned.Load(), LateLoads: s.lateLoads.Load(), LoadsUnleased: s.unleased.Load(),
		LeasesWon: s.leases.Load(), LeasesTakenOver: s.takeovers.Load(), LeasesLost: s.lost.Load(),
		CommitsRejected: s.rejected.Load(), ValuesUncached: s.uncached.Load(),
		LocksWon: s.locks.Load(), LocksBusy: s.locksBusy.Load(), LocksUnavailable: s.lockless.Load(), LocksLost: s.locksLost.Load(),
		Waits: s.waits.Load(), WaitTimeouts: s.waitTimeouts.Load(), Wakes: s.wakes.Load(), Polls: s.polls.Load(),
		Rounds: s.rounds.Load(), LoadsQueued: s.queued.Load(), LoadsDropped: s.dropped.Load(), CallsTurnedAway: s.turnedAway.Load(), LoadsStuck: s.stuck.Load(),
		LoadsOutdated:   s.outdated.Load(),
		DeletesRepeated: s.deletesRepeated.Load(), DeletesDropped: s.deletesDropped.Load(), EventGaps: s.gaps.Load(), RedisErrors: s.redisErrors.Load(), Unreadable: s.unreadable.Load(),
		OtherEntries: s.others.Load(),
	}
}

// counters returns Stats.
func (c *core) counters() Stats {
	s := c.stats.snapshot()
	s.LocalHits = c.local.hits.sum.load()
	s.DeletesPending = uint64(c.undone.n.Load())
	s.Waiting = c.flights.waitingAll()
	s.Loading = uint64(c.running.len())
	return s
}
