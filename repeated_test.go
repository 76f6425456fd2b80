package cache

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
)

// repeats gives a client a reply of one of its next pipelines several times, so that the commands after it get those of others.
type repeats struct {
	exitHook
	pipeline, at, times int
}

func (h *repeats) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		h.pipeline--
		if h.pipeline != -1 {
			return err
		}
		for i := len(cmds) - 1; i >= h.at+h.times; i-- {
			hand(cmds[i], cmds[i-h.times])
		}
		for i := min(h.at+h.times, len(cmds)) - 1; i > h.at; i-- {
			hand(cmds[i], cmds[h.at])
		}
		return err
	}
}

// hand gives a command the reply to another one.
func hand(to, from redis.Cmder) {
	to.SetErr(from.Err())
	switch to := to.(type) {
	case *redis.SliceCmd:
		if from, ok := from.(*redis.SliceCmd); ok {
			to.SetVal(from.Val())
			return
		}
	case *redis.StringCmd:
		if from, ok := from.(*redis.StringCmd); ok {
			to.SetVal(from.Val())
			return
		}
	case *redis.IntCmd:
		if from, ok := from.(*redis.IntCmd); ok {
			to.SetVal(from.Val())
			return
		}
	case *redis.Cmd:
		to.SetVal(nil)
		if from, ok := from.(*redis.Cmd); ok {
			to.SetVal(from.Val())
			return
		}
	}
	to.SetErr(errors.New("redis: can't parse the reply"))
}

// A client that mixes up replies, as after a timeout or behind a proxy that repeats one, does not make a deletion unheard
// of: what is asked about the tags of one key is not believed about another.
func TestRepeatedReplies(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{Tags: true, LocalTTL: -1}, "A", "B")
		defer stopAll(ps)
		a, b := ps["A"].cache, ps["B"].cache
		keys := []string{"k0", "k1", "k2", "k3"}
		version := 0
		load := func(ctx context.Context, keys []string) (map[string]string, error) {
			values := make(map[string]string)
			for _, k := range keys {
				LoadFrom(ctx).ForKey(k).SetTags(k)
				values[k] = fmt.Sprint(version)
			}
			return values, nil
		}
		h := &repeats{}
		ps["A"].client.AddHook(h)
		for i := range 3 * 8 * 3 * len(keys) {
			k := keys[i%len(keys)]
			if _, err := a.GetOrLoadMany(background, keys, load); err != nil {
				t.Fatal(err)
			}
			version++
			deleteTags(t, b, k)
			h.pipeline, h.at, h.times = i/len(keys)%3, i/len(keys)/3%8, 1+i/len(keys)/3/8
			which := *h
			values, err := a.GetOrLoadMany(background, keys, load)
			if want := fmt.Sprint(version); err != nil || values[k] != want {
				t.Errorf("pipeline %d, reply %d repeated %d times: %s is %q, %v; want %q",
					which.pipeline, which.at, which.times, k, values[k], err, want)
			}
		}
	})
}
