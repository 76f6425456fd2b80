// Package pgx is what the checks need of the real one.
package pgx

import "context"

type Rows interface{ Next() bool }

type Row interface{ Scan(dest ...any) error }

type Tx interface {
	Query(ctx context.Context, sql string, args ...any) (Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) Row
}

type Conn struct{}

func (c *Conn) QueryRow(ctx context.Context, sql string, args ...any) Row { return nil }
