package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/early"
	"github.com/bellwether-go/cache/internal/record"
)

// What processes of different versions of this package say to each other, as it was when it was written: records, and
// messages on channels. Files in testdata/wire are added and never edited, so each is listed with its digest; every
// version must go on reading all of them.
func TestWireGoldens(t *testing.T) {
	text := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("testdata", "wire", name))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		if got := hex.EncodeToString(sum[:4]); got != wireSums[name] {
			t.Errorf("%s has been edited: its digest is %s", name, got)
		}
		raw, err := hex.DecodeString(strings.Join(strings.Fields(string(b)), ""))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	long := strings.Repeat("hello ", 100)
	at := life{
		owner: record.Owner([]byte("0123456789abcdef")), fence: 1767225600000000, stamp: 1767225600000000,
		freshUntil: 1767225900000000, cost: early.Cost{Mean: 300 * time.Millisecond},
	}
	lease := record.Lease{Owner: at.owner, Fence: at.fence, Until: 1767225602000000, Duration: 2 * time.Second}
	for _, c := range []struct {
		name  string
		coder *coder
		write func(c *coder) []byte
		want  any // nil: no value
		state record.State
	}{
		{"format1-value.hex", coderFor[string](t, Options{}), func(c *coder) []byte {
			b, _ := c.marshal("hello")
			return c.seal("cache:user:k", at, b)
		}, "hello", record.Value},
		{"format1-compressed.hex", coderFor[string](t, Options{CompressAbove: 100, Version: 7}), func(c *coder) []byte {
			b, _ := c.marshal(long)
			return c.seal("cache:user:k", at, b)
		}, long, record.Value},
		{"format1-json.hex", coderFor[string](t, Options{Codec: JSON{}}), func(c *coder) []byte {
			b, _ := c.marshal("hello")
			return c.seal("cache:user:k", at, b)
		}, "hello", record.Value},
		{"format1-sealed.hex", coderFor[string](t, Options{Secrets: []Secret{newSecret(2), newSecret(1)}}), nil, "hello", record.Value},
		{"format1-negative.hex", coderFor[string](t, Options{}), func(c *coder) []byte {
			l := at
			l.negative = true
			return c.seal("cache:user:k", l, nil)
		}, nil, record.Negative},
		{"format1-stub.hex", coderFor[string](t, Options{}), func(c *coder) []byte {
			return append(c.lease("cache:user:k", early.Cost{}, lease), "inbox-of-a-proce"...)
		}, nil, record.Stub},
		{"format1-native-stub.hex", coderFor[string](t, Options{}), func(c *coder) []byte {
			return c.lease("cache:user:k", early.Cost{}, record.Lease{Owner: at.owner, Duration: 2 * time.Second})
		}, nil, record.Stub},
	} {
		raw := text(c.name)
		if c.write == nil { // random
		} else if now := c.write(c.coder); !bytes.Equal(now, raw) && c.name != "format1-compressed.hex" { // S2 may improve
			t.Errorf("%s is written differently now:\n%x", c.name, now)
		}
		h, payload, err := c.coder.header("cache:user:k", raw)
		if err != nil || h.State != c.state {
			t.Errorf("%s: %+v, %v", c.name, h, err)
			continue
		}
		if c.want != nil {
			if v, err := c.coder.value("cache:user:k", &h, payload); v != c.want || err != nil {
				t.Errorf("%s: %v, %v", c.name, v, err)
			}
		}
	}

	// Messages. What scripts publish is compared with what handle understands in the scenarios.
	r := &Redis{prefix: "cache", process: "abcdefghijklmnop", clock: serverClock{started: time.Now()}, caches: map[string]cores{}}
	r.events.r = r
	keys := []string{"cache:user:k", "cache:user:l"}
	if m := r.events.messageLocked(keyEvents(keys)); m != string(text("message1-event.hex")) {
		t.Errorf("an event is %x", m)
	}
	for _, name := range []string{"message1-deleted.hex", "message1-event.hex"} {
		var ws []*waiter
		for _, key := range keys {
			ws = append(ws, r.waiters.register(key))
		}
		r.process = "another process."
		(&stream{r: r}).handle(string(text(name)))
		for _, w := range ws {
			select {
			case got := <-w.news:
				if got.kind != 0 {
					t.Errorf("%s: %+v", name, got)
				}
			default:
				t.Errorf("%s is not understood", name)
			}
			r.waiters.unregister(w)
		}
	}
	for name, want := range map[string]wake{
		"message1-committed.hex": {kind: wakeCommitted, owner: at.owner, record: text("format1-value.hex")},
		"message1-aborted.hex":   {kind: wakeAborted, owner: at.owner, record: []byte{}},
	} {
		w := r.waiters.register("cache:user:k")
		(&stream{r: r}).handle(string(text(name)))
		select {
		case got := <-w.news:
			if got.kind != want.kind || got.owner != want.owner || !bytes.Equal(got.record, want.record) {
				t.Errorf("%s: %+v", name, got)
			}
		default:
			t.Errorf("%s is not understood", name)
		}
		r.waiters.unregister(w)
	}
}

var wireSums = map[string]string{
	"format1-compressed.hex":  "2ce5ca38",
	"format1-json.hex":        "7b6720a1",
	"format1-native-stub.hex": "2848c603",
	"format1-negative.hex":    "e862dfae",
	"format1-sealed.hex":      "657fda69",
	"format1-stub.hex":        "c7175abd",
	"format1-value.hex":       "47e6ca52",
	"message1-aborted.hex":    "aa70846b",
	"message1-committed.hex":  "fd787bc0",
	"message1-deleted.hex":    "56ab09ab",
	"message1-event.hex":      "54a344fc",
}
