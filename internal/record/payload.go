package record

import (
	"encoding/binary"

	"github.com/klauspost/compress/s2"
)

// Limits on the tags of an entry.
const (
	MostTags    = 64
	LongestTag  = 256
	MostTagData = 4 + MostTags*(2+LongestTag)
)

// AppendTags appends what a tagged record has before its payload: the length of it all, and each tag behind its length.
func AppendTags(b []byte, tags []string) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	for _, t := range tags {
		b = binary.AppendUvarint(b, uint64(len(t)))
		b = append(b, t...)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// CutTags splits what AppendTags made from the payload behind it.
func CutTags(b []byte) (block, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, ErrUnreadable
	}
	n := binary.BigEndian.Uint32(b)
	if n < 4 || n > MostTagData || int(n) > len(b) {
		return nil, nil, ErrUnreadable
	}
	return b[:n], b[n:], nil
}

// ParseTags is the inverse of AppendTags.
func ParseTags(block []byte) (tags []string, err error) {
	for b := block[4:]; len(b) > 0; {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > LongestTag || int(n) > len(b)-size || len(tags) == MostTags {
			return nil, ErrUnreadable
		}
		b = b[size:]
		tags = append(tags, string(b[:n]))
		b = b[n:]
	}
	return tags, nil
}

// Compress replaces a payload by a shorter one, if there is one.
func (h *Header) Compress(payload []byte) []byte {
	if z := s2.Encode(nil, payload); len(z) < len(payload) {
		h.Compressed, payload = true, z
	}
	return payload
}

// Raw is the inverse of Compress, and checks the length. Without compression the result is payload.
func (h *Header) Raw(payload []byte) (raw []byte, err error) {
	if h.Compressed {
		if n, err := s2.DecodedLen(payload); err != nil || uint64(n) != h.RawLen {
			return nil, ErrUnreadable
		}
		if payload, err = s2.Decode(nil, payload); err != nil {
			return nil, ErrUnreadable
		}
	}
	if uint64(len(payload)) != h.RawLen {
		return nil, ErrUnreadable
	}
	return payload, nil
}
