package cache_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
)

// usersTable is a database with one table, for examples: it prints queries, and understands one of them.
type usersTable map[string]string

func openDatabase(rows map[string]string) *sql.DB { return sql.OpenDB(usersTable(rows)) }

func (t usersTable) Connect(context.Context) (driver.Conn, error) { return t, nil }
func (t usersTable) Driver() driver.Driver                        { return nil }

func (t usersTable) Prepare(string) (driver.Stmt, error) { return nil, errors.New("not here") }
func (t usersTable) Begin() (driver.Tx, error)           { return nil, errors.New("not here") }
func (t usersTable) Close() error                        { return nil }

func (t usersTable) QueryContext(_ context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	found := new(usersRows)
	var ids []any
	for _, arg := range args {
		ids = append(ids, arg.Value)
		id, _ := arg.Value.(string)
		if name, ok := t[id]; ok {
			*found = append(*found, [2]string{id, name})
		}
	}
	fmt.Println(query, ids)
	return found, nil
}

type usersRows [][2]string

func (r *usersRows) Columns() []string { return []string{"id", "name"} }
func (r *usersRows) Close() error      { return nil }

func (r *usersRows) Next(row []driver.Value) error {
	if len(*r) == 0 {
		return io.EOF
	}
	row[0], row[1] = (*r)[0][0], (*r)[0][1]
	*r = (*r)[1:]
	return nil
}
