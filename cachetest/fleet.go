// Package cachetest is for tests of programs that use a cache in many processes: what they do when a deploy empties it, when a
// process dies in the middle of a load, or when Redis is away. [Run] gives a test a fleet of processes and a Redis, all in one
// [testing/synctest] bubble: time is virtual, so that a test in which leases end and timeouts pass takes milliseconds, and is
// the same each time.
//
// The processes are parts of the test's own process: what makes them processes is that each has connections of its own to Redis,
// which is a miniredis, over a network in memory. Give each of them what your program has once per process: a client, a
// [cache.Redis], your repository with its caches.
//
// Faults are calls: [Redis.Down], [Redis.Hang], [Redis.Restart], [Redis.Refuse], [Redis.StepClock]; [Process.Crash],
// [Process.Pause], [Process.Partition], [Process.Disconnect], [Process.DropNextReply], [Process.DropNextRequest],
// [Process.DropNextMessage]. They take effect at once, between two instants of the bubble's time.
//
// A process that is paused, or has crashed, is cut off from Redis, which is all that others can see of it. Its goroutines go
// on: they are the test's, and nobody can stop those.
package cachetest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/internal/lab"
)

// Fleet is some processes with a Redis. Its methods, and those of what belongs to it, are safe for concurrent use by the
// goroutines of the bubble.
type Fleet struct {
	T     *testing.T // of the bubble: its Cleanup and Context are for what belongs to the bubble
	Redis *Redis

	world     *lab.World
	processes []*Process
}

// Run calls f with so many processes, in a bubble (see [synctest.Test]): goroutines of f, timers and time itself are the bubble's,
// and when f returns, all of its goroutines must come to their end. So close your caches, in f or with fleet.T.Cleanup; clients
// and the [cache.Redis] of a process are closed by Run.
//
// Nothing outside the bubble may be waited for in f: no real network, no child process. Run must not be called in another
// bubble, and f must not call t.Run, t.Parallel or t.Deadline.
func Run(t *testing.T, processes int, f func(fleet *Fleet)) {
	t.Helper()
	lab.Bubble(t, func(t *testing.T) {
		fleet := &Fleet{T: t, world: lab.New(t)}
		fleet.Redis = newRedis(fleet)
		for i := range processes {
			fleet.processes = append(fleet.processes, &Process{fleet: fleet, name: fmt.Sprint("process ", i)})
		}
		fleet.world.Lose(fleet.loses)
		t.Cleanup(fleet.close)
		f(fleet)
	})
}

// Process returns the n-th process, from 0 on. It panics if there is none.
func (f *Fleet) Process(n int) *Process { return f.processes[n] }

// Processes returns all of them.
func (f *Fleet) Processes() []*Process { return slices.Clone(f.processes) }

// Each calls do for all processes at the same time, each in a goroutine, and waits until all have returned.
func (f *Fleet) Each(do func(p *Process)) {
	var wg sync.WaitGroup
	for _, p := range f.processes {
		wg.Go(func() { do(p) })
	}
	wg.Wait()
}

// Settle waits until nothing in the bubble moves any more unless time passes: messages have arrived, and what they have
// caused is done. It is [synctest.Wait]. To let time pass, use time.Sleep.
func (f *Fleet) Settle() { synctest.Wait() }

func (f *Fleet) process(name string) *Process {
	i := slices.IndexFunc(f.processes, func(p *Process) bool { return p.name == name })
	if i < 0 {
		return nil
	}
	return f.processes[i]
}

// loses tells the network which messages get lost.
func (f *Fleet) loses(m *lab.Message) bool {
	p := f.process(m.Process)
	return p != nil && p.loses(m.Kind)
}

// holds tells the network which messages wait.
func (f *Fleet) holds(m *lab.Message) bool {
	p := f.process(m.Process)
	return p != nil && p.isPaused()
}

