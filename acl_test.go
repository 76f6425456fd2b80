package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/realredis"
	"github.com/bellwether-go/cache/internal/record"
)

// smallestACL returns the rules of the user that SECURITY.md recommends.
func smallestACL(t *testing.T, user string) []string {
	t.Helper()
	b, err := os.ReadFile("SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^    ACL SETUSER ` + user + ` .*(\n      .*)*`).FindString(string(b))
	if command == "" {
		t.Fatal("SECURITY.md has no ACL")
	}
	return strings.Fields(command)[3:]
}

// needChannels skips a test of rules that Redis 6.0 does not have.
func needChannels(t *testing.T, admin *redis.Client) {
	t.Helper()
	if err := admin.Do(background, "ACL", "SETUSER", "channels", "resetchannels").Err(); err != nil {
		t.Skipf("SKIPPED: an ACL has no channels here: %v", err)
	}
}

// The ACL in SECURITY.md is enough: the server has nothing to refuse. And it is the smallest one: without any of its
// rules the server refuses something, which no caller notices.
func TestSmallestACL(t *testing.T) {
	t.Parallel()
	s := realredis.Start(t)
	admin := s.Client(nil)
	needChannels(t, admin)
	rules := smallestACL(t, "app")
	user := func(t *testing.T, name string, rules []string, expected ...string) (refused string) {
		args := []any{"ACL", "SETUSER", name}
		for _, r := range rules {
			args = append(args, r)
		}
		if err := errors.Join(admin.Do(background, args...).Err(), admin.Do(background, "ACL", "LOG", "RESET").Err(),
			admin.ConfigResetStat(background).Err()); err != nil {
			t.Fatal(args, err)
		}
		client := func() Client {
			return s.Client(func(o *redis.Options) { o.Username, o.Password = name, "a-long-password" })
		}
		log := func() (refused string) {
			log, err := admin.Do(background, "ACL", "LOG").Slice()
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range log {
				text := fmt.Sprint(entry)
				// go-redis introduces itself to servers that know how, and may fail.
				if !slices.ContainsFunc(append(expected, "client|"), func(s string) bool { return strings.Contains(text, s) }) {
					refused += text
				}
			}
			return refused
		}
		caches := onServer(t, Options{LocalTTL: -1, MaxLoads: 8}, false, client(), client())
		eventually(t, "subscriptions, or none", func() bool {
			return log() != "" || caches[0].core.redis.stream.wakes() && caches[1].core.redis.stream.wakes()
		})
		everyVerb(t, name, caches)
		eventually(t, "a PING of the subscription", func() bool {
			info, _ := admin.Info(background, "commandstats").Result()
			return log() != "" || strings.Contains(info, "cmdstat_ping:")
		})
		return log()
	}
	t.Run("all", func(t *testing.T) {
		if refused := user(t, "app", rules); refused != "" {
			t.Errorf("the server refused %s", refused)
		}
	})
	t.Run("without scripts", func(t *testing.T) {
		native := append(append([]string(nil), rules...), "-eval", "-evalsha", "+watch", "+unwatch", "+multi", "+exec")
		if refused := user(t, "native", native, "object:eval"); refused != "" {
			t.Errorf("the server refused %s", refused)
		}
	})
	for i, r := range rules {
		if strings.ContainsAny(r[:1], "+~&") {
			t.Run("without "+r, func(t *testing.T) {
				less := append(append([]string(nil), rules[:i]...), rules[i+1:]...)
				if user(t, fmt.Sprint("less", i), less) == "" {
					t.Error("and the server refused nothing")
				}
			})
		}
	}
}

// everyVerb makes two processes use all that they can, which may be refused.
func everyVerb(t *testing.T, key string, caches []*Cache[string]) {
	t.Helper()
	_ = collapse(t, caches, key) // the other process waits, and is woken
	if values, err := caches[0].GetOrLoadMany(background, []string{key + "1", key + "2"}, new(batchOrigin).load); len(values) != 2 || err != nil {
		t.Errorf("%v, %v", values, err)
	}
	a := caches[0].core
	at := func(what string) acquireArgs {
		return acquireArgs{
			key: a.redis.key(a.name, key+what), owner: newOwner(), lease: a.opts.Lease, life: a.recordLife(), coder: a.coder,
		}
	}
	_, _ = a.store.acquire(background, at("")) // finds the value
	stub := at("stub")
	if got, err := a.store.acquire(background, stub); err == nil {
		_, _ = a.store.renew(background, stub.key, stub.owner, got.fence, stub.lease, 2*stub.life)
		_, _ = a.store.abort(background, stub.key, stub.owner, got.fence, 0)
	}
	refresh := at("")
	if raw, err := a.store.read(background, refresh.key, a.coder.maxRecord()); err == nil && len(raw) > 0 {
		refresh.seen = entryID(t, string(raw))
		if got, err := a.store.acquire(background, refresh); err == nil {
			_, _ = a.store.abort(background, refresh.key, refresh.owner, got.fence, time.Millisecond)
		}
	}
	if got, err := a.store.acquire(background, refresh); err == nil { // with a failed mark
		_, _ = a.store.renew(background, refresh.key, refresh.owner, got.fence, refresh.lease, 2*refresh.life)
		_, _ = a.store.abort(background, refresh.key, refresh.owner, got.fence, 0)
	}
	tags, err := New[string]("tags", Options{Redis: a.redis, Tags: true, LocalTTL: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer tags.Close()
	for range 2 {
		if v, err := tags.GetOrLoad(background, key, constant("of "+key), WithTags("t")); v != "of "+key || err != nil {
			t.Errorf("with tags: %q, %v", v, err)
		}
	}
	_ = tags.DeleteTags(background, manyKeys(10_001, "tag")...)
	_ = tags.Clear(background)
	_ = caches[0].Set(background, key, "of "+key)
	_ = caches[0].Delete(background, key)
	own := errors.New("own")
	if _, err := caches[0].GetOrLoad(background, key+"fails", func(context.Context, string) (string, error) { return "", own }); err != own { //nolint:errorlint // unchanged
		t.Errorf("%v", err)
	}
	if v, err := caches[1].GetOrLoad(background, key+"fails", constant("v")); v != "v" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
}

// The same for the servers of LockNodes.
func TestSmallestACLOfLockNodes(t *testing.T) {
	s := realredis.Start(t)
	admin := s.Client(nil)
	needChannels(t, admin)
	rules := smallestACL(t, "locks")
	allowed := newLockNode(admin, RedisOptions{Prefix: "cache", Timeout: time.Second})
	defer allowed.close()
	eventually(t, "vote", func() bool {
		v, _ := allowed.vote(background, fullKey, newOwner(), time.Millisecond)
		return v == yes
	})
	for i := -1; i < len(rules); i++ {
		if i >= 0 && !strings.ContainsAny(rules[i][:1], "+~") {
			continue
		}
		name := fmt.Sprint("user", i)
		args := []any{"ACL", "SETUSER", name}
		for j, r := range rules {
			if j != i {
				args = append(args, r)
			}
		}
		client := s.Client(func(o *redis.Options) { o.Username, o.Password = name, "a-long-password" })
		node := newLockNode(client, RedisOptions{Prefix: "cache", Timeout: time.Second})
		err := errors.Join(admin.FlushAll(background).Err(), admin.Do(background, args...).Err(), admin.Do(background, "ACL", "LOG", "RESET").Err())
		for _, owner := range []byte("abb") { // so that there is a lock of another's
			_, failed := node.vote(background, fullKey, record.Owner{owner}, time.Millisecond)
			err = errors.Join(err, failed, admin.Set(background, "cache:born", 1, 0).Err(),
				admin.Set(background, lockKey(fullKey), strings.Repeat("x", 16)+"1", 0).Err())
		}
		err = errors.Join(err, admin.Set(background, lockKey(fullKey), string(append([]byte{'a'}, make([]byte, 15)...))+"1", 0).Err(),
			node.release(background, fullKey, record.Owner{'a'}))
		log, _ := admin.Do(background, "ACL", "LOG").Slice()
		log = slices.DeleteFunc(log, func(entry any) bool { return strings.Contains(fmt.Sprint(entry), "client|") })
		if i < 0 && (err != nil || len(log) > 0) {
			t.Errorf("%v; the server has refused %v", err, log)
		}
		if i >= 0 && err == nil && len(log) == 0 {
			t.Errorf("%s is not needed", rules[i])
		}
		node.close()
		_ = client.Close()
	}
}
