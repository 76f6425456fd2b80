package examples

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	_ "modernc.org/sqlite"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/cachetest"
)

const (
	table  = "CREATE TABLE summaries (id TEXT PRIMARY KEY, text TEXT NOT NULL, fence INTEGER NOT NULL)"
	upsert = `INSERT INTO summaries (id, text, fence) VALUES ($1, $2, $3)
		ON CONFLICT (id) DO UPDATE SET text = excluded.text, fence = excluded.fence
		WHERE summaries.fence < excluded.fence`
)

func open() (*sql.DB, error) {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // each connection would have a memory of its own
	_, err = db.Exec(table)
	return db, err
}

// store writes a summary, in a loader. It is refused, which is no error, if a later load of id has written before.
// A load without a lease, because Redis did not answer, has fence 0: it writes only what is not there yet.
func store(ctx context.Context, db *sql.DB, id, text string) (stored bool, err error) {
	result, err := db.ExecContext(ctx, upsert, id, text, cache.LoadFrom(ctx).Fence())
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

// What a loader writes is refused by the database if a later load of the key has written before: here one that was begun
// because the key had been deleted, while the first was still at work.
func ExampleLoad_Fence() {
	db, err := open()
	if err != nil {
		panic(err)
	}
	defer db.Close()
	summaries, err := cache.New[string]("summary", cache.Options{})
	if err != nil {
		panic(err)
	}
	defer summaries.Close()
	ctx := context.Background()
	load := func(summarize func() string) {
		_, err := summaries.GetOrLoad(ctx, "42", func(ctx context.Context, id string) (string, error) {
			text := summarize()
			stored, err := store(ctx, db, id, text)
			fmt.Printf("%s: stored is %v, error is %v\n", text, stored, err)
			return text, err
		})
		if err != nil {
			panic(err)
		}
	}

	begun, proceed, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		load(func() string {
			close(begun)
			<-proceed
			return "the old summary"
		})
	}()
	<-begun
	if err := summaries.Delete(ctx, "42"); err != nil {
		panic(err)
	}
	load(func() string { return "the new summary" })
	close(proceed)
	<-done

	var text string
	if err := db.QueryRow("SELECT text FROM summaries WHERE id = '42'").Scan(&text); err != nil {
		panic(err)
	}
	fmt.Println("in the database:", text)
	// Output:
	// the new summary: stored is true, error is <nil>
	// the old summary: stored is false, error is <nil>
	// in the database: the new summary
}

// The same with two processes, of which one is paused during its load, until its lease has ended and the other has loaded.
func TestPausedHolderIsRefused(t *testing.T) {
	cachetest.Run(t, 2, func(fleet *cachetest.Fleet) {
		db, err := open()
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var calls sync.WaitGroup
		proceed := make(chan struct{})
		call := func(p *cachetest.Process, text string, proceed <-chan struct{}, wants bool) {
			summaries, err := cache.New[string]("summary", cache.Options{Redis: p.Redis(), Lease: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			fleet.T.Cleanup(func() { _ = summaries.Close() })
			calls.Go(func() {
				_, err := summaries.GetOrLoad(context.Background(), "42", func(ctx context.Context, id string) (string, error) {
					<-proceed
					if stored, err := store(context.WithoutCancel(ctx), db, id, text); stored != wants || err != nil {
						t.Errorf("%s: stored is %v, error is %v", text, stored, err)
					}
					return text, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		call(fleet.Process(0), "old", proceed, false)
		fleet.Process(0).Pause()
		now := make(chan struct{})
		close(now)
		call(fleet.Process(1), "new", now, true)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		fleet.Process(0).Resume()
		close(proceed)
		calls.Wait()
		var text string
		if err := db.QueryRow("SELECT text FROM summaries").Scan(&text); err != nil || text != "new" {
			t.Errorf("%q, %v", text, err)
		}
	})
}
