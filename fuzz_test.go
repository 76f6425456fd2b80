package cache

import (
	"bytes"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"

	"github.com/bellwether-go/cache/internal/record"
)

// FuzzRecord reads whatever may lie under a key, under a right checksum and header too. It must be a value, or an error
// that callers do not see; without a panic, and with memory in proportion to the input.
func FuzzRecord(f *testing.F) {
	f.Add([]byte("\xa5hello"), uint64(6), byte(record.Value), uint32(0), false, true)
	f.Add(s2.Encode(nil, bytes.Repeat([]byte("\xa5hello"), 100)), uint64(600), byte(record.Value), uint32(0), true, true)
	f.Add([]byte("\xdd\x04\x00\x00\x00"), uint64(5), byte(record.Value), uint32(0), false, true)
	f.Add([]byte("0123456789abcdef"), uint64(0), byte(record.Stub), uint32(1), false, true)
	f.Add([]byte("bw1V"), uint64(0), byte(record.Negative), uint32(0), false, false)
	type nested struct {
		A []string
		B map[string]*nested
		C any
	}
	const limit = 64 << 10
	f.Fuzz(func(t *testing.T, payload []byte, rawLen uint64, state byte, version uint32, compressed, sealed bool) {
		for _, c := range []*coder{
			coderFor[any](t, Options{MaxValueBytes: limit}),
			coderFor[string](t, Options{MaxValueBytes: limit}),
			coderFor[nested](t, Options{MaxValueBytes: limit}),
			coderFor[nested](t, Options{MaxValueBytes: limit, Codec: JSON{}}),
			coderFor[any](t, Options{MaxValueBytes: limit, Secrets: []Secret{newSecret(1)}}),
		} {
			raw := payload
			if sealed {
				h := record.Header{
					State: record.State(state), Version: version, Key: record.Digest("k"), Type: c.typ, RawLen: rawLen,
					Compressed: compressed, Sealed: len(c.sealer) > 0,
				}
				raw = record.Append(nil, &h, payload)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			v, err := open(c, "k", raw)
			runtime.ReadMemStats(&after)
			if err != nil && (v != nil || !errors.Is(err, errUnreadable) && !errors.Is(err, errOther)) {
				t.Errorf("%v, %v", v, err)
			}
			// What is decompressed is at most the limit; an element of one byte becomes at most a nested.
			size := int(reflect.TypeFor[nested]().Size())
			if used, most := after.TotalAlloc-before.TotalAlloc, uint64(limit+4*size*min(limit, len(raw)*100)+1<<20); used > most {
				t.Errorf("%d bytes allocated for %d", used, len(raw))
			}
		}
	})
}

// FuzzCodec stores values and reads them back.
func FuzzCodec(f *testing.F) {
	f.Add("k", "v", []byte("bytes"), int64(1), true)
	f.Add("", "\xff", []byte(nil), int64(-1), false)
	f.Add("\x00", "bw1V", bytes.Repeat([]byte("x"), 5000), int64(1<<62), true)
	type value struct {
		S string
		B []byte
		N int64
		M map[string]bool
	}
	f.Fuzz(func(t *testing.T, key, s string, b []byte, n int64, compress bool) {
		want := value{s, b, n, map[string]bool{s: compress}}
		o := Options{CompressAbove: -1}
		if compress {
			o.CompressAbove = 1
		}
		c := coderFor[value](t, o)
		payload, err := c.marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		raw := c.seal(key, life{owner: record.Owner{1}}, payload)
		got, err := open(c, key, raw)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%#v, %v; want %#v", got, err, want)
		}
		if _, err := open(c, key+"x", raw); !errors.Is(err, errUnreadable) {
			t.Errorf("read under another key: %v", err)
		}
		if len(raw) > record.Size {
			raw[record.Size+int(uint64(n)%uint64(len(raw)-record.Size))] ^= 1
			if _, err := open(c, key, raw); !errors.Is(err, errUnreadable) {
				t.Errorf("a flipped bit: %v", err)
			}
		}
	})
}

// FuzzKeys makes keys in Redis of pairs: no two of them meet, and each can be taken apart again.
func FuzzKeys(f *testing.F) {
	f.Add("cache", "user", "42", "cache", "user", "42")
	f.Add("a", "b", "c:d", "a", "b:c", "d")
	f.Add("a", "b", "", "a", "b", ":")
	f.Add("a", "every-process-of-this-cache", "", "a", "inbox", "x")
	f.Fuzz(func(t *testing.T, prefix1, name1, key1, prefix2, name2, key2 string) {
		for _, s := range []string{prefix1, name1, prefix2, name2} {
			if checkName("", s) != nil {
				return
			}
		}
		r1, r2 := &Redis{prefix: prefix1}, &Redis{prefix: prefix2}
		full1, full2 := r1.key(name1, key1), r2.key(name2, key2)
		same := prefix1 == prefix2 && name1 == name2 && key1 == key2
		if (full1 == full2) != same {
			t.Errorf("%q and %q", full1, full2)
		}
		if name, key, ok := r1.split(full1); !ok || name != name1 || key != key1 {
			t.Errorf("%q is %q and %q", full1, name, key)
		}
		rest := string(keyEvents([]string{full1, full2}))
		for _, want := range []string{full1, full2} {
			key, more, ok := cutText(rest[1:])
			if !ok || key != want {
				t.Errorf("a message about %q is about %q", want, key)
			}
			rest = more
		}
	})
}

// FuzzMessage handles whatever is published.
func FuzzMessage(f *testing.F) {
	r := &Redis{prefix: "cache", process: "0123456789abcdef"}
	r.events.r = r
	f.Add(r.events.messageLocked(keyEvents([]string{"cache:user:a", "cache:user:b"})))
	f.Add("D0123456789abcdef00000012cache:user:a")
	f.Add("C0123456789abcdef00000012cache:user:krecord")
	f.Add("A0123456789abcdef99999999x")
	f.Fuzz(func(t *testing.T, message string) {
		r := &Redis{prefix: "cache", process: "another process."}
		s := &stream{r: r}
		w := r.waiters.register("cache:user:k")
		s.handle(message)
		select {
		case got := <-w.news:
			if got.kind != 0 && (message[0] != got.kind || message[1:17] != string(got.owner[:]) ||
				!strings.HasSuffix(message, "cache:user:k"+string(got.record))) {
				t.Errorf("%q is understood as %+v", message, got)
			}
		default:
		}
	})
}
