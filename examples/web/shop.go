package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/cachehttp"
)

// The id is text: 1 and 01, which a number would take for the same row, would be two keys, of which a change deletes one.
const schema = `
	CREATE TABLE IF NOT EXISTS products (id TEXT PRIMARY KEY, name TEXT NOT NULL, cents INTEGER NOT NULL);
	CREATE TABLE IF NOT EXISTS changes (product TEXT NOT NULL, cents INTEGER NOT NULL, at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
	INSERT OR IGNORE INTO products VALUES ('1', 'Tea', 420), ('2', 'Coffee', 640);`

// patience is how long a request may take. A load may take longer: it goes on, and the next request finds its value.
const patience = 3 * time.Second

// newProducts makes the cache. Without Redis it lives in this process's memory; all else is the same.
func newProducts(rds *cache.Redis) (*cache.Cache[product], error) {
	return cache.New[product]("product", cache.Options{
		Redis:        rds,
		TTL:          5 * time.Minute,
		NegativeTTL:  10 * time.Second, // that there is no such product
		StaleIfError: time.Hour,        // an hour-old price is better than none while the database is down
		LoadTimeout:  2 * patience,
	})
}

type product struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Cents int    `json:"cents"`
}

// shop is the service.
type shop struct {
	db       *sql.DB
	products *cache.Cache[product]
	log      *log.Logger
}

func (s *shop) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /products/{id}", s.get)
	mux.HandleFunc("PUT /products/{id}", s.put)
	mux.Handle("GET /debug/cache", cachehttp.Handler(s.products)) // it shows keys: a real service has it on a port of its own
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		mux.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (s *shop) get(w http.ResponseWriter, r *http.Request) {
	p, err := s.products.GetOrLoad(r.Context(), r.PathValue("id"), s.load)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(p) // the client may have gone
}

// load is the loader. Its ctx is not that of a request, for many may wait for it: it ends after LoadTimeout.
func (s *shop) load(ctx context.Context, id string) (product, error) {
	s.log.Printf("query: product %q", id)
	p := product{ID: id}
	err := s.db.QueryRowContext(ctx, "SELECT name, cents FROM products WHERE id = ?", id).Scan(&p.Name, &p.Cents)
	if errors.Is(err, sql.ErrNoRows) {
		return product{}, fmt.Errorf("no such product: %w", cache.ErrNotFound) // which is remembered for NegativeTTL
	}
	return p, err
}

func (s *shop) put(w http.ResponseWriter, r *http.Request) {
	var p product
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&p)
	if err != nil || p.Name == "" || p.Cents <= 0 {
		http.Error(w, `want {"name": "...", "cents": 1 or more}`, http.StatusBadRequest)
		return
	}
	p.ID = r.PathValue("id")
	if err := s.update(r.Context(), p); err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// update changes a product, or makes it. The key is deleted when the transaction is over, and not before: until then any reader may
// load the old row once more, and keep it.
func (s *shop) update(ctx context.Context, p product) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	const upsert = "INSERT INTO products VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name, cents = excluded.cents"
	if _, err := tx.ExecContext(ctx, upsert, p.ID, p.Name, p.Cents); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO changes (product, cents) VALUES (?, ?)", p.ID, p.Cents); err != nil {
		return err
	}
	err = tx.Commit()
	// Also if Commit has failed, for the database may have committed, and only its answer got lost; and also if the request is gone
	// by now, which is what WithoutCancel is for.
	if err := s.products.Delete(context.WithoutCancel(ctx), p.ID); err != nil {
		s.log.Printf("product %q: until Redis confirms its deletion, other processes may have the old one: %v", p.ID, err)
	}
	return err
}

// fail answers with what an error is to the client. No error here is one of Redis.
func (s *shop) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, cache.ErrNotFound):
		http.Error(w, "no such product", http.StatusNotFound)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		http.Error(w, "it takes too long", http.StatusGatewayTimeout)
	default:
		s.log.Printf("%s %q: %v", r.Method, r.URL.Path, err)
		http.Error(w, "it does not work now", http.StatusInternalServerError)
	}
}
