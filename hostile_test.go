package cache

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/proxy"
	"github.com/bellwether-go/cache/internal/realredis"
	"github.com/bellwether-go/cache/internal/record"
)

// gobCodec is a Codec of a user's.
type gobCodec struct{}

func (gobCodec) Name() string { return "gob" }
func (gobCodec) Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

func (gobCodec) Unmarshal(b []byte, v any) error { return gob.NewDecoder(bytes.NewReader(b)).Decode(v) }

// hostileLimit is MaxValueBytes of the tests below; reading something hostile may allocate twice that and 1 MiB.
const hostileLimit = 1 << 20

// hostile is what somebody has put under the key of a value.
type hostile struct {
	name string
	raw  []byte
}

// hostiles are records that a cache of values of this coder must not take for one, by whoever can compute checksums.
func hostiles(t *testing.T, key string, c *coder) (all []hostile) {
	t.Helper()
	add := func(name string, raw []byte) { all = append(all, hostile{name, raw}) }
	fresh := time.Now().Add(time.Hour).UnixMicro()
	sealed := func(name string, payload []byte, change func(h *record.Header)) {
		h := record.Header{
			State: record.Value, Key: record.Digest(key), Type: c.typ, ID: record.Owner{1}, Fence: 1, Stamp: 1,
			FreshUntil: fresh, StaleUntil: fresh, RawLen: uint64(len(payload)),
		}
		if change != nil {
			change(&h)
		}
		add(name, record.Append(nil, &h, payload))
	}
	repeat := func(s string, n int) []byte { return bytes.Repeat([]byte(s), n) }
	payload, err := c.marshal(goodValue)
	if err != nil {
		t.Fatal(err)
	}
	good := c.seal(key, life{owner: record.Owner{1}, fence: 1, stamp: 1, freshUntil: fresh}, payload)

	// What is not a record, or was damaged.
	add("text", []byte("hello"))
	add("a number", []byte("5"))
	add("magic and nothing else", []byte("bw1"))
	add("another format version", append([]byte("bw2"), good[3:]...))
	add("zeros", make([]byte, 1000))
	add("too large", repeat("x", 2*hostileLimit))
	add("too large, with a header", append(bytes.Clone(good), make([]byte, 2*hostileLimit)...))
	for n := 1; n < len(good); n += 5 {
		add(fmt.Sprintf("cut to %d bytes", n), good[:n])
	}
	for i := range record.EntrySize {
		flipped := bytes.Clone(good)
		flipped[i] ^= 1 << (i % 8)
		add(fmt.Sprintf("bit %d of byte %d flipped", i%8, i), flipped)
	}
	for i := record.Size; i < len(good); i++ {
		flipped := bytes.Clone(good)
		flipped[i] ^= 1 << (i % 8)
		add(fmt.Sprintf("bit %d of byte %d flipped", i%8, i), flipped)
	}
	add("with more at its end", append(bytes.Clone(good), 0))
	add("doubled", append(bytes.Clone(good), good...))

	// Of another key, state or length.
	sealed("of another key", payload, func(h *record.Header) { h.Key++ })
	sealed("of no state", payload, func(h *record.Header) { h.State = 0 })
	sealed("of an unknown state", payload, func(h *record.Header) { h.State = 'X' })
	sealed("a negative entry with a value", payload, func(h *record.Header) { h.State = record.Negative })
	sealed("sealed", payload, func(h *record.Header) { h.Sealed = true })
	sealed("no payload", nil, nil)
	sealed("a length too large by one", payload, func(h *record.Header) { h.RawLen++ })
	sealed("a length too small by one", payload, func(h *record.Header) { h.RawLen-- })
	sealed("the largest length", payload, func(h *record.Header) { h.RawLen = 1<<64 - 1 })
	sealed("a length above the limit", make([]byte, hostileLimit+1), nil)

	// MessagePack that declares what is not there. 5 bytes allocate gigabytes if they are believed.
	for _, code := range []byte{0xc6, 0xc9, 0xdb, 0xdd, 0xdf} { // bin, ext, str, array, map of 32 bits
		for _, n := range []uint32{1 << 16, 1 << 20, 1 << 25, 1 << 26, 1 << 28, 1<<32 - 1} {
			sealed(fmt.Sprintf("code %x declares %d", code, n), binary.BigEndian.AppendUint32([]byte{code}, n), nil)
		}
	}
	for _, code := range []byte{0xc5, 0xc8, 0xda, 0xdc, 0xde} { // of 16 bits
		sealed(fmt.Sprintf("code %x declares 65535", code), []byte{code, 0xff, 0xff}, nil)
	}
	for _, code := range []byte{0x8f, 0x9f, 0xbf, 0xc4, 0xca, 0xcb, 0xcc, 0xcf, 0xd4, 0xd8, 0xd9} {
		sealed(fmt.Sprintf("code %x and no more", code), []byte{code}, nil)
	}
	sealed("a code that is never used", []byte{0xc1}, nil)
	for _, depth := range []int{600, 10_000, 100_000, hostileLimit} {
		sealed(fmt.Sprintf("arrays nested %d deep", depth), repeat("\x91", depth), nil)
		sealed(fmt.Sprintf("maps nested %d deep", depth/2), repeat("\x81\xc0", depth/2), nil)
		if depth < hostileLimit {
			sealed(fmt.Sprintf("arrays nested %d deep, with an end", depth), append(repeat("\x91", depth), 0xc0), nil)
		}
	}
	sealed("arrays that declare more at each level", repeat("\xdd\x00\x00\xff\xff", 200), nil)
	sealed("a million lengths", repeat("\xdd\x7f\xff\xff\xff", hostileLimit/5), nil)
	sealed("two values", append(bytes.Clone(payload), payload...), nil)
	sealed("JSON nested a million deep", repeat("[", hostileLimit), nil)
	sealed("JSON objects nested deep", repeat(`{"a":`, hostileLimit/5), nil)

	// Compressed, with S2 and with what others use.
	compressed := func(raw uint64) func(h *record.Header) {
		return func(h *record.Header) { h.Compressed, h.RawLen = true, raw }
	}
	declares := binary.AppendUvarint(nil, 512<<20)
	sealed("S2 that declares 512 MiB", append(declares, 0), compressed(512<<20))
	sealed("S2 that declares 512 MiB, the header 10 bytes", append(declares, 0), compressed(10))
	sealed("S2 that declares 2^63", append(binary.AppendUvarint(nil, 1<<63), 0), compressed(1<<63))
	sealed("S2 without a length", []byte{0xff}, compressed(10))
	sealed("S2 of nothing", nil, compressed(0))
	bombs := theBombs()
	for name, bomb := range bombs {
		sealed("a bomb in "+name, bomb, nil)
		sealed("a bomb in "+name+", called S2", bomb, compressed(bombBytes))
		sealed("a bomb in "+name+", called S2, that lies", bomb, compressed(hostileLimit))
	}
	sealed("S2 cut short", s2.Encode(nil, repeat("ab", 1000))[:10], compressed(2000))
	sealed("S2 of garbage within the limit", s2.Encode(nil, repeat("\xc1", hostileLimit)), compressed(hostileLimit))
	sealed("S2 within S2", s2.Encode(nil, bombs["S2"]), compressed(uint64(len(bombs["S2"]))))

	// Headers whose numbers are out of range, under a right checksum.
	digits := func(name string, at, width int, text string) {
		raw := bytes.Clone(good)
		copy(raw[at:at+width], strings.Repeat(text, width)[:width])
		binary.BigEndian.PutUint64(raw[128:], xxhash.Sum64(append(bytes.Clone(raw[:128]), raw[record.Size:]...)))
		add(name, raw)
	}
	for _, f := range []struct {
		name      string
		at, width int
	}{{"version", 4, 10}, {"fence", 46, 16}, {"stamp", 62, 16}, {"fresh-until", 78, 16}, {"stale-until", 94, 16}} {
		for _, text := range []string{" ", "-", "x", "\x00", "1e", "\xff"} {
			digits(fmt.Sprintf("%s of %q", f.name, text), f.at, f.width, text)
		}
	}
	digits("version too large", 4, 10, "9")
	digits("compressed neither yes nor no", 118, 1, "2")
	digits("sealed neither yes nor no", 119, 1, " ")
	return all
}

