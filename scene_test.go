package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/resp"
)

// act does what a line says that begins with a process.
func (s *stage) act(a *actor, words []string) {
	switch words[0] {
	case "get":
		s.get(a, words[1], words[2:])
	case "get-many":
		s.getMany(a, strings.Split(words[1], ","), options(words[2:]))
	case "peek":
		s.begin(a, words[1], nil, func(ctx context.Context, _ string) string {
			v, ok := a.cache.Get(ctx, words[1])
			if !ok {
				return "misses"
			}
			return "gets " + quote(v)
		})
	case "set":
		s.write(words[1], words[2])
		s.begin(a, words[1], nil, func(ctx context.Context, _ string) string {
			return outcomeOf("has set", a.cache.Set(ctx, words[1], words[2]))
		})
	case "delete":
		version := len(s.values(words[1])) - 1
		s.begin(a, words[1], nil, func(ctx context.Context, _ string) string {
			err := a.cache.Delete(ctx, words[1:]...)
			if err == nil && s.honest {
				s.script.mu.Lock()
				floor := a.cache.core.name + words[1]
				s.floor[floor] = max(s.floor[floor], version)
				s.script.mu.Unlock()
			}
			return outcomeOf("has deleted", err)
		})
	case "delete-tags", "clear":
		s.deleteTags(a, words[1:])
	case "refresh":
		s.refresh(a, words[1], options(words[2:]))
	case "stats":
		s.script.note(a, "~", "has counted "+counted(a.cache.Stats()))
	case "close":
		s.begin(a, "", nil, func(context.Context, string) string { return outcomeOf("has closed", a.cache.Close()) })
	case "close-redis":
		s.begin(a, "", nil, func(context.Context, string) string { return outcomeOf("has closed", a.rds.Close()) })
	case "cut":
		s.honest = false
		s.w.CutOff(a.name, false)
	case "mend":
		s.w.CutOff(a.name, true)
	case "kill":
		a.dead = true
		s.w.CutOff(a.name, false)
	default:
		panic("no such command of a process")
	}
}

// counted lists the counters that are not 0.
func counted(s Stats) string {
	var words []string
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if n := v.Field(i); !n.IsZero() {
			words = append(words, fmt.Sprint(v.Type().Field(i).Name, " ", n))
		}
	}
	return strings.Join(words, ", ")
}

func outcomeOf(done string, err error) string {
	if err != nil {
		return "fails: " + err.Error()
	}
	return done
}

// begin starts a call and notes what it returns.
func (s *stage) begin(a *actor, key string, opts map[string]string, f func(ctx context.Context, name string) string) {
	a.calls++
	name := strings.ToLower(a.name) + strconv.Itoa(a.calls)
	ctx, cancel := context.WithCancel(background)
	if d := opts["within"]; d != "" {
		ctx, cancel = context.WithTimeout(background, duration(d))
	}
	c := &asked{key: key, cancel: cancel, floor: s.floor[a.cache.core.name+key]}
	s.calls[name] = c
	began := time.Now()
	a.proc.calls.Go(func() {
		defer cancel()
		what := f(ctx, name)
		if took := time.Since(began); took > 0 {
			verb, why, failed := strings.Cut(what, ": ")
			what = verb + " after " + took.Round(time.Millisecond).String()
			if failed {
				what += ": " + why
			}
		}
		s.script.note(a, name+"~", name+" "+what) // after what its loader notes at the same time
		c.done = true
	})
}

var errOrigin = errors.New("origin is down")

