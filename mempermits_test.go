package cache

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
)

// memPermits is what permits.lua keeps: under each name by score.
type memPermits struct {
	taken, processes map[string]int64
	queue            map[string]int64
}

// permits is as in permits.lua.
func (s *memServer) permits(a permitArgs) permitted {
	p := s.permit[a.name]
	if p == nil {
		p = &memPermits{map[string]int64{}, map[string]int64{}, map[string]int64{}}
		if s.permit == nil {
			s.permit = map[string]*memPermits{}
		}
		s.permit[a.name] = p
	}
	now := s.now()
	till := now + a.life.Microseconds()
	for _, m := range []map[string]int64{p.taken, p.processes} {
		maps.DeleteFunc(m, func(_ string, ends int64) bool { return ends <= now || ends > now+time.Hour.Microseconds() })
	}
	for _, n := range a.back {
		delete(p.taken, a.who+n)
		delete(p.queue, a.who+n)
	}
	for _, n := range a.held {
		if p.taken[a.who+n] != 0 || len(p.taken) < a.most {
			p.taken[a.who+n] = till
		}
	}
	if delete(p.processes, a.who); len(a.held)+len(a.wanted) > 0 {
		p.processes[a.who] = till
	}
	const comes = 1 << 41
	for _, n := range a.wanted {
		id := a.who + n
		score, there := p.queue[id]
		switch {
		case p.taken[id] != 0:
			p.taken[id] = till
		case a.order != "":
			came := now / 16 % comes
			if there {
				came = (score%comes + comes) % comes
			}
			callers, _ := strconv.ParseInt(a.order, 10, 64)
			p.queue[id] = came - min(callers, 2047)*comes
		case !there:
			last := int64(0)
			for _, score := range p.queue {
				last = max(last, score)
			}
			p.queue[id] = last + 1
		}
	}
	for len(p.taken) < a.most && len(p.queue) > 0 {
		first := slices.SortedFunc(maps.Keys(p.queue), func(a, b string) int {
			return cmp.Or(cmp.Compare(p.queue[a], p.queue[b]), cmp.Compare(a, b))
		})[0]
		delete(p.queue, first)
		if who := first[:32]; p.processes[who] != 0 {
			if p.taken[first] = till; who != a.who {
				s.publish(first[:16], fmt.Sprintf("P%s%08d%s", first[32:], len(a.name), a.name))
			}
		}
	}
	got := permitted{processes: len(p.processes), waiting: len(p.queue), ends: a.life}
	for _, n := range slices.Concat(a.held, a.wanted) {
		if p.taken[a.who+n] != 0 {
			got.mine = append(got.mine, n)
		} else if _, waits := p.queue[a.who+n]; waits {
			got.waiting--
		}
	}
	if len(p.taken) > 0 {
		got.ends = time.Duration(slices.Min(slices.Collect(maps.Values(p.taken)))-now) * time.Microsecond
	}
	return got
}

// permits describes what a server has of them: taken, waited for, and processes.
func (tr *trial) permits(of ...map[string]int64) (text string) {
	for _, m := range of {
		var all []string
		for id, score := range m {
			name := "?"
			for _, p := range tr.players {
				if p.rds.process == id[:16] {
					name = p.name
				}
			}
			all = append(all, fmt.Sprint(score, " ", name, id[32:]))
		}
		slices.Sort(all)
		text += fmt.Sprint(" permits ", all)
	}
	return text
}

func (m *memStore) permits(ctx context.Context, a permitArgs) (permitted, error) {
	about := fmt.Sprintf("permits back %d held %d wanted %d", len(a.back), len(a.held), len(a.wanted))
	return ask(ctx, m, about, func() (permitted, string) {
		got := m.server.permits(a)
		return got, fmt.Sprintf("%d of %d, %d wait", len(got.mine), got.processes, got.waiting)
	})
}

// TestMemPermits does the same at random to a memServer and to the script, and compares what they answer.
func TestMemPermits(t *testing.T) {
	for seed := range uint64(20) {
		bubble(t, func(t *testing.T, w *lab.World) {
			p := start(t, w, "A", Options{}, nil)
			defer p.stop()
			mem := newMemServer()
			var told []string
			mem.publish = func(channel, message string) { told = append(told, channel+message) }
			sub := p.client.Subscribe(background, p.rds.inboxChannel(strings.Repeat("a", 16)), p.rds.inboxChannel(strings.Repeat("b", 16)))
			defer sub.Close()
			heard := sub.Channel(redis.WithChannelSize(1000))
			synctest.Wait()
			rng := rand.New(rand.NewPCG(seed, 1))
			fair := rng.IntN(3) == 0
			type one struct{ held, wanted []string }
			all := map[string]*one{}
			for _, who := range []string{"a", "b"} {
				for _, cache := range []string{"1", "2"} {
					all[strings.Repeat(who, 16)+strings.Repeat(cache, 16)] = new(one)
				}
			}
			whos := slices.Sorted(maps.Keys(all))
			for step := range 80 {
				who := whos[rng.IntN(len(whos))]
				of := all[who]
				a := permitArgs{name: "cache:user:x", who: who, most: 1 + rng.IntN(3), life: time.Second, order: strconv.Itoa(rng.IntN(3))}
				if fair {
					a.order = ""
				}
				if len(of.held) > 0 && rng.IntN(2) == 0 {
					a.back, of.held = of.held[:1], of.held[1:]
				}
				if len(of.wanted) < 2 && rng.IntN(2) == 0 {
					of.wanted = append(of.wanted, fmt.Sprintf("%016d", step))
				}
				a.held, a.wanted = of.held, of.wanted
				want := mem.permits(a)
				got, err := p.rds.store.permits(background, a)
				if fmt.Sprint(got, err) != fmt.Sprint(want, nil) {
					t.Fatalf("seed %d, step %d: %+v:\n%+v, %v, want\n%+v", seed, step, a, got, err, want)
				}
				of.held, of.wanted = nil, nil
				for _, n := range slices.Concat(a.held, a.wanted) {
					switch {
					case slices.Contains(got.mine, n):
						of.held = append(of.held, n)
					case slices.Contains(a.wanted, n):
						of.wanted = append(of.wanted, n)
					}
				}
				if rng.IntN(3) == 0 {
					time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
				} else {
					time.Sleep(time.Millisecond) // the order knows no shorter times than 16 us
				}
			}
			for _, want := range told {
				select {
				case m := <-heard:
					if got := strings.TrimPrefix(m.Channel, p.rds.inboxChannel("")) + m.Payload; got != want {
						t.Errorf("seed %d: told %q, want %q", seed, got, want)
					}
				case <-time.After(time.Second):
					t.Fatalf("seed %d: not told %q", seed, want)
				}
			}
		})
	}
}
