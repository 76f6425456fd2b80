// Package cache is what the checks need of the real one. A test compares the declarations.
package cache

import (
	"context"
	"iter"
)

type Cache[V any] struct{ value V }

type CallOption func(*callOptions)

type callOptions struct{}

type Loader[V any] func(ctx context.Context, key string) (V, error)

type BatchLoader[V any] func(ctx context.Context, keys []string) (map[string]V, error)

func (c *Cache[V]) Get(ctx context.Context, key string) (V, bool) { return c.value, true }

func (c *Cache[V]) GetOrLoad(ctx context.Context, key string, loader Loader[V], opts ...CallOption) (V, error) {
	return loader(ctx, key)
}

func (c *Cache[V]) Refresh(ctx context.Context, key string, loader Loader[V], opts ...CallOption) (V, error) {
	return loader(ctx, key)
}

func (c *Cache[V]) GetOrLoadMany(
	ctx context.Context, keys []string, loader BatchLoader[V], opts ...CallOption,
) (map[string]V, error) {
	return loader(ctx, keys)
}

func (c *Cache[V]) GetOrLoadSeq(
	ctx context.Context, keys iter.Seq[string], loader BatchLoader[V], opts ...CallOption,
) iter.Seq2[map[string]V, error] {
	return nil
}

func (c *Cache[V]) Set(ctx context.Context, key string, value V, opts ...CallOption) error {
	return nil
}

func (c *Cache[V]) Delete(ctx context.Context, keys ...string) error { return nil }

func Previous[V any](ctx context.Context, key ...string) (V, bool) {
	var v V
	return v, false
}

func WithTags(tags ...string) CallOption { return nil }
