package main

import (
	"bytes"
	"crypto/rand"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/cachetest"
)

func newSecret() cache.Secret {
	s := make(cache.Secret, 32)
	_, _ = rand.Read(s)
	return s
}

// newFleet makes a source for each process, and a company whose tokens live for four minutes.
func newFleet(fleet *cachetest.Fleet) (*company, []*source) {
	co, secret := &company{lifetime: 4 * time.Minute, out: io.Discard}, newSecret()
	var sources []*source
	for _, p := range fleet.Processes() {
		s, err := newSource(co, 30*time.Second, p.Redis(), secret)
		if err != nil {
			fleet.T.Fatal(err)
		}
		fleet.T.Cleanup(func() { _ = s.tokens.Close() })
		sources = append(sources, s)
		_, _ = s.tokens.Get(fleet.T.Context(), clientID)
	}
	fleet.Settle() // all listen to each other by now: calls that come before that do not share what comes after it
	return co, sources
}

func wants(t *testing.T, co *company, want string) {
	t.Helper()
	if got := co.String(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestOneTokenForTheFleet(t *testing.T) {
	cachetest.Run(t, 3, func(fleet *cachetest.Fleet) {
		co, sources := newFleet(fleet)
		if err := callAll(fleet.T.Context(), sources, 20); err != nil {
			fleet.T.Fatal(err)
		}
		wants(fleet.T, co, "60 calls, 0 refused, tokens issued: 1")
	})
}

func TestNothingIsReadableInRedis(t *testing.T) {
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		_, sources := newFleet(fleet)
		token, err := sources[0].tokens.GetOrLoad(fleet.T.Context(), clientID, sources[0].fetch)
		if err != nil {
			fleet.T.Fatal(err)
		}
		server := fleet.Redis.Server()
		value, err := server.Get("cache:token:" + clientID)
		if err != nil {
			fleet.T.Fatalf("%v, of %q", err, server.Keys())
		}
		if strings.Contains(value, token) {
			fleet.T.Error("the token is there to be read")
		}
		if got, ok := sources[1].tokens.Get(fleet.T.Context(), clientID); !ok || got != token {
			fleet.T.Error("the other process cannot read it")
		}
		stranger, err := newSource(&company{}, time.Second, fleet.Process(1).Redis(), newSecret())
		if err != nil {
			fleet.T.Fatal(err)
		}
		defer stranger.tokens.Close()
		if _, ok := stranger.tokens.Get(fleet.T.Context(), clientID); ok {
			fleet.T.Error("a process with another secret can read it")
		}
	})
}

// For half an hour each process calls each second: no token ever ends in use, few are fetched, and nobody waits for one.
func TestReplacedBeforeItsEnd(t *testing.T) {
	cachetest.Run(t, 3, func(fleet *cachetest.Fleet) {
		co, sources := newFleet(fleet)
		if err := callAll(fleet.T.Context(), sources, 1); err != nil {
			fleet.T.Fatal(err)
		}
		for range 1800 {
			time.Sleep(time.Second)
			began := time.Now()
			if err := callAll(fleet.T.Context(), sources, 1); err != nil {
				fleet.T.Fatal(err)
			}
			if took := time.Since(began); took > latency {
				fleet.T.Fatalf("a call took %v", took)
			}
		}
		if co.refused > 0 || co.issued < 8 || co.issued > 14 {
			fleet.T.Errorf("%v, want none refused, and a token for each two or three minutes", co)
		}
	})
}

// No tokens are issued for the last seconds of one: it is used to its end, or almost.
func TestIssuerDown(t *testing.T) {
	cachetest.Run(t, 3, func(fleet *cachetest.Fleet) {
		co, sources := newFleet(fleet)
		if err := callAll(fleet.T.Context(), sources, 1); err != nil {
			fleet.T.Fatal(err)
		}
		setDown := func(down bool) {
			co.mu.Lock()
			defer co.mu.Unlock()
			co.down = down
		}
		setDown(true)
		call := func() error {
			time.Sleep(time.Second)
			return callAll(fleet.T.Context(), sources, 1)
		}
		served := 0 * time.Second
		began := time.Now()
		for call() == nil && served < 2*co.lifetime {
			served = time.Since(began)
		}
		if least, most := (co.lifetime-30*time.Second)*9/10+20*time.Second, co.lifetime-5*time.Second; served < least || served > most {
			fleet.T.Errorf("the token was used for %v, want %v to %v", served, least, most)
		}
		if co.refused > 0 {
			fleet.T.Error("its end was not noticed here")
		}
		setDown(false)
		time.Sleep(time.Minute)
		if err := callAll(fleet.T.Context(), sources, 1); err != nil {
			fleet.T.Error(err)
		}
	})
}

