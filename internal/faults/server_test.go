package faults

import (
	"context"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// happenToServer makes a fault happen to the one server.
func (f *fleet) happenToServer(ft fault) {
	ctx := context.Background()
	must := func(err error) {
		if err != nil {
			f.t.Errorf("%s: %v", ft.kind, err)
		}
	}
	server, admin := f.data[0], f.admins[0]
	switch ft.kind {
	case "kill -9, restart empty":
		_ = os.Remove(f.dump)
		server.Kill()
		wait(ft.lasts)
		server.Restart()
	case "kill -9, restart with an old snapshot":
		end := f.board.window(true)
		server.Kill()
		wait(ft.lasts)
		server.Restart()
		end()
	case "SIGSTOP":
		must(server.Process().Signal(syscall.SIGSTOP))
		wait(ft.lasts)
		must(server.Process().Signal(syscall.SIGCONT))
	case "DEBUG SLEEP":
		must(admin.Do(ctx, "DEBUG", "SLEEP", ft.lasts.Seconds()).Err())
	case "SCRIPT FLUSH":
		must(admin.ScriptFlush(ctx).Err())
	case "FLUSHALL":
		must(admin.FlushAll(ctx).Err())
	case "CLIENT KILL":
		must(admin.Do(ctx, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err())
		must(admin.Do(ctx, "CLIENT", "KILL", "TYPE", "pubsub").Err())
	case "clock jumps":
		server.SetClock(ft.amount)
	case "out of memory":
		must(admin.ConfigSet(ctx, "maxmemory", "1").Err())
		wait(ft.lasts)
		must(admin.ConfigSet(ctx, "maxmemory", "0").Err())
	case "read-only":
		must(admin.Do(ctx, "REPLICAOF", "127.0.0.1", "1").Err())
		wait(ft.lasts)
		must(admin.Do(ctx, "REPLICAOF", "NO", "ONE").Err())
	case "garbage under keys":
		for i := range ft.count {
			must(f.garbage(ctx, i, "cache:faults:"+keyName((int(f.plan.seed)+i)%hotKeys)))
		}
	default:
		panic(ft.kind)
	}
	must(admin.Save(ctx).Err()) // an old snapshot for later
}

// garbage spoils a key in one of several ways.
func (f *fleet) garbage(ctx context.Context, way int, key string) error {
	admin := f.admins[0]
	raw, err := admin.Get(ctx, key).Bytes()
	if err == nil && len(raw) > 0 {
		switch way % 6 {
		case 0: // a flipped bit
			raw[int(f.plan.seed)*7%len(raw)] ^= 1
			return admin.Set(ctx, key, raw, redis.KeepTTL).Err()
		case 1: // cut short
			return admin.Set(ctx, key, raw[:len(raw)/2], redis.KeepTTL).Err()
		case 2: // of another key
			return admin.Set(ctx, key+"0", raw, time.Minute).Err()
		}
	}
	if way%6 == 3 { // of another type
		_, err = admin.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Del(ctx, key)
			p.LPush(ctx, key, "x")
			p.Expire(ctx, key, time.Minute)
			return nil
		})
		return err
	}
	return admin.Set(ctx, key, strings.Repeat("bw1V", way*100), time.Minute).Err()
}
