package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
)

// The bound on deletions that wait to be repeated is reported, not silent, and there is a bound on their bytes.
func TestTooManyDeletions(t *testing.T) {
	for name, keys := range map[string][]string{
		"keys":  manyKeys(mostUndone, ""),
		"bytes": manyKeys(mostUndoneBytes/MaxKeyBytes, strings.Repeat("x", MaxKeyBytes-10)),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *lab.World) {
				p := start(t, w, "A", Options{}, nil)
				defer p.client.Close()
				defer p.rds.Close()
				w.CutOff("A", false)
				if err := p.cache.Delete(background, keys...); err == nil || errors.Is(err, errTooManyUndone) {
					t.Fatalf("%.100s", err)
				}
				if err := p.cache.Delete(background, keys[0], keys[1]); errors.Is(err, errTooManyUndone) {
					t.Errorf("the same keys again: %v", err)
				}
				if err := p.cache.Delete(background, keys[0], "one more", strings.Repeat("y", MaxKeyBytes)); !errors.Is(err, errTooManyUndone) {
					t.Errorf("%v", err)
				}
				s := p.cache.Stats()
				if s.DeletesPending != uint64(len(keys)) || s.DeletesDropped != 2 {
					t.Errorf("%+v", s)
				}
				w.CutOff("A", true)
				p.cache.core.undone.mu.Lock()
				n := len(p.cache.core.undone.in)
				p.cache.core.undone.mu.Unlock()
				if n != len(keys) {
					t.Errorf("%d are known", n)
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				u := &p.cache.core.undone
				if s := p.cache.Stats(); s.DeletesPending != 0 || s.DeletesRepeated != uint64(len(keys)) || u.bytes != 0 || len(u.in) != 0 {
					t.Errorf("%+v", s)
				}
				if err := p.cache.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func manyKeys(n int, prefix string) (keys []string) {
	for i := range n {
		keys = append(keys, fmt.Sprint(prefix, i))
	}
	return keys
}

// A deletion is carried out also if the caller's context has ended before.
func TestDeleteOfCancelled(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		for _, p := range ps {
			p.get(background, "k", loads(0, "old")).must(t, "old", nil, 0)
		}
		ctx, cancel := context.WithCancel(background)
		cancel()
		if err := ps["A"].cache.Delete(ctx, "k"); err != nil && err != context.Canceled { //nolint:errorlint // unchanged
			t.Error(err)
		}
		synctest.Wait()
		for _, p := range ps {
			p.get(background, "k", loads(0, "new")).must(t, "new", nil, 0)
		}
		if err := ps["A"].cache.Set(ctx, "k", "v"); err != context.Canceled { //nolint:errorlint // unchanged
			t.Errorf("Set: %v", err)
		}
	})
}