// get understands "get k load=1s fails within=2s".
func (s *stage) get(a *actor, key string, words []string) {
	opts := options(words)
	var co []CallOption
	if d := opts["ttl"]; d != "" {
		co = append(co, WithTTL(duration(d)))
	}
	if has(opts, "fresh") {
		co = append(co, WithoutStale())
	}
	if has(opts, "cached") {
		co = append(co, OnlyIfCached())
	}
	co = append(co, s.tags(a, key, opts)...)
	s.begin(a, key, opts, func(ctx context.Context, name string) string {
		began := time.Now()
		v, err := a.cache.GetOrLoad(ctx, key, s.loader(a, name, opts), co...)
		var p *PanicError
		switch {
		case err == nil:
			if s.version(key, v) < s.calls[name].floor {
				s.t.Errorf("%s got %q, which was deleted before", name, v)
			}
			return "gets " + quote(v)
		case v != "":
			s.t.Errorf("%s got %q and %v", name, v, err)
		case ctx.Err() == nil && (errors.Is(err, context.Canceled) ||
			errors.Is(err, context.DeadlineExceeded) && time.Since(began) < a.cache.core.opts.LoadTimeout):
			s.t.Errorf("%s got an error of another context: %v", name, err)
		case !errors.Is(err, errOrigin) && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrNotCached) &&
			!errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &p):
			s.t.Errorf("%s got an error that is nobody's: %v", name, err)
		}
		return "fails: " + err.Error()
	})
}

// version is the number of a value; values that never were at the origin are for scenarios that do not delete.
func (s *stage) version(key, v string) int {
	s.script.mu.Lock()
	defer s.script.mu.Unlock()
	return slices.Index(s.values(key), v)
}

// values are those that the origin had for a key, the newest last.
func (s *stage) values(key string) []string {
	if vs := s.origin[key]; vs != nil {
		return vs
	}
	return []string{"v1"}
}

// write changes the origin; 5000*x is a value of 5000 bytes.
func (s *stage) write(key, v string) {
	if n, letter, ok := strings.Cut(v, "*"); ok {
		count, err := strconv.Atoi(n)
		if err != nil {
			panic(err)
		}
		v = strings.Repeat(letter, count)
	}
	s.script.mu.Lock()
	defer s.script.mu.Unlock()
	s.origin[key] = append(s.values(key), v)
}

// loader reads the origin when it begins, and takes its time then.
func (s *stage) loader(a *actor, name string, opts map[string]string) Loader[string] {
	return func(ctx context.Context, key string) (string, error) {
		s.script.mu.Lock()
		vs := s.values(key)
		s.script.mu.Unlock()
		v := vs[len(vs)-1]
		note := func(what string) { s.script.note(a, name, name+what) }
		d := duration(opts["load"])
		if has(opts, "hangs") {
			note(" begins to load, reads " + quote(v) + ", and hangs")
			<-s.hung
			return v, nil
		}
		if d > 0 {
			note(" begins to load, reads " + quote(v))
			timer := time.NewTimer(d)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				note("'s load is cancelled")
				return "", ctx.Err()
			}
		}
		switch {
		case has(opts, "fails"):
			note("'s load fails")
			return "", errOrigin
		case has(opts, "notfound"):
			note("'s load finds nothing")
			return "", ErrNotFound
		case has(opts, "panics"):
			note("'s load panics")
			panic("at the origin")
		case has(opts, "exits"):
			note("'s load calls Goexit")
			runtime.Goexit()
		case has(opts, "deletes"):
			note("'s load deletes " + key)
			if err := a.cache.Delete(ctx, key); err != nil {
				return "", err
			}
		case has(opts, "nests"):
			note("'s load asks for " + key)
			if _, err := a.cache.GetOrLoad(ctx, key, s.loader(a, name, nil)); err != nil {
				note("'s load gets an error: " + err.Error())
			}
		}
		if d := opts["setttl"]; d != "" {
			LoadFrom(ctx).SetTTL(duration(d))
		}
		if has(opts, "nostore") {
			LoadFrom(ctx).NoStore()
		}
		if old, ok := Previous[string](ctx); ok && has(opts, "previous") {
			note(" is told of " + quote(old))
		}
		if tags := opts["settags"]; tags != "" {
			LoadFrom(ctx).SetTags(strings.Split(tags, ",")...)
		}
		note(" has loaded " + quote(v))
		return v, nil
	}
}

