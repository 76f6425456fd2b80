// Package record is the format of what a key holds in Redis: an entry (a value, or the news that there is none) or a
// stub, and in both the lease of whoever is computing the next value. The lease lies outside the entry's checksum, so
// that the scripts, which cannot compute one, can write it in place. All fields have fixed widths and those the scripts
// need are decimal digits, because plain string functions are all the Lua of every server has.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Size is the length of a record without its payload.
const Size = leaseAt + 60

// EntrySize is the length of the part under the checksum, the checksum included.
const EntrySize = leaseAt

// Offsets of the fields, as in script/record.lua (which counts from 1).
const (
	stateAt      = 3
	versionAt    = 4
	keyAt        = 14
	typeAt       = 22
	idAt         = 30
	fenceAt      = 46
	stampAt      = 62
	freshAt      = 78
	staleAt      = 94
	deviationAt  = 110
	costAt       = 114
	compressedAt = 118
	sealedAt     = 119 // a digit: 1 if sealed, 2 if tagged, 3 if both
	rawAt        = 120
	sumAt        = 128
	leaseAt      = 136
	untilAt      = leaseAt + 32
	allAt        = leaseAt + 58 // a digit: 1 to wake everybody, and two for each failure
)

const magic = "bw1" // two bytes of name, one of format version

// Owner identifies one attempt to compute a value: 6 bytes of its process, and 10 random ones. The zero Owner is nobody.
type Owner [16]byte

// State tells what a record is.
type State byte

// The states.
const (
	Stub     State = 'S' // no value yet: only a lease
	Value    State = 'V'
	Negative State = 'N' // the origin has no such key
)

// Header is a record without its payload. Times are microseconds of the server's clock.
type Header struct {
	State      State
	Version    uint32 // Options.Version of the writer
	Key, Type  uint64 // digests
	ID         Owner  // the owner that stored the entry
	Fence      int64  // of the lease under which it was stored
	Stamp      int64  // before its load began
	FreshUntil int64
	StaleUntil int64
	Cost       time.Duration // of a load, smoothed, and how much it deviates; 71 minutes at most
	Deviation  time.Duration
	Compressed bool
	Sealed     bool   // the payload is encrypted, after compression
	Tagged     bool   // the entry has barriers, and its tags before its payload
	RawLen     uint64 // length of the payload before compression and encryption, without the tags
	Lease      Lease
}

// Lease is the right to compute the next value. Without an owner and with a deadline it is a failed mark: the last load
// failed, and until then nobody who has a value to serve is to try again.
type Lease struct {
	Owner    Owner
	Fence    int64
	Until    int64 // 0 on a stub written without scripts: the lease ends with the key's own TTL
	Duration time.Duration
	All      bool // waiters are woken on the channel of everybody
	Failures int  // loads that failed since the entry was stored, MostFailures for more
}

// MostFailures is the largest number of failures that a record counts.
const MostFailures = 4

// ErrUnreadable is returned by Open for anything that Append did not write.
var ErrUnreadable = errors.New("record: unreadable")

// Digest is the hash of a key or of a type's name that goes into the header.
func Digest(s string) uint64 { return xxhash.Sum64String(s) }

// Append appends the record of h and payload to b.
func Append(b []byte, h *Header, payload []byte) []byte {
	start := len(b)
	b = AppendEntry(b, h)
	b = binary.BigEndian.AppendUint64(b, sum(b[start:], payload))
	b = AppendLease(b, &h.Lease)
	return append(b, payload...)
}

// AppendLease appends the part of a record from EntrySize to Size.
func AppendLease(b []byte, l *Lease) []byte {
	b = append(b, l.Owner[:]...)
	b = digits(b, l.Fence, 16)
	b = digits(b, l.Until, 16)
	b = digits(b, int64(l.Duration/time.Microsecond), 10)
	return append(b, flag(l.All)+2*byte(l.Failures), '\n')
}

// AppendEntry appends what Open reads from the part under the checksum to b, but for the checksum.
func AppendEntry(b []byte, h *Header) []byte {
	b = append(b, magic...)
	b = append(b, byte(h.State))
	b = digits(b, int64(h.Version), 10)
	b = binary.BigEndian.AppendUint64(b, h.Key)
	b = binary.BigEndian.AppendUint64(b, h.Type)
	b = append(b, h.ID[:]...)
	b = digits(b, h.Fence, 16)
	b = digits(b, h.Stamp, 16)
	b = digits(b, h.FreshUntil, 16)
	b = digits(b, h.StaleUntil, 16)
	b = binary.BigEndian.AppendUint32(b, micros(h.Deviation))
	b = binary.BigEndian.AppendUint32(b, micros(h.Cost))
	b = append(b, flag(h.Compressed), flag(h.Sealed)+2*(flag(h.Tagged)-'0'))
	return binary.BigEndian.AppendUint64(b, h.RawLen)
}

