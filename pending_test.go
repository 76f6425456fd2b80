package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2/server"

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

// A key is deleted again while an earlier deletion of it is being repeated, and that fails as well: the later one is
// repeated too.
func TestDeletionRepeatedTwice(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{LocalTTL: -1}, "A", "B")
		defer stopAll(ps)
		a, b := ps["A"], ps["B"]
		accept := refusing(w, "ERR not now", "UNLINK")
		if a.cache.Delete(background, "k") == nil {
			t.Fatal("no error")
		}
		accept()
		w.Hold(func(m *lab.Message) bool { return m.Kind == lab.Reply && m.Command() == "UNLINK" })
		for len(w.Held()) == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		// The repetition is executed, and its reply on its way. B stores what will be old soon.
		b.get(background, "k", loads(0, "old")).must(t, "old", nil, 0)
		held := w.Held()[0]
		accept = refusing(w, "ERR not now", "UNLINK")
		w.Hold(func(m *lab.Message) bool { return m == held })
		if a.cache.Delete(background, "k") == nil {
			t.Fatal("no error")
		}
		accept()
		w.Hold(nil)
		time.Sleep(time.Minute)
		a.get(background, "k", loads(0, "new")).must(t, "new", nil, 0)
		if s := a.cache.Stats(); s.DeletesPending != 0 || s.DeletesDropped != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// What Redis refuses for good does not keep the rest from being repeated.
func TestDeletionRefusedForGood(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{Tags: true, LocalTTL: -1}, nil)
		defer p.stop()
		refusing(w, "ERR not now", "INVALIDATE", "UNLINK")
		_ = p.cache.DeleteTags(background, "t")
		_ = p.cache.Delete(background, "k")
		_ = p.cache.DeleteTags(background, "u")
		accept := refusing(w, "ERR not now", "INVALIDATE")
		time.Sleep(10 * time.Second)
		if n := p.cache.Stats().DeletesPending; n != 2 {
			t.Errorf("%d pending", n)
		}
		accept()
	})
}

// Close does not wait for the whole queue.
func TestCloseWhileRepeating(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		p := start(t, w, "A", Options{Tags: true}, nil)
		defer p.stop()
		refusing(w, "ERR not now", "UNLINK", "INVALIDATE")
		for i := range 200 {
			_ = p.cache.Delete(background, fmt.Sprint(i))
			_ = p.cache.DeleteTags(background, fmt.Sprint(i))
		}
		w.Redis.Server().SetPreHook(func(_ *server.Peer, cmd string, _ ...string) bool {
			if cmd == "UNLINK" || strings.HasPrefix(cmd, "EVAL") {
				time.Sleep(40 * time.Millisecond)
			}
			return false
		})
		time.Sleep(2 * time.Second)
		began := time.Now()
		err := p.cache.Close()
		if took := time.Since(began); took > time.Second || err == nil {
			t.Errorf("Close took %v: %v", took, err)
		}
		if s := p.cache.Stats(); s.DeletesDropped == 0 || s.DeletesDropped != s.DeletesPending {
			t.Errorf("%+v", s)
		}
	})
}

// Of many keys, some are deleted and only the others not told, and some are not deleted: all of them are repeated.
func TestDeletionInPart(t *testing.T) {
	keys := manyKeys(2*deleteKeys+1, "k")
	for name, refused := range map[string]string{"the first": keys[0], "one of the second thousand": keys[deleteKeys+1], "the last": keys[2*deleteKeys]} {
		for _, tags := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", tags ", tags), func(t *testing.T) {
				bubble(t, func(t *testing.T, w *lab.World) {
					p := start(t, w, "A", Options{Tags: tags, LocalTTL: -1}, nil)
					defer p.stop()
					if v, err := p.cache.GetOrLoad(background, refused, func(ctx context.Context, _ string) (string, error) {
						if tags {
							LoadFrom(ctx).SetTags(refused)
						}
						return "old", nil
					}); v != "old" || err != nil {
						t.Fatal(v, err)
					}
					w.Redis.Server().SetPreHook(func(c *server.Peer, cmd string, args ...string) bool {
						no := cmd == "PUBLISH" || cmd == "UNLINK" && strings.HasSuffix(args[0], ":"+refused) ||
							strings.HasPrefix(cmd, "EVAL") && slices.Contains(args[3:], refused)
						if no {
							c.WriteError("ERR not now")
						}
						return no
					})
					invalidate := p.cache.Delete
					if tags {
						invalidate = p.cache.DeleteTags
					}
					if invalidate(background, keys...) == nil {
						t.Error("no error")
					}
					wants(t, p.cache, refused, "v2")
					w.Redis.Server().SetPreHook(nil)
					time.Sleep(10 * time.Second)
					wants(t, p.cache, refused, "v2")
					if s := p.cache.Stats(); s.DeletesPending != 0 || s.DeletesRepeated != uint64(len(keys)) {
						t.Errorf("%+v", s)
					}
				})
			})
		}
	}
}
