package main

var mutants = []mutant{
	// The scripts.
	{"COMMIT by any owner", "script/commit.lua", "if not mine(r, owner, ARGV[2]) then", "if r.owner == NONE then", "real: deletion during loads"},
	{"COMMIT without the fence", "script/commit.lua", "if not mine(r, owner, ARGV[2]) then", "if not mine(r, owner, '') then", ""},
	{"COMMIT wakes nobody", "script/commit.lua", "wake('C', r, list, ARGV[5], ARGV[6], news)", "", "real: cold"},
	{"ABORT by any owner", "script/abort.lua", "if not mine(r, ARGV[1], ARGV[2]) then return answer(0, now) end", "if not r then return answer(0, now) end", ""},
	{"ABORT does nothing", "script/abort.lua", "if not mine(r, ARGV[1], ARGV[2]) then return answer(0, now) end", "if r then return answer(1, now) end", "real: each fault"},
	{"ABORT removes a value", "script/abort.lua", "if r.stub or life <= 0 then", "if r then", "real: refresh"},
	{"ABORT wakes nobody", "script/abort.lua", "wake('A', r, list, ARGV[3], ARGV[4], '')", "", "real: each fault"},
	{"RENEW by any owner", "script/renew.lua", "if not mine(r, ARGV[1], ARGV[2]) then return answer(0, now) end", "if not r then return answer(0, now) end", ""},
	{"RENEW renews nothing", "script/renew.lua", "redis.call('SETRANGE', KEYS[1], 168, string.format('%016d%010d', now + ARGV[3], ARGV[3]))", "", ""},
	{"a lease never ends", "script/record.lua", "if rest > 0 and rest <= r.lease then return rest end\n  return 0", "return math.max(rest, 1)", "real: each fault"},
	{"a lease is never in force", "script/acquire.lua", "if held > 0 then\n      local noted", "if held > 9e15 then\n      local noted", "real: cold"},
	{"ACQUIRE does not know its owner", "script/acquire.lua", "if r.owner == owner then return answer('WON', now, r.lease_fence) end", "", "real: a fault"},
	{"ACQUIRE does not look for a value", "script/acquire.lua", "if not r.stub and now < r.fresh", "if r.version < 0 and now < r.fresh", "real: cold"},
	{"ACQUIRE replaces the list of those who wait", "script/acquire.lua", "if not known then", "if #list == 0 then", "real: cold"},
	{"a refresh removes the value", "script/acquire.lua", "if r and not r.stub and not force and now < r.stale then", "if r and force then", "real: refresh"},
	{"a refresh does not lengthen the life of the record", "script/acquire.lua", "if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end\nelse", "else", ""},

	{"a reply is anybody's", "store.go", " || list[len(list)-1] != args[0]", "", ""},

	// The lease.
	{"a lost reply to ACQUIRE is BUSY", "lock.go", "		switch {\n		case failed != nil:", "		if failed != nil {\n			failed, got.outcome, got.left = nil, busy, a.lease\n		}\n		switch {\n		case failed != nil:", "cold, a fault"},
	{"an unanswered ACQUIRE is left behind", "lock.go", "			c.redis.disown(f.ctx, f.full, a.owner)\n", "", "cold, a fault"},
	{"a load alone is stored", "lock.go", "	var noBarriers noBarriersError\n", "	_ = c.set(f.ctx, f.key, res.value, callOptions{})\n	var noBarriers noBarriersError\n", "deletion, each fault"},
	{"a load that failed keeps its lease", "lock.go", "	if res.abandoned || res.err != nil && !res.negative {\n		_, _ = c.abort(f, a.owner, got.fence)\n		return res\n	}\n	began :=", "	if res.abandoned || res.err != nil && !res.negative {\n		return res\n	}\n	began :=", "cold, a fault"},
	{"a rejected value is as of its COMMIT", "lock.go", "		c.stats.rejected.Add(1)\n", "		c.stats.rejected.Add(1)\n		res.asOf = asOf\n", "deletion by another"},
	{"an unconfirmed value is as of its COMMIT", "lock.go", "		c.stats.redisErrors.Add(1)\n		keep = c.redis.cutOff()\n", "		c.stats.redisErrors.Add(1)\n		res.asOf = asOf\n		keep = c.redis.cutOff()\n", "deletion by another, a fault"},
	{"a read is as of its reply", "lock.go", "	res, err := c.use(f, raw, since, asOf, false, known)\n	return res, raw, err", "	_ = asOf\n	res, err := c.use(f, raw, since, c.ticks.Add(1), false, known)\n	return res, raw, err", "deletion during reads"},
	{"memory takes a read of before a deletion", "lock.go", "	res, err := c.use(f, raw, since, asOf, false, known)\n	return res, raw, err", "	_ = since\n	res, err := c.use(f, raw, c.local.epoch(f.key), asOf, false, known)\n	return res, raw, err", "deletion during reads into memory"},
	{"a wake-up of any lease will do", "wake.go", "	return err == nil && w.owner == lease.holder && h.Fence == lease.fence", "	return err == nil && (h.Fence != 0 || lease.fence != 0)", ""},
	{"a wake-up by the owner alone", "wake.go", "w.owner == lease.holder && h.Fence == lease.fence", "w.owner == lease.holder && h.Fence >= 0", ""},
	{"who waits waits for ever", "lock.go", "	return left, known && left > 0 && left <= h.Lease.Duration", "	return h.Lease.Duration, known || left > 0", "cold, a fault"},
	{"who waits is not registered", "lock.go", "	w := c.redis.waiters.register(f.full)", "	w := c.redis.waiters.register(\"\")", "cold"},
	{"who gives up waiting takes nothing over", "lock.go", "		if !held {\n", "		if !held && time.Now().After(w.patience) {\n", "cold, a fault"},
	{"a lease is not renewed", "loader.go", "			if renewed == nil { // the last one", "			if renewals == nil { // the last one", "three processes, each fault"},

	// Flights and memory.
	{"memory is filled without a look at the epoch", "local.go", "		if !l.epoch(key).same(since) {", "		if since.era > 1<<60 {", "deletion during reads into memory"},
	{"a flight stays in the map", "loader.go", "	fs.removeLocked(f)\n	delete(fs.all, f)", "	delete(fs.all, f)", ""},
	{"a flight is everybody's own", "loader.go", "	f := fs.current[key]\n	if f == nil {", "	f := fs.current[key]\n	if f != nil || f == nil {", "callers"},
	{"a result is for everybody", "cache.go", "		case res.asOf != 0 && began >= res.asOf:", "		case res.asOf != 0 && began > 1<<60:", "deletion by another"},
	{"a load alone is for everybody", "loader.go", "	res := &result{asOf: c.ticks.Add(1)}", "	res := &result{asOf: c.ticks.Add(1) << 40}", "deletion by another, a fault"},
	{"cancellation is ignored", "cache.go", "		case <-ctx.Done():\n			select { // a result", "		case <-(chan struct{})(nil):\n			select { // a result", "cold, a fault"},
	{"Close leaves callers waiting", "cache.go", "		case <-c.closing:\n			return nil, ErrClosed\n		}\n		res := f.res", "		case <-make(chan struct{}):\n			return nil, ErrClosed\n		}\n		res := f.res", "cold, a fault"},
	{"a dying flight is joined", "loader.go", "		fs.removeLocked(f)\n		f.cancel(errAbandoned)", "		f.cancel(errAbandoned)", "abandoned"},
	{"an abandoned load goes on", "loader.go", "		fs.removeLocked(f)\n		f.cancel(errAbandoned)", "		fs.removeLocked(f)", "abandoned twice"},
	{"a panic is a success", "loader.go", "			r.err = &PanicError{Value: p, Stack: debug.Stack()}", "			r.err, r.value = nil, 0\n			_ = debug.Stack", "cold, a fault"},
	{"loads of a key without bound", "loader.go", "const loadsPerKey = 2", "const loadsPerKey = 200", ""},

	// Deletion.
	{"Delete leaves the lease", "store.go", "				p.Unlink(ctx, k)", "				p.Eval(ctx, \"local v = redis.call('GET', KEYS[1]) if v and string.sub(v, 4, 4) ~= 'S' then redis.call('DEL', KEYS[1]) end return 1\", []string{k})", "real: deletion"},
	{"Delete does not tell the others", "store.go", "	events := keyEvents(keys)\n", "	events := keyEvents(nil)\n", "real: deletion"},
	{"Delete bumps only before", "invalidate.go", "		c.dropHere(kind, names)\n		c.wakeHere(kind, names)\n		if err", "		c.wakeHere(kind, names)\n		if err", "deletion by who reads"},
	{"Delete leaves the memory alone", "invalidate.go", "	e := c.local.drop(key)\n", "	e := c.local.epoch(key)\n", "deletion of what is remembered"},
	{"deletions by others are not heard", "redis.go", "	r.each(name, func(c *core) { c.drop(kind, []string{rest}) })\n", "	if kind != keyEvent {\n		r.each(name, func(c *core) { c.drop(kind, []string{rest}) })\n	}\n", "deletion of what is remembered"},
	{"what could not be deleted is believed", "undone.go", "found && !t.done {", "found && t.asked < 0 {", ""},
	{"a missing message is not noticed", "events.go", "			s.r.missed()\n", "", ""},
	{"what was missed by the stream stays in memory", "redis.go", "	r.each(\"\", func(c *core) { c.invalidateAll() })\n", "", "deletion, each fault"},
	{"dropping everything leaves the epochs", "local.go", "	l.era.Add(1)\n", "", "deletion, each fault"},

	// Tags.
	{"the tags of what is read are not looked at", "lock.go", "		if old {\n			return nil, errOutdated", "		if old && err != nil {\n			return nil, errOutdated", "tags, reads into memory"},
	{"the tags of what was loaded are not looked at", "tags.go", "	if old || err != nil {\n		res.asOf = began\n	}\n	return !old", "	if err != nil {\n		res.asOf = began\n	}\n	return !old", "tags, callers"},
	{"what was outdated meanwhile is kept", "tags.go", "	return !old && (err", "	return (err", "tags, callers in memory"},
	{"memory does not look at tags", "local.go", " || e.tags.outdated() {", " || false {", "tags, remembered"},
	{"the tags of a call are as of its fill", "local.go", "	e.tags = l.tagged(tags, since)\n", "	e.tags = l.tagged(tags, l.epoch(key))\n", "tags, reads into memory"},
	{"deletions of tags by others are not heard", "redis.go", "	r.each(name, func(c *core) { c.drop(kind, []string{rest}) })\n", "	if kind == keyEvent {\n		r.each(name, func(c *core) { c.drop(kind, []string{rest}) })\n	}\n", "tags, remembered"},
	{"Clear leaves the memory alone", "invalidate.go", "	case clearEvent:\n		c.invalidateAll()\n", "	case clearEvent:\n", "clear, each fault"},
	{"lost barriers make nothing invalid", "tags.go", "	if values[0] == nil && values[1] == nil {\n		return math.MaxInt64, true", "	if values[0] == nil && values[1] == nil {\n		return 0, true", ""},
	{"stamps are the clock's", "script/barrier.lua", "math.max(now, tonumber(v[2]) + 1)", "now", ""},
}
