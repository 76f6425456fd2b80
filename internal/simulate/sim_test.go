package main

import (
	"fmt"
	"math"
	"testing"
	"time"
)

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.Abs(got-want) > tolerance*want {
		t.Errorf("%s: %.4g, want %.4g or %g %% beside it", what, got, want, 100*tolerance)
	}
}

// Without anything, every request of a load's time loads. The last of them is stored when another such time has passed,
// and only then does the next TTL begin.
func TestNothing(t *testing.T) {
	for _, processes := range []int{1, 10} {
		c := conditions{rate: 10_000, processes: processes, ttl: time.Minute, mean: 100 * time.Millisecond}
		ttls, n := simulate(c, strategy{}, 1, 50)
		expiries := ttls * 60 / 60.2
		near(t, "loads", float64(n.loads)/expiries, 1000, 0.02)
		near(t, "most at a time", float64(n.peak), 1000, 0.15)
		near(t, "seconds waited", n.blocked/expiries, 100, 0.02)
	}
}

func TestSingleflight(t *testing.T) {
	c := conditions{rate: 10_000, processes: 10, ttl: time.Minute, mean: time.Second}
	ttls, n := simulate(c, strategy{single: true}, 1, 100)
	near(t, "loads", float64(n.loads)/(ttls*60/61), 10, 0.01)
	near(t, "seconds waited", n.blocked/(ttls*60/61), 10_000/2, 0.02)
}

func TestLease(t *testing.T) {
	c := conditions{rate: 10_000, processes: 10, ttl: time.Minute, mean: time.Second}
	ttls, n := simulate(c, strategy{single: true, lease: true}, 1, 100)
	near(t, "loads", float64(n.loads)/(ttls*60/61), 1, 0.02)
	near(t, "seconds waited", n.blocked/(ttls*60/61), 10_000/2, 0.02)
	if n.peak != 1 {
		t.Errorf("%d loads at a time, want 1", n.peak)
	}
}

// XFetch alone makes e^(1/beta) loads for each expiry, however many requests there are.
func TestXFetchLoads(t *testing.T) {
	for _, beta := range []float64{1, 2, 3} {
		for _, rate := range []float64{1000, 100_000} {
			c := conditions{rate: rate, processes: 1, ttl: time.Hour, mean: 100 * time.Millisecond}
			ttls, n := simulate(c, strategy{draw: perRequest, beta: beta}, 1, 3000)
			near(t, fmt.Sprintf("loads with beta %g at %g/s", beta, rate), float64(n.loads)/ttls, math.Exp(1/beta), 0.05)
		}
	}
}

// In a fleet, singleflight changes little about that, because the duplicates are those of other processes.
func TestXFetchFleet(t *testing.T) {
	c := conditions{rate: 100_000, processes: 100, ttl: time.Hour, mean: 100 * time.Millisecond}
	ttls, n := simulate(c, strategy{single: true, draw: perRequest, beta: 1}, 1, 1000)
	near(t, "loads", float64(n.loads)/ttls, math.E, 0.1)
}

// drawn is the time of the first refresh; here every request draws.
func TestXFetchDraw(t *testing.T) {
	for _, rate := range []float64{10, 1000} {
		c := conditions{rate: rate, processes: 1}
		w := newWorld(c, strategy{draw: perRequest, beta: 1}, 1)
		p := &process{world: w, value: &value{expiry: 10 * time.Second, last: 100 * time.Millisecond}}
		var drawn, asked struct{ late, ahead float64 }
		const times = 5000
		for range times {
			at := p.drawn()
			if drawn.ahead += (p.value.expiry - at).Seconds(); at >= p.value.expiry {
				drawn.late++
			}
			// Long before the expiry the chance is nil.
			for at = 7 * time.Second; at < p.value.expiry; at += w.gap() {
				if at+seconds(w.rng.ExpFloat64()*0.1) >= p.value.expiry {
					break
				}
			}
			if asked.ahead += (p.value.expiry - at).Seconds(); at >= p.value.expiry {
				asked.late++
			}
		}
		if rate == 10 { // 1 request in the time of a load
			near(t, "nobody refreshes", drawn.late/times, math.Exp(-1), 0.05)
			near(t, "nobody refreshes, each request by itself", asked.late/times, math.Exp(-1), 0.05)
		} else {
			near(t, "seconds ahead", drawn.ahead/times, 0.1*(math.Log(100)+0.577), 0.02)
			near(t, "seconds ahead, each request by itself", asked.ahead/times, 0.1*(math.Log(100)+0.577), 0.02)
		}
	}
}

// waited is the sum over all requests, of which before the expiry only those wait that draw.
func TestWaited(t *testing.T) {
	const rate, begin, end = 1000, 9500 * time.Millisecond, 10200 * time.Millisecond
	w := newWorld(conditions{rate: rate, processes: 1}, strategy{draw: perRequest, beta: 0.5}, 1)
	w.now = end
	p := &process{world: w, since: begin, value: &value{expiry: 10 * time.Second, last: time.Second}}
	want := (end - begin).Seconds()
	for at := begin; at < end; at += time.Millisecond {
		chance := math.Exp(-(p.value.expiry - at).Seconds() / 0.5)
		want += min(1, chance) * (end - at).Seconds()
	}
	near(t, "seconds waited", p.waited(), want, 0.005)
}

