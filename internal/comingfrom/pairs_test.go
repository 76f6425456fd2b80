package comingfrom

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/viccon/sturdyc"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/internal/realredis"
)

// The functions before and after do the same for those who call them.
func TestPairs(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { _ = client.Close() })
	infallible := func(start func(*database) *service) func(*database) (*service, error) {
		return func(db *database) (*service, error) { return start(db), nil }
	}
	missing := []error{errNoUser, errNoUser}
	for _, pair := range []struct {
		name          string
		before, after func(*database) (*service, error)
		missing       []error // of a user who is not there: before, after
		remembered    bool    // that a user is not there
	}{
		{
			"go-redis/cache",
			infallible(func(db *database) *service { return goRedisCache(client, db) }),
			func(db *database) (*service, error) { return afterGoRedisCache(client, db) },
			missing, false,
		},
		{"sturdyc", infallible(sturdy), afterSturdyc, []error{sturdyc.ErrMissingRecord, cache.ErrNotFound}, true},
		{"otter", inOtter, afterOtter, missing, false},
		{"ttlcache", infallible(ttl), afterTTLCache, missing, false},
		{"golang-lru", infallible(lru), afterLRU, missing, false},
		{"go-cache", infallible(goCache), afterGoCache, missing, false},
		{"a map with a mutex", infallible(mutex), afterMutex, missing, false},
	} {
		t.Run(pair.name, func(t *testing.T) {
			server.FlushAll()
			for i, start := range []func(*database) (*service, error){pair.before, pair.after} {
				said := play(t, &database{names: map[string]string{}}, "42", pair.missing[i], start)
				want := []string{"Ann, 1 query", "Ann, 1 query", "Anna, 2 queries", "nobody, 3 queries"}
				if pair.remembered {
					want = append(want, "nobody, 3 queries")
				}
				if !slices.Equal(said[:len(want)], want) {
					t.Errorf("%s:\n got %q\nwant %q", []string{"before", "after"}[i], said, want)
				}
			}
		})
	}
}

var (
	groupUsers = sync.OnceValue(func() *database { return &database{names: map[string]string{}} })
	groupStart = sync.OnceValue(func() *service {
		return group("http://127.0.0.1:1", []string{"http://127.0.0.1:1"}, groupUsers())
	})
	groupID = func() func() string {
		ids := 0
		return func() string {
			ids++
			return fmt.Sprint(ids)
		}
	}()
)

// A group of groupcache is there for as long as its process: with -count there is one for all.
func TestGroupcache(t *testing.T) {
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { _ = client.Close() })
	before := play(t, groupUsers(), groupID(), errNoUser, func(*database) (*service, error) { return groupStart(), nil })
	after := play(t, &database{names: map[string]string{}}, "42", errNoUser, func(db *database) (*service, error) {
		return afterGroupcache(client, db)
	})
	if want := []string{"Ann, 1 query", "Ann, 1 query", "Anna, 2 queries"}; !slices.Equal(before[:3], want) || !slices.Equal(after[:3], want) {
		t.Errorf("before %q\n after %q\n  want %q", before, after, want)
	}
}

// rueidisaside needs a server that knows CLIENT TRACKING. What is asked of the database is not compared: within its 50 ms that server
// may not answer.
func TestAside(t *testing.T) {
	t.Parallel()
	server := realredis.Start(t)
	for _, start := range []func(string, *database) (*service, error){aside, afterAside} {
		said := play(t, &database{names: map[string]string{}}, "42", errNoUser, func(db *database) (*service, error) {
			return start(server.Addr, db)
		})
		for i, want := range []string{"Ann, ", "Ann, ", "Anna, ", "nobody, "} {
			if !strings.HasPrefix(said[i], want) {
				t.Errorf("%q, want %q", said[i], want)
			}
		}
		if err := server.Client(nil).FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// play reads a user twice, changes it, reads it again, and asks for one who is not there, twice. It tells what came, and how many
// queries that took so far.
func play(t *testing.T, db *database, id string, missing error, start func(*database) (*service, error)) (said []string) {
	t.Helper()
	s, err := start(db)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	asked := db.asked()
	say := func(what string) {
		n := db.asked() - asked
		said = append(said, fmt.Sprintf("%s, %d %s", what, n, map[bool]string{true: "query", false: "queries"}[n == 1]))
	}
	read := func() {
		u, err := s.get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		say(u.Name)
	}
	db.rename(id, "Ann")
	read()
	read()
	db.rename(id, "Anna")
	for range 10 { // a Redis that does not answer in time is asked again
		if err = s.changed(t.Context(), id); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	read()
	for range 2 {
		if _, err := s.get(t.Context(), "nobody"); !errors.Is(err, missing) {
			t.Fatalf("%v, want %v", err, missing)
		}
		say("nobody")
	}
	return said
}

// Two processes have one token, and ask for it once.
func TestToken(t *testing.T) {
	t.Parallel()
	issued := 0
	authorization := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		issued++
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token": "secret %d", "token_type": "bearer", "expires_in": 3600}`, issued)
	}))
	t.Cleanup(authorization.Close)
	server := miniredis.RunT(t)
	for range 2 {
		client := redis.NewClient(&redis.Options{Addr: server.Addr()})
		rds, err := cache.NewRedis(client, cache.RedisOptions{Timeout: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		tokens, err := cache.New[*oauth2.Token]("token", cache.Options{Redis: rds, Secrets: []cache.Secret{make(cache.Secret, 32)}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = tokens.Close()
			_ = rds.Close()
			_ = client.Close()
		})
		var source oauth2.TokenSource = fleetToken{tokens, &clientcredentials.Config{ClientID: "shop", TokenURL: authorization.URL}}
		token, err := source.Token()
		if err != nil {
			t.Fatal(err)
		}
		if token.AccessToken != "secret 1" || !token.Valid() {
			t.Errorf("%q, valid: %v", token.AccessToken, token.Valid())
		}
		x, err := tokens.Explain(context.Background(), "shop")
		if err != nil || x.Redis.Fresh > 59*time.Minute || x.Redis.Fresh < 50*time.Minute {
			t.Errorf("fresh for %v, %v", x.Redis.Fresh, err)
		}
	}
}
