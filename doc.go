// Package cache is a read-through cache for expensive loads that are shared by many goroutines in many processes.
//
//	users, err := cache.New[User]("user", cache.Options{Redis: rds, TTL: 10 * time.Minute})
//	u, err := users.GetOrLoad(ctx, "42", loadUser)
//
// A call looks in this process's memory, then joins the one flight for its key in this process, which looks in Redis,
// then takes the one lease for the key in the fleet, and loads. Each is tried only when the one before has no answer.
// Without Redis it is a memory cache with the same behaviour.
//
// The lease saves work. It is not mutual exclusion, nothing depends on it for correctness, and no error of it ever
// reaches a caller: when Redis is slow, down or refuses, when a lease is lost, expired, deleted or taken over, callers
// get the loaded value, their loader's own error, or their own context's error.
//
// Values are shared between callers, not copied.
//
// # Asking
//
// [Cache.GetOrLoad] is the call for nearly everything, and [Cache.GetOrLoadMany] that for many keys with one query.
// [Cache.Get] looks without loading. A call can deviate: [WithTTL], [WithTags], [WithoutStale], [OnlyIfCached].
// Each caller returns at the end of its own context, and only that one: the load goes on for the others, and fills the cache.
//
// What a call returns, besides the value: the error of the loader that ran for it, unchanged; [ErrNotFound], which a loader returns for
// what does not exist, and which is remembered; a [*PanicError] for a loader that panicked; its context's error, or
// [context.DeadlineExceeded] for a loader that did not return when Options.LoadTimeout was over; [ErrClosed]; and, where they were opted into,
// [ErrOverloaded] and [ErrNotCached].
//
// # Loading
//
// A [Loader] computes the value of a key. It may learn more from its context, and say more, by [LoadFrom]: how long the value is good
// for, which tags it has, that it is not to be stored, and what an origin needs to refuse writes that come too late. [Previous] is the
// value that it replaces, for an ETag. A loader must use the context that it is given, not that of the call around it: cmd/cachevet
// finds those that do not.
//
// # Invalidating
//
// After [Cache.Delete] has returned nil, no call that starts later returns a value whose load started before: in this process at once,
// in others at once from Redis and from loads still running, and from their memory within the time that a message takes. Call it after
// the change is committed. [Cache.DeleteTags] and [Cache.Clear] do the same for all entries that carry a tag, and for all; [Cache.Set]
// replaces a value; [Cache.Refresh] loads it anew.
//
// # Staying fresh
//
// A value is served for Options.TTL, a little less by Options.Jitter. One that is asked for often is loaded anew in the background
// before that is over (Options.EarlyRefresh); Options.StaleWhileRevalidate and StaleIfError serve it for longer, while it is loaded, or
// while the origin fails.
//
// # Protecting the origin
//
// One load for each key is not enough when thousands of keys are cold at once: Options.MaxLoads bounds the loads of all processes
// together, Options.MaxWaiting the callers that wait in one.
//
// # Seeing
//
// [Cache.Stats] are counters, [Cache.Explain] says of a key why it is or is not cached, [Cache.Status] what goes on, and an [Observer] is
// told of it. The packages cachehttp (a page), cachelog, cacheprom and cacheotel are made of these.
//
// # Not promised
//
// That a loader runs exactly once; mutual exclusion for side effects; freshness when the loader reads a lagging replica, when
// Delete is called before the database has committed, or when a failover of Redis loses the deletion.
package cache
