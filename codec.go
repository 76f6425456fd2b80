package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/bellwether-go/cache/internal/early"
	"github.com/bellwether-go/cache/internal/msgpackscan"
	"github.com/bellwether-go/cache/internal/record"
)

// Codec turns values into bytes and back. It must be safe for concurrent use. Whatever Unmarshal makes of bytes it did
// not write, an error or a panic, is a miss; but a Codec that believes lengths declared in its input may allocate
// without bound.
//
// What Msgpack and JSON have written, with whatever methods your types have for it, is decoded in the goroutine of a call: it
// cannot leave meanwhile, and a method that ends the goroutine (runtime.Goexit) ends the caller's. Other Codecs are called in
// goroutines of the cache's.
type Codec interface {
	// Name tells formats apart: entries of another Codec are left alone, like entries of another type.
	Name() string
	Marshal(v any) ([]byte, error)
	// Unmarshal decodes data into the value that v points to. It must not keep data.
	Unmarshal(data []byte, v any) error
}

// Msgpack is the default Codec: MessagePack as github.com/vmihailenco/msgpack/v5 writes it, looked through before it is
// decoded, so that lengths it declares are never believed.
type Msgpack struct{}

// Name returns "msgpack".
func (Msgpack) Name() string { return "msgpack" }

// Marshal encodes v.
func (Msgpack) Marshal(v any) ([]byte, error) { return msgpack.Marshal(v) }

// Unmarshal decodes exactly one value.
func (Msgpack) Unmarshal(data []byte, v any) error {
	if err := msgpackscan.Check(data); err != nil {
		return err
	}
	return msgpack.Unmarshal(data, v)
}

// JSON is a Codec that uses encoding/json.
type JSON struct{}

// Name returns "json".
func (JSON) Name() string { return "json" }

// Marshal encodes v.
func (JSON) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

// Unmarshal decodes exactly one value.
func (JSON) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

var (
	errTooLarge   = errors.New("cache: value too large")
	errUnreadable = errors.New("cache: entry unreadable")
	errOther      = errors.New("cache: entry of a newer version or another type")
)

// coder makes records of values and reads them back.
type coder struct {
	codec         Codec
	ours          bool // codec is
	compressAbove int
	maxBytes      int
	version       uint32
	sealer        sealer // empty: none
	tagged        bool
	typ           uint64 // digest of the value's type, the codec's name, and whether entries are sealed and tagged
	decode        func(Codec, []byte) (any, error)
}

func newCoder[V any](o *Options) *coder {
	typ := o.Codec.Name() + " " + reflect.TypeFor[V]().String()
	if len(o.Secrets) > 0 {
		typ += " sealed"
	}
	if o.Tags {
		typ += " tagged"
	}
	return &coder{
		codec:         o.Codec,
		ours:          ours(o.Codec),
		compressAbove: o.CompressAbove,
		maxBytes:      o.MaxValueBytes,
		version:       o.Version,
		sealer:        newSealer(o.Secrets),
		tagged:        o.Tags,
		typ:           record.Digest(typ),
		decode: func(c Codec, b []byte) (any, error) {
			var v V
			if err := c.Unmarshal(b, &v); err != nil {
				return nil, err
			}
			return v, nil
		},
	}
}

// ours reports whether a codec is one of this package.
func ours(c Codec) bool {
	switch c.(type) {
	case Msgpack, JSON:
		return true
	}
	return false
}

// maxRecord is the length of the longest record that is read.
func (c *coder) maxRecord() int {
	n := record.Size + c.maxBytes + sealBytes
	if c.tagged {
		n += record.MostTagData
	}
	return n
}

// marshal encodes a value. A Codec that panics has failed.
func (c *coder) marshal(v any) (b []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cache: codec panicked with a %T", p) // which may hold the value
		}
	}()
	b, err = c.codec.Marshal(v)
	if err == nil && len(b) > c.maxBytes {
		return nil, errTooLarge
	}
	return b, err
}

// life is what a record says of an entry besides its value; times are microseconds of the server's clock.
type life struct {
	owner      record.Owner
	fence      int64
	stamp      int64
	freshUntil int64
	stale      time.Duration // after that
	cost       early.Cost
	negative   bool
	tags       []string
}

