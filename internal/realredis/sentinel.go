package realredis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// SentinelMaster is the name under which sentinels know the master.
const SentinelMaster = "main"

// StartSentinel starts a master with n replicas, and three sentinels that fail over when two of them have not heard of the master
// for down.
func StartSentinel(t T, n int, down time.Duration) (servers, sentinels []*Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for i := range n + 1 {
		s := Start(t, "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
		if i > 0 {
			s.ReplicaOf(ctx, servers[0])
		}
		servers = append(servers, s)
	}
	host, port, _ := net.SplitHostPort(servers[0].Addr)
	for range 3 {
		path := filepath.Join(t.TempDir(), "sentinel.conf")
		conf := fmt.Sprintf("sentinel monitor %[1]s %[2]s %[3]s 2\nsentinel down-after-milliseconds %[1]s %[4]d\n"+
			"sentinel failover-timeout %[1]s %[5]d\nsentinel parallel-syncs %[1]s 8\n",
			SentinelMaster, host, port, down.Milliseconds(), 4*down.Milliseconds())
		if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		sentinels = append(sentinels, start(t, &Server{t: t, conf: []string{path}, args: []string{"--sentinel"}}))
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, s := range sentinels { // each knows of the others and of the replicas
		for {
			info, err := s.Client(nil).Do(ctx, "SENTINEL", "MASTER", SentinelMaster).Result()
			if err == nil && knows(info, "num-slaves", n) && knows(info, "num-other-sentinels", 2) {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("the sentinels do not come about: %v, %v", info, err)
			}
		}
	}
	return servers, sentinels
}

// knows reports whether a field of what a sentinel says about its master has this value.
func knows(info any, field string, n int) bool { return Field(info, field) == fmt.Sprint(n) }

// Field is a field of what a sentinel says about a server.
func Field(info any, name string) string {
	switch info := info.(type) {
	case map[any]any:
		return fmt.Sprint(info[name])
	case []any:
		for i := 0; i+1 < len(info); i += 2 {
			if info[i] == name {
				return fmt.Sprint(info[i+1])
			}
		}
	}
	return ""
}

// ReplicaOf makes the server a replica, and waits until it has what the master has.
func (s *Server) ReplicaOf(ctx context.Context, master *Server) {
	s.t.Helper()
	host, port, _ := net.SplitHostPort(master.Addr)
	if err := s.Client(nil).Do(ctx, "REPLICAOF", host, port).Err(); err != nil {
		s.t.Fatal(err)
	}
	s.synced(ctx)
}

// CutOff cuts the way from the master to this replica, which keeps what it has: a password that the master does not have does
// this with any topology. (To stop the replica does not: what the kernel has received is applied when it goes on.)
func (s *Server) CutOff(ctx context.Context, master *Server) {
	s.t.Helper()
	err := s.Client(nil).ConfigSet(ctx, "masterauth", "wrong").Err()
	if err = errors.Join(err, master.Client(nil).Do(ctx, "CLIENT", "KILL", "TYPE", "replica").Err()); err != nil {
		s.t.Fatal(err)
	}
}

// Reconnect ends what CutOff began.
func (s *Server) Reconnect(ctx context.Context) {
	s.t.Helper()
	if err := s.Client(nil).ConfigSet(ctx, "masterauth", "").Err(); err != nil {
		s.t.Fatal(err)
	}
}

// synced waits until a replica has what its master has.
func (s *Server) synced(ctx context.Context) {
	s.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		info, err := s.Client(nil).InfoMap(ctx, "replication").Result()
		if err == nil && info["Replication"]["master_link_status"] == "up" {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("the replica does not come about: %v, %v", info, err)
		}
	}
}
