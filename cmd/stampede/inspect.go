package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/bellwether-go/cache/internal/msgpackscan"
	"github.com/bellwether-go/cache/internal/record"
)

const inspectAbout = `Prints what Redis has of a key as JSON: the header of the entry, the lease, and the value. It changes nothing. Values that
are sealed stay so. What MessagePack has and JSON has not is shown as text: keys of maps that are no strings, NaN, infinities.`

// inspected is what inspect prints. Times are those of the server's clock; durations are texts like "1m30s".
type inspected struct {
	Cache    string `json:"cache"`
	Key      string `json:"key"`
	RedisKey string `json:"redis_key"`
	Bytes    int    `json:"bytes"`
	EndsIn   string `json:"redis_ttl,omitempty"` // of the key in Redis; empty: it has none

	State string  `json:"state"` // "value", "not found", "stub" (a lease, and no value yet) or "unreadable"
	Entry *header `json:"entry,omitempty"`
	Lease *lease  `json:"lease,omitempty"`
	Tags  []tag   `json:"tags,omitempty"`

	Outdated bool `json:"outdated,omitempty"` // a tag of it was deleted, or the cache cleared: it is there, and not valid

	Payload any    `json:"payload,omitempty"`
	Format  string `json:"format,omitempty"` // of the payload: "msgpack", "json", "bytes" (in base64) or "sealed"
}

type header struct {
	StoredBy   string    `json:"stored_by"`
	LoadBegan  time.Time `json:"load_began"`
	FreshUntil time.Time `json:"fresh_until"`
	StaleUntil time.Time `json:"stale_until"`
	FreshFor   string    `json:"fresh_for"` // negative: it has been over for so long
	StaleFor   string    `json:"stale_for"`
	LoadCost   string    `json:"load_cost"`
	Deviation  string    `json:"load_cost_deviation"`
	Version    uint32    `json:"version"`
	Fence      int64     `json:"fence"`
	ID         string    `json:"id"`
	Type       string    `json:"type"` // a digest
	Compressed bool      `json:"compressed"`
	Sealed     bool      `json:"sealed"`
	RawBytes   uint64    `json:"raw_bytes"`
}

type lease struct {
	Holder   string    `json:"holder,omitempty"` // empty: nobody, and no load is to be tried until then, for the last one failed
	Until    time.Time `json:"until,omitzero"`   // unless it is renewed; not known for a stub that was written without scripts
	EndsIn   string    `json:"ends_in,omitempty"`
	Duration string    `json:"duration,omitempty"`
	Fence    int64     `json:"fence"`
	Failures int       `json:"failures"`
}

type tag struct {
	Tag     string    `json:"tag"`
	Deleted time.Time `json:"deleted,omitzero"` // the last time, if that is remembered
}

var errNoEntry = errors.New("there is nothing")

// inspect prints an entry.
func inspect(ctx context.Context, args []string, out io.Writer) (err error) {
	var s server
	var codec string
	args, err = s.command("inspect", "NAME KEY", inspectAbout, out, args, func(fs *flag.FlagSet) {
		fs.StringVar(&codec, "codec", "", "what the value is encoded with, msgpack or json (default: whichever fits, msgpack first)")
	})
	if err != nil {
		return err
	}
	if len(args) != 2 {
		return usageError{errors.New("want NAME and KEY, those of a cache and of an entry")}
	}
	if codec != "" && codec != "msgpack" && codec != "json" {
		return usageError{fmt.Errorf("-codec is %q: want msgpack or json", codec)}
	}
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	x, err := s.look(ctx, client, args[0], args[1], codec)
	if err != nil {
		return err
	}
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(x)
}

