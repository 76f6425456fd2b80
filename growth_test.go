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
