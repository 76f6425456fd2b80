package cache

import (
	"cmp"
	"context"
	"encoding/hex"
	"strings"
	"time"
	"unicode"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/record"
)

// Names of processes. The owner of a lease begins with bytes of its process, for which a key in Redis has the process's name:
// so it can be told who holds a lease, or has stored a value, also when that process is gone.

// processID is what owners of a process have in common.
type processID [6]byte

const (
	processLife = 24 * time.Hour // of a name in Redis
	longestName = 100            // bytes
	mostNames   = 1000           // of others that are remembered
)

// newOwner names an attempt of this process.
func (r *Redis) newOwner() record.Owner {
	o := newOwner()
	copy(o[:], r.id[:])
	return o
}

func processOf(o record.Owner) (id processID) {
	copy(id[:], o[:])
	return id
}

// idOfProcess is that of the sender of a message, which says it in 16 hexadecimal digits.
func idOfProcess(who string) (id processID) {
	if raw, err := hex.DecodeString(who); err == nil {
		copy(id[:], raw)
	}
	return id
}

// nameKey is where the name of a process is. No cache has an empty name, so no entry has such a key.
func (r *Redis) nameKey(id processID) string {
	return r.prefix + "::process:" + hex.EncodeToString(id[:])
}

// introduce tells Redis the name of this process, in the background, twice in the life of what it has told.
func (r *Redis) introduce() {
	now, last := max(int64(r.clock.local(time.Now())), 1), r.introduced.Load()
	if r.name == "" || last != 0 && now-last < int64(processLife/2) || !r.introduced.CompareAndSwap(last, now) || !r.begin() {
		return
	}
	go func() {
		defer r.work.Done()
		_, err := call(context.Background(), r, r.timeout, func(ctx context.Context) (string, error) {
			return r.client.SetArgs(ctx, r.nameKey(r.id), r.name, redis.SetArgs{TTL: processLife}).Result()
		})
		if err != nil {
			r.introduced.CompareAndSwap(now, last)
		}
	}()
}

// nameOf returns the name of a process, or what there is instead. It may block for one command.
func (r *Redis) nameOf(ctx context.Context, id processID) string {
	name := r.knownAs(id)
	if name != hex.EncodeToString(id[:]) { // or nobody's
		return name
	}
	cmd, err := r.pipeline.do(ctx, get(r.nameKey(id), longestName-1))
	if err != nil {
		return name
	}
	raw, _ := got(cmd)
	told := printable(string(raw))
	if told == "" {
		return name
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.names == nil || len(r.names) >= mostNames {
		r.names = make(map[processID]string)
	}
	r.names[id] = told
	return told
}

// printable leaves out of a text whatever a terminal or a page could take for more.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) || c == unicode.ReplacementChar {
			return -1
		}
		return c
	}, s)
}

// knownAs is nameOf without asking Redis.
func (r *Redis) knownAs(id processID) string {
	switch {
	case id == (processID{}):
		return ""
	case id == r.id && r.name != "":
		return r.name
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return cmp.Or(r.names[id], hex.EncodeToString(id[:]))
}

// renamed replaces what knownAs has said by what is known now.
func (r *Redis) renamed(process string) string {
	var id processID
	if raw, err := hex.DecodeString(process); err == nil && len(raw) == len(id) {
		copy(id[:], raw)
		return r.knownAs(id)
	}
	return process
}

// meet asks for the name of a process in the background, at most once in a second, unless it is known or nobody has shown that they
// want to know: for what is told later.
func (r *Redis) meet(id processID) {
	now, last := max(int64(r.clock.local(time.Now())), 1), r.met.Load()
	if !r.curious.Load() || r.name == "" || r.knownAs(id) != hex.EncodeToString(id[:]) ||
		last != 0 && now-last < int64(time.Second) || !r.met.CompareAndSwap(last, now) || !r.begin() {
		return
	}
	go func() {
		defer r.work.Done()
		_ = r.nameOf(context.Background(), id)
	}()
}
