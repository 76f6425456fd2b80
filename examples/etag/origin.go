package main

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const maxAge = time.Second // of the rate

// origin is a little API, which prints the requests that reach it.
type origin struct {
	out io.Writer

	mu   sync.Mutex
	rate string // guarded by mu
	down bool   // guarded by mu
}

func (o *origin) set(rate string, down bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rate, o.down = rate, down
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	status, body, asked := http.StatusOK, "", r.Header.Get("If-None-Match")
	switch etag := `"` + o.rate + `"`; {
	case o.down:
		w.Header().Set("Cache-Control", "no-store")
		status = http.StatusServiceUnavailable
	case r.URL.Path == "/rate":
		w.Header().Set("ETag", etag)
		w.Header().Set("Cache-Control", fmt.Sprintf("max-age=%d", int(maxAge.Seconds())))
		if body = o.rate; asked == etag {
			status, body = http.StatusNotModified, ""
		}
	case r.URL.Path == "/account":
		w.Header().Set("Cache-Control", "no-store")
		body = "5 EUR"
	default:
		status = http.StatusNotFound
	}
	if asked != "" {
		asked = ", If-None-Match: " + asked
	}
	fmt.Fprintf(o.out, "    request: %s %s%s -> %d\n", r.Method, r.URL.Path, asked, status)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) // the client may have gone
}