const bombBytes = 16 << 20

// theBombs are zeros, compressed.
var theBombs = sync.OnceValue(func() map[string][]byte {
	zeros := make([]byte, bombBytes)
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	_, _ = w.Write(zeros)
	_ = w.Close()
	z, _ := zstd.NewWriter(nil)
	defer z.Close()
	return map[string][]byte{
		"S2": s2.EncodeBest(nil, zeros), "gzip": gz.Bytes(), "zstd": z.EncodeAll(zeros, nil),
		"zstd of 512 MiB": {0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0x00, 0x00, 0x00, 0x20, 0x01, 0x00, 0x00, 0, 0, 0, 0}, // a header
	}
})

const goodValue = "a value that is all right"

// reads reads what somebody has put there, and looks how much it allocates.
func (h *hostile) reads(t *testing.T, read func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	read()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 2*hostileLimit+1<<20 {
		t.Errorf("%s: %d bytes allocated", h.name, n)
	}
}

// P10: no bytes are an error, a panic or a reason to allocate, for whatever types and codecs.
func TestHostileBytes(t *testing.T) {
	type nested struct {
		A []string
		B map[string]*nested
		C any
	}
	o := Options{MaxValueBytes: hostileLimit}
	with := func(c Codec) Options { return Options{MaxValueBytes: hostileLimit, Codec: c} }
	n := 0
	for name, c := range map[string]*coder{
		"string": coderFor[string](t, o), "any": coderFor[any](t, o), "[]int64": coderFor[[]int64](t, o),
		"[]byte": coderFor[[]byte](t, o), "map": coderFor[map[string]any](t, o), "struct": coderFor[nested](t, o),
		"[][][]any": coderFor[[][][]any](t, o), "JSON": coderFor[any](t, with(JSON{})), "JSON struct": coderFor[nested](t, with(JSON{})),
	} {
		t.Run(name, func(t *testing.T) {
			all := hostiles(t, fullKey, c)
			for _, h := range all {
				h.reads(t, func() {
					if v, err := open(c, fullKey, h.raw); !errors.Is(err, errUnreadable) {
						t.Errorf("%s: %v, %v", h.name, v, err)
					}
				})
			}
			n = len(all)
		})
	}
	if n < 200 {
		t.Errorf("%d payloads", n)
	}
	t.Logf("%d payloads", n)
}