// Where requests are not rare, nobody waits for this package, and nothing is loaded twice.
func TestDefaults(t *testing.T) {
	for _, mean := range []time.Duration{100 * time.Millisecond, 2 * time.Second} {
		c := conditions{rate: 100_000, processes: 100, ttl: time.Minute, mean: mean, sigma: 0.2}
		ttls, n := simulate(c, byDefault(), 1, 100)
		if loads := float64(n.loads) / ttls; loads < 1 || loads > 1.3 {
			t.Errorf("%.2f loads per TTL, want 1 to 1.3", loads)
		}
		if n.blocked > 0 || n.stale > 0 || n.peak != 1 {
			t.Errorf("%.3g seconds waited, %.3g expired answers, %d loads at a time, want 0, 0, 1", n.blocked, n.stale, n.peak)
		}
	}
}

// With StaleWhileRevalidate nobody waits after the first load, whatever the conditions.
func TestStaleWhileRevalidate(t *testing.T) {
	for _, rate := range []float64{1, 1000, 100_000} {
		for _, processes := range []int{1, 100} {
			for _, sigma := range []float64{0, 0.2, 1} {
				c := conditions{rate, processes, time.Minute, time.Second, sigma}
				if _, n := simulate(c, whileRevalidating(), 1, 100); n.blocked > 0 || n.peak != 1 {
					t.Errorf("%+v: %.3g seconds waited, %d loads at a time, want 0 and 1", c, n.blocked, n.peak)
				}
			}
		}
	}
}

// When requests are rare, nobody comes in time for an early refresh: the first one after the expiry gets what there is, and
// so do those that come while it is loaded anew.
func TestExpiredAnswers(t *testing.T) {
	c := conditions{rate: 1, processes: 1, ttl: time.Minute, mean: 100 * time.Millisecond}
	s := whileRevalidating()
	s.jitter = 0
	ttls, n := simulate(c, s, 1, 20_000)
	const d = 0.1 // of a request per load
	// Equal loads leave no deviation, and so the window is d*(1+beta*Exp(1)).
	empty := math.Exp(-d) / (1 + s.beta*d)
	period := 60 + d + empty*1 // the next request comes a second after the expiry
	near(t, "expired answers", n.stale/ttls, empty*(1+d)*60/period, 0.02)
}

// A hot key with a TTL of a second, from the first load on: this is measured at the real package too.
func TestCold(t *testing.T) {
	c := conditions{rate: 20_000, processes: 4, ttl: time.Second, mean: 50 * time.Millisecond}
	for seed := range uint64(100) {
		w := newWorld(c, byDefault(), seed)
		w.run(time.Second, math.MaxInt)
		first := w.counts.blocked
		w.run(15*time.Second, math.MaxInt)
		if n := w.counts.loads; n < 15 || n > 18 {
			t.Errorf("seed %d: %d loads in 15 s, want 15 to 18", seed, n)
		}
		if w.counts.blocked > first {
			t.Errorf("seed %d: requests waited for another load than the first", seed)
		}
	}
}

// The mean of the load times is what the tables say, not that of their logarithms.
func TestLoadTime(t *testing.T) {
	w := newWorld(conditions{rate: 1, processes: 1, mean: 500 * time.Millisecond, sigma: 1}, strategy{}, 1)
	const times = 100_000
	sum, long := 0.0, 0.0
	for range times {
		took := w.loadTime()
		if sum += took.Seconds(); took > 3100*time.Millisecond {
			long++
		}
	}
	near(t, "mean", sum/times, 0.5, 0.02)
	near(t, "loads of more than 3.1 s", long/times, 0.01, 0.1)
}

func TestSeed(t *testing.T) {
	c := conditions{rate: 1000, processes: 10, ttl: time.Minute, mean: time.Second, sigma: 0.2}
	for _, s := range strategies() {
		_, first := simulate(c, s, 1, 5)
		_, again := simulate(c, s, 1, 5)
		_, other := simulate(c, s, 2, 5)
		if first != again {
			t.Errorf("%s: %+v and %+v with the same seed", s.name, first, again)
		}
		if s.stale == 0 && s.draw != perValue && first == other {
			t.Errorf("%s: %+v with two seeds", s.name, first)
		}
	}
}

func TestDigits(t *testing.T) {
	for x, want := range map[float64]string{
		0: "0", 0.001: "< 0.01", 0.994: "0.99", 1.5: "1.50", 2.04: "2.0", 45.4: "45", 99.6: "100", 101: "100", 86_517: "87,000", 1_234_567: "1,200,000",
	} {
		if got := digits(x); got != want {
			t.Errorf("%v is shown as %s, want %s", x, got, want)
		}
	}
}
