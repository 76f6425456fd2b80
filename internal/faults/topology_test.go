package faults

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/realredis"
)

// down is for how long a server is not heard of until another takes its place.
const down = time.Second

// startServers starts what the plan plays on.
func (f *fleet) startServers() {
	switch f.plan.where {
	case "one":
		dir := f.t.TempDir()
		f.dump = filepath.Join(dir, "dump.rdb")
		f.data = []*realredis.Server{realredis.StartWithClock(f.t, "--enable-debug-command", "yes", "--dir", dir)}
	case "cluster":
		masters, replicas := realredis.StartReplicatedCluster(f.t, 3, down)
		f.data = append(masters, replicas...)
	case "sentinel":
		f.data, f.sentinels = realredis.StartSentinel(f.t, 2, down)
	case "ring":
		for range 3 {
			f.data = append(f.data, realredis.Start(f.t))
		}
	}
}

func (f *fleet) servers() []*realredis.Server { return slices.Concat(f.data, f.sentinels) }

// addrs are those that a client is told.
func (f *fleet) addrs() (all []string) {
	told := f.data
	if len(f.sentinels) > 0 {
		told = f.sentinels
	}
	for _, s := range told {
		all = append(all, s.Addr)
	}
	return all
}

// role returns what a server is: master, slave, or nothing if it does not answer; and whether it has all of its master.
func (f *fleet) role(i int) (role string, linked bool) {
	info, err := f.admins[i].InfoMap(context.Background(), "replication").Result()
	if err != nil {
		return "", false
	}
	r := info["Replication"]
	return r["role"], r["role"] == "master" || r["master_link_status"] == "up" && r["master_sync_in_progress"] == "0"
}

// mastersNow returns which of the data servers are masters.
func (f *fleet) mastersNow() (found []int) {
	for i := range f.data {
		if role, _ := f.role(i); role == "master" {
			found = append(found, i)
		}
	}
	return found
}

func (f *fleet) masters() (admins []*redis.Client) {
	for _, i := range f.mastersNow() {
		admins = append(admins, f.admins[i])
	}
	return admins
}

// settled reports whether all servers agree who is what, and the epoch of their last failover.
func (f *fleet) settled() (epoch string, ok bool) {
	ctx := context.Background()
	switch f.plan.where {
	case "cluster":
		if len(f.mastersNow()) != len(f.data)/2 {
			return "", false
		}
		for i, admin := range f.admins {
			info, err := admin.ClusterInfo(ctx).Result()
			nodes, err2 := admin.ClusterNodes(ctx).Result()
			if err != nil || err2 != nil || !strings.Contains(info, "cluster_state:ok") || strings.Contains(nodes, "fail") ||
				strings.Count(nodes, "master") != len(f.data)/2 {
				return "", false
			}
			if _, linked := f.role(i); !linked {
				return "", false
			}
			_, epoch, _ = strings.Cut(info, "cluster_current_epoch:")
			epoch, _, _ = strings.Cut(epoch, "\r")
		}
	case "sentinel":
		master, ok := f.told()
		if !ok {
			return "", false
		}
		for i, s := range f.data {
			role, linked := f.role(i)
			switch {
			case s.Addr != master && role == "master":
				f.follow(i, master) // the sentinels, too, would say so, after ten seconds
				return "", false
			case s.Addr == master && role != "master" || !linked:
				return "", false
			}
		}
		epoch = f.said
	}
	return epoch, true
}

// told returns the master that all sentinels name.
func (f *fleet) told() (master string, ok bool) {
	for _, s := range f.sentinels {
		c := s.Client(nil)
		info, err := c.Do(context.Background(), "SENTINEL", "MASTER", realredis.SentinelMaster).Result()
		_ = c.Close()
		said := fmt.Sprint(realredis.Field(info, "ip"), ":", realredis.Field(info, "port"))
		if err != nil || realredis.Field(info, "flags") != "master" || master != "" && said != master {
			return "", false
		}
		f.said = realredis.Field(info, "config-epoch")
		master = said
	}
	return master, true
}

