package cache_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"

	"github.com/bellwether-go/cache"
)

// transact runs f in a transaction, and deletes the keys that it says it has changed when the transaction is over: not
// before, or another process could load the old row once more and keep it.
func transact(ctx context.Context, db *sql.DB, users *cache.Cache[User], f func(tx *sql.Tx, changed func(ids ...string)) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	var ids []string
	if err := f(tx, func(more ...string) { ids = append(ids, more...) }); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	// Also if Commit fails: the database may have committed, and only the answer got lost. And also if the request is
	// gone by now, which is what WithoutCancel is for.
	err = tx.Commit()
	if err := users.Delete(context.WithoutCancel(ctx), ids...); err != nil {
		fmt.Println("deletion will be repeated:", err) // the row has changed all the same
	}
	return err
}

// Keys are collected during a transaction and deleted when it has committed, also when the request's context is gone.
func ExampleCache_Delete_afterCommit() {
	db := sql.OpenDB(names{"42": "Ann"})
	defer db.Close()
	users, err := cache.New[User]("user", cache.Options{})
	if err != nil {
		panic(err)
	}
	defer users.Close()
	load := func(ctx context.Context, id string) (u User, err error) {
		err = db.QueryRowContext(ctx, "SELECT name FROM users WHERE id = ?", id).Scan(&u.Name)
		if errors.Is(err, sql.ErrNoRows) {
			err = cache.ErrNotFound
		}
		return u, err
	}
	show := func() {
		u, err := users.GetOrLoad(context.Background(), "42", load)
		fmt.Println(u.Name, err)
	}

	show()
	request, gone := context.WithCancel(context.Background())
	err = transact(request, db, users, func(tx *sql.Tx, changed func(...string)) error {
		_, err := tx.ExecContext(request, "UPDATE users SET name = ? WHERE id = ?", "Anna", "42")
		changed("42")
		show() // whoever reads now loads the old row, and it is kept until the deletion
		return err
	})
	gone()
	fmt.Println("transaction:", err)
	show()
	// Output:
	// Ann <nil>
	// Ann <nil>
	// transaction: <nil>
	// Anna <nil>
}

// names is the smallest database that the example needs: a table of names, and transactions.
type names map[string]string

func (n names) Connect(context.Context) (driver.Conn, error) { return &conn{table: n}, nil }
func (n names) Driver() driver.Driver                        { return nil }

var tables sync.Mutex

type conn struct {
	table   names
	changes map[string]string // of the transaction
}

func (c *conn) Prepare(query string) (driver.Stmt, error) { return &stmt{c, query}, nil }
func (c *conn) Close() error                              { return nil }
func (c *conn) Begin() (driver.Tx, error)                 { c.changes = map[string]string{}; return c, nil }
func (c *conn) Rollback() error                           { c.changes = nil; return nil }

func (c *conn) Commit() error {
	tables.Lock()
	defer tables.Unlock()
	maps.Copy(c.table, c.changes)
	c.changes = nil
	return nil
}

type stmt struct {
	*conn
	query string
}

func (s *stmt) NumInput() int { return -1 }
func (s *stmt) Close() error  { return nil }

func (s *stmt) Exec(args []driver.Value) (driver.Result, error) {
	s.changes[args[1].(string)] = args[0].(string)
	return driver.RowsAffected(1), nil
}

func (s *stmt) Query(args []driver.Value) (driver.Rows, error) {
	tables.Lock()
	defer tables.Unlock()
	name, found := s.table[args[0].(string)]
	return &rows{name, found}, nil
}

type rows struct {
	name string
	more bool
}

func (r *rows) Columns() []string { return []string{"name"} }
func (r *rows) Close() error      { return nil }

func (r *rows) Next(dest []driver.Value) error {
	if !r.more {
		return io.EOF
	}
	dest[0], r.more = r.name, false
	return nil
}