// 10 MB of nested arrays end a process that decodes them without a look: the stack overflows, and nothing recovers.
func TestHostileNesting(t *testing.T) {
	c := coderFor[any](t, Options{MaxValueBytes: 16 << 20, CompressAbove: -1})
	for _, code := range []string{"\x91", "\x81\xc0"} {
		h := hostile{"nested", c.seal(fullKey, life{}, bytes.Repeat([]byte(code), 10<<20/len(code)))}
		h.reads(t, func() {
			if v, err := open(c, fullKey, h.raw); !errors.Is(err, errUnreadable) {
				t.Errorf("%v, %v", v, err)
			}
		})
	}
}

// A Codec of the user's is given what it has not written only by who can compute checksums; its errors are misses too.
func TestHostileGob(t *testing.T) {
	c := coderFor[string](t, Options{Codec: gobCodec{}})
	payload := []byte{0xfc, 0x40, 0x00, 0x00, 0x00, 0x01} // declares 1 GiB; gob allocates 10 MiB
	if v, err := open(c, fullKey, c.seal(fullKey, life{}, payload)); !errors.Is(err, errUnreadable) {
		t.Errorf("%v, %v", v, err)
	}
}

// The same under a key on a real server: a miss, counted, and replaced.
func TestRealServerHostile(t *testing.T) {
	s := realredis.Start(t, "--proto-max-bulk-len", "600mb")
	admin := s.Client(nil)
	o := Options{MaxValueBytes: hostileLimit, LocalTTL: -1}
	caches := onServer(t, o, true, s.Client(nil), s.Client(nil))
	a, b := caches[0], caches[1]
	_, _ = a.Get(background, "warm")
	try := func(name string) {
		t.Helper()
		h := hostile{name: name}
		before := a.Stats()
		h.reads(t, func() {
			if v, ok := a.Get(background, "k"); ok {
				t.Errorf("%s: Get found %q", name, v[:min(len(v), 20)])
			}
			if v, err := a.GetOrLoad(background, "k", constant("loaded")); v != "loaded" || err != nil {
				t.Errorf("%s: %q, %v", name, v[:min(len(v), 20)], err)
			}
		})
		after := a.Stats()
		if after.Unreadable-before.Unreadable != 2 || after.Loads-before.Loads != 1 || after.LoadsUnleased != before.LoadsUnleased {
			t.Errorf("%s: unreadable %d, loads %d, unleased %d", name, after.Unreadable-before.Unreadable, after.Loads-before.Loads, after.LoadsUnleased-before.LoadsUnleased)
		}
		if v, ok := b.Get(background, "k"); v != "loaded" || !ok {
			t.Errorf("%s: it was not replaced", name)
		}
	}
	for _, h := range hostiles(t, fullKey, a.core.coder) {
		if err := admin.Set(background, fullKey, h.raw, 0).Err(); err != nil {
			t.Fatal(err)
		}
		try(h.name)
	}
	for _, c := range [][]any{
		{"LPUSH", fullKey, "x"},
		{"SADD", fullKey, "x"},
		{"HSET", fullKey, "f", "x"},
		{"ZADD", fullKey, 1, "x"},
		{"XADD", fullKey, "*", "f", "x"},
		{"PFADD", fullKey, "x"},
		{"SETBIT", fullKey, 10_000, 1},
		{"GEOADD", fullKey, 1, 1, "x"},
		{"SETRANGE", fullKey, 512<<20 - 1, "x"},
	} {
		if err := errors.Join(admin.Del(background, fullKey).Err(), admin.Do(background, c...).Err()); err != nil {
			t.Fatal(err)
		}
		try(fmt.Sprint(c[0]))
	}

	// What is of a higher version or another type is left alone, and is no reason to allocate either.
	for name, other := range map[string]*coder{
		"another type":     coderFor[[]byte](t, Options{}),
		"another codec":    coderFor[string](t, Options{Codec: JSON{}}),
		"a higher version": coderFor[string](t, Options{Version: 1}),
	} {
		raw := other.seal(fullKey, life{owner: record.Owner{1}, freshUntil: time.Now().Add(time.Hour).UnixMicro()}, make([]byte, 1000))
		if err := admin.Set(background, fullKey, raw, time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
		h := hostile{name: name}
		h.reads(t, func() {
			if v, err := a.GetOrLoad(background, "k", constant("loaded")); v != "loaded" || err != nil {
				t.Errorf("%s: %q, %v", name, v, err)
			}
		})
		if left, _ := admin.Get(background, fullKey).Bytes(); !bytes.Equal(left, raw) {
			t.Errorf("%s: it was replaced", name)
		}
	}
}

// A server, or whoever is between, that answers with something else. MaxValueBytes bounds what it may make us allocate only
// as far as go-redis does: it allocates what the length of a string declares.
func TestRealServerHostileReplies(t *testing.T) {
	s := realredis.Start(t)
	p := proxy.Start(t, s.Addr)
	want := s.Client(nil)
	for _, reply := range []string{
		"+OK", ":5", ":-1", "$-1", "$0\r\n", "$5\r\nhello", "*0", "*-1", "*1\r\n:1", "*2\r\n$3\r\nHIT\r\n:1",
		"*3\r\n$3\r\nWON\r\n:1\r\n:1", "*3\r\n$6\r\nSTORED\r\n:1\r\n$16\r\n0123456789abcdef", "*1\r\n*1\r\n*1\r\n:1",
		"_", "#t", ",1.5", ",nan", "(123456789012345678901234567890", "=7\r\ntxt:abc", "!5\r\nERROR", "%1\r\n+a\r\n:1",
		"~1\r\n:1", ">2\r\n+a\r\n:1", "|1\r\n+a\r\n:1\r\n:5",
		"-ERR something", "-WRONGTYPE Operation", "-MOVED 1 127.0.0.1:1", "-ASK 1 127.0.0.1:1", "-LOADING", "-NOSCRIPT", "-",
		"-READONLY", "-CLUSTERDOWN", "-TRYAGAIN", "-NOAUTH", "-max number of clients reached", "-EXECABORT",
		"hello", "", "$5", "$5\r\nhe", "$-2", "$x", "$99999999999999999999", "*99999999999999999999", "*-5", ":x", "\x00", "$67108864",
	} {
		for _, command := range []string{"getrange", "eval", "evalsha", "time", "unlink", "publish"} {
			what := fmt.Sprintf("%.20q for %s", reply, command)
			client := s.Client(func(o *redis.Options) {
				o.Addr, o.ReadTimeout, o.MaxRetries = p.Addr, 100*time.Millisecond, -1
			})
			r, err := NewRedis(client, RedisOptions{Timeout: 100 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			c, err := New[string]("user", Options{Redis: r, MaxValueBytes: hostileLimit, LocalTTL: -1})
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.GetOrLoad(background, "warm", constant("v"))
			p.Tamper(func(asked []string, raw []byte) []byte {
				if strings.EqualFold(asked[0], command) {
					return []byte(reply + "\r\n")
				}
				return raw
			})
			for range 2 {
				if v, err := c.GetOrLoad(background, what, constant("v")); v != "v" || err != nil {
					t.Errorf("%s: %q, %v", what, v, err)
				}
			}
			_ = c.Set(background, what, "v")
			deleted := c.Delete(background, what)
			p.Tamper(nil)
			if there := want.Exists(background, "cache:user:"+what).Val(); deleted == nil && there > 0 {
				t.Errorf("%s: Delete says that it deleted", what)
			}
			_ = c.Close()
			_ = r.Close()
			_ = client.Close()
		}
	}
}

// Whatever is published on our channels, callers wait no longer and get nothing else.
func TestHostileMessages(t *testing.T) {
	bubble(t, func(t *testing.T, w *lab.World) {
		ps := fleet(t, w, Options{}, "A", "B")
		defer stopAll(ps)
		a := ps["A"].get(background, "k", loads(time.Second, "v"))
		synctest.Wait()
		b := ps["B"].get(background, "k", loads(0, "another"))
		synctest.Wait()
		held := holder(w, fullKey)
		key := fmt.Sprintf("%08d%s", len(fullKey), fullKey)
		who := string(held[:])
		forged := record.Append(nil, &record.Header{
			State: record.Value, Key: record.Digest(fullKey), Type: 1, FreshUntil: 1 << 52, RawLen: 2,
		}, []byte("\xa1x"))
		messages := []string{
			"", "C", "A", "D", "X", "C" + who, "A" + who, "D" + who, "Z" + who + key, "c" + who + key,
			"C" + who + "00000000", "C" + who + "99999999", "C" + who + "-0000001" + fullKey, "C" + who + "0x00000c" + fullKey,
			"C" + who + "       1k", "C" + who + "\xff\xff\xff\xff\xff\xff\xff\xff", "C" + who + key, "C" + who + key + "garbage",
			"C" + who + key + string(forged), "C" + who + key + strings.Repeat("x", 1<<20), "C" + strings.Repeat("\x00", 16) + key,
			"A" + strings.Repeat("x", 16) + key, "D" + strings.Repeat("x", 16) + strings.Repeat("00000000", 100_000),
			"D" + strings.Repeat("x", 16) + "00000005wrong", "D" + strings.Repeat("x", 16) + "00000012another:name",
			strings.Repeat("D", 1<<20), strings.Repeat("\x00", 100), "D" + strings.Repeat("x", 16) + key[:len(key)-1],
		}
		for _, m := range messages {
			for _, r := range []*Redis{ps["A"].rds, ps["B"].rds} {
				w.Redis.Publish(r.everybodyChannel(), m)
				w.Redis.Publish(r.inboxChannel(r.process), m)
			}
			synctest.Wait()
		}
		time.Sleep(time.Second)
		a.must(t, "v", nil, time.Second)
		b.must(t, "v", nil, time.Second)
		if n := ps["A"].cache.Stats().Loads + ps["B"].cache.Stats().Loads; n != 1 {
			t.Errorf("%d loads", n)
		}
		for _, p := range ps {
			if !p.rds.stream.wakes() {
				t.Error("the subscription was lost")
			}
		}
	})
}

// Keys are any bytes.
func TestRealServerStrangeKeys(t *testing.T) {
	t.Parallel()
	s := realredis.Start(t)
	caches := onServer(t, Options{}, true, s.Client(nil), s.Client(nil))
	keys := []string{
		"", " ", "\r\n", "a\nb", "\x00", "a\x00b", "{}", "{a}b", "}{", "{", "a:b", ":", "::", "cache:user:k", "\xff\xfe", "\xc3\x28",
		"*3\r\n$3\r\nSET\r\n", "'; DROP", "\u202e", strings.Repeat("k", 512), strings.Repeat("\x00", 1000),
		strings.Repeat("x", MaxKeyBytes), strings.Repeat("\r\n", MaxKeyBytes/2), strings.Repeat("\xff", MaxKeyBytes-1),
	}
	for i, key := range keys {
		if n := collapse(t, caches, key); n != 1 {
			t.Errorf("key %d: %d loads", i, n)
		}
	}
	for i, key := range keys {
		caches[1].core.invalidateAll()
		if v, ok := caches[1].Get(background, key); !ok || v != "of "+key {
			t.Errorf("key %d: %.20q, %v", i, v, ok)
		}
		if err := caches[0].Set(background, key, fmt.Sprint(i)); err != nil {
			t.Errorf("key %d: %v", i, err)
		}
	}
	for i, key := range keys {
		eventually(t, "set", func() bool {
			v, ok := caches[1].Get(background, key)
			return ok && v == fmt.Sprint(i)
		})
	}
	if err := caches[0].Delete(background, keys...); err != nil {
		t.Error(err)
	}
	for i, key := range keys {
		eventually(t, fmt.Sprint("deletion of key ", i), func() bool {
			_, ok := caches[1].Get(background, key)
			return !ok
		})
	}
	// One byte more is loaded, and kept nowhere.
	long := strings.Repeat("x", MaxKeyBytes+1)
	before := s.Client(nil).DBSize(background).Val()
	if v, err := caches[0].GetOrLoad(background, long, constant("v")); v != "v" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if _, ok := caches[0].Get(background, long); ok || s.Client(nil).DBSize(background).Val() != before {
		t.Error("a key that is too long is kept")
	}
}
