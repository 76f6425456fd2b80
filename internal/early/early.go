// Package early computes when a value that is still fresh is to be loaded anew, so that nobody has to wait when it expires.
//
// It is XFetch (Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015) with two
// differences. There, each request draws: now - cost*beta*ln(rand()) >= expiry. Here, each process draws once for each
// stored value, so that a hit compares two numbers, and the number of requests has no influence on when the first one
// fires. And the cost is not that of the last load but a bound on that of the next one: mean and deviation smoothed as TCP
// does for its retransmission timer (Jacobson, "Congestion Avoidance and Control", SIGCOMM 1988; RFC 6298).
package early

import (
	"math"
	"time"
)

// Cost is what is known of the time that the loads of a key take. The zero Cost is: nothing.
type Cost struct{ Mean, Deviation time.Duration }

// After returns the Cost after another load. The first deviation is a quarter of the load, where RFC 6298 has a half: a bound
// of three loads costs short TTLs more than it saves (with a TTL of 1 s and loads of 50 ms a load in 15 s).
func (c Cost) After(load time.Duration) Cost {
	if c == (Cost{}) {
		return Cost{load, load / 4}
	}
	return Cost{
		Mean:      c.Mean + (load-c.Mean)/8,
		Deviation: c.Deviation + ((load-c.Mean).Abs()-c.Deviation)/4,
	}
}

// Bound is the time in which the next load will be done, in all likelihood.
func (c Cost) Bound() time.Duration { return c.Mean + 4*c.Deviation }

// share is how much of its TTL a value loses to early refresh at most: 1/share.
const share = 4

// Ahead returns how long before its expiry a value with this TTL is to be loaded anew: Bound leaves the load the time it
// takes, and an exponential share of it, of mean beta, lets one of many processes be the first. chance is evenly
// distributed over [0, 1).
func Ahead(ttl time.Duration, c Cost, beta, chance float64) time.Duration {
	ahead := float64(c.Bound()) * (1 - beta*math.Log1p(-chance))
	return time.Duration(min(ahead, float64(ttl/share)))
}

// Small is a Cost in 4 bytes, to a thousandth, of at most 71 minutes.
type Small struct{ mean, deviation uint16 }

// steps is how many numbers of a Small double a time.
const steps = 2047

// Pack returns the Cost in its small form.
func (c Cost) Pack() Small { return Small{pack(c.Mean), pack(c.Deviation)} }

// Unpack is the inverse of Pack.
func (s Small) Unpack() Cost { return Cost{unpack(s.mean), unpack(s.deviation)} }

func pack(d time.Duration) uint16 {
	return uint16(min(math.Round(math.Log2(1+d.Seconds()*1e6)*steps), math.MaxUint16))
}

func unpack(n uint16) time.Duration {
	return time.Duration((math.Exp2(float64(n)/steps) - 1) * float64(time.Microsecond))
}
