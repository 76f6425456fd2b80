package cache

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bellwether-go/cache/internal/early"
	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
)

// newSecret is a secret of its own for each n.
func newSecret(n byte) Secret { return bytes.Repeat([]byte{n}, 32) }

// Processes with a secret share loads and values like those without, wake-ups included, and Redis sees none of them.
func TestSealed(t *testing.T) {
	const text = "something that nobody else may read"
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{Secrets: []Secret{newSecret(1)}, LocalTTL: -1}, "A", "B")
		defer stopAll(ps)
		a := ps["A"].get(background, "k", loads(time.Second, text))
		synctest.Wait()
		b := ps["B"].get(background, "k", loads(time.Second, "another"))
		time.Sleep(time.Second)
		a.must(t, text, nil, time.Second)
		b.must(t, text, nil, time.Second)
		if s := ps["B"].cache.Stats(); s.Wakes != 1 || s.Loads != 0 {
			t.Errorf("%+v", s)
		}
		ps["A"].get(background, "none", func(context.Context, string) (string, error) { return "", ErrNotFound }).must(t, "", ErrNotFound, 0)
		ps["B"].get(background, "none", nil).must(t, "", ErrNotFound, 0)
		if err := ps["A"].cache.Set(background, "set", text); err != nil {
			t.Error(err)
		}
		ps["B"].get(background, "set", nil).must(t, text, nil, 0)
		for _, k := range w.Redis.Keys() {
			raw, _ := w.Redis.Get(k)
			if strings.Contains(raw, text[:8]) || strings.Contains(raw, text[len(text)-8:]) {
				t.Errorf("%s can be read: %q", k, raw)
			}
		}
	})
}

// Who has no secret can compute every checksum and digest, and still not make an entry of another one.
func TestForged(t *testing.T) {
	const key = "cache:user:k"
	now := time.Now().UnixMicro()
	at := life{owner: record.Owner{1}, fence: now, stamp: now, freshUntil: now + 1e6, cost: early.Cost{Mean: time.Second}}
	for _, negative := range []bool{false, true} {
		o := Options{Secrets: []Secret{newSecret(1)}, CompressAbove: 10}
		c := coderFor[string](t, o)
		var payload []byte
		if at.negative = negative; !negative {
			payload, _ = c.marshal(strings.Repeat("value", 10))
		}
		raw := c.seal(key, at, payload)
		good, sealed, err := c.header(key, raw)
		if v, err2 := open(c, key, raw); err != nil || err2 != nil || negative != (v == nil) {
			t.Fatal(v, err, err2)
		}
		for name, forge := range map[string]func(h *record.Header, payload []byte) []byte{
			"prolonged":      func(h *record.Header, p []byte) []byte { h.FreshUntil += 1e9; return p },
			"still stale":    func(h *record.Header, p []byte) []byte { h.StaleUntil += 1e9; return p },
			"other state":    func(h *record.Header, p []byte) []byte { h.State ^= record.Value ^ record.Negative; return p },
			"other id":       func(h *record.Header, p []byte) []byte { h.ID[15]++; return p },
			"other fence":    func(h *record.Header, p []byte) []byte { h.Fence++; return p },
			"other stamp":    func(h *record.Header, p []byte) []byte { h.Stamp++; return p },
			"other cost":     func(h *record.Header, p []byte) []byte { h.Cost += time.Second; return p },
			"not compressed": func(h *record.Header, p []byte) []byte { h.Compressed = !h.Compressed; return p },
			"other length":   func(h *record.Header, p []byte) []byte { h.RawLen++; return p },
			"not sealed":     func(h *record.Header, p []byte) []byte { h.Sealed = false; return payload },
			"empty":          func(h *record.Header, p []byte) []byte { return nil },
			"cut short":      func(h *record.Header, p []byte) []byte { return p[:len(p)-1] },
			"longer":         func(h *record.Header, p []byte) []byte { return append(bytes.Clone(p), 0) },
			"flipped nonce":  func(h *record.Header, p []byte) []byte { p = bytes.Clone(p); p[0] ^= 1; return p },
			"flipped tag":    func(h *record.Header, p []byte) []byte { p = bytes.Clone(p); p[len(p)-1] ^= 1; return p },
			"of another entry": func(*record.Header, []byte) []byte {
				_, p, _ := c.header(key, c.seal(key, life{}, payload))
				return p
			},
			"another version": func(h *record.Header, p []byte) []byte { h.Version++; return p },
			"of another key": func(*record.Header, []byte) []byte {
				moved := c.seal("cache:user:l", at, payload)
				_, p, _ := c.header("cache:user:l", moved)
				return p
			},
		} {
			h := good
			p := forge(&h, sealed)
			forged := record.Append(nil, &h, p) // a forger has it too
			if v, err := open(c, key, forged); !errors.Is(err, errUnreadable) && !errors.Is(err, errOther) {
				t.Errorf("negative %v, %s: %v, %v", negative, name, v, err)
			}
		}
		// Moved with its header, but for the digest of the key.
		moved := bytes.Clone(raw)
		binary.BigEndian.PutUint64(moved[14:], record.Digest("cache:user:l"))
		if _, err := open(c, "cache:user:l", moved); !errors.Is(err, errUnreadable) {
			t.Errorf("moved: %v", err)
		}
	}
}

