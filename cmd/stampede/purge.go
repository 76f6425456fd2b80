package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/bellwether-go/cache"
)

const purgeAbout = `Deletes entries as the package does: what is being loaded meanwhile is not stored, and processes that have an
entry in memory are told. With keys, those; with -tag, what has the tag; with -all, all the entries of the cache.`

// purge deletes entries by key, by tag, or all of a cache.
func purge(ctx context.Context, args []string, out io.Writer) (err error) {
	var s server
	var tags []string
	var all bool
	args, err = s.command("purge", "NAME [KEY...]", purgeAbout, out, args, func(fs *flag.FlagSet) {
		fs.Func("tag", "delete what has this `tag`; may be given several times", func(tag string) error {
			tags = append(tags, tag)
			return nil
		})
		fs.BoolVar(&all, "all", false, "delete all entries of the cache")
		fs.BoolVar(&s.sharded, "sharded-events", false, "the processes have RedisOptions.ShardedEvents")
	})
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return usageError{errors.New("want NAME, that of a cache")}
	}
	name, keys := args[0], args[1:]
	if ways := one(len(keys) > 0) + one(len(tags) > 0) + one(all); ways != 1 {
		return usageError{errors.New("want either keys, -tag or -all")}
	}
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	rds, err := s.caches(client)
	if err != nil {
		return usageError{err}
	}
	defer func() { _ = rds.Close() }()
	c, err := cache.New[any](name, cache.Options{Redis: rds, Tags: true})
	if err != nil {
		return usageError{err}
	}
	defer func() { _ = c.Close() }()
	switch {
	case len(keys) > 0:
		if err := c.Delete(ctx, keys...); err != nil {
			return err
		}
		fmt.Fprintf(out, "deleted %d key(s) of %s\n", len(keys), name)
	case len(tags) > 0:
		if err := c.DeleteTags(ctx, tags...); err != nil {
			return err
		}
		fmt.Fprintf(out, "deleted what has one of %d tag(s) in %s\n", len(tags), name)
	default:
		if err := c.Clear(ctx); err != nil { // of a cache without Tags this empties the processes' memory
			return err
		}
		var n atomic.Int64
		before := s.key(name, "")
		err := s.each(ctx, client, name, func(ctx context.Context, full []string) error {
			keys := make([]string, len(full))
			for i, f := range full {
				keys[i] = f[len(before):]
			}
			n.Add(int64(len(keys)))
			return c.Delete(ctx, keys...)
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "deleted all of %s: %d key(s)\n", name, n.Load())
	}
	return nil
}

func one(yes bool) int {
	if yes {
		return 1
	}
	return 0
}
