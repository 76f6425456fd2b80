package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/bellwether-go/cache"
)

const mostBytes = 1 << 20 // of a document

// document is what is cached of an answer.
type document struct{ ETag, Body string }

// client gets documents from an API.
type client struct {
	base      string // URL
	web       *http.Client
	documents *cache.Cache[document]
}

func newClient(base string, web *http.Client) (*client, error) {
	documents, err := cache.New[document]("document", cache.Options{
		TTL:         time.Minute, // of answers without a max-age
		NegativeTTL: 10 * time.Second,
		// As long as a document may still be served there is something to ask about, with If-None-Match.
		StaleIfError: time.Hour,
	})
	return &client{base: base, web: web, documents: documents}, err
}

// get returns the document at path. If an API answers each user differently, the user belongs into the key as well.
func (c *client) get(ctx context.Context, path string) (string, error) {
	d, err := c.documents.GetOrLoad(ctx, path, c.fetch)
	return d.Body, err
}

// fetch is the loader.
func (c *client) fetch(ctx context.Context, path string) (document, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return document{}, err
	}
	previous, known := cache.Previous[document](ctx)
	if known && previous.ETag != "" {
		req.Header.Set("If-None-Match", previous.ETag)
	}
	resp, err := c.web.Do(req)
	if err != nil {
		return document{}, err
	}
	defer func() { _ = resp.Body.Close() }() // it was read, or is not wanted
	d := previous
	switch {
	case resp.StatusCode == http.StatusOK:
		body, err := io.ReadAll(io.LimitReader(resp.Body, mostBytes+1))
		if err == nil && len(body) > mostBytes {
			err = errors.New("the document is too long")
		}
		if err != nil {
			return document{}, err
		}
		d = document{ETag: resp.Header.Get("ETag"), Body: string(body)}
	case resp.StatusCode == http.StatusNotModified && known: // d is still right
	case resp.StatusCode == http.StatusNotFound:
		d, err = document{}, cache.ErrNotFound
	default: // what there was is served, if there was something
		return document{}, fmt.Errorf("the API answers %s", resp.Status)
	}
	if ttl, store := freshness(resp.Header); store {
		cache.LoadFrom(ctx).SetTTL(ttl)
	} else {
		cache.LoadFrom(ctx).NoStore()
	}
	return d, err
}

// freshness reads from Cache-Control how long an answer is fresh, 0 if that is not said, and whether it may be stored. There is more
// in the standard (RFC 9111): Age, Vary, s-maxage, must-revalidate. A cache for any API would have to know all of that.
func freshness(h http.Header) (ttl time.Duration, store bool) {
	const least = time.Millisecond // stored only to be asked about: 0 would mean Options.TTL
	store = true
	noCache := false
	for directive := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "max-age":
			seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
			if ttl = time.Duration(seconds) * time.Second; err != nil || ttl == 0 {
				ttl = least
			}
		case "no-cache":
			noCache = true
		case "no-store", "private": // private is for the cache of one user, which one that processes share is not
			store = false
		}
	}
	if noCache {
		ttl = least
	}
	return ttl, store
}
