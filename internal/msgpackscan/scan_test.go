package msgpackscan

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		in   string // hex
		want error
	}{
		{"c0", nil},
		{"7f", nil},
		{"e0", nil},
		{"", ErrTruncated},
		{"c1", ErrCode},
		{"c0c0", ErrTrailing},
		{"80", nil},
		{"81c0c0", nil},
		{"81c0", ErrTruncated},
		{"92c0c0", nil},
		{"92c0", ErrTruncated},
		{"a1", ErrTruncated},
		{"a178", nil},
		{"c4", ErrTruncated},
		{"c40178", nil},
		{"c5000178", nil},
		{"c60000000178", nil},
		{"c6ffffffff", ErrTruncated},
		{"c7010078", nil},
		{"c8000100ff", nil},
		{"c90000000100ff", nil},
		{"c9ffffffff", ErrTruncated},
		{"ca00000000", nil},
		{"cb0000000000000000", nil},
		{"cb00000000000000", ErrTruncated},
		{"cc00", nil},
		{"cd0000", nil},
		{"ce00000000", nil},
		{"cf0000000000000000", nil},
		{"d000", nil},
		{"d10000", nil},
		{"d200000000", nil},
		{"d30000000000000000", nil},
		{"d40000", nil},
		{"d5000000", nil},
		{"d60000000000", nil},
		{"d7000000000000000000", nil},
		{"d80000000000000000000000000000000000", nil},
		{"d90178", nil},
		{"da000178", nil},
		{"db0000000178", nil},
		{"dc0001c0", nil},
		{"dd00000001c0", nil},
		{"ddffffffff", ErrTruncated},
		{"de0001c0c0", nil},
		{"df00000001c0c0", nil},
		{"dfffffffff", ErrTruncated},
		{"9291c091", ErrTruncated}, // the inner one wants what the outer one has counted already
		{strings.Repeat("91", MaxDepth) + "c0", nil},
		{strings.Repeat("91", MaxDepth+1) + "c0", ErrDepth},
	} {
		b, err := hex.DecodeString(c.in)
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.in, err, c.want)
		}
	}
}

// Whatever the encoder writes passes.
func TestEncoded(t *testing.T) {
	for _, v := range []any{
		nil, true, 1, -1, 1 << 40, 1.5, "text", strings.Repeat("x", 70000), []byte("bin"), make([]byte, 70000),
		[]int{1, 2, 3},
		make([]string, 70000),
		map[string]any{"a": []any{1, map[string]int{"b": 2}}},
		struct{ A, B string }{"a", "b"},
		time.Now(),
		[][]int{{}, {1}, nil},
	} {
		b, err := msgpack.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(b); err != nil {
			t.Errorf("%T: %v", v, err)
		}
		if err := Check(b[:len(b)-1]); len(b) > 1 && err == nil {
			t.Errorf("%T: cut short and accepted", v)
		}
	}
}

func TestAllocations(t *testing.T) {
	b := append(bytes.Repeat([]byte{0x91}, 32), 0xc0) // arrays of one element
	if n := testing.AllocsPerRun(100, func() { _ = Check(b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What passes can be decoded, or is refused by the decoder, without harm: no panic, and memory in proportion to the
// input. What does not pass, the decoder would not have read to its end.
func FuzzCheck(f *testing.F) {
	for _, v := range []any{nil, 1, "text", []any{1, "x"}, map[string]any{"a": []byte("b")}, time.Unix(1, 2)} {
		b, _ := msgpack.Marshal(v)
		f.Add(b)
	}
	f.Add([]byte{0xdd, 4, 0, 0, 0})
	f.Add([]byte{0x92, 0x91, 0xc0, 0x91})
	f.Fuzz(func(t *testing.T, b []byte) {
		ok := Check(b) == nil
		d := msgpack.NewDecoder(bytes.NewReader(b))
		if ok {
			if err := d.Skip(); err != nil && !strings.Contains(err.Error(), "unknown code") {
				t.Errorf("%x passes, and cannot be skipped: %v", b, err)
			}
			var v any
			_ = msgpack.Unmarshal(b, &v)
		}
	})
}
