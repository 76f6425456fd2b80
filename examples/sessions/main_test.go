package main

import (
	"database/sql"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/cachetest"
)

// newServices makes a service in each process, with one database.
func newServices(fleet *cachetest.Fleet) (*sql.DB, []*service) {
	db, err := open(fleet.T.Context())
	if err != nil {
		fleet.T.Fatal(err)
	}
	fleet.T.Cleanup(func() { _ = db.Close() })
	var services []*service
	for _, p := range fleet.Processes() {
		s, err := newService(p.String(), db, p.Redis())
		if err != nil {
			fleet.T.Fatal(err)
		}
		fleet.T.Cleanup(func() { _ = s.sessions.Close() })
		services = append(services, s)
	}
	return db, services
}

// does has a browser visit a service.
func does(t *testing.T, b *browser, s *service, method, path string, want int) {
	t.Helper()
	if got, answer := b.visit(t.Context(), s, method, path); got != want {
		t.Errorf("%s: %s %s: %d %s, want %d", s.name, method, path, got, answer, want)
	}
}

const (
	in   = http.StatusOK
	done = http.StatusNoContent
	out  = http.StatusUnauthorized
)

func TestLogoutIsKnownToOthers(t *testing.T) {
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		_, services := newServices(fleet)
		ann := &browser{}
		does(fleet.T, ann, services[0], "POST", "/login?user=Ann", done)
		for _, s := range services {
			does(fleet.T, ann, s, "GET", "/me", in)
		}
		if n := services[0].queries.Load() + services[1].queries.Load(); n != 0 {
			fleet.T.Errorf("%d queries, want none: login has set the session for both", n)
		}
		does(fleet.T, ann, services[0], "POST", "/logout", done)
		fleet.Settle() // the message has arrived
		for _, s := range services {
			does(fleet.T, ann, s, "GET", "/me", out)
		}
		does(fleet.T, ann, services[1], "POST", "/logout", out)
		does(fleet.T, &browser{}, services[1], "GET", "/me", out)
		does(fleet.T, &browser{cookie: "made up"}, services[1], "GET", "/me", out)
	})
}

// Ann's sessions end, whether they were set at login or have been loaded since.
func TestLogoutEverywhere(t *testing.T) {
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		_, services := newServices(fleet)
		laptop, phone, bob := &browser{}, &browser{}, &browser{}
		does(fleet.T, phone, services[1], "POST", "/login?user=Ann", done)
		time.Sleep(15 * time.Minute)                        // what was set is gone
		does(fleet.T, phone, services[0], "GET", "/me", in) // and loaded
		does(fleet.T, laptop, services[0], "POST", "/login?user=Ann", done)
		does(fleet.T, bob, services[0], "POST", "/login?user=Bob", done)
		all := []*browser{laptop, phone, bob}
		for _, s := range services {
			for _, b := range all {
				does(fleet.T, b, s, "GET", "/me", in)
			}
		}
		does(fleet.T, laptop, services[1], "POST", "/logout-everywhere", done)
		fleet.Settle()
		for _, s := range services {
			does(fleet.T, laptop, s, "GET", "/me", out)
			does(fleet.T, phone, s, "GET", "/me", out)
			does(fleet.T, bob, s, "GET", "/me", in)
		}
	})
}

// While Ann logs in at one process, she logs out everywhere at the other one. Whichever is taken to be the first: the cache and the
// database agree.
func TestLoginDuringLogoutEverywhere(t *testing.T) {
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		db, services := newServices(fleet)
		laptop, phone := &browser{}, &browser{}
		does(fleet.T, laptop, services[1], "POST", "/login?user=Ann", done)
		fleet.Process(0).Pause()
		var login sync.WaitGroup
		login.Go(func() { does(fleet.T, phone, services[0], "POST", "/login?user=Ann", done) })
		fleet.Settle() // it stands still where it needs Redis
		does(fleet.T, laptop, services[1], "POST", "/logout-everywhere", done)
		fleet.Process(0).Resume()
		login.Wait()
		var rows int
		if err := db.QueryRowContext(fleet.T.Context(), "SELECT count(*) FROM sessions").Scan(&rows); err != nil {
			fleet.T.Fatal(err)
		}
		want := map[int]int{0: out, 1: in}[rows]
		for _, s := range services {
			does(fleet.T, phone, s, "GET", "/me", want)
		}
	})
}

