package cache

import (
	"time"

	"github.com/bellwether-go/cache/internal/record"
)

// put leaves something strange under a key.
func (s *stage) put(full, what string) {
	r := s.w.Redis
	r.Del(full)
	switch what {
	case "list":
		_, _ = r.Push(full, "x")
	case "garbage":
		_ = r.Set(full, "bw0 something else")
	case "flipped", "expired": // a record whose payload was changed; one that is past its end
		o, _ := Options{}.withDefaults()
		until := time.Now().Add(time.Hour)
		if what == "expired" {
			until = time.Now()
		}
		b := newCoder[string](&o).seal(full, life{
			owner: record.Owner{1}, fence: 1, freshUntil: until.UnixMicro(),
		}, []byte("\xa2v1"))
		if what == "flipped" {
			b[len(b)-1] ^= 1
		}
		_ = r.Set(full, string(b))
	default:
		panic("nothing of that name to put")
	}
	r.SetTTL(full, time.Hour)
}
