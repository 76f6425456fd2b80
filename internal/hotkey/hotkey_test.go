package hotkey

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/realredis"
	"github.com/bellwether-go/cache/internal/workers"
)

const processes = 4

func TestMain(m *testing.M) { workers.Main(m, work) }

// length is how long the tests ask: CACHE_HOTKEY, or 3 s.
func length(t *testing.T) time.Duration {
	t.Helper()
	spec := os.Getenv("CACHE_HOTKEY")
	if spec == "" {
		return 3 * time.Second
	}
	d, err := time.ParseDuration(spec)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// play lets the processes work, started together, and joins what they report.
func play(t *testing.T, j job) (all report) {
	t.Helper()
	j.Redis = realredis.Start(t).Client(nil).Options().Addr
	for _, r := range workers.Run[report](t, processes, j) {
		all.Loads, all.Fails = append(all.Loads, r.Loads...), append(all.Fails, r.Fails...)
		all.Hot, all.Hits = append(all.Hot, r.Hot...), append(all.Hits, r.Hits...)
		all.Errors, all.Stale = all.Errors+r.Errors, all.Stale+r.Stale
		if r.First != "" {
			all.First = r.First
		}
	}
	for _, s := range [][]int64{all.Loads, all.Fails, all.Hot, all.Hits} {
		slices.Sort(s)
	}
	return all
}

// at returns the value below which that many of 10,000 lie.
func at(sorted []int64, of10000 int) time.Duration {
	return time.Duration(sorted[min(len(sorted)*of10000/10000, len(sorted)-1)])
}

// A hot key with a TTL of 1 s, 5,000 requests a second in each of four processes: about one load for each TTL, and who
// asks does not wait. Times depend on the machine, and are told beside those of a key that never expires.
func TestRealServerNoSpike(t *testing.T) {
	d := length(t)
	r := play(t, job{TTL: time.Second, For: d, Warm: true, Callers: 10, Every: 2 * time.Millisecond})
	if r.Errors > 0 {
		t.Errorf("%d errors, one of them: %s", r.Errors, r.First)
	}
	if most := int(d.Seconds()*1.2 + 1.5); len(r.Loads) > most {
		t.Errorf("%d loads in %v, want at most %d", len(r.Loads), d, most)
	}
	t.Logf("%d requests in %v, %d loads", len(r.Hot), d, len(r.Loads))
	for _, p := range []int{5000, 9900, 9990, 10000} {
		hot, hits := at(r.Hot, p), at(r.Hits, p)
		t.Logf("p%g: %v, of hits %v: x%.2f", float64(p)/100, hot, hits, float64(hot)/float64(hits))
	}
}

// The origin fails for most of the time: while a stale value may be served no caller gets an error, and the fleet tries once
// in each pause, which doubles from 100 ms to 1.6 s.
func TestRealServerOriginFails(t *testing.T) {
	d := length(t)
	j := job{
		TTL: 500 * time.Millisecond, StaleIfError: time.Minute, For: d + 2*time.Second,
		FailFrom: time.Second, FailTo: time.Second + d, Callers: 4, Every: 2 * time.Millisecond,
	}
	r := play(t, j)
	if r.Errors > 0 {
		t.Errorf("%d errors, one of them: %s", r.Errors, r.First)
	}
	pause := 100 * time.Millisecond
	for i := 1; i < len(r.Fails); i++ {
		if got := time.Duration(r.Fails[i]-r.Fails[i-1]) * time.Microsecond; got < pause {
			t.Errorf("after failure %d there was a pause of %v, want %v", i, got, pause)
		}
		pause = min(2*pause, 1600*time.Millisecond)
	}
	if len(r.Fails) == 0 || r.Stale == 0 {
		t.Error("nothing failed")
	}
	t.Logf("%d requests in %v, the origin fails for %v: %d tries, %d stale answers, %d errors; %d loads in all",
		len(r.Hot), j.For, d, len(r.Fails), r.Stale, r.Errors, len(r.Loads))
}

// Without a value to serve each process tries for itself, once in each pause, and its callers get its own error at once.
func TestRealServerOriginFailsCold(t *testing.T) {
	d := length(t)
	r := play(t, job{TTL: time.Second, For: d, FailTo: time.Hour, Callers: 4, Every: 2 * time.Millisecond})
	most, pause := 0, 100*time.Millisecond
	for at := time.Duration(0); at < d+time.Second; at += pause {
		if most++; most > 1 {
			pause = min(2*pause, 1600*time.Millisecond)
		}
	}
	if len(r.Fails) > processes*most || r.First != errOrigin.Error() || r.Errors != len(r.Hot) {
		t.Errorf("%d tries, want at most %d in each process; %d errors of %d calls, one of them: %s",
			len(r.Fails), most, r.Errors, len(r.Hot), r.First)
	}
	t.Logf("%d calls in %v, %d tries; p99 %v", len(r.Hot), d, len(r.Fails), at(r.Hot, 9900))
}
