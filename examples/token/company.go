package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	tokenURL = "http://company/token"
	apiURL   = "http://company/orders"
	latency  = 20 * time.Millisecond
)

// company stands for a network, behind which somebody issues tokens and has an API that wants one.
type company struct {
	lifetime time.Duration // of a token
	out      io.Writer

	mu      sync.Mutex
	ends    map[string]time.Time // of tokens; guarded by mu
	issued  int                  // guarded by mu
	calls   int                  // of the API; guarded by mu
	refused int                  // of those; guarded by mu
	down    bool                 // no tokens are issued; guarded by mu
	hostile bool                 // no token is good enough; guarded by mu
}

func (c *company) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("%d calls, %d refused, tokens issued: %d", c.calls, c.refused, c.issued)
}

// revoke makes all tokens invalid.
func (c *company) revoke() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.ends)
}

// RoundTrip answers a request.
func (c *company) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-time.After(latency):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	status, body := c.answer(r)
	return &http.Response{
		StatusCode: status, Status: fmt.Sprint(status, " ", http.StatusText(status)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}, nil
}

func (c *company) answer(r *http.Request) (status int, body string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.URL.String() == tokenURL {
		if id, given, _ := r.BasicAuth(); r.Method != http.MethodPost || id != clientID || given != password {
			return http.StatusUnauthorized, ""
		} else if c.down {
			return http.StatusServiceUnavailable, ""
		}
		token := rand.Text()
		if c.ends == nil {
			c.ends = map[string]time.Time{}
		}
		c.ends[token] = time.Now().Add(c.lifetime)
		c.issued++
		fmt.Fprintf(c.out, "  token %d is issued\n", c.issued)
		b, err := json.Marshal(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": int(c.lifetime.Seconds())})
		if err != nil {
			return http.StatusInternalServerError, ""
		}
		return http.StatusOK, string(b)
	}
	c.calls++
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if end := c.ends[token]; c.hostile || !time.Now().Before(end) {
		c.refused++
		return http.StatusUnauthorized, ""
	}
	return http.StatusOK, "3 orders"
}
