package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache"
)

// patience is how long a Redis has for an answer that somebody waits for at a terminal.
const patience = 3 * time.Second

// server is how to reach the caches in a Redis, from flags that inspect and purge have in common.
type server struct {
	address string
	prefix  string
	sharded bool
}

// command parses the arguments of a command: flags first, then what is named in usage.
func (s *server) command(name, usage, about string, out io.Writer, args []string, more func(*flag.FlagSet)) ([]string, error) {
	fs := flag.NewFlagSet("stampede "+name, flag.ContinueOnError)
	fs.SetOutput(io.Discard) // main prints the error, once
	fs.StringVar(&s.address, "redis", "127.0.0.1:6379",
		"`address` of a Redis, host:port or a redis://, rediss:// or unix:// URL; of one node of a Cluster is enough")
	fs.StringVar(&s.prefix, "prefix", "cache", "RedisOptions.Prefix of the caches")
	more(fs)
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(out, "usage: stampede %s [flags] %s\n\n%s\n\n", name, usage, about)
		fs.SetOutput(out)
		fs.PrintDefaults()
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		err = usageError{err}
	}
	return fs.Args(), err
}

// client connects to the server, or to the Cluster that it is a node of.
func (s *server) client(ctx context.Context) (redis.UniversalClient, error) {
	o := &redis.Options{Addr: s.address}
	if strings.Contains(s.address, "://") {
		var err error
		if o, err = redis.ParseURL(s.address); err != nil {
			return nil, err
		}
	}
	o.ContextTimeoutEnabled = true
	one := redis.NewClient(o)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	info, err := one.Info(ctx, "cluster").Result()
	if err != nil && ctx.Err() == nil { // a user who may not ask for it
		err = one.Ping(ctx).Err()
	}
	if err != nil {
		_ = one.Close()
		return nil, fmt.Errorf("redis at %s: %w", o.Addr, err)
	}
	if !strings.Contains(info, "cluster_enabled:1") {
		return one, nil
	}
	_ = one.Close()
	return redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: []string{o.Addr}, Username: o.Username, Password: o.Password, TLSConfig: o.TLSConfig, ContextTimeoutEnabled: true,
	}), nil
}

// caches wraps a client as the processes do whose caches it reaches.
func (s *server) caches(client redis.UniversalClient) (*cache.Redis, error) {
	return cache.NewRedis(client, cache.RedisOptions{Prefix: s.prefix, Timeout: patience, ShardedEvents: s.sharded})
}

// key is where an entry is.
func (s *server) key(name, key string) string { return s.prefix + ":" + name + ":" + key }

// each calls f with the full keys of a cache, some at a time. A key that is there all the while is among them.
func (s *server) each(ctx context.Context, client redis.UniversalClient, name string, f func(ctx context.Context, full []string) error) error {
	scan := func(ctx context.Context, c redis.Cmdable) error {
		for cursor := uint64(0); ; {
			full, next, err := c.Scan(ctx, cursor, s.key(name, "*"), 1000).Result()
			if err != nil {
				return err
			}
			if err := f(ctx, full); err != nil || next == 0 {
				return err
			}
			cursor = next
		}
	}
	if cluster, ok := client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return scan(ctx, c) })
	}
	return scan(ctx, client)
}
