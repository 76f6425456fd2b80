package record

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// Tags in a record: any tags come back, and hostile bytes are unreadable.
func TestTags(t *testing.T) {
	for _, tags := range [][]string{nil, {""}, {"a"}, {"a", "b\x00", "\xff"}, slices.Repeat([]string{strings.Repeat("x", LongestTag)}, MostTags)} {
		block, rest, err := CutTags(append(AppendTags(nil, tags), "payload"...))
		if err != nil || string(rest) != "payload" {
			t.Fatalf("%q, %v", rest, err)
		}
		got, err := ParseTags(block)
		if err != nil || !slices.Equal(got, tags) {
			t.Errorf("%q, %v; want %q", got, err, tags)
		}
	}
	for _, bad := range []string{
		"", "\x00\x00\x00", "\x00\x00\x00\x00", "\x00\x00\x00\x05", "\xff\xff\xff\xff", "\x00\x00\x00\x05\x01", "\x00\x00\x00\x05\x80",
		"\x00\x00\x00\x06\xff\x7f", "\x00\x00\x00\x45" + strings.Repeat("\x00", 65),
	} {
		if block, _, err := CutTags([]byte(bad)); err == nil {
			if tags, err := ParseTags(block); err == nil {
				t.Errorf("%q has tags %q", bad, tags)
			}
		}
	}
}

// Payloads: compressed if that makes them shorter, and of the declared length or unreadable.
func TestRaw(t *testing.T) {
	for _, payload := range []string{"", "short", strings.Repeat("long", 100)} {
		h := Header{RawLen: uint64(len(payload))}
		kept := h.Compress([]byte(payload))
		if h.Compressed != (len(payload) > 100) || len(kept) > len(payload) {
			t.Errorf("%d bytes for %d", len(kept), len(payload))
		}
		if raw, err := h.Raw(kept); err != nil || !bytes.Equal(raw, []byte(payload)) {
			t.Errorf("%q, %v", raw, err)
		}
		for _, wrong := range []Header{{Compressed: !h.Compressed, RawLen: h.RawLen}, {Compressed: h.Compressed, RawLen: h.RawLen + 1}} {
			if raw, err := wrong.Raw(kept); err == nil {
				t.Errorf("%+v: %q", wrong, raw)
			}
		}
	}
}
