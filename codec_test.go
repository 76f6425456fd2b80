package cache

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/early"
	"github.com/bellwether-go/cache/internal/record"
)

func coderFor[V any](t *testing.T, o Options) *coder {
	t.Helper()
	full, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return newCoder[V](&full)
}

// open is the way of a record from Redis.
func open(c *coder, key string, raw []byte) (any, error) {
	h, payload, err := c.header(key, raw)
	if err != nil {
		return nil, err
	}
	return c.value(key, &h, payload)
}

type user struct {
	Name  string
	Tags  []string
	Since time.Time
	Extra map[string]any
}

func TestCodecs(t *testing.T) {
	want := user{
		"Ann", []string{"a", "b"}, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), map[string]any{"k": "v"},
	}
	for _, codec := range []Codec{Msgpack{}, JSON{}} {
		for _, above := range []int{-1, 1} {
			c := coderFor[user](t, Options{Codec: codec, CompressAbove: above})
			payload, err := c.marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := open(c, "k", c.seal("k", life{}, payload))
			u, _ := got.(user)
			if u.Since = u.Since.UTC(); err != nil || !reflect.DeepEqual(u, want) {
				t.Errorf("%s: got %+v, %v", codec.Name(), got, err)
			}
		}
	}
}

// Types, codecs and versions that are not ours are told apart from damage.
func TestWhoseEntry(t *testing.T) {
	c := coderFor[string](t, Options{Version: 2})
	raw := func(c *coder, key string) []byte { return c.seal(key, life{}, []byte("\xa1v")) }
	for name, x := range map[string]struct {
		raw  []byte
		want error
	}{
		"ours":           {raw(c, "k"), nil},
		"another key":    {raw(c, "other"), errUnreadable},
		"lower version":  {raw(coderFor[string](t, Options{Version: 1}), "k"), errUnreadable},
		"higher version": {raw(coderFor[string](t, Options{Version: 3}), "k"), errOther},
		"another type":   {raw(coderFor[[]byte](t, Options{Version: 2}), "k"), errOther},
		"another codec":  {raw(coderFor[string](t, Options{Version: 2, Codec: JSON{}}), "k"), errOther},
	} {
		if _, err := open(c, "k", x.raw); !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCompression(t *testing.T) {
	c := coderFor[string](t, Options{})
	small, large := []byte(strings.Repeat("x", 4096)), []byte(strings.Repeat("x", 4097))
	if raw := c.seal("k", life{}, small); len(raw) != record.Size+len(small) {
		t.Errorf("4 KiB: %d bytes", len(raw))
	}
	if raw := c.seal("k", life{}, large); len(raw) > record.Size+len(large)/10 {
		t.Errorf("above: %d bytes", len(raw))
	}
	noise := make([]byte, 5000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	if raw := c.seal("k", life{}, noise); !bytes.HasSuffix(raw, noise) {
		t.Error("what does not shrink is compressed all the same")
	}
}

// badCodec panics.
type badCodec struct{}

func (badCodec) Name() string                { return "bad" }
func (badCodec) Marshal(any) ([]byte, error) { panic("marshal") }
func (badCodec) Unmarshal([]byte, any) error { panic("unmarshal") }

func TestCodecPanics(t *testing.T) {
	c := coderFor[string](t, Options{Codec: badCodec{}})
	if _, err := c.marshal("v"); err == nil || !strings.Contains(err.Error(), "panicked with a string") {
		t.Error(err)
	}
	if _, err := open(c, "k", c.seal("k", life{}, nil)); !errors.Is(err, errUnreadable) {
		t.Error(err)
	}
}

// The script's view of a record is that of internal/record: a stub made of its entry part is a stub.
func TestStub(t *testing.T) {
	c := coderFor[string](t, Options{Version: 7})
	l := record.Lease{Owner: record.Owner{1, 2, 3}, Fence: 5, Until: 9, Duration: time.Second, All: true}
	whole := c.lease("k", early.Cost{}, l)
	if !bytes.HasPrefix(whole, c.stub("k", early.Cost{})) {
		t.Error("the stub's entry part is another's")
	}
	h, _, err := c.header("k", append(whole, "0123456789abcdef"...))
	if err != nil || h.State != record.Stub || h.Lease != l || h.Version != 7 {
		t.Errorf("%+v, %v", h, err)
	}
}