// A token is revoked. One process finds out; the others hear of it, and one token is fetched.
func TestRevoked(t *testing.T) {
	cachetest.Run(t, 3, func(fleet *cachetest.Fleet) {
		co, sources := newFleet(fleet)
		if err := callAll(fleet.T.Context(), sources, 1); err != nil {
			fleet.T.Fatal(err)
		}
		revoked, _ := sources[0].tokens.Get(fleet.T.Context(), clientID)
		co.revoke()
		for _, s := range sources {
			if err := call(fleet.T.Context(), s); err != nil {
				fleet.T.Error(err)
			}
			fleet.Settle()
		}
		wants(fleet.T, co, "7 calls, 1 refused, tokens issued: 2")

		// An answer that was under way all the time tells a process that the old token is refused, when it has the new one.
		sources[1].refused(fleet.T.Context(), revoked)
		if err := callAll(fleet.T.Context(), sources, 1); err != nil {
			fleet.T.Error(err)
		}
		wants(fleet.T, co, "10 calls, 1 refused, tokens issued: 2")
	})
}

// A request whose body was read is sent again with all of it; and only once.
func TestRefusedTwice(t *testing.T) {
	cachetest.Run(t, 1, func(fleet *cachetest.Fleet) {
		co, sources := newFleet(fleet)
		co.hostile = true
		var bodies []string
		sources[0].next = spy{co, &bodies}
		resp, err := (&http.Client{Transport: sources[0]}).Post(apiURL, "text/plain", strings.NewReader("an order"))
		if err != nil || resp.StatusCode != http.StatusUnauthorized {
			fleet.T.Errorf("%v, %v", resp, err)
		}
		if got := strings.Join(bodies, "; "); got != "an order; an order" {
			fleet.T.Errorf("the API was sent %q", got)
		}
		wants(fleet.T, co, "2 calls, 2 refused, tokens issued: 2")
	})
}

// spy reads what the API is sent.
type spy struct {
	*company
	bodies *[]string
}

func (s spy) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.String() == apiURL {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		*s.bodies = append(*s.bodies, string(b))
	}
	return s.company.RoundTrip(r)
}

// A token that ends sooner than margin is not kept.
func TestShortLife(t *testing.T) {
	cachetest.Run(t, 1, func(fleet *cachetest.Fleet) {
		co, sources := newFleet(fleet)
		co.lifetime = 20 * time.Second
		for range 2 {
			if err := callAll(fleet.T.Context(), sources, 5); err != nil {
				fleet.T.Error(err)
			}
		}
		wants(fleet.T, co, "10 calls, 0 refused, tokens issued: 2")
	})
}

func TestRun(t *testing.T) {
	cachetest.Run(t, 3, func(fleet *cachetest.Fleet) {
		var out bytes.Buffer
		var redises []*cache.Redis
		for _, p := range fleet.Processes() {
			redises = append(redises, p.Redis())
		}
		co := &company{lifetime: 3 * time.Second, out: &out}
		if err := run(fleet.T.Context(), co, time.Second, redises, newSecret(), &out); err != nil {
			fleet.T.Error(err)
		}
		const want = `All processes call at the same time:
  token 1 is issued
  15 calls, 0 refused, tokens issued: 1; in Redis `
		if got := out.String(); !strings.HasPrefix(got, want) || !strings.Contains(got, "bytes, encrypted: true\n") || co.refused > 5 || co.issued > 9 {
			fleet.T.Errorf("it prints:\n%s", got)
		}
	})
}

// A request that cannot be sent again is not, but the next one has a new token.
func TestRefusedStream(t *testing.T) {
	cachetest.Run(t, 1, func(fleet *cachetest.Fleet) {
		co, sources := newFleet(fleet)
		if err := callAll(fleet.T.Context(), sources, 1); err != nil {
			fleet.T.Fatal(err)
		}
		co.revoke()
		for _, want := range []int{http.StatusUnauthorized, http.StatusOK} {
			body := io.MultiReader(strings.NewReader("an order"))
			resp, err := (&http.Client{Transport: sources[0]}).Post(apiURL, "text/plain", body)
			if err != nil || resp.StatusCode != want {
				fleet.T.Errorf("%v, %v, want %d", resp, err, want)
			}
		}
		wants(fleet.T, co, "3 calls, 1 refused, tokens issued: 2")
	})
}
