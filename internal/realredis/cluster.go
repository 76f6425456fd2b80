package realredis

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"
)

const slots = 16384

// StartCluster starts n masters that share the slots.
func StartCluster(t T, n int) (nodes []*Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for i := range n {
		bus, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(bus.Addr().String())
		_ = bus.Close()
		s := Start(t, "--cluster-enabled", "yes", "--cluster-config-file", filepath.Join(t.TempDir(), "nodes.conf"),
			"--cluster-port", port)
		if err := s.Client(nil).ClusterAddSlotsRange(ctx, i*slots/n, (i+1)*slots/n-1).Err(); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			host, first, _ := net.SplitHostPort(nodes[0].Addr)
			if err := s.Client(nil).Do(ctx, "CLUSTER", "MEET", host, first, nodes[0].bus).Err(); err != nil {
				t.Fatal(err)
			}
		}
		s.bus = port
		nodes = append(nodes, s)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, s := range nodes {
		c := s.Client(nil)
		for {
			info, err := c.ClusterInfo(ctx).Result()
			if err != nil {
				t.Fatalf("the cluster does not come about: %v", err)
			}
			if strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_size:%d", n)) {
				break
			}
			<-tick.C
		}
	}
	return nodes
}
