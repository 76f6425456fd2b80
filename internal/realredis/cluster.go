package realredis

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const slots = 16384

// StartCluster starts n masters that share the slots. More arguments are as on the command line of a server.
func StartCluster(t T, n int, args ...string) (nodes []*Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for i := range n {
		s := startClusterNode(t, args)
		if err := s.Client(nil).ClusterAddSlotsRange(ctx, i*slots/n, (i+1)*slots/n-1).Err(); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			host, first, _ := net.SplitHostPort(nodes[0].Addr)
			if err := s.Client(nil).Do(ctx, "CLUSTER", "MEET", host, first, nodes[0].bus).Err(); err != nil {
				t.Fatal(err)
			}
		}
		nodes = append(nodes, s)
	}
	await(ctx, t, nodes, n, n)
	return nodes
}

// StartReplicatedCluster is StartCluster with a replica for each master, which takes over when a majority of the masters has not
// heard of that for down.
func StartReplicatedCluster(t T, n int, down time.Duration) (masters, replicas []*Server) {
	t.Helper()
	args := []string{
		"--cluster-node-timeout", strconv.FormatInt(down.Milliseconds(), 10), "--cluster-replica-validity-factor", "0",
		"--repl-diskless-sync-delay", "0",
	}
	masters = StartCluster(t, n, args...)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	host, first, _ := net.SplitHostPort(masters[0].Addr)
	for _, m := range masters {
		s := startClusterNode(t, args)
		if err := s.Client(nil).Do(ctx, "CLUSTER", "MEET", host, first, masters[0].bus).Err(); err != nil {
			t.Fatal(err)
		}
		await(ctx, t, []*Server{s}, n, n+len(replicas)+1)
		id, err := m.Client(nil).ClusterMyID(ctx).Result()
		if err == nil {
			err = s.Client(nil).ClusterReplicate(ctx, id).Err()
		}
		if err != nil {
			t.Fatal(err)
		}
		s.synced(ctx)
		replicas = append(replicas, s)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, s := range slices.Concat(masters, replicas) { // clients ask any of them, and are told of replicas that have reported
		c := s.Client(nil)
		for told := 0; told < 2*n; <-tick.C {
			ranges, err := c.Do(ctx, "CLUSTER", "SLOTS").Slice() // start, end, master, replicas ...
			if err != nil {
				t.Fatalf("the cluster does not come about: %v", err)
			}
			told = 0
			for _, r := range ranges {
				told += len(r.([]any)) - 2
			}
		}
	}
	return masters, replicas
}

func startClusterNode(t T, args []string) *Server {
	t.Helper()
	bus, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(bus.Addr().String())
	_ = bus.Close()
	s := Start(t, append([]string{
		"--cluster-enabled", "yes", "--cluster-config-file", filepath.Join(t.TempDir(), "nodes.conf"), "--cluster-port", port,
	}, args...)...)
	s.bus = port
	return s
}

// await waits until nodes know of all of a cluster: so many that have slots, and so many at all.
func await(ctx context.Context, t T, nodes []*Server, size, known int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, s := range nodes {
		c := s.Client(nil)
		for {
			info, err := c.ClusterInfo(ctx).Result()
			if err != nil {
				t.Fatalf("the cluster does not come about: %v", err)
			}
			if strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_size:%d\r", size)) &&
				strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d\r", known)) {
				break
			}
			<-tick.C
		}
	}
}
