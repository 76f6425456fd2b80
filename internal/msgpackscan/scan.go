// Package msgpackscan looks through MessagePack before it is decoded. A decoder believes the lengths that the data
// declare: with github.com/vmihailenco/msgpack v5.4.1, 5 bytes allocate 1 GiB, and 10 MB of nested arrays end the
// process with a stack overflow that cannot be recovered. Check walks the bytes once, without recursion, and without
// allocating where they are nested at most 32 deep.
package msgpackscan

import (
	"encoding/binary"
	"errors"
)

// MaxDepth is the deepest nesting of arrays and maps that Check accepts.
const MaxDepth = 512

// What Check finds wrong.
var (
	ErrTruncated = errors.New("msgpackscan: declares more than there is")
	ErrDepth     = errors.New("msgpackscan: nested too deeply")
	ErrTrailing  = errors.New("msgpackscan: bytes after the value")
	ErrCode      = errors.New("msgpackscan: a code that is never used")
)

// Check reports whether b is exactly one MessagePack value whose declared lengths are all covered by bytes that are
// there (an element takes at least one byte), nested at most MaxDepth deep. The format is that of
// https://github.com/msgpack/msgpack/blob/master/spec.md.
func Check(b []byte) error {
	// The elements still to come, per level. With room for MaxDepth it would make most goroutines' stacks grow.
	open := make([]uint64, 0, 32)
	missing := uint64(1) // at the current level
	pending := uint64(1) // at all levels: never more than the bytes that are left
	for {
		for missing == 0 {
			last := len(open) - 1
			if last < 0 {
				if len(b) > 0 {
					return ErrTrailing
				}
				return nil
			}
			missing, open = open[last], open[:last]
		}
		if uint64(len(b)) < pending {
			return ErrTruncated
		}
		missing--
		pending--
		head, body, elements, err := size(b)
		if err != nil {
			return err
		}
		b = b[head:]
		if uint64(len(b)) < body || uint64(len(b))-body < pending || uint64(len(b))-body-pending < elements {
			return ErrTruncated
		}
		b = b[body:]
		if elements > 0 {
			if len(open) == MaxDepth {
				return ErrDepth
			}
			open = append(open, missing)
			missing = elements
			pending += elements
		}
	}
}

// size reads the head of the value at the beginning of b: its length, that of the bytes that belong to it, and how
// many elements follow.
func size(b []byte) (head int, body, elements uint64, err error) {
	c := b[0]
	number := func(width int) uint64 {
		head += width
		if len(b) < head {
			err = ErrTruncated
			return 0
		}
		switch width {
		case 1:
			return uint64(b[1])
		case 2:
			return uint64(binary.BigEndian.Uint16(b[1:]))
		default:
			return uint64(binary.BigEndian.Uint32(b[1:]))
		}
	}
	head = 1
	switch {
	case c <= 0x7f || c >= 0xe0: // fixint
	case c <= 0x8f: // fixmap
		elements = 2 * uint64(c&0x0f)
	case c <= 0x9f: // fixarray
		elements = uint64(c & 0x0f)
	case c <= 0xbf: // fixstr
		body = uint64(c & 0x1f)
	case c == 0xc0 || c == 0xc2 || c == 0xc3: // nil, false, true
	case c == 0xc1:
		err = ErrCode
	case c <= 0xc6: // bin 8, 16, 32
		body = number(1 << (c - 0xc4))
	case c <= 0xc9: // ext 8, 16, 32
		body = number(1<<(c-0xc7)) + 1
	case c == 0xca: // float 32
		body = 4
	case c == 0xcb: // float 64
		body = 8
	case c <= 0xcf: // uint 8, 16, 32, 64
		body = 1 << (c - 0xcc)
	case c <= 0xd3: // int 8, 16, 32, 64
		body = 1 << (c - 0xd0)
	case c <= 0xd8: // fixext 1, 2, 4, 8, 16
		body = 1<<(c-0xd4) + 1
	case c <= 0xdb: // str 8, 16, 32
		body = number(1 << (c - 0xd9))
	case c <= 0xdd: // array 16, 32
		elements = number(2 << (c - 0xdc))
	default: // map 16, 32
		elements = 2 * number(2<<(c-0xde))
	}
	return head, body, elements, err
}
