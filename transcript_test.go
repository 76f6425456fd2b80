package cache

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bellwether-go/cache/internal/lab"
	"github.com/bellwether-go/cache/internal/record"
	"github.com/bellwether-go/cache/internal/resp"
)

// transcript is what happened, as lines of virtual time, process, event.
type transcript struct {
	began     time.Time
	owners    map[record.Owner]string // who took a lease under that name
	processes []string
	lines     []string
	told      map[*lab.Message]bool // replies whose outcome has been written

	mu      sync.Mutex
	pending []noted // noted by goroutines, in no order that could be relied on; guarded by mu
}

type noted struct {
	at          time.Duration
	actor, text string
	lane        string
}

// note is called by goroutines. What they note at one time, while nothing is moved, is put in the order of lanes.
func (tr *transcript) note(a *actor, lane, text string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if a.dead {
		return
	}
	tr.pending = append(tr.pending, noted{time.Since(tr.began), a.name, text, lane})
}

// flush writes what was noted while nothing was moved.
func (tr *transcript) flush() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	slices.SortStableFunc(tr.pending, func(a, b noted) int {
		return cmp.Or(cmp.Compare(a.at, b.at), strings.Compare(a.actor, b.actor), strings.Compare(a.lane, b.lane))
	})
	for _, e := range tr.pending {
		tr.line(e.at, e.actor, e.text)
	}
	tr.pending = nil
}

func (tr *transcript) line(at time.Duration, actor, text string) {
	tr.lines = append(tr.lines, fmt.Sprintf("%7s  %s  %s", at.Round(time.Millisecond), actor, text))
}

// message writes what a message says. A request is written with its reply, so that one line tells what was executed.
func (tr *transcript) message(m *lab.Message, held bool) {
	text := tr.text(m)
	switch {
	case text == "", m.Kind == lab.Request && !held:
		return
	case held:
		tr.told[m] = true
		text += map[lab.Kind]string{
			lab.Request: " (held)", lab.Reply: " (the reply is held)", lab.Push: " (held)",
		}[m.Kind]
	case m.Kind == lab.Reply && tr.told[m]:
		text = "has the reply to " + verbOf(m)
	}
	tr.line(time.Since(tr.began), m.Process, text)
}

// text is what a message says; nothing if it is not worth a line.
func (tr *transcript) text(m *lab.Message) string {
	if m.Kind == lab.Push {
		words, _ := resp.Words(m.Raw)
		return "<- " + tr.push(words[len(words)-1])
	}
	verb := verbOf(m)
	var key string
	switch verb {
	case "TIME", "MULTI", "SCRIPT":
		return ""
	case "ACQUIRE", "COMMIT", "ABORT", "RENEW":
		key = m.Args[3]
	case "STAMP":
	case "PERMITS":
		a := m.Args[len(m.Args)-4:]
		key = fmt.Sprintf("back %d, held %d, wanted %d", len(a[0])/permitDigits, len(a[1])/permitDigits, len(a[2])/permitDigits)
	case "INVALIDATE":
		key = strings.Join(m.Args[6:], " ")
	case "HMGET":
		verb, key = "BARRIERS", tr.fields(m.Args[3:])
	case "PUBLISH":
		key = tr.push(m.Args[2])
	case "EXEC", "UNWATCH":
	default:
		key = m.Args[1]
	}
	text := strings.TrimSpace(verb + " " + shortKey(key))
	if m.Kind == lab.Request {
		return text
	}
	words, err := resp.Words(m.Raw)
	if err != nil {
		return text + ": " + err.Error()
	}
	if len(words) == 1 && words[0] == "QUEUED" {
		return ""
	}
	return text + ": " + tr.reply(verb, words)
}

// reply is the outcome of a command.
func (tr *transcript) reply(verb string, words []string) string {
	if len(words) == 0 {
		return "nothing"
	}
	if strings.HasPrefix(words[0], "-") {
		return words[0][1:]
	}
	switch verb {
	case "ACQUIRE":
		switch words[0] {
		case "HIT":
			return "HIT " + tr.record(words[2])
		case "BUSY":
			left, _ := strconv.Atoi(words[3])
			return fmt.Sprintf("BUSY, %s holds it for %v", tr.owner(words[2]), (time.Duration(left) * time.Microsecond).Round(time.Millisecond))
		}
		return words[0]
	case "COMMIT":
		return words[0]
	case "STAMP", "INVALIDATE":
		return tr.when(words[2])
	case "PERMITS":
		return fmt.Sprintf("has %d, %s processes, %s wait", len(words[5])/permitDigits, words[2], words[3])
	case "BARRIERS":
		var times []string
		for _, w := range words[1:] {
			times = append(times, tr.when(w))
		}
		return strings.Join(times, " ")
	case "ABORT", "RENEW":
		return map[string]string{"0": "not mine", "1": "done"}[words[0]]
	case "GETRANGE":
		return tr.record(words[0])
	}
	return strings.Join(words, " ")
}

