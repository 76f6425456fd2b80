package cache

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
)

type (
	oldUser struct{ Name string }
	newUser struct{ First, Last string }
)

// While a service is being deployed, processes with an old and a new type of a value run at the same time: each gets its
// own type only, they do not wipe each other's entries in a loop, and a deletion by either is one for both.
func TestRollingDeploy(t *testing.T) {
	for _, bump := range []uint32{0, 1} {
		for _, tags := range []bool{false, true} {
			t.Run(fmt.Sprintf("version %d, tags %v", bump, tags), func(t *testing.T) {
				bubble(t, func(t *testing.T, w *lab.World) {
					o := Options{TTL: 10 * time.Minute, LocalTTL: time.Minute, Tags: tags}
					olds, stop := typed[oldUser](t, w, "OP", o)
					defer stop()
					o.Version = bump
					news, stop := typed[newUser](t, w, "NM", o)
					defer stop()
					version, loads := 1, map[string]int{}
					round := func() {
						t.Helper()
						want := fmt.Sprint("Ann ", version)
						for _, c := range olds {
							v, err := c.GetOrLoad(background, "k", func(context.Context, string) (oldUser, error) {
								loads["old"]++
								return oldUser{want}, nil
							})
							if v.Name != want || err != nil {
								t.Fatalf("old: %+v, %v; want %q", v, err, want)
							}
						}
						for _, c := range news {
							v, err := c.GetOrLoad(background, "k", func(context.Context, string) (newUser, error) {
								loads["new"]++
								return newUser{"Ann", fmt.Sprint(version)}, nil
							})
							if v.First+" "+v.Last != want || err != nil {
								t.Fatalf("new: %+v, %v; want %q", v, err, want)
							}
						}
					}
					for minute := range 50 { // five lives of an entry
						for range 6 {
							round()
							time.Sleep(10 * time.Second)
						}
						if minute%10 == 5 {
							version++
							var err error
							if minute%20 == 5 {
								err = olds[0].Delete(background, "k")
							} else {
								err = news[0].Delete(background, "k")
							}
							if err != nil {
								t.Fatal(err)
							}
							synctest.Wait() // others' memories have heard of it
						}
					}
					t.Log(loads)
					// One type shares its entry: a load for each life of it and each deletion. The other one loads for
					// itself, and each process keeps that for LocalTTL.
					most := map[string]int{"old": 2*50 + 10, "new": 2*50 + 10}
					if bump > 0 {
						most["new"] = 10
					}
					for who, n := range loads {
						if n > most[who] {
							t.Errorf("%d loads by %s processes, want at most %d", n, who, most[who])
						}
					}
					if n := loads["old"] + loads["new"]; n > 2*50+20 {
						t.Errorf("%d loads in all: they wipe each other's entries", n)
					}
				})
			})
		}
	}
}

// typed starts processes, named by letters, whose cache "user" holds V.
func typed[V any](t *testing.T, w *lab.World, names string, o Options) (caches []*Cache[V], stop func()) {
	t.Helper()
	var stops []func()
	for _, name := range names {
		client := w.Client(string(name), nil)
		r, err := NewRedis(client, RedisOptions{})
		if err != nil {
			t.Fatal(err)
		}
		o.Redis = r
		c, err := New[V]("user", o)
		if err != nil {
			t.Fatal(err)
		}
		stops = append(stops, func() {
			_ = c.Close()
			_ = r.Close()
			_ = client.Close()
		})
		caches = append(caches, c)
	}
	synctest.Wait()
	return caches, func() {
		for _, s := range stops {
			s()
		}
	}
}
