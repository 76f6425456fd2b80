package cache

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

// memNode is a node for locks without Redis: it does what vote.lua and release.lua do.
type memNode struct {
	born  time.Time
	locks map[string]memLock
}

type memLock struct {
	token record.Owner
	ends  time.Time
}

func newMemNode(born time.Time) *memNode { return &memNode{born: born, locks: map[string]memLock{}} }

func (n *memNode) vote(key string, token record.Owner, lease time.Duration) vote {
	if time.Since(n.born) < lease {
		return young
	}
	if l, held := n.locks[key]; held && l.token != token && time.Now().Before(l.ends) {
		return no
	}
	n.locks[key] = memLock{token, time.Now().Add(lease)}
	return yes
}

func (n *memNode) release(key string, token record.Owner) bool {
	l, held := n.locks[key]
	if !held || l.token != token || !time.Now().Before(l.ends) {
		return false
	}
	delete(n.locks, key)
	return true
}

// describe names who has locks.
func (n *memNode) describe(began time.Time, name func(record.Owner) string) string {
	text := fmt.Sprint(" node of ", n.born.Sub(began))
	for _, key := range slices.Sorted(maps.Keys(n.locks)) {
		if l := n.locks[key]; time.Now().Before(l.ends) {
			text += fmt.Sprintf(" lock of %s until %v", name(l.token), l.ends.Sub(began))
		}
	}
	return text
}

// memVoter is the way of one process to a memNode.
type memVoter struct {
	n    *memNetwork
	p    *player
	node int
}

// locks gives a process nodes for locks.
func (n *memNetwork) locks(p *player) {
	for i := range n.tr.nodes {
		if len(n.nodes) == i {
			n.nodes = append(n.nodes, newMemNode(n.tr.began.Add(-time.Hour)))
		}
		if i == 0 {
			p.rds.lock = &redlock{r: p.rds}
		}
		p.rds.lock.nodes = append(p.rds.lock.nodes, &memVoter{n, p, i})
	}
}

func (v *memVoter) name(token record.Owner) string {
	v.n.server.mu.Lock()
	defer v.n.server.mu.Unlock()
	if v.n.server.owners[token] == "" {
		v.p.locks++
		v.n.server.owners[token] = fmt.Sprint(v.p.name, v.p.locks)
	}
	return v.n.server.owners[token]
}

// vote carries the question to the node. The answer comes back at once: that it is lost is as if the question came late.
func (v *memVoter) vote(ctx context.Context, key string, token record.Owner, lease time.Duration) (vote, error) {
	tr := v.n.tr
	place := v.node
	if v.p.index%2 == 1 {
		place = tr.nodes - v.node
	}
	text := fmt.Sprintf("vote %s, the %d.", v.name(token), place)
	if key != trialFull[0] {
		text += " for " + key
	}
	tr.mu.Lock()
	v.p.sent[text]++
	text = fmt.Sprint(v.p.sent[text], " ", text)
	tr.mu.Unlock()
	serve := func() vote {
		v.n.serving.Lock()
		defer v.n.serving.Unlock()
		return v.n.nodes[v.node].vote(key, token, lease)
	}
	return insist(ctx, v.p.rds, v.p.rds.timeout, func(ctx context.Context) (vote, error) {
		switch tr.park(ctx, v.p, "request", text) {
		case pass:
		case late:
			go func() {
				gone, cancel := context.WithCancel(ctx)
				cancel()
				if tr.park(gone, v.p, "request", text) == pass {
					serve()
				}
			}()
			return none, context.DeadlineExceeded
		case refuse:
			return none, errOOM
		default:
			return none, errReset
		}
		answer := serve()
		if ctx.Err() != nil {
			return none, ctx.Err()
		}
		tr.meet()
		v.p.remember(fmt.Sprint(text, ": ", answer))
		return answer, nil
	})
}

// earlierVote reports whether a question of the same process to another node goes before this one: those of a process are sent to
// one node after the other, by each second process the other way. That leaves the orders in which two get in each other's way.
func (g *parked) earlierVote(gates []*parked) bool {
	attempt, _, _ := strings.Cut(g.label, ",")
	i := slices.IndexFunc(gates, func(other *parked) bool {
		return strings.HasPrefix(other.label, attempt+",") && (other.ghost == nil || !other.ghost())
	})
	return i >= 0 && gates[i] != g && !g.ghost()
}

// release comes at once: that it comes late is as if the load took longer.
func (v *memVoter) release(_ context.Context, key string, token record.Owner) error {
	v.n.serving.Lock()
	defer v.n.serving.Unlock()
	if !v.p.gone {
		v.n.nodes[v.node].release(key, token)
	}
	return nil
}

func (v *memVoter) close() {}

// TestMemNode does the same at random to a memNode and to the scripts, and compares what they answer.
func TestMemNode(t *testing.T) {
	for seed := range uint64(20) {
		bubble(t, func(t *testing.T, w *lab.World) {
			client := w.Client("A", nil)
			defer client.Close()
			node := newLockNode(client, RedisOptions{Prefix: "cache", Timeout: time.Second})
			defer node.close()
			_, _ = node.vote(background, "cache:user:c", newOwner(), time.Second) // from now on it knows that it remembers
			mem := newMemNode(time.Now())
			rng := rand.New(rand.NewPCG(seed, 2))
			keys := []string{"cache:user:a", "cache:user:b"}
			tokens := []record.Owner{newOwner(), newOwner(), newOwner()}
			counts := map[vote]int{}
			for step := range 200 {
				key, token := keys[rng.IntN(2)], tokens[rng.IntN(3)]
				switch rng.IntN(12) {
				default:
					got, err := node.vote(background, key, token, time.Second)
					if want := mem.vote(key, token, time.Second); got != want || err != nil {
						t.Fatalf("seed %d, step %d: vote %v, %v, want %v", seed, step, got, err, want)
					}
					counts[got]++
				case 0, 1, 2:
					before := w.Redis.Exists(lockKey(key))
					err := node.release(background, key, token)
					if gone := before && !w.Redis.Exists(lockKey(key)); gone != mem.release(key, token) || err != nil {
						t.Fatalf("seed %d, step %d: release %v, %v", seed, step, gone, err)
					}
				case 3, 4:
					time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
				case 5:
					if rng.IntN(4) == 0 {
						w.Redis.FlushAll()
						_, _ = node.vote(background, "cache:user:c", token, time.Second)
						mem = newMemNode(time.Now())
					}
				}
				for _, key := range keys {
					raw, _ := w.Redis.Get(lockKey(key))
					l, held := mem.locks[key]
					if held = held && time.Now().Before(l.ends); held != (raw != "") || held && (!strings.HasPrefix(raw, string(l.token[:])) || w.Redis.TTL(lockKey(key)) != time.Until(l.ends)) {
						t.Fatalf("seed %d, step %d: the scripts leave %q, memNode %v", seed, step, raw, l)
					}
				}
			}
			for _, v := range []vote{yes, no, young} {
				if counts[v] == 0 {
					t.Errorf("seed %d: vote %d has never happened", seed, v)
				}
			}
		})
	}
}