// fields are tags whose barriers are asked for.
func (*transcript) fields(names []string) string {
	var tags []string
	for _, n := range names {
		tags = append(tags, strings.TrimPrefix(n, "t"))
	}
	return strings.Join(tags, " ")
}

// when is a stamp or a barrier as time since the beginning, in microseconds after the millisecond if it has any.
func (tr *transcript) when(us string) string {
	n, err := strconv.ParseInt(us, 10, 64)
	if err != nil {
		return "none"
	}
	return time.UnixMicro(n).Sub(tr.began).String()
}

// shortKey is a key without what most keys begin with.
func shortKey(key string) string { return strings.TrimPrefix(key, "cache:user:") }

// push is a message on a channel.
func (tr *transcript) push(m string) string {
	if len(m) < 17 {
		return strconv.Quote(m)
	}
	if m[0] == eventful {
		return tr.events(m[emptyEvent:])
	}
	key, rest, ok := cutText(m[17:])
	if !ok {
		return strconv.Quote(m)
	}
	key = shortKey(key)
	switch m[0] {
	case wakeCommitted:
		if _, rest = cutTime(rest); rest == "" {
			return fmt.Sprintf("%s: %s has committed", key, tr.owner(m[1:17]))
		}
		return fmt.Sprintf("%s: %s has committed %s", key, tr.owner(m[1:17]), tr.record(rest))
	case wakeAborted:
		return fmt.Sprintf("%s: %s has given up", key, tr.owner(m[1:17]))
	case deleted:
		return key + ": deleted"
	case permit:
		return "has a permit"
	}
	return strconv.Quote(m)
}

// events is what a process has invalidated.
func (tr *transcript) events(rest string) string {
	var all []string
	for rest != "" {
		text, more, ok := cutText(rest[1:])
		if !ok {
			return strconv.Quote(rest)
		}
		switch rest[0] {
		case keyEvent:
			all = append(all, shortKey(text)+": deleted")
		case tagEvent:
			all = append(all, "tag "+shortKey(text)+": deleted")
		case clearEvent:
			all = append(all, "everything: deleted")
		}
		rest = more
	}
	return strings.Join(all, ", ")
}

func (tr *transcript) owner(id string) string {
	var o record.Owner
	copy(o[:], id)
	return cmp.Or(tr.owners[o], "somebody")
}

// record is what a key holds.
func (tr *transcript) record(raw string) string {
	if raw == "" {
		return "nothing"
	}
	h, payload, err := record.Open([]byte(raw))
	if err != nil && len(raw) == record.Size+1 { // without scripts only the header is read before it is changed
		if h, err = record.OpenHeader([]byte(raw)); err == nil {
			return "a header, lease of " + tr.owner(string(h.Lease.Owner[:]))
		}
	}
	if err != nil {
		return "something unreadable"
	}
	var text string
	switch h.State {
	case record.Stub:
		text = "a stub"
	case record.Negative:
		text = fmt.Sprintf("\"not found\" of %s", tr.owner(string(h.ID[:])))
	default:
		v := string(payload)
		var c coder
		c.codec, c.maxBytes = Msgpack{}, 1<<20
		c.decode = func(codec Codec, b []byte) (any, error) { return v, codec.Unmarshal(b, &v) }
		_, _ = c.value("", &h, payload)
		text = fmt.Sprintf("%s of %s", quote(v), tr.owner(string(h.ID[:])))
	}
	if h.Lease.Owner != (record.Owner{}) {
		text += ", lease of " + tr.owner(string(h.Lease.Owner[:]))
	}
	if n := h.Lease.Failures; n > 0 {
		text += fmt.Sprintf(", %d failed", n)
	}
	return text
}

// quote shortens long values.
func quote(v string) string {
	if len(v) > 40 {
		return fmt.Sprintf("%q... (%d bytes)", v[:5], len(v))
	}
	return strconv.Quote(v)
}
