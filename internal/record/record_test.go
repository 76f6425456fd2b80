package record

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

var full = Header{
	State: Value, Version: 1<<32 - 1, Key: 0x0102030405060708, Type: 0x1112131415161718,
	ID: Owner{1, 2, 3}, Fence: 1, Stamp: 2, FreshUntil: 9999999999999999, StaleUntil: 4,
	Cost: 5 * time.Microsecond, Compressed: true, RawLen: 1 << 63,
	Lease: Lease{Owner: Owner{255}, Fence: 6, Until: 7, Duration: 9999999999 * time.Microsecond, All: true},
}

func TestRoundTrip(t *testing.T) {
	for _, h := range []Header{full, {State: Value}, {State: Negative}} {
		for _, payload := range []string{"", "x", "a longer payload"} {
			b := Append(nil, &h, []byte(payload))
			got, p, err := Open(b)
			if err != nil || got != h || string(p) != payload || len(b) != Size+len(payload) {
				t.Errorf("got %+v, %q, %v", got, p, err)
			}
		}
	}
}

// The lease of a stub and the list behind it change without its checksum; a flipped bit of an entry does not pass.
func TestChecksum(t *testing.T) {
	b := Append(nil, &full, []byte("payload"))
	for i := range b {
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			h, _, err := Open(c)
			if inLease := i >= EntrySize && i < Size; err == nil && !inLease {
				t.Errorf("byte %d, bit %d: %+v", i, bit, h)
			}
		}
	}
	for n := range b {
		if _, _, err := Open(b[:n]); !errors.Is(err, ErrUnreadable) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	stub := Append(nil, &Header{State: Stub}, nil)
	if _, p, err := Open(append(stub, "inbox-of-a-proce"...)); err != nil || len(p) != 16 {
		t.Errorf("%q, %v", p, err)
	}
}

func TestNumbersThatDoNotFit(t *testing.T) {
	for _, h := range []Header{{State: Value, Fence: 1e16}, {State: Value, Stamp: -1}} {
		func() {
			defer func() {
				if p, _ := recover().(string); !strings.HasPrefix(p, "cache: bug: ") {
					t.Errorf("%+v: %q", h, p)
				}
			}()
			Append(nil, &h, nil)
		}()
	}
}

// The offsets in the scripts are ours.
func TestOffsetsOfScripts(t *testing.T) {
	lua, err := os.ReadFile(filepath.Join("..", "..", "script", "record.lua"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][2]int{
		"version": {versionAt, 10}, "key": {keyAt, 8}, "type": {typeAt, 8}, "id": {idAt, 16}, "fence": {fenceAt, 16},
		"fresh": {freshAt, 16}, "stale": {staleAt, 16}, "owner": {leaseAt, 16}, "lease_fence": {leaseAt + 16, 16},
		"lease_until": {untilAt, 16}, "lease": {untilAt + 16, 10}, "news": {allAt, 1},
	} {
		m := regexp.MustCompile(`\s` + name + ` = [a-z.(]*string\.sub\(raw, (\d+), (\d+)\)|\s` + name +
			` = string\.sub\(raw, (\d+), (\d+)\)`).FindStringSubmatch(string(lua))
		if m == nil {
			t.Errorf("%s is not read", name)
			continue
		}
		from, _ := strconv.Atoi(m[1] + m[3])
		to, _ := strconv.Atoi(m[2] + m[4])
		if from != want[0]+1 || to != want[0]+want[1] {
			t.Errorf("%s: the script reads %d to %d, want %d to %d", name, from, to, want[0]+1, want[0]+want[1])
		}
	}
	if !strings.Contains(string(lua), "SIZE, NONE, MOST, FAILURES = "+strconv.Itoa(Size)+",") {
		t.Error("SIZE")
	}
	if !strings.Contains(string(lua), ", "+strconv.Itoa(MostFailures)+"\n") {
		t.Error("FAILURES")
	}
}

// What version 1 of the format looks like: a change of it needs a new format version, and this file stays.
func TestGolden(t *testing.T) {
	const path = "testdata/format1.hex"
	got := hex.EncodeToString(Append(nil, &full, []byte("payload")))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSpace(string(b)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(Append(nil, &full, []byte("payload")))
	f.Add(Append(nil, &Header{State: Stub}, []byte("0123456789abcdef")))
	f.Add([]byte("bw1V"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, payload, err := Open(b)
		if err != nil {
			return
		}
		again := Append(nil, &h, payload)
		if h.State == Stub {
			again = append(Append(nil, &h, nil), payload...)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%q is read, but would be written as %q", b, again)
		}
	})
}
