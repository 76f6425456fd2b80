package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/bellwether-go/cache"
)

const (
	clientID = "shop" // the key in the cache; where tokens have scopes or audiences, these belong to it. Keys can be read in Redis.
	password = "a secret of the client's"
)

// source adds an access token to requests: it is the Transport of an http.Client.
type source struct {
	next   http.RoundTripper
	margin time.Duration
	tokens *cache.Cache[string]
}

// newSource makes a source. A token is replaced margin before its end, for requests may be under way with it then, and clocks differ. So
// it is still good when its TTL is over: it goes on being used while it is replaced, and if that fails, for most of margin.
func newSource(next http.RoundTripper, margin time.Duration, rds *cache.Redis, secrets ...cache.Secret) (*source, error) {
	tokens, err := cache.New[string]("token", cache.Options{
		Redis:                rds,
		Secrets:              secrets,
		StaleWhileRevalidate: margin * 4 / 5,
		StaleIfError:         margin * 4 / 5,
	})
	return &source{next: next, margin: margin, tokens: tokens}, err
}

// RoundTrip sends a request with a token; and if that is refused, which happens before its end when it is revoked, once more with
// another one.
func (s *source) RoundTrip(req *http.Request) (*http.Response, error) {
	for try := 0; ; try++ {
		token, err := s.tokens.GetOrLoad(req.Context(), clientID, s.fetch)
		if err != nil {
			if req.Body != nil {
				_ = req.Body.Close() // a RoundTripper has to
			}
			return nil, err
		}
		authorized := req.Clone(req.Context()) // the request is the caller's
		authorized.Header.Set("Authorization", "Bearer "+token)
		if try > 0 && req.GetBody != nil { // the body was read
			if authorized.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
		resp, err := s.next.RoundTrip(authorized)
		if err != nil || resp.StatusCode != http.StatusUnauthorized || try > 0 {
			return resp, err
		}
		s.refused(req.Context(), token)
		if req.Body != nil && req.GetBody == nil {
			return resp, nil // it cannot be sent again
		}
		_ = resp.Body.Close()
	}
}

// refused makes all processes forget a token. Not Refresh, which is no invalidation: other processes would keep the token in their memory,
// and each would fetch another one. And not if another process has replaced it already, or does so now: a deletion would make that in
// vain. (Two processes may still find out at the same moment, and fetch one each.)
func (s *source) refused(ctx context.Context, token string) {
	if now, ok := s.tokens.Get(ctx, clientID); !ok || now != token {
		return
	}
	_ = s.tokens.Delete(context.WithoutCancel(ctx), clientID) // what Redis does not confirm is repeated, and not believed here meanwhile
}

// fetch is the loader: it asks for a token (RFC 6749, section 4.4).
func (s *source) fetch(ctx context.Context, id string) (string, error) {
	began := time.Now()
	form := url.Values{"grant_type": {"client_credentials"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, tokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(id, password)
	resp, err := s.next.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return "", errors.New("no token: " + resp.Status)
	}
	var reply struct {
		Token     string `json:"access_token"`
		ExpiresIn int64  `json:"expires_in"` // seconds
	}
	if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil || reply.Token == "" {
		return "", errors.New("no token: the answer is not understood") // the error of json could show a part of it
	}
	rest := time.Duration(reply.ExpiresIn)*time.Second - time.Since(began) - s.margin
	if rest > 0 {
		cache.LoadFrom(ctx).SetTTL(rest)
	} else {
		cache.LoadFrom(ctx).NoStore() // good for those who wait, and for nobody after them
	}
	return reply.Token, nil
}