// follow makes a server a replica, as sentinels do: who took it for the master is told to ask again. (Otherwise a client that has not
// heard of the failover would go on to read from it, and see what is deleted only as late as a replica does.)
func (f *fleet) follow(i int, master string) {
	host, port, _ := strings.Cut(master, ":")
	_, _ = f.admins[i].TxPipelined(context.Background(), func(p redis.Pipeliner) error {
		p.Do(context.Background(), "REPLICAOF", host, port)
		p.Do(context.Background(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		p.Do(context.Background(), "CLIENT", "KILL", "TYPE", "pubsub")
		return nil
	})
}

// settle waits until all servers agree who is what.
func (f *fleet) settle() {
	f.t.Helper()
	if !f.within(2*patience, func() (ok bool) { // sentinels try again after some seconds
		f.epoch, ok = f.settled()
		return ok
	}) {
		f.t.Errorf("plan %s: the servers do not agree again", f.plan.name())
	}
}

// unplanned counts a failover that is not of the plan: a busy machine stops a server, too. What was lost in it is nobody's fault.
func (f *fleet) unplanned() {
	before := f.epoch
	if epoch, ok := f.settled(); ok && epoch == before {
		return
	}
	if f.settle(); f.epoch == before {
		return // somebody was late with a heartbeat
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own++
	for i, b := range f.broken {
		if strings.HasPrefix(b, "P4") {
			f.t.Logf("plan %s: after a failover that was not planned: %s", f.plan.name(), b)
			f.broken[i] = ""
		}
	}
	f.broken = slices.DeleteFunc(f.broken, func(b string) bool { return b == "" })
}

// later is for what ends when the faults are over.
func (f *fleet) later(end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.atEnd = append(f.atEnd, end)
}

// rehash begins a time in which a Ring of one process may ask other shards than that of another process.
func (f *fleet) rehash() (end func()) {
	if f.plan.where != "ring" {
		return func() {}
	}
	window := f.board.window(true)
	return func() {
		wait(4 * readTimeout) // three pings that are under way may yet fail
		if !f.until(func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, m := range f.members {
				if f.board.workers[m.Slot].shards.Load() != int64(len(f.data)) {
					return false
				}
			}
			return true
		}) {
			f.t.Errorf("plan %s: not all processes believe that all shards are up", f.plan.name())
		}
		window()
	}
}

// happenToServers makes a fault happen to one of several servers.
func (f *fleet) happenToServers(ft fault) {
	ctx := context.Background()
	must := func(err error) {
		if err != nil {
			f.t.Errorf("%s: %v", ft.kind, err)
		}
	}
	f.unplanned()
	masters := f.mastersNow()
	if len(masters) == 0 {
		return
	}
	m := masters[ft.node%len(masters)]
	replicas := f.replicasOf(m)
	switch ft.kind {
	case "master killed", "master killed, replica lags":
		end := f.board.window(true)
		if ft.amount > 0 {
			for _, r := range replicas {
				f.data[r].CutOff(ctx, f.data[m])
			}
			wait(ft.amount)
		}
		f.data[m].Kill()
		if !f.within(2*patience, func() bool { // sentinels whose votes were split try again after eight seconds, twice failover-timeout
			now := f.mastersNow()
			_, agreed := f.told()
			return len(now) == len(masters) && !slices.Contains(now, m) && agreed
		}) {
			f.t.Errorf("plan %s: nobody takes over", f.plan.name())
		}
		for _, r := range replicas {
			f.data[r].Reconnect(ctx)
		}
		if f.plan.where == "sentinel" { // nobody is told of the old master any more
			end()
		}
		f.data[m].Restart()
		f.settle()
		if f.plan.where == "cluster" {
			end()
		}
	case "master SIGSTOP":
		defer f.board.window(true)()
		f.pause(m, ft.lasts)
		wait(down) // for those who have noticed late
		f.settle()
	case "CLUSTER FAILOVER":
		defer f.board.window(false)()
		err := f.admins[replicas[0]].ClusterFailover(ctx).Err() // refused where this machine was too busy for a heartbeat
		if err != nil || !f.until(func() bool { return slices.Contains(f.mastersNow(), replicas[0]) }) {
			f.t.Logf("plan %s: CLUSTER FAILOVER did not come about: %v", f.plan.name(), err)
		}
		f.settle()
	case "SENTINEL FAILOVER":
		defer f.board.window(true)()
		c := f.sentinels[ft.node%len(f.sentinels)].Client(nil)
		err := c.Do(ctx, "SENTINEL", "FAILOVER", realredis.SentinelMaster).Err()
		_ = c.Close()
		if err != nil || !f.until(func() bool {
			master, agreed := f.told()
			return agreed && master != f.data[m].Addr
		}) {
			f.t.Logf("plan %s: SENTINEL FAILOVER did not come about: %v", f.plan.name(), err)
		}
		f.settle()
	case "replica killed":
		r := replicas[ft.node/len(masters)%len(replicas)]
		f.data[r].Kill()
		wait(ft.lasts)
		f.data[r].Restart()
		if f.plan.where == "sentinel" {
			f.follow(r, f.data[m].Addr)
		}
		f.settle()
	case "sentinel killed":
		s := f.sentinels[ft.node%len(f.sentinels)]
		s.Kill()
		wait(ft.lasts)
		s.Restart()
		f.settle()
	case "slots migrate":
		f.migrate(ft, m, masters[(ft.node+1)%len(masters)])
	case "shard killed":
		defer f.rehash()()
		f.data[m].Kill()
		wait(ft.lasts)
		f.data[m].Restart()
	case "shard SIGSTOP":
		defer f.rehash()()
		f.pause(m, ft.lasts)
	case "SCRIPT FLUSH":
		must(f.admins[m].ScriptFlush(ctx).Err())
	case "FLUSHALL":
		must(f.admins[m].FlushAll(ctx).Err())
	case "CLIENT KILL":
		must(f.admins[m].Do(ctx, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err())
		must(f.admins[m].Do(ctx, "CLIENT", "KILL", "TYPE", "pubsub").Err())
	case "out of memory":
		must(f.admins[m].ConfigSet(ctx, "maxmemory", "1").Err())
		wait(ft.lasts)
		must(f.admins[m].ConfigSet(ctx, "maxmemory", "0").Err())
	default:
		panic(ft.kind)
	}
}

func (f *fleet) pause(i int, d time.Duration) {
	_ = f.data[i].Process().Signal(syscall.SIGSTOP)
	wait(d)
	_ = f.data[i].Process().Signal(syscall.SIGCONT)
}

// replicasOf returns which of the data servers are replicas of a master.
func (f *fleet) replicasOf(m int) (found []int) {
	_, port, _ := strings.Cut(f.data[m].Addr, ":")
	for i := range f.data {
		info, err := f.admins[i].InfoMap(context.Background(), "replication").Result()
		if err == nil && info["Replication"]["role"] == "slave" && info["Replication"]["master_port"] == port {
			found = append(found, i)
		}
	}
	return found
}

// migrate moves the slots of some keys from one master to another, key by key, while they are in use.
func (f *fleet) migrate(ft fault, from, to int) {
	ctx := context.Background()
	must := func(err error) {
		if err != nil {
			f.t.Errorf("%s: %v", ft.kind, err)
		}
	}
	source, target := f.admins[from], f.admins[to]
	sourceID, err := source.ClusterMyID(ctx).Result()
	must(err)
	targetID, err := target.ClusterMyID(ctx).Result()
	must(err)
	host, port, _ := strings.Cut(f.data[to].Addr, ":")
	owned, err := source.ClusterNodes(ctx).Result()
	must(err)
	for i := range absentKey + 1 {
		key := "cache:faults:" + keyName(i)
		if i == absentKey { // where the barriers are
			key = "cache:faults"
		}
		slot, err := source.ClusterKeySlot(ctx, key).Result()
		must(err)
		if !ownsSlot(owned, sourceID, slot) {
			continue
		}
		must(target.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", sourceID).Err())
		must(source.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", targetID).Err())
		wait(20 * time.Millisecond)
		for {
			keys, err := source.ClusterGetKeysInSlot(ctx, int(slot), 10).Result()
			must(err)
			if err != nil || len(keys) == 0 {
				break
			}
			for _, k := range keys {
				must(source.Migrate(ctx, host, port, k, 0, patience).Err())
			}
			wait(5 * time.Millisecond)
		}
		for _, admin := range []*redis.Client{target, source} {
			must(admin.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", targetID).Err())
		}
	}
	f.settle()
}

// ownsSlot reads CLUSTER NODES.
func ownsSlot(nodes, id string, slot int64) bool {
	for line := range strings.Lines(nodes) {
		fields := strings.Fields(line)
		if len(fields) < 8 || fields[0] != id {
			continue
		}
		for _, part := range fields[8:] {
			var first, last int64
			if n, _ := fmt.Sscanf(part, "%d-%d", &first, &last); n == 1 {
				last = first
			}
			if first <= slot && slot <= last && !strings.HasPrefix(part, "[") {
				return true
			}
		}
	}
	return false
}