// close ends all that would stay in the bubble.
func (f *Fleet) close() {
	f.Redis.Continue()
	f.world.Lose(nil)
	for _, p := range f.processes {
		p.Resume()
		p.close()
	}
	f.world.Close()
}

// Redis is the server of a fleet.
type Redis struct {
	fleet  *Fleet
	server *miniredis.Miniredis

	mu      sync.Mutex
	down    bool          // guarded by mu
	refusal string        // guarded by mu
	stepped bool          // its clock was put; guarded by mu
	skew    time.Duration // of its clock; guarded by mu
}

func newRedis(f *Fleet) *Redis {
	r := &Redis{fleet: f, server: f.world.Redis}
	r.server.Server().SetPreHook(r.before)
	return r
}

// before is called before a command, and reports whether it was answered.
func (r *Redis) before(peer *server.Peer, _ string, _ ...string) bool {
	r.mu.Lock()
	stepped, skew, refusal := r.stepped, r.skew, r.refusal
	r.mu.Unlock()
	if stepped && r.server.TryLock() { // but not for the commands of a script, which has the lock
		r.server.Unlock()
		r.server.SetTime(time.Now().Add(skew))
	}
	if refusal != "" {
		peer.WriteError(refusal)
	}
	return refusal != ""
}

// Server is the miniredis itself, for a look at keys, or to change or remove them (Keys, Get, Del, FlushAll, ...). For its time and
// its errors there are [Redis.StepClock] and [Redis.Refuse].
func (r *Redis) Server() *miniredis.Miniredis { return r.server }

// Down makes it unreachable: connections break and new ones are refused. It keeps what it has.
func (r *Redis) Down() { r.set(true) }

// Up ends Down.
func (r *Redis) Up() { r.set(false) }

func (r *Redis) set(down bool) {
	r.mu.Lock()
	r.down = down
	r.mu.Unlock()
	for _, p := range r.fleet.processes {
		p.connect()
	}
}

func (r *Redis) isDown() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.down
}

// Hang makes it silent: connections stand, new ones are accepted, and nothing is answered. So it is when its machine, or
// the network, has stopped.
func (r *Redis) Hang() { r.fleet.world.Freeze(true) }

// Continue ends Hang: what was sent meanwhile, on connections that still stand, is executed.
func (r *Redis) Continue() { r.fleet.world.Freeze(false) }

// Restart brings it back empty, with all connections broken: a server that does not save what it has.
func (r *Redis) Restart() {
	r.server.FlushAll()
	for _, p := range r.fleet.processes {
		r.fleet.world.Break(p.name)
	}
}

// Refuse lets it answer all commands with an error, as in "OOM command not allowed when used memory > 'maxmemory'.",
// "READONLY You can't write against a read only replica." or "NOPERM ...". With "" it ends.
func (r *Redis) Refuse(message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refusal = message
}

// StepClock puts its clock forward, or back, as NTP or an operator may. Forward, keys end so much earlier.
func (r *Redis) StepClock(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.skew += d
	r.stepped = true
}

// Commands returns how many it has been sent, but for those that begin a connection or keep it (HELLO, SUBSCRIBE, PING, ...).
func (r *Redis) Commands() (n int) {
	for _, p := range r.fleet.processes {
		n += p.Commands()
	}
	return n
}

// Process is one of a fleet.
type Process struct {
	fleet *Fleet
	name  string

	mu          sync.Mutex
	clients     []*redis.Client  // guarded by mu
	redis       *cache.Redis     // guarded by mu
	crashed     bool             // guarded by mu
	partitioned bool             // guarded by mu
	paused      bool             // guarded by mu
	drop        map[lab.Kind]int // how many of the next messages get lost; guarded by mu
}

// String returns a name, as in "process 0".
func (p *Process) String() string { return p.name }

// Client makes a client with a pool of connections of its own. It has go-redis's defaults, but its retries are not delayed; set, if
// there is one, changes them. The address and the dialer are the fleet's. It is closed when the test ends.
func (p *Process) Client(set ...func(*redis.Options)) *redis.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.clientLocked(set...)
}

