package cache

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/bellwether-go/cache/internal/lab"
)

// semaphore is a client of a semaphore of one place: it takes a place in some steps. has is what it believes then.
type semaphore interface {
	step(r *miniredis.Miniredis, i int) error
	has() bool
}

// textbook is the "fair semaphore" of Redis in Action (Carlson, 2013), section 6.3.2: a counter gives the order, and who is
// first in it has the place. It cleans up and counts; stands in line and looks; and leaves if it is not the first.
type textbook struct {
	id            string
	count         int
	looked, first bool
}

func (s *textbook) has() bool { return s.looked && s.first }

func (s *textbook) step(r *miniredis.Miniredis, i int) (err error) {
	switch {
	case i == 0: // and what has ended goes, of which there is nothing here
		s.count, err = r.Incr("counter", 1)
	case i == 1:
		_, err = r.ZAdd("order", float64(s.count), s.id)
		line, _ := r.ZMembers("order")
		s.looked, s.first = true, line[0] == s.id
	case !s.first:
		_, err = r.ZRem("order", s.id)
	}
	return err
}

// scripted is our semaphore: it takes, renews, and gives back.
type scripted struct {
	permits func(permitArgs) (permitted, error)
	args    permitArgs
	holds   bool
}

func (s *scripted) has() bool { return s.holds }

func (s *scripted) step(_ *miniredis.Miniredis, i int) error {
	a := s.args
	one := []string{fmt.Sprintf("%0*d", permitDigits, 1)}
	switch {
	case i == 2:
		a.back = one
	case s.holds:
		a.held = one
	default:
		a.wanted = one
	}
	s.holds = s.holds && i < 2 // while the command is on its way
	got, err := s.permits(a)
	s.holds = len(got.mine) > 0
	return err
}

// interleavings calls f with all orders in which n clients do three steps each.
func interleavings(n int, f func(order []int)) {
	left := slices.Repeat([]int{3}, n)
	var order []int
	var next func()
	next = func() {
		if len(order) == 3*n {
			f(order)
			return
		}
		for c := range n {
			if left[c] > 0 {
				left[c]--
				order = append(order, c)
				next()
				order = order[:len(order)-1]
				left[c]++
			}
		}
	}
	next()
}

// The classic race: in so many orders do two clients of the textbook have the only place, and in none do ours. Under the race
// detector, three of ours do it without Redis.
func TestFairSemaphoreRace(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{}, nil)
		defer p.stop()
		for n, want := range map[int][2]int{2: {6, 20}, 3: {720, 1680}} {
			mem := newMemServer()
			ours := func(i int, order string) semaphore {
				s := &scripted{args: permitArgs{name: "cache:user:", who: fmt.Sprintf("%032d", i), most: 1, life: time.Second, order: order}}
				s.permits = func(a permitArgs) (permitted, error) { return p.rds.store.permits(background, a) }
				if lab.Race && n > 2 {
					s.permits = func(a permitArgs) (permitted, error) { return mem.permits(a), nil }
				}
				return s
			}
			for name, client := range map[string]func(i int) semaphore{
				"textbook":   func(i int) semaphore { return &textbook{id: strconv.Itoa(i)} },
				"fair":       func(i int) semaphore { return ours(i, "") },
				"by callers": func(i int) semaphore { return ours(i, strconv.Itoa(i)) },
			} {
				broken, all, had := 0, 0, 0
				interleavings(n, func(order []int) {
					w.Redis.FlushDB()
					mem.permit = nil
					clients, done := make([]semaphore, n), make([]int, n)
					for i := range n {
						clients[i] = client(i)
					}
					exceeded := false
					for _, c := range order {
						if err := clients[c].step(w.Redis, done[c]); err != nil {
							t.Fatal(err)
						}
						done[c]++
						holders := 0
						for _, c := range clients {
							if c.has() {
								holders++
							}
						}
						had += holders
						exceeded = exceeded || holders > 1
					}
					if all++; exceeded {
						broken++
					}
				})
				expected := 0
				if name == "textbook" {
					expected = want[0]
				}
				if broken != expected || all != want[1] || had == 0 {
					t.Errorf("%d clients, %s: two have the place in %d of %d orders, want %d of %d", n, name, broken, all, expected, want[1])
				}
			}
		}
	})
}