// Open reads a record. The payload is a part of b. It allocates nothing, whatever b holds.
func Open(b []byte) (h Header, payload []byte, err error) {
	if h, err = OpenHeader(b); err != nil {
		return h, nil, err
	}
	payload = b[Size:]
	covered := payload
	if h.State == Stub {
		covered = nil // what follows a stub is the list of those who wait
	}
	if binary.BigEndian.Uint64(b[sumAt:]) != sum(b[:sumAt], covered) {
		return Header{}, nil, ErrUnreadable
	}
	return h, payload, nil
}

// OpenHeader reads a record without looking at its checksum, whose payload need not be there.
func OpenHeader(b []byte) (h Header, err error) {
	if len(b) < Size || string(b[:stateAt]) != magic {
		return h, ErrUnreadable
	}
	h.State = State(b[stateAt])
	switch h.State {
	case Value, Negative, Stub:
	default:
		return Header{}, ErrUnreadable
	}
	p := parser{b: b}
	version := p.digits(versionAt, 10)
	h.Version = uint32(version)
	h.Key = binary.BigEndian.Uint64(b[keyAt:])
	h.Type = binary.BigEndian.Uint64(b[typeAt:])
	copy(h.ID[:], b[idAt:])
	h.Fence = p.digits(fenceAt, 16)
	h.Stamp = p.digits(stampAt, 16)
	h.FreshUntil = p.digits(freshAt, 16)
	h.StaleUntil = p.digits(staleAt, 16)
	h.Deviation = time.Duration(binary.BigEndian.Uint32(b[deviationAt:])) * time.Microsecond
	h.Cost = time.Duration(binary.BigEndian.Uint32(b[costAt:])) * time.Microsecond
	h.Compressed = p.flag(compressedAt)
	switch b[sealedAt] {
	case '0', '1', '2', '3':
		h.Sealed, h.Tagged = b[sealedAt]&1 != 0, b[sealedAt]&2 != 0
	default:
		p.bad = true
	}
	h.RawLen = binary.BigEndian.Uint64(b[rawAt:])
	copy(h.Lease.Owner[:], b[leaseAt:])
	h.Lease.Fence = p.digits(leaseAt+16, 16)
	h.Lease.Until = p.digits(untilAt, 16)
	h.Lease.Duration = time.Duration(p.digits(untilAt+16, 10)) * time.Microsecond
	news := b[allAt] - '0' // who is woken, and the failures
	if news > 1+2*MostFailures {
		p.bad = true
	}
	h.Lease.All, h.Lease.Failures = news&1 != 0, int(news/2)
	if p.bad || version > math.MaxUint32 || b[Size-1] != '\n' {
		return Header{}, ErrUnreadable
	}
	return h, nil
}

// Sum returns the checksum in b, which tells it apart even if it is wrong; nothing if b is too short to be a record.
func Sum(b []byte) string {
	if len(b) < Size {
		return ""
	}
	return string(b[sumAt:leaseAt])
}

// sum covers the state, the digests and the payload alike: a record cut short, shifted or mixed from two is unreadable.
func sum(entry, payload []byte) uint64 {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.Write(entry)
	_, _ = d.Write(payload)
	return d.Sum64()
}

func micros(d time.Duration) uint32 { return uint32(min(max(d/time.Microsecond, 0), math.MaxUint32)) }

func flag(on bool) byte {
	if on {
		return '1'
	}
	return '0'
}

// digits appends n with leading zeros. A number that does not fit is a bug of ours.
func digits(b []byte, n int64, width int) []byte {
	if n < 0 {
		panic(fmt.Sprintf("cache: bug: negative number %d in a record", n))
	}
	b = append(b, "0000000000000000"[:width]...)
	for i := len(b) - 1; n > 0; i-- {
		if i < len(b)-width {
			panic("cache: bug: number too long for a record")
		}
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return b
}

// parser reads fields and remembers whether one of them was bad.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) digits(at, width int) (n int64) {
	for _, c := range p.b[at : at+width] {
		if c < '0' || c > '9' {
			p.bad = true
			return 0
		}
		n = n*10 + int64(c-'0')
	}
	return n
}

func (p *parser) flag(at int) bool {
	switch p.b[at] {
	case '0':
		return false
	case '1':
		return true
	}
	p.bad = true
	return false
}