// refresh understands "refresh k load=1s".
func (s *stage) refresh(a *actor, key string, opts map[string]string) {
	s.begin(a, key, nil, func(ctx context.Context, name string) string {
		v, err := a.cache.Refresh(ctx, key, s.loader(a, name, opts))
		return outcomeOf("has refreshed "+quote(v), err)
	})
}

func has(opts map[string]string, name string) bool {
	_, ok := opts[name]
	return ok
}

// command does what a line says that does not begin with a process.
func (s *stage) command(words []string) {
	full := func(key string) string { return "cache:user:" + key }
	switch words[0] {
	case "start":
		s.start(words[1:])
	case "wait":
		s.settle(duration(words[1]))
	case "write":
		s.write(words[1], words[2])
	case "cancel":
		s.calls[words[1]].cancel()
	case "gate":
		s.holds = append(s.holds, func(m *lab.Message) bool {
			return m.Kind != lab.Push && slices.Contains([]string{"ACQUIRE", "COMMIT", "ABORT"}, verbOf(m))
		})
	case "hold":
		s.honest = s.honest && words[len(words)-1] != "push"
		s.holds = append(s.holds, matching(words[1:]))
	case "release":
		s.holds = nil
	case "deliver":
		s.find(matching(words[1:])).Deliver()
	case "lose":
		s.find(matching(words[1:])).Lose()
	case "swap":
		s.swap(matching(append(words[1:], "reply")))
	case "copy": // of the last one of that verb, or of the last push
		m := s.copies[words[1]+" "+words[2]]
		if m.Kind == lab.Push {
			w, _ := resp.Words(m.Raw)
			s.w.Redis.Publish(w[1], w[2])
			return
		}
		go m.Copy()
	case "del", "evict":
		s.w.Redis.Del(full(words[1]))
	case "evict-barriers":
		s.w.Redis.Del("cache:user")
	case "put":
		s.put(full(words[1]), words[2])
	case "say":
		s.w.Redis.Publish(s.channel(words[1]), strings.Join(words[2:], " "))
	case "flush":
		s.w.Redis.FlushAll()
	case "script-flush":
		s.w.Redis.Server().SetPreHook(nil)
		c := s.w.Client("admin", nil)
		go func() {
			_ = c.ScriptFlush(background).Err()
			_ = c.Close()
		}()
	case "restart": // empty
		s.honest = false
		s.w.Redis.FlushAll()
		for name := range s.procs {
			s.w.Break(name)
		}
	case "save":
		s.saved = map[string]saved{}
		for _, k := range s.w.Redis.Keys() {
			v, _ := s.w.Redis.Get(k)
			s.saved[k] = saved{v, s.w.Redis.TTL(k)}
		}
	case "failover": // to a replica that has what was saved
		s.honest = false
		s.fences, s.floor = map[string]int64{}, map[string]int{}
		s.w.Redis.FlushAll()
		for k, v := range s.saved {
			_ = s.w.Redis.Set(k, v.value)
			s.w.Redis.SetTTL(k, v.ttl)
		}
	case "freeze":
		s.honest = false
		s.w.Freeze(true)
	case "thaw":
		s.w.Freeze(false)
	case "clock":
		s.w.Redis.SetTime(time.Now().Add(duration(words[1])))
	case "refuse":
		s.refuse(words[1], strings.Join(words[2:], " "))
	case "accept":
		s.w.Redis.Server().SetPreHook(nil)
	case "end":
		s.end()
	default:
		panic("no such command")
	}
}

