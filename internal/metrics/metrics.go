// Package metrics says what cache.Stats and cache.Status are as metrics, for the modules that export them.
package metrics

import "github.com/bellwether-go/cache"

// Metric is a counter or a gauge, with one label or none.
type Metric struct {
	Name  string // as OpenTelemetry has it, without "cache.": words with dots between them
	Unit  string // of UCUM; annotations in braces
	Help  string
	Gauge bool
	Label string // empty: none
	Parts []Part
}

// Part is the value of one metric for one value of its label.
type Part struct {
	Label string
	Of    func(*cache.Stats) uint64
}

func whole(of func(*cache.Stats) uint64) []Part { return []Part{{"", of}} }

// All returns all metrics that are in Stats. Each of its fields is in one of them.
func All() []Metric {
	type s = cache.Stats
	return []Metric{
		{"hits", "{hit}", "Answers that needed no load, by the tier that had them; those of Redis may each be for many calls.", false, "tier", []Part{
			{"memory", func(s *s) uint64 { return s.LocalHits }},
			{"redis", func(s *s) uint64 { return s.RedisHits }},
		}},
		{"hits.stale", "{call}", "Calls answered with a value past its TTL.", false, "", whole(func(s *s) uint64 { return s.StaleHits })},
		{"misses", "{key}", "Keys that were looked for and not found, or not to be served.", false, "reason", []Part{
			{"absent", func(s *s) uint64 { return s.MissesAbsent }},
			{"expired", func(s *s) uint64 { return s.MissesExpired }},
			{"leased", func(s *s) uint64 { return s.MissesLeased }},
			{"deleted", func(s *s) uint64 { return s.MissesDeleted }},
			{"undeleted", func(s *s) uint64 { return s.MissesUndeleted }},
			{"unreadable", func(s *s) uint64 { return s.MissesUnreadable }},
			{"other", func(s *s) uint64 { return s.MissesOther }},
			{"unreachable", func(s *s) uint64 { return s.MissesUnreachable }},
		}},
		{"loads", "{key}", "Keys for which a loader was called.", false, "", whole(func(s *s) uint64 { return s.Loads })},
		{"loads.batches", "{call}", "Calls of batch loaders.", false, "", whole(func(s *s) uint64 { return s.BatchLoads })},
		{"loads.duplicated", "{key}", "Loads whose value was not stored because another process had loaded the same meanwhile.", false, "", whole(func(s *s) uint64 { return s.LoadsDuplicated })},
		{"loads.troubled", "{key}", "Loads that did not go as usual; one may be of several kinds.", false, "kind", []Part{
			{"error", func(s *s) uint64 { return s.LoadErrors }},
			{"panic", func(s *s) uint64 { return s.LoadPanics }},
			{"abandoned", func(s *s) uint64 { return s.LoadsAbandoned }},
			{"stuck", func(s *s) uint64 { return s.LoadsStuck }},
			{"outdated", func(s *s) uint64 { return s.LoadsOutdated }},
			{"late", func(s *s) uint64 { return s.LateLoads }},
			{"unleased", func(s *s) uint64 { return s.LoadsUnleased }},
			{"uncached", func(s *s) uint64 { return s.ValuesUncached }},
		}},
		{"loads.running", "{call}", "Calls of loaders under way.", true, "", whole(func(s *s) uint64 { return s.Loading })},
		{"loads.queued", "{load}", "Loads that waited for others to end (MaxLoads), and those of them that were dropped.", false, "outcome", []Part{
			{"queued", func(s *s) uint64 { return s.LoadsQueued }},
			{"dropped", func(s *s) uint64 { return s.LoadsDropped }},
		}},
		{"loads.postponed", "{flight}", "Flights that did not load because the last load had failed a moment ago.", false, "", whole(func(s *s) uint64 { return s.LoadsPostponed })},
		{"refreshes", "{flight}", "Loads in the background for values that were due or stale, and those that were not begun because there were too many.", false, "outcome", []Part{
			{"begun", func(s *s) uint64 { return s.Refreshes }},
			{"skipped", func(s *s) uint64 { return s.RefreshesSkipped }},
		}},
		{"callers.waiting", "{call}", "Calls that wait for Redis, for another process or for a load.", true, "", whole(func(s *s) uint64 { return s.Waiting })},
		{"callers.turned_away", "{call}", "Calls turned away by MaxWaiting.", false, "", whole(func(s *s) uint64 { return s.CallsTurnedAway })},
		{"callers.rounds", "{call}", "Calls that started over because a value may have been older than a deletion.", false, "", whole(func(s *s) uint64 { return s.Rounds })},
		{"leases", "{lease}", "What became of leases.", false, "outcome", []Part{
			{"won", func(s *s) uint64 { return s.LeasesWon }},
			{"taken_over", func(s *s) uint64 { return s.LeasesTakenOver }},
			{"lost", func(s *s) uint64 { return s.LeasesLost }},
			{"rejected", func(s *s) uint64 { return s.CommitsRejected }},
		}},
		{"locks", "{lock}", "What became of locks (LockNodes).", false, "outcome", []Part{
			{"won", func(s *s) uint64 { return s.LocksWon }},
			{"busy", func(s *s) uint64 { return s.LocksBusy }},
			{"unavailable", func(s *s) uint64 { return s.LocksUnavailable }},
			{"lost", func(s *s) uint64 { return s.LocksLost }},
		}},
		{"waits", "{flight}", "Flights that waited for another process, by what happened to them.", false, "event", []Part{
			{"begun", func(s *s) uint64 { return s.Waits }},
			{"woken", func(s *s) uint64 { return s.Wakes }},
			{"polled", func(s *s) uint64 { return s.Polls }},
			{"timeout", func(s *s) uint64 { return s.WaitTimeouts }},
		}},
		{"deletions.pending", "{deletion}", "Deletions that Redis has not confirmed yet.", true, "", whole(func(s *s) uint64 { return s.DeletesPending })},
		{"deletions.late", "{deletion}", "Deletions that Redis had not confirmed at once.", false, "outcome", []Part{
			{"repeated", func(s *s) uint64 { return s.DeletesRepeated }},
			{"dropped", func(s *s) uint64 { return s.DeletesDropped }},
		}},
		{"events.gaps", "{gap}", "Times that messages of other processes were missed, and memory was dropped.", false, "", whole(func(s *s) uint64 { return s.EventGaps })},
		{"redis.errors", "{command}", "Commands without a usable answer.", false, "", whole(func(s *s) uint64 { return s.RedisErrors })},
		{"entries.refused", "{entry}", "Entries in Redis that were of no use.", false, "kind", []Part{
			{"unreadable", func(s *s) uint64 { return s.Unreadable }},
			{"other", func(s *s) uint64 { return s.OtherEntries }},
		}},
	}
}
