package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/bellwether-go/cache"
)

// page is what is cached of a web page.
type page struct {
	ETag string
	Body string
}

// fetch asks for a page, and only whether it has changed if there is an older copy: then a 304 brings no body.
func fetch(ctx context.Context, url string) (page, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return page{}, err
	}
	old, ok := cache.Previous[page](ctx)
	if ok {
		req.Header.Set("If-None-Match", old.ETag)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return page{}, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		body, err := io.ReadAll(resp.Body)
		return page{resp.Header.Get("ETag"), string(body)}, err
	case http.StatusNotModified:
		return old, nil // for another TTL
	case http.StatusNotFound:
		return page{}, cache.ErrNotFound
	}
	return page{}, errors.New(resp.Status)
}

// A loader is told of the value that it is to replace, and asks its origin whether that has changed.
func ExamplePrevious() {
	version := `"v1"`
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", version)
		if r.Header.Get("If-None-Match") == version {
			fmt.Println("304, nothing is sent")
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Println("200, the whole page")
		fmt.Fprint(w, "page ", version)
	}))
	defer origin.Close()

	pages, err := cache.New[page]("page", cache.Options{TTL: time.Minute, StaleIfError: time.Hour})
	if err != nil {
		panic(err)
	}
	defer pages.Close()
	ctx := context.Background()
	p, err := pages.GetOrLoad(ctx, origin.URL, fetch)
	fmt.Println(p.Body, err)
	p, err = pages.Refresh(ctx, origin.URL, fetch) // as will happen by itself shortly before the TTL is over
	fmt.Println(p.Body, err)
	version = `"v2"`
	p, err = pages.Refresh(ctx, origin.URL, fetch)
	fmt.Println(p.Body, err)

	// Output:
	// 200, the whole page
	// page "v1" <nil>
	// 304, nothing is sent
	// page "v1" <nil>
	// 200, the whole page
	// page "v2" <nil>
}

// What the origin sends along decides how long a value is fresh, or that it is not to be kept.
func ExampleLoad_SetTTL() {
	tokens, err := cache.New[string]("token", cache.Options{})
	if err != nil {
		panic(err)
	}
	defer tokens.Close()
	issue := func(ctx context.Context, user string) (string, error) {
		token, expiresIn := "token of "+user, 20*time.Second // from the authorization server
		if margin := 30 * time.Second; expiresIn > margin {
			cache.LoadFrom(ctx).SetTTL(expiresIn - margin)
		} else {
			cache.LoadFrom(ctx).NoStore()
		}
		return token, nil
	}
	token, err := tokens.GetOrLoad(context.Background(), "ann", issue)
	fmt.Println(token, err)
	_, cached := tokens.Get(context.Background(), "ann")
	fmt.Println("cached:", cached)

	// Output:
	// token of ann <nil>
	// cached: false
}

// When loading anew fails, a value that is not too old is served, and the origin is left alone for a while.
func ExampleOptions_staleIfError() {
	prices, err := cache.New[int]("price", cache.Options{
		TTL:                  time.Millisecond, // usually minutes
		StaleWhileRevalidate: time.Minute,      // nobody waits for a value that expired less than a minute ago
		StaleIfError:         24 * time.Hour,   // and when the origin is down, yesterday's price will do
	})
	if err != nil {
		panic(err)
	}
	defer prices.Close()
	ctx := context.Background()
	price, err := prices.GetOrLoad(ctx, "apple", func(context.Context, string) (int, error) { return 120, nil })
	fmt.Println(price, err)

	down := errors.New("origin is down")
	price, err = prices.GetOrLoad(ctx, "apple", func(context.Context, string) (int, error) { return 0, down })
	fmt.Println(price, err)

	price, err = prices.GetOrLoad(ctx, "apple", nil, cache.OnlyIfCached())
	fmt.Println(price, err)
	_, err = prices.GetOrLoad(ctx, "pear", nil, cache.OnlyIfCached())
	fmt.Println(err)

	// Output:
	// 120 <nil>
	// 120 <nil>
	// 120 <nil>
	// cache: not cached
}
