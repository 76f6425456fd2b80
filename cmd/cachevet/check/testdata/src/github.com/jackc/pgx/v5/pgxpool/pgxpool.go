// Package pgxpool is what the checks need of the real one.
package pgxpool

import (
	"context"

	"github.com/jackc/pgx/v5"
)

type Pool struct{}

func (p *Pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row { return nil }

type Conn struct{}

func (c *Conn) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row { return nil }

type Tx struct{}

func (t *Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row { return nil }