// look reads an entry. What cannot be read is said in its State.
func (s *server) look(ctx context.Context, client redis.UniversalClient, name, key, codec string) (*inspected, error) {
	full := s.key(name, key)
	raw, err := client.Get(ctx, full).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("%w under %q", errNoEntry, full)
	}
	if err != nil {
		return nil, err
	}
	x := &inspected{Cache: name, Key: key, RedisKey: full, Bytes: len(raw), State: "unreadable"}
	left, err := client.PTTL(ctx, full).Result()
	if err != nil {
		return nil, err
	}
	if left > 0 {
		x.EndsIn = left.String()
	}
	h, payload, err := record.Open(raw)
	if err != nil || h.Key != record.Digest(full) {
		return x, nil
	}
	clock, err := client.Time(ctx).Result()
	if err != nil {
		return nil, err
	}
	now := clock.UnixMicro()
	if l := h.Lease; l.Until > now || l.Owner != (record.Owner{}) {
		x.Lease = &lease{Holder: s.process(ctx, client, l.Owner), Fence: l.Fence, Failures: l.Failures}
		if l.Until > 0 {
			x.Lease.Until, x.Lease.EndsIn = time.UnixMicro(l.Until).UTC(), micros(l.Until-now)
		}
		if l.Duration > 0 {
			x.Lease.Duration = l.Duration.String()
		}
	}
	if h.State == record.Stub {
		x.State = "stub"
		return x, nil
	}
	x.Entry = &header{
		StoredBy: s.process(ctx, client, h.ID), LoadBegan: time.UnixMicro(h.Stamp).UTC(),
		FreshUntil: time.UnixMicro(h.FreshUntil).UTC(), StaleUntil: time.UnixMicro(h.StaleUntil).UTC(),
		FreshFor: micros(h.FreshUntil - now), StaleFor: micros(h.StaleUntil - now), LoadCost: h.Cost.String(), Deviation: h.Deviation.String(),
		Version: h.Version, Fence: h.Fence, ID: hex.EncodeToString(h.ID[:]), Type: fmt.Sprintf("%016x", h.Type),
		Compressed: h.Compressed, Sealed: h.Sealed, RawBytes: h.RawLen,
	}
	if h.Tagged {
		var block []byte
		if block, payload, err = record.CutTags(payload); err != nil {
			return x, nil
		}
		tags, err := record.ParseTags(block)
		if err != nil {
			return x, nil
		}
		if err := x.barriers(ctx, client, s.prefix+":"+name, h.Stamp, tags); err != nil {
			return nil, err
		}
	}
	switch {
	case h.State == record.Negative:
		x.State = "not found"
	case h.Sealed:
		x.State, x.Format = "value", "sealed"
	default:
		if payload, err = h.Raw(payload); err != nil {
			return x, nil
		}
		x.State = "value"
		x.Payload, x.Format = readable(payload, codec)
	}
	return x, nil
}

// process is the name of the process that an owner belongs to, or its ID.
func (s *server) process(ctx context.Context, client redis.UniversalClient, o record.Owner) string {
	if o == (record.Owner{}) {
		return ""
	}
	id := hex.EncodeToString(o[:6])
	name, err := client.Get(ctx, s.prefix+"::process:"+id).Result()
	if err != nil {
		return id
	}
	return name
}

// barriers tells when tags were deleted, and whether that or a Clear was after the stamp of the entry. Without barriers nothing is valid.
func (x *inspected) barriers(ctx context.Context, client redis.UniversalClient, key string, stamp int64, tags []string) error {
	fields := []string{"base"}
	for _, t := range tags {
		fields = append(fields, "t"+t)
	}
	values, err := client.HMGet(ctx, key, fields...).Result()
	if err != nil {
		return err
	}
	for i, v := range values {
		text, _ := v.(string)
		at, err := strconv.ParseInt(text, 10, 64)
		x.Outdated = x.Outdated || err == nil && at >= stamp || i == 0 && err != nil
		if i == 0 {
			continue
		}
		deleted := tag{Tag: tags[i-1]}
		if err == nil {
			deleted.Deleted = time.UnixMicro(at).UTC()
		}
		x.Tags = append(x.Tags, deleted)
	}
	return nil
}

// readable decodes a payload, as far as that is possible.
func readable(payload []byte, codec string) (any, string) {
	if codec != "json" && msgpackscan.Check(payload) == nil {
		d := msgpack.NewDecoder(bytes.NewReader(payload))
		d.SetMapDecoder(func(d *msgpack.Decoder) (any, error) { return d.DecodeUntypedMap() })
		if v, err := d.DecodeInterface(); err == nil {
			return printable(v), "msgpack"
		}
	}
	if codec != "msgpack" && json.Valid(payload) {
		return json.RawMessage(payload), "json"
	}
	return payload, "bytes"
}

// printable replaces what JSON has not.
func printable(v any) any {
	switch v := v.(type) {
	case map[any]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[fmt.Sprint(k)] = printable(e)
		}
		return m
	case []any:
		for i := range v {
			v[i] = printable(v[i])
		}
	case float32:
		return printable(float64(v))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Sprint(v)
		}
	}
	return v
}

func micros(n int64) string { return (time.Duration(n) * time.Microsecond).String() }