// Secrets are replaced one after the other: first all processes read with the new one as well, then it seals.
func TestSecretsRotate(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		with := func(name string, secrets ...Secret) *proc {
			return start(t, w, name, Options{Secrets: secrets, LocalTTL: -1}, nil)
		}
		one, both, other, two := with("A", newSecret(1)), with("B", newSecret(1), newSecret(2)),
			with("C", newSecret(2), newSecret(1)), with("D", newSecret(2))
		for _, p := range []*proc{one, both, other, two} {
			defer p.stop()
		}
		one.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		both.get(background, "k", nil).must(t, "v", nil, 0)
		other.get(background, "k", nil).must(t, "v", nil, 0)
		two.get(background, "k", loads(0, "v2")).must(t, "v2", nil, 0) // unreadable: replaced
		other.get(background, "k", nil).must(t, "v2", nil, 0)
		if s := two.cache.Stats(); s.Unreadable == 0 || s.Loads != 1 || s.RedisErrors != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Processes with and without a secret leave each other's entries alone; with a higher Version they replace them.
func TestSecretsIntroduced(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		plain := start(t, w, "A", Options{}, nil)
		sealed := start(t, w, "B", Options{Secrets: []Secret{newSecret(1)}}, nil)
		higher := start(t, w, "C", Options{Secrets: []Secret{newSecret(1)}, Version: 1}, nil)
		for _, p := range []*proc{plain, sealed, higher} {
			defer p.stop()
		}
		plain.get(background, "k", loads(0, "v")).must(t, "v", nil, 0)
		before, _ := w.Redis.Get(fullKey)
		sealed.get(background, "k", loads(0, "v2")).must(t, "v2", nil, 0)
		if after, _ := w.Redis.Get(fullKey); after != before {
			t.Error("the plain entry was replaced")
		}
		higher.get(background, "k", loads(0, "v3")).must(t, "v3", nil, 0)
		if after, _ := w.Redis.Get(fullKey); after == before {
			t.Error("the plain entry was not replaced")
		}
	})
}

// A secret does not show itself.
func TestSecretHidden(t *testing.T) {
	s := Secret("0123456789abcdef0123456789abcdef")
	o := Options{Secrets: []Secret{s}}
	j, err := json.Marshal(struct{ S []Secret }{o.Secrets})
	if err != nil {
		t.Fatal(err)
	}
	_, bad := New[string]("user", Options{Secrets: []Secret{s[:31]}})
	if bad == nil || !strings.Contains(bad.Error(), "Secrets[0] is 31 bytes long") {
		t.Errorf("%v", bad)
	}
	for _, text := range []string{
		fmt.Sprint(o), fmt.Sprintf("%+v %#v %s", o, o, s), string(j), bad.Error(),
	} {
		for _, shown := range []string{"0123456789", "48 49 50", "0x30, 0x31", "MDEyMzQ1"} {
			if strings.Contains(text, shown) {
				t.Errorf("%s", text)
			}
		}
	}
	// What the caller does with its slice afterwards does not matter.
	c := coderFor[string](t, Options{Secrets: []Secret{s}})
	raw := c.seal("k", life{}, []byte("\xa1v"))
	clear(s)
	if v, err := open(c, "k", raw); v != "v" || err != nil {
		t.Error(v, err)
	}
}

// What sealing adds to a value on its way to Redis and back.
func BenchmarkSeal(b *testing.B) {
	for _, size := range []int{200, 4000, 100_000} {
		for name, secrets := range map[string][]Secret{"plain": nil, "sealed": {newSecret(1)}} {
			b.Run(fmt.Sprintf("%d/%s", size, name), func(b *testing.B) {
				o, err := Options{Secrets: secrets, CompressAbove: -1}.withDefaults()
				if err != nil {
					b.Fatal(err)
				}
				c := newCoder[[]byte](&o)
				payload, err := c.marshal(make([]byte, size))
				if err != nil {
					b.Fatal(err)
				}
				for b.Loop() {
					raw := c.seal(fullKey, life{owner: record.Owner{1}}, payload)
					if _, err := open(c, fullKey, raw); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