// start understands "start A B ttl=1m lease=1s".
func (s *stage) start(words []string) {
	opts := options(words)
	o := Options{
		TTL: duration(opts["ttl"]), NegativeTTL: duration(opts["negative"]), LocalTTL: duration(opts["local"]),
		Lease: duration(opts["lease"]), LoadTimeout: duration(opts["timeout"]), CancelAbandoned: has(opts, "cancel-abandoned"),
		Tags: has(opts, "tags"), StaleWhileRevalidate: duration(opts["stale"]), StaleIfError: duration(opts["stale-if-error"]),
		Backoff: duration(opts["backoff"]),
	}
	if has(opts, "early") {
		o.EarlyRefresh = 0.5
	}
	o = exact(o)
	o.MaxValueBytes, _ = strconv.Atoi(opts["max"])
	if has(opts, "no-compression") {
		o.CompressAbove = -1
	}
	if v, err := strconv.ParseUint(opts["version"], 10, 32); err == nil {
		o.Version = uint32(v)
	}
	for _, name := range words {
		if len(name) != 1 {
			continue
		}
		p := &proc{t: s.t, w: s.w, name: name}
		if !has(opts, "no-redis") {
			p.client = s.w.Client(name, func(ro *redis.Options) {
				if has(opts, "no-retries") {
					ro.MaxRetries = -1
				}
			})
			p.rds, _ = NewRedis(p.client, RedisOptions{})
			p.rds.name = ""                                                     // or transcripts would have it
			p.rds.spread = func(d time.Duration) time.Duration { return d / 2 } // the same each time
			o.Redis = p.rds
		}
		var err error
		if p.cache, err = New[string](cmp.Or(opts["name"], "user"), o); err != nil {
			panic(err)
		}
		p.cache.core.chance = func(uint64) float64 { return 0 } // the latest
		p.cache.core.soon = atOnce
		s.procs[name] = &actor{proc: p}
		s.script.processes = append(s.script.processes, name)
		s.settle(0)
		if p.rds != nil && !p.rds.stream.wakes() {
			s.script.note(s.procs[name], name, "has no subscription")
		}
	}
}

func (s *stage) channel(word string) string {
	rds := s.procs[cmp.Or(map[string]string{"everybody": s.script.processes[0]}[word], word)].rds
	if word == "everybody" {
		return rds.everybodyChannel()
	}
	return rds.inboxChannel(rds.process)
}

// refuse makes the server answer verbs, separated by commas, with an error.
func (s *stage) refuse(verbs, text string) {
	s.honest = false
	s.w.Redis.Server().SetPreHook(func(c *server.Peer, cmd string, args ...string) bool {
		verb := verbOf(&lab.Message{Args: append([]string{cmd}, args...)})
		for v := range strings.SplitSeq(verbs, ",") {
			if verb == v || strings.EqualFold(cmd, v) {
				c.WriteError(text)
				return true
			}
		}
		return false
	})
}

// end tells what it took, and what is in Redis.
func (s *stage) end() {
	s.holds = nil
	s.settle(0)
	var loads, commands []string
	for _, name := range s.script.processes {
		a := s.procs[name]
		loads = append(loads, fmt.Sprint(name, " ", a.cache.Stats().Loads))
		commands = append(commands, fmt.Sprint(name, " ", s.w.Sent(name)))
	}
	s.script.lines = append(s.script.lines, "loads: "+strings.Join(loads, ", ")+"; commands: "+strings.Join(commands, ", "))
	for _, key := range s.w.Redis.Keys() {
		raw, err := s.w.Redis.Get(key)
		what := s.script.record(raw)
		switch {
		case s.w.Redis.Type(key) == "hash":
			what = "barriers"
		case err != nil:
			what = "something unreadable"
		}
		s.script.lines = append(s.script.lines,
			fmt.Sprintf("in Redis: %s: %s, for %v", shortKey(key), what, s.w.Redis.TTL(key).Round(time.Millisecond)))
	}
}

// options understands "a b=c".
func options(words []string) map[string]string {
	const known = " load within ttl fails notfound panics exits hangs deletes nests tags settags" +
		" negative local lease timeout version name max no-compression cancel-abandoned no-retries no-redis " +
		" stale stale-if-error backoff early fresh cached setttl nostore previous "
	opts := map[string]string{}
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		if len(name) > 1 && !strings.Contains(known, " "+name+" ") { // a letter is a process to start
			panic("no such option: " + name)
		}
		opts[name] = value
	}
	return opts
}

// duration understands "", "off" and Go's durations.
func duration(s string) time.Duration {
	switch s {
	case "":
		return 0
	case "off":
		return -1
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}
