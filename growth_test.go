package cache

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
)

// A stampede of many processes in virtual time: one load, and what each of them sends and is told does not grow with their
// number.
func TestGrowingFleet(t *testing.T) {
	for _, n := range []int{1, 10, 100, 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *lab.World) {
				const takes = 400 * time.Millisecond // nobody has to look whether the holder lives
				ps := make([]*proc, n)
				for i := range ps {
					ps[i] = start(t, w, fmt.Sprint("p", i), Options{TTL: time.Hour}, nil)
				}
				sent, told := make(map[string]int), 0
				w.Hold(func(m *lab.Message) bool {
					switch m.Kind {
					case lab.Request:
						sent[verbOf(m)]++
					case lab.Push:
						told++
					}
					return false
				})
				answers := make([]*answer, n)
				for i, p := range ps {
					answers[i] = p.get(background, "k", loads(takes, "v"))
				}
				time.Sleep(takes + 10*time.Millisecond)
				synctest.Wait()
				all, loaded := 0, uint64(0)
				for _, verb := range sent {
					all += verb
				}
				for i, p := range ps {
					answers[i].must(t, "v", nil, takes)
					loaded += p.cache.Stats().Loads
				}
				t.Logf("%d processes: %d loads, %d commands %v, %d messages", n, loaded, all, sent, told)
				if loaded != 1 || all != 2*n+1 || told > n { // a read and a lease each, and the value
					t.Errorf("%d loads, %d commands, %d messages", loaded, all, told)
				}
				for _, p := range ps {
					p.stop()
				}
			})
		})
	}
}

// Who is woken, in a fleet of 1,000 processes: by a load that nobody waits for, nobody; by one that others wait for, those, each
// through its inbox, up to 31 of them, and all processes if it is more; by a deletion, all, however many keys one call names.
func TestWhoIsWoken(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		const n = 1000
		ps := make([]*proc, n)
		for i := range ps {
			ps[i] = start(t, w, fmt.Sprint("p", i), Options{TTL: time.Hour}, nil)
		}
		var sent, told int
		w.Hold(func(m *lab.Message) bool {
			switch m.Kind {
			case lab.Request:
				sent++
			case lab.Push:
				told++
			}
			return false
		})
		for _, c := range []struct {
			name       string
			do         func()
			sent, told int
		}{
			{"a load, nobody waits", func() {
				ps[0].get(background, "alone", loads(400*time.Millisecond, "v"))
			}, 3, 0},
			{"a load, 10 wait", func() {
				for _, p := range ps[:11] {
					p.get(background, "ten", loads(400*time.Millisecond, "v"))
				}
			}, 2*11 + 1, 10},
			{"a load, 31 wait", func() {
				for _, p := range ps[:32] {
					p.get(background, "some", loads(400*time.Millisecond, "v"))
				}
			}, 2*32 + 1, 31},
			{"a load, 100 wait", func() {
				for _, p := range ps[:101] {
					p.get(background, "many", loads(400*time.Millisecond, "v"))
				}
			}, 2*101 + 1, n},
			{"a deletion", func() {
				if err := ps[0].cache.Delete(background, "alone"); err != nil {
					t.Error(err)
				}
			}, 2, n},
			{"a deletion of 50 keys", func() {
				keys := make([]string, 50)
				for i := range keys {
					keys[i] = fmt.Sprint("key", i)
				}
				if err := ps[0].cache.Delete(background, keys...); err != nil {
					t.Error(err)
				}
			}, 51, n},
		} {
			sent, told = 0, 0
			c.do()
			time.Sleep(410 * time.Millisecond)
			synctest.Wait()
			t.Logf("%s: %d commands, %d messages", c.name, sent, told)
			if sent != c.sent || told != c.told {
				t.Errorf("%s: %d commands, %d messages: want %d, %d", c.name, sent, told, c.sent, c.told)
			}
		}
		for _, p := range ps {
			p.stop()
		}
	})
}
