package main

import (
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"modernc.org/sqlite"
)

// beforeCommit is called in each transaction that is about to be committed.
var beforeCommit atomic.Pointer[func()]

func TestMain(m *testing.M) {
	sqlite.RegisterConnectionHook(func(conn sqlite.ExecQuerierContext, _ string) error {
		conn.(sqlite.HookRegisterer).RegisterCommitHook(func() int32 {
			if f := beforeCommit.Load(); f != nil {
				(*f)()
			}
			return 0
		})
		return nil
	})
	m.Run()
}

// lines is what a program prints.
type lines struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

// newShop makes a service with a memory cache.
func newShop(t *testing.T) (*shop, *lines) {
	db, err := open(t.Context(), filepath.Join(t.TempDir(), "products.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	products, err := newProducts(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = products.Close() })
	out := &lines{}
	return &shop{db: db, products: products, log: log.New(out, "", 0)}, out
}

// ask has a handler answer a request.
func ask(h http.Handler, method, path, body string) (status int, answer string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w.Code, strings.TrimSpace(w.Body.String())
}

func wants(t *testing.T, h http.Handler, method, path, body string, status int, answer string) {
	t.Helper()
	if s, a := ask(h, method, path, body); s != status || !strings.Contains(a, answer) {
		t.Errorf("%s %s: %d %q, want %d %q", method, path, s, a, status, answer)
	}
}

func TestColdProductIsQueriedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, out := newShop(t)
		s.db.SetMaxOpenConns(1)
		conn, err := s.db.Conn(t.Context()) // while we have the only connection, the query waits
		if err != nil {
			t.Fatal(err)
		}
		h := s.handler()
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { wants(t, h, "GET", "/products/1", "", 200, `"name":"Tea"`) })
		}
		synctest.Wait()
		if n := s.products.Stats().Waiting; n != 50 {
			t.Errorf("%d requests wait, want 50", n)
		}
		_ = conn.Close()
		all.Wait()
		if n := out.count("query"); n != 1 {
			t.Errorf("%d queries, want 1", n)
		}
	})
}

func TestUpdateIsVisibleAtOnce(t *testing.T) {
	s, out := newShop(t)
	h := s.handler()
	wants(t, h, "GET", "/products/1", "", 200, `"cents":420`)
	// Somebody reads after the row was changed, and before that is committed: the old row, and the cache takes it.
	reader := func() {
		if err := s.products.Delete(t.Context(), "1"); err != nil { // or it has expired, or was never there
			t.Error(err)
		}
		wants(t, h, "GET", "/products/1", "", 200, `"cents":420`)
	}
	beforeCommit.Store(&reader)
	wants(t, h, "PUT", "/products/1", `{"name":"Tea","cents":450}`, 204, "")
	beforeCommit.Store(nil)
	wants(t, h, "GET", "/products/1", "", 200, `"cents":450`)
	wants(t, h, "GET", "/products/1", "", 200, `"cents":450`)
	if n := out.count("query"); n != 3 {
		t.Errorf("%d queries, want 3", n)
	}
	wants(t, h, "PUT", "/products/1", `{"name":"Tea"}`, 400, "want")
}

func TestUnknownProductIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, out := newShop(t)
		h := s.handler()
		for range 3 {
			wants(t, h, "GET", "/products/3", "", 404, "no such product")
		}
		if n := out.count("query"); n != 1 {
			t.Errorf("%d queries, want 1", n)
		}
		wants(t, h, "PUT", "/products/3", `{"name":"Cocoa","cents":510}`, 204, "")
		wants(t, h, "GET", "/products/3", "", 200, `"name":"Cocoa"`)

		wants(t, h, "GET", "/products/4", "", 404, "")
		time.Sleep(10 * time.Second)
		wants(t, h, "GET", "/products/4", "", 404, "")
		if n := out.count(`query: product "4"`); n != 2 {
			t.Errorf("%d queries, want 2: after NegativeTTL the database is asked again", n)
		}
	})
}

func TestDatabaseDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newShop(t)
		h := s.handler()
		wants(t, h, "GET", "/products/1", "", 200, "Tea")
		_ = s.db.Close()
		time.Sleep(30 * time.Minute) // long after the TTL
		wants(t, h, "GET", "/products/1", "", 200, "Tea")
		wants(t, h, "GET", "/products/2", "", 500, "it does not work now")
		time.Sleep(time.Hour)
		wants(t, h, "GET", "/products/1", "", 500, "it does not work now")
	})
}

// A request ends after its patience, and its load fills the cache all the same.
func TestSlowDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, out := newShop(t)
		s.db.SetMaxOpenConns(1)
		conn, err := s.db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h := s.handler()
		began := time.Now()
		wants(t, h, "GET", "/products/1", "", 504, "it takes too long")
		if took := time.Since(began); took != patience {
			t.Errorf("it took %v", took)
		}
		_ = conn.Close()
		synctest.Wait()
		wants(t, h, "GET", "/products/1", "", 200, "Tea")
		if n := out.count("query"); n != 1 {
			t.Errorf("%d queries, want 1", n)
		}
	})
}