// seal makes the record of an encoded value.
func (c *coder) seal(key string, l life, payload []byte) []byte {
	h := record.Header{
		State: record.Value, Version: c.version, Key: record.Digest(key), Type: c.typ,
		ID: l.owner, Fence: l.fence, Stamp: l.stamp, FreshUntil: l.freshUntil,
		StaleUntil: l.freshUntil + l.stale.Microseconds(), Cost: l.cost.Mean, Deviation: l.cost.Deviation, RawLen: uint64(len(payload)),
	}
	if l.negative {
		h.State = record.Negative
	}
	if c.compressAbove >= 0 && len(payload) > c.compressAbove {
		payload = h.Compress(payload)
	}
	var tags []byte
	if c.tagged {
		h.Tagged = true
		tags = record.AppendTags(nil, l.tags)
	}
	if len(c.sealer) > 0 {
		h.Sealed = true
		payload = c.sealer.seal(key, &h, tags, payload)
	}
	if c.tagged {
		payload = append(tags, payload...)
	}
	return record.Append(make([]byte, 0, record.Size+len(payload)), &h, payload)
}

// stub makes the entry part of a stub, which carries our version and digests into the scripts.
func (c *coder) stub(key string, cost early.Cost) []byte {
	return c.lease(key, cost, record.Lease{})[:record.EntrySize]
}

// lease makes a whole stub. The cost of earlier loads tells those who wait how long this one may take.
func (c *coder) lease(key string, cost early.Cost, l record.Lease) []byte {
	h := record.Header{
		State: record.Stub, Version: c.version, Key: record.Digest(key), Type: c.typ,
		Cost: cost.Mean, Deviation: cost.Deviation, Lease: l,
	}
	return record.Append(make([]byte, 0, record.Size), &h, nil)
}

// header reads the header of a record under key: errOther if it is to be left alone, errUnreadable if it is to be
// replaced. Nothing is allocated for what the bytes declare.
func (c *coder) header(key string, raw []byte) (record.Header, []byte, error) {
	if len(raw) > c.maxRecord() {
		return record.Header{}, nil, errUnreadable
	}
	h, payload, err := record.Open(raw)
	switch {
	case err != nil || h.Key != record.Digest(key) || h.Version < c.version:
		return h, nil, errUnreadable
	case h.Version > c.version || h.Type != c.typ:
		return h, nil, errOther
	case h.State != record.Stub && (h.Sealed != (len(c.sealer) > 0) || h.Tagged != c.tagged):
		return h, nil, errUnreadable
	}
	return h, payload, nil
}

// tags returns the tags of an entry whose header was read.
func (c *coder) tags(h *record.Header, payload []byte) ([]string, error) {
	if !h.Tagged {
		return nil, nil
	}
	block, _, err := record.CutTags(payload)
	if err != nil {
		return nil, errUnreadable
	}
	tags, err := record.ParseTags(block)
	if err != nil {
		return nil, errUnreadable
	}
	return tags, nil
}

// value decodes the payload of a record under key whose header was read; nil if the entry is negative.
func (c *coder) value(key string, h *record.Header, payload []byte) (v any, err error) {
	defer func() {
		if recover() != nil {
			err = errUnreadable
		}
	}()
	if h.RawLen > uint64(c.maxBytes) {
		return nil, errUnreadable
	}
	var tags []byte
	if h.Tagged {
		if tags, payload, err = record.CutTags(payload); err != nil {
			return nil, errUnreadable
		}
	}
	if h.Sealed {
		if payload, err = c.sealer.open(key, h, tags, payload); err != nil {
			return nil, err
		}
	}
	if h.State == record.Negative {
		if len(payload) > 0 || h.RawLen > 0 {
			return nil, errUnreadable
		}
		return nil, nil
	}
	if payload, err = h.Raw(payload); err != nil {
		return nil, errUnreadable
	}
	if v, err = c.decode(c.codec, payload); err != nil {
		return nil, errUnreadable
	}
	return v, nil
}
