// Package guide has the code of docs/guide.md, step by step, and plays a shop with each of the steps to see what it is worth: the
// numbers of that page.
package guide

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache"
)

// Product is what the shop shows.
type Product struct {
	Name  string
	Cents int
}

// Database is what the shop has of its database.
type Database interface {
	// Product returns sql.ErrNoRows if there is none.
	Product(ctx context.Context, id string) (Product, error)
	SetPrice(ctx context.Context, id string, cents int) error
}

// Shop is one of its processes.
type Shop struct {
	db       Database
	products *cache.Cache[Product] // from step 1 on
	rds      *cache.Redis          // from step 3 on

	// Product is what a request asks for, SetPrice what somebody in the office does.
	Product  func(ctx context.Context, id string) (Product, error)
	SetPrice func(ctx context.Context, id string, cents int) error
}

// Close ends what the shop has begun.
func (s *Shop) Close() error {
	var errs []error
	if s.products != nil {
		errs = append(errs, s.products.Close())
	}
	if s.rds != nil {
		errs = append(errs, s.rds.Close())
	}
	return errors.Join(errs...)
}

func noCache(db Database, _ *redis.Client) (*Shop, error) {
	return &Shop{Product: db.Product, SetPrice: db.SetPrice}, nil
}

func inMemory(db Database, _ *redis.Client) (*Shop, error) {
	s := &Shop{db: db, SetPrice: db.SetPrice}
	var err error
	s.products, err = cache.New[Product]("product", cache.Options{TTL: 20 * time.Second})
	s.Product = s.cached
	return s, err
}

func (s *Shop) cached(ctx context.Context, id string) (Product, error) {
	return s.products.GetOrLoad(ctx, id, s.db.Product)
}

func notFound(db Database, _ *redis.Client) (*Shop, error) {
	s := &Shop{db: db, SetPrice: db.SetPrice}
	var err error
	s.products, err = cache.New[Product]("product", cache.Options{TTL: 20 * time.Second, NegativeTTL: 20 * time.Second})
	s.Product = s.cachedOrNotFound
	return s, err
}

func (s *Shop) load(ctx context.Context, id string) (Product, error) {
	p, err := s.db.Product(ctx, id)
	if errors.Is(err, sql.ErrNoRows) {
		return Product{}, cache.ErrNotFound
	}
	return p, err
}

func (s *Shop) cachedOrNotFound(ctx context.Context, id string) (Product, error) {
	return s.products.GetOrLoad(ctx, id, s.load)
}

func shared(db Database, client *redis.Client, o cache.Options) (*Shop, error) {
	s := &Shop{db: db, SetPrice: db.SetPrice}
	s.Product = s.cachedOrNotFound
	var err error
	if s.rds, err = cache.NewRedis(client, cache.RedisOptions{}); err != nil {
		return s, err
	}
	o.Redis = s.rds
	s.products, err = cache.New[Product]("product", o)
	return s, err
}

func inRedis(db Database, client *redis.Client) (*Shop, error) {
	return shared(db, client, cache.Options{TTL: 20 * time.Second, NegativeTTL: 20 * time.Second})
}

func (s *Shop) setPrice(ctx context.Context, id string, cents int) error {
	if err := s.db.SetPrice(ctx, id, cents); err != nil {
		return err
	}
	return s.products.Delete(ctx, id) // once the change is committed, not before
}

func deleting(db Database, client *redis.Client) (*Shop, error) {
	s, err := inRedis(db, client)
	s.SetPrice = s.setPrice
	return s, err
}

func stale(db Database, client *redis.Client) (*Shop, error) {
	s, err := shared(db, client, cache.Options{
		TTL:                  20 * time.Second,
		NegativeTTL:          20 * time.Second,
		StaleWhileRevalidate: 10 * time.Second,
		StaleIfError:         time.Hour,
	})
	s.SetPrice = s.setPrice
	return s, err
}

func bounded(db Database, client *redis.Client) (*Shop, error) {
	s, err := shared(db, client, cache.Options{
		TTL:                  20 * time.Second,
		NegativeTTL:          20 * time.Second,
		StaleWhileRevalidate: 10 * time.Second,
		StaleIfError:         time.Hour,
		MaxLoads:             10, // queries at a time, in all processes together
	})
	s.SetPrice = s.setPrice
	return s, err
}