// A session goes on while it is used, and ends when it was not for its lifetime.
func TestProlong(t *testing.T) {
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		_, services := newServices(fleet)
		ann := &browser{}
		does(fleet.T, ann, services[0], "POST", "/login?user=Ann", done)
		for i := range 15 {
			time.Sleep(lifetime / 4)
			does(fleet.T, ann, services[i%2], "GET", "/me", in)
			if _, v, err := services[i%2].session(request(ann)); err != nil || time.Until(v.Ends) < lifetime/2 {
				fleet.T.Errorf("it ends in %v, %v", time.Until(v.Ends), err)
			}
		}
		time.Sleep(lifetime)
		does(fleet.T, ann, services[0], "GET", "/me", out)

		// One that ends while a copy of it is cached.
		does(fleet.T, ann, services[0], "POST", "/login?user=Ann", done)
		if _, err := services[0].db.ExecContext(fleet.T.Context(), "UPDATE sessions SET ends = ?", time.Now().Add(5*time.Second).Unix()); err != nil {
			fleet.T.Fatal(err)
		}
		if err := services[0].sessions.Clear(fleet.T.Context()); err != nil {
			fleet.T.Fatal(err)
		}
		_, v, err := services[0].session(request(ann))
		if err != nil || time.Until(v.Ends) > 5*time.Second {
			fleet.T.Errorf("%v, %v", v, err)
		}
		time.Sleep(5 * time.Second)
		does(fleet.T, ann, services[0], "GET", "/me", out)
	})
}

func request(b *browser) *http.Request {
	r, _ := http.NewRequest(http.MethodGet, "/me", nil)
	r.AddCookie(&http.Cookie{Name: cookieName, Value: b.cookie})
	return r
}

// One process prolongs a session while somebody logs out at the other one: it is over.
func TestProlongDuringLogout(t *testing.T) {
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		_, services := newServices(fleet)
		ann := &browser{}
		does(fleet.T, ann, services[1], "POST", "/login?user=Ann", done)
		fleet.Process(0).Pause()
		var prolonging sync.WaitGroup
		prolonging.Go(func() {
			if err := services[0].prolong(fleet.T.Context(), keyOf(ann.cookie)); err != nil {
				fleet.T.Error(err)
			}
		})
		fleet.Settle()
		does(fleet.T, ann, services[1], "POST", "/logout", done)
		fleet.Process(0).Resume()
		prolonging.Wait()
		fleet.Settle()
		for _, s := range services {
			does(fleet.T, ann, s, "GET", "/me", out)
		}
	})
}

// Redis is away: everybody is known all the same, and who logs out is told that not all processes have heard of it.
func TestRedisDown(t *testing.T) {
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		_, services := newServices(fleet)
		ann := &browser{}
		fleet.Redis.Down()
		does(fleet.T, ann, services[0], "POST", "/login?user=Ann", done)
		for _, s := range services {
			does(fleet.T, ann, s, "GET", "/me", in)
		}
		does(fleet.T, ann, services[0], "POST", "/logout", http.StatusInternalServerError)
		does(fleet.T, ann, services[0], "GET", "/me", out)
		time.Sleep(10 * time.Second) // LocalTTL
		does(fleet.T, ann, services[1], "GET", "/me", out)
		fleet.Redis.Up()
		time.Sleep(10 * time.Second)
		if n := services[0].sessions.Stats().DeletesPending; n > 0 {
			fleet.T.Error("the deletion was not repeated")
		}
	})
}

// A process that is cut off does not hear of a logout, and lets somebody in for LocalTTL at most.
func TestCutOff(t *testing.T) {
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		_, services := newServices(fleet)
		ann := &browser{}
		does(fleet.T, ann, services[0], "POST", "/login?user=Ann", done)
		for range 2 {
			does(fleet.T, ann, services[1], "GET", "/me", in)
			fleet.Settle() // the process listens to the others now, before which it keeps nothing in its memory
		}
		fleet.Process(1).Partition()
		does(fleet.T, ann, services[0], "POST", "/logout", done)
		does(fleet.T, ann, services[1], "GET", "/me", in)
		time.Sleep(10 * time.Second)
		does(fleet.T, ann, services[1], "GET", "/me", out)
	})
}

func TestRun(t *testing.T) {
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		var out strings.Builder
		if err := run(fleet.T.Context(), []*cache.Redis{fleet.Process(0).Redis(), fleet.Process(1).Redis()}, &out); err != nil {
			fleet.T.Error(err)
		}
		const want = `All log in, at process 1:
  Ann's laptop at process 1: Ann
  Ann's laptop at process 2: Ann
  Ann's phone at process 2: Ann
  Bob's laptop at process 2: Bob
Ann logs out with her laptop, at process 1:
  Ann's laptop at process 1: nobody is logged in
  Ann's laptop at process 2: nobody is logged in
  Ann's phone at process 2: Ann
Ann has lost her phone, and logs out everywhere, at process 2:
  Ann's phone at process 2: nobody is logged in
  Ann's phone at process 1: nobody is logged in
  Bob's laptop at process 1: Bob
The database was asked 2 times.
`
		if out.String() != want {
			fleet.T.Errorf("it prints:\n%s", out.String())
		}
	})
}