func (p *Process) clientLocked(set ...func(*redis.Options)) *redis.Client {
	c := p.fleet.world.Client(p.name, func(o *redis.Options) {
		addr, dialer := o.Addr, o.Dialer
		for _, s := range set {
			s(o)
		}
		o.Addr, o.Dialer = addr, dialer
	})
	p.clients = append(p.clients, c)
	return c
}

// Redis returns what the caches of the process share, always the same: a [cache.Redis] with the default options, and the name of the
// process. It is closed
// when the test ends, after what fleet.T.Cleanup was told. For other options give a [Process.Client] to [cache.NewRedis].
func (p *Process) Redis() *cache.Redis {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.redis == nil {
		r, err := cache.NewRedis(p.clientLocked(), cache.RedisOptions{Process: p.name})
		if err != nil { // of the options: there are none
			panic(err)
		}
		p.redis = r
	}
	return p.redis
}

// Crash ends it, for the others: nothing that it does reaches Redis any more, and its connections break. There is no way back.
func (p *Process) Crash() {
	p.change(func() { p.crashed = true })
	p.connect()
}

// Partition cuts it off from Redis: its connections break, and new ones are refused, until [Process.Heal].
func (p *Process) Partition() {
	p.change(func() { p.partitioned = true })
	p.connect()
}

// Heal ends Partition.
func (p *Process) Heal() {
	p.change(func() { p.partitioned = false })
	p.connect()
}

// Disconnect breaks its connections, with what is on them. It may make new ones at once.
func (p *Process) Disconnect() { p.fleet.world.Break(p.name) }

// Pause holds back whatever it sends, and what is sent to it, until [Process.Resume]: so it is when a process is stopped,
// swapped out or collects garbage for longer than its lease. Its connections stand; commands may time out on them.
func (p *Process) Pause() {
	p.change(func() { p.paused = true })
	p.fleet.world.Hold(p.fleet.holds)
}

// Resume ends Pause: what was held back, on connections that still stand, arrives.
func (p *Process) Resume() {
	p.change(func() { p.paused = false })
	p.fleet.world.Hold(p.fleet.holds)
}

// DropNextRequest loses the next command that it sends, before it is executed: its connection breaks, as with
// [Process.DropNextReply]. Called twice, it loses two.
func (p *Process) DropNextRequest() { p.dropNext(lab.Request) }

// DropNextReply loses the next reply to it: the command was executed, and the process gets an error, or its client sends it
// again (see MaxRetries of [redis.Options]). It is the fault that most programs were never tried with.
func (p *Process) DropNextReply() { p.dropNext(lab.Reply) }

// DropNextMessage loses the next message that is published to it, and its connection stands, as Redis's publishing allows.
func (p *Process) DropNextMessage() { p.dropNext(lab.Push) }

// Commands returns how many of its commands have reached Redis. See [Redis.Commands].
func (p *Process) Commands() int { return p.fleet.world.Sent(p.name) }

func (p *Process) dropNext(kind lab.Kind) {
	p.change(func() {
		if p.drop == nil {
			p.drop = map[lab.Kind]int{}
		}
		p.drop[kind]++
	})
}

func (p *Process) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *Process) loses(kind lab.Kind) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drop[kind] == 0 {
		return false
	}
	p.drop[kind]--
	return true
}

func (p *Process) isPaused() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.paused
}

// connect lets the network be as it should be.
func (p *Process) connect() {
	p.mu.Lock()
	away := p.crashed || p.partitioned
	p.mu.Unlock()
	p.fleet.world.CutOff(p.name, !away && !p.fleet.Redis.isDown())
}

func (p *Process) close() {
	p.mu.Lock()
	r, clients := p.redis, p.clients
	p.mu.Unlock()
	if r != nil {
		_ = r.Close()
	}
	for _, c := range clients {
		_ = c.Close()
	}
}
