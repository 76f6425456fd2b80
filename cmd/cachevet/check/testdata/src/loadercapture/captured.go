// Package loadercapture has loaders that use what is around them.
package loadercapture

import (
	"context"
	"database/sql"
	"net/http"
	"net/http/httptest"

	"github.com/bellwether-go/cache"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

func transaction(ctx context.Context, names *cache.Cache[string], db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	_, err = names.GetOrLoad(ctx, "1", func(ctx context.Context, id string) (name string, err error) {
		err = tx.QueryRowContext(ctx, "SELECT", id).Scan(&name) // want `loader uses tx \(\*sql.Tx\) of its caller; a load is shared by callers and outlives them: use what lives as long as the cache, or plain values taken before`
		if err != nil {
			tx.Rollback() // once is enough
		}
		return name, err
	})
	return err
}

func connection(ctx context.Context, names *cache.Cache[string], conn *sql.Conn, row *sql.Row, rows *sql.Rows) {
	load := func(ctx context.Context, ids []string) (found map[string]string, err error) {
		_, err = conn.ExecContext(ctx, "SELECT") // want `loader uses conn \(\*sql.Conn\) of its caller`
		func() {
			row.Scan()  // want `loader uses row \(\*sql.Row\) of its caller`
			rows.Next() // want `loader uses rows \(\*sql.Rows\) of its caller`
		}()
		return found, err
	}
	names.GetOrLoadMany(ctx, nil, load)
}

func pgxTx(ctx context.Context, names *cache.Cache[string], tx pgx.Tx, rows pgx.Rows, row pgx.Row, pooled *pgxpool.Tx, conn *pgxpool.Conn) {
	names.Refresh(ctx, "1", func(ctx context.Context, id string) (name string, err error) {
		tx.QueryRow(ctx, "SELECT")     // want `loader uses tx \(pgx.Tx\) of its caller`
		pooled.QueryRow(ctx, "SELECT") // want `loader uses pooled \(\*pgxpool.Tx\) of its caller`
		conn.QueryRow(ctx, "SELECT")   // want `loader uses conn \(\*pgxpool.Conn\) of its caller`
		rows.Next()                    // want `loader uses rows \(pgx.Rows\) of its caller`
		return name, row.Scan(&name)   // want `loader uses row \(pgx.Row\) of its caller`
	})
}

func handler(names *cache.Cache[string]) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		names.GetOrLoad(r.Context(), "1", func(ctx context.Context, id string) (string, error) {
			w.Header().Set("X", "loaded")                    // want `loader uses w \(http.ResponseWriter\) of its caller`
			return r.PathValue("id") + r.URL.Path, ctx.Err() // want `loader uses r \(\*http.Request\) of its caller`
		})
	}
}

func madeForCaller(ctx context.Context, names *cache.Cache[string], url string) {
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	names.GetOrLoad(ctx, "1", func(ctx context.Context, id string) (string, error) {
		_, err := http.DefaultClient.Do(req) // want `loader uses req \(\*http.Request\) of its caller`
		return "", err
	})
}

func generic[V any](ctx context.Context, c *cache.Cache[V], tx *sql.Tx, scan func(*sql.Row) (V, error)) (V, error) {
	return c.GetOrLoad(ctx, "1", func(ctx context.Context, id string) (V, error) {
		return scan(tx.QueryRowContext(ctx, id)) // want `loader uses tx \(\*sql.Tx\) of its caller`
	})
}

func nested(ctx context.Context, names, others *cache.Cache[string], db *sql.DB) {
	names.GetOrLoad(ctx, "1", func(ctx context.Context, id string) (string, error) {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return "", err
		}
		defer tx.Rollback()
		return others.GetOrLoad(ctx, "1", func(ctx context.Context, id string) (name string, err error) {
			return name, tx.QueryRowContext(ctx, id).Scan(&name) // want `loader uses tx \(\*sql.Tx\) of its caller`
		})
	})
}

// None of these is reported.

var shared *sql.Conn

type repository struct{ tx *sql.Tx }

func fine(
	ctx context.Context, names *cache.Cache[string], db *sql.DB, stmt *sql.Stmt, pool *pgxpool.Pool, conn *pgx.Conn, r *http.Request,
	repo repository, load func(context.Context, *sql.Tx, string) (string, error),
) {
	id := r.PathValue("id")
	names.GetOrLoad(ctx, id, func(ctx context.Context, _ string) (name string, err error) {
		db.QueryRowContext(ctx, id)
		stmt.QueryRowContext(ctx, id)
		pool.QueryRow(ctx, id)
		conn.QueryRow(ctx, id)
		shared.PingContext(ctx)
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return "", err
		}
		defer tx.Rollback()
		rows, err := tx.QueryContext(ctx, id)
		rows.Next()
		return name, err
	})
	template, _ := http.NewRequest(http.MethodGet, "http://127.0.0.1/", nil)
	rooted, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://127.0.0.1/", nil)
	incoming := httptest.NewRequest(http.MethodGet, "http://127.0.0.1/", nil)
	names.GetOrLoad(ctx, id, func(ctx context.Context, id string) (string, error) {
		for _, req := range []*http.Request{template, rooted, incoming} {
			http.DefaultClient.Do(req.Clone(ctx))
		}
		server := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(r.URL.Path)) })
		w := httptest.NewRecorder()
		server.ServeHTTP(w, template)
		return w.Body.String(), nil
	})
	names.GetOrLoad(ctx, id, func(ctx context.Context, id string) (string, error) {
		return "", r.Context().Err() // loaderctx reports it
	})
	names.GetOrLoad(ctx, id, func(ctx context.Context, id string) (string, error) {
		return load(ctx, repo.tx, id) // is not seen
	})
	var rows *sql.Rows
	names.GetOrLoad(ctx, id, func(ctx context.Context, id string) (_ string, err error) {
		rows, err = db.QueryContext(ctx, id)
		return "", rows.Err()
	})
	func() { db.QueryRowContext(r.Context(), "SELECT") }() // no loader
}
