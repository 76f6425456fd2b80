package guide

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bellwether-go/cache/cachetest"
)

// A step makes the shop a little better than the one before.
type step struct {
	name string
	shop func(db Database, client *redis.Client) (*Shop, error)
}

var steps = []step{
	{"0. no cache", noCache},
	{"1. memory", inMemory},
	{"2. not found", notFound},
	{"3. Redis", inRedis},
	{"4. Delete", deleting},
	{"5. stale", stale},
	{"6. MaxLoads", bounded},
}

// The scene of docs/guide.md. The tests play a tenth of it, make guide all of it.
const (
	processes = 4
	rate      = 1000 // requests a second
	sale      = 3    // as many, in a sale
	products  = 200  // asked for by Zipf's law
	missing   = 20   // that links of others still lead to: one request in twenty
	patience  = time.Second

	query   = 50 * time.Millisecond
	workers = 60 // queries that the database works on at a time; with more of them each takes longer

	length  = 80 * time.Second
	saleOn  = 10 * time.Second
	saleOff = 20 * time.Second
	dbDown  = 30 * time.Second
	dbUp    = 45 * time.Second
	rdsDown = 60 * time.Second
	rdsUp   = 70 * time.Second
)

var errDown = errors.New("connection refused")

// database is one that becomes slower the more is asked of it.
type database struct {
	mu      sync.Mutex
	scale   int
	prices  [products]price // guarded by mu
	down    bool            // guarded by mu
	now     int             // queries; guarded by mu
	most    int             // guarded by mu
	queries int             // guarded by mu
}

type price struct {
	cents     int
	confirmed int // the last of which SetPrice has returned nil
}

// confirmed returns what nobody may see less of from now on.
func (d *database) confirmed(n int) int {
	if n >= products {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.prices[n].confirmed
}

func (d *database) begin() (takes time.Duration, down bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queries++
	d.now++
	d.most = max(d.most, d.now)
	share := max(float64(d.now*d.scale)/workers, 1)
	return time.Duration(float64(query) * share), d.down
}

func (d *database) Product(ctx context.Context, id string) (Product, error) {
	takes, down := d.begin()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.now--
	}()
	n, err := strconv.Atoi(id)
	if err != nil {
		return Product{}, err
	}
	if down {
		return Product{}, errDown
	}
	cents := 0 // as of the beginning
	if n < products {
		d.mu.Lock()
		cents = d.prices[n].cents
		d.mu.Unlock()
	}
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return Product{}, ctx.Err()
	}
	if n >= products {
		return Product{}, sql.ErrNoRows
	}
	return Product{Name: "product " + id, Cents: cents}, nil
}

func (d *database) SetPrice(_ context.Context, id string, cents int) error {
	n, err := strconv.Atoi(id)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		return errDown
	}
	d.prices[n].cents = cents
	return nil
}

// played is what a step showed.
type played struct {
	step          string
	queries, most int
	p99, p99Sale  time.Duration // outside of the outages; and in the sale
	asked, failed [4]int        // at quiet times, in the sale, while the database is down, while Redis is
	old           int           // answers older than a change that was confirmed before they were asked for
}

const (
	quiet = iota
	inSale
	withoutDB
	withoutRedis
)

// when tells in which part of the play a moment is.
func when(at time.Duration) int {
	switch {
	case at >= saleOn && at < saleOff:
		return inSale
	case at >= dbDown && at < dbUp:
		return withoutDB
	case at >= rdsDown && at < rdsUp:
		return withoutRedis
	}
	return quiet
}

// play plays one step.
func play(t *testing.T, s step, scale int) (r played) {
	cachetest.Run(t, processes, func(fleet *cachetest.Fleet) {
		db := &database{scale: scale}
		var shops []*Shop
		for _, p := range fleet.Processes() {
			shop, err := s.shop(db, p.Client(func(o *redis.Options) { o.PoolSize = 100 }))
			if err != nil {
				fleet.T.Fatal(err)
			}
			defer shop.Close()
			shops = append(shops, shop)
		}
		fleet.Settle()
		r = serve(fleet, db, shops, scale, func() { time.Sleep(time.Millisecond) })
		r.step = s.name
	})
	return r
}

// serve has the shops serve, while a price changes each second, there is a sale, and the database and Redis are away for a while. A
// millisecond passes by pass.
func serve(fleet *cachetest.Fleet, db *database, shops []*Shop, scale int, pass func()) (r played) {
	rng := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(rng, 1.1, 1, uint64(products/scale-1))
	anyShop := func() *Shop { return shops[rng.IntN(len(shops))] }
	var mu sync.Mutex                  // guards r and took
	var took, tookSale []time.Duration // took of what was asked for outside of outages
	ask := func(shop *Shop, n, part int) {
		least, at := db.confirmed(n), time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		p, err := shop.Product(ctx, strconv.Itoa(n))
		mu.Lock()
		defer mu.Unlock()
		switch part {
		case inSale:
			tookSale = append(tookSale, time.Since(at))
		case quiet:
			took = append(took, time.Since(at))
		}
		r.asked[part]++
		if err != nil && n < products {
			r.failed[part]++
		}
		if err == nil && p.Cents < least {
			r.old++
		}
	}
	change := func(shop *Shop, n, cents int) {
		if shop.SetPrice(context.Background(), strconv.Itoa(n), cents) == nil {
			db.mu.Lock()
			defer db.mu.Unlock()
			db.prices[n].confirmed = cents
		}
	}
	var calls sync.WaitGroup
	for ms := range int(length / time.Millisecond) {
		at := time.Duration(ms) * time.Millisecond
		switch at {
		case dbDown, dbUp:
			db.mu.Lock()
			db.down = at == dbDown
			db.mu.Unlock()
		case rdsDown:
			fleet.Redis.Down()
		case rdsUp:
			fleet.Redis.Up()
		}
		if at%time.Second == time.Second/2 {
			n, shop := int(zipf.Uint64()), anyShop()
			calls.Go(func() { change(shop, n, ms) })
		}
		part := when(at)
		requests := 1
		if part == inSale {
			requests = sale
		}
		for range requests * rate / 1000 {
			n, shop := int(zipf.Uint64()), anyShop()
			if rng.IntN(20) == 0 {
				n = products + rng.IntN(missing)
			}
			if ms%scale == 0 {
				calls.Go(func() { ask(shop, n, part) })
			}
		}
		pass()
	}
	calls.Wait()
	r.queries, r.most = db.queries, db.most
	r.p99, r.p99Sale = quantile(took, 0.99), quantile(tookSale, 0.99)
	return r
}

func quantile(took []time.Duration, q float64) time.Duration {
	slices.Sort(took)
	return took[int(q*float64(len(took)-1))]
}

// share is the part of the calls that failed.
func (r *played) share(part int) float64 { return float64(r.failed[part]) / float64(r.asked[part]) }

func (r played) String() string {
	line := fmt.Sprintf("| %s | %d | %d | %d ms | %d ms", r.step, r.queries, r.most, r.p99.Milliseconds(), r.p99Sale.Milliseconds())
	for part := range r.asked {
		line += fmt.Sprintf(" | %.1f %%", 100*r.share(part))
	}
	return fmt.Sprintf("%s | %d |", line, r.old)
}

func TestMain(m *testing.M) {
	redis.SetLogger(silent{}) // which tells of each dial that fails
	os.Exit(m.Run())
}

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// Each step is better than the one before in what docs/guide.md says of it. With -rewrite the numbers there are written anew.
func TestGuide(t *testing.T) {
	scale := 10
	if *rewrite {
		scale = 1
	}
	var all []played
	for _, s := range steps {
		r := play(t, s, scale)
		t.Log(r)
		all = append(all, r)
	}
	none, memory, notFound, redis, deleted, stale, bounded := all[0], all[1], all[2], all[3], all[4], all[5], all[6]
	for what, ok := range map[string]bool{
		"without a cache a sale is too much":                                 none.share(inSale) > 0.5 && none.p99Sale == patience,
		"memory takes nine of ten queries":                                   memory.queries < none.queries/9 && memory.failed[inSale] == 0,
		"what is not there is asked for less often":                          notFound.queries < memory.queries*95/100,
		"processes share":                                                    redis.queries < notFound.queries*9/10,
		"a price that was changed is not seen any more":                      redis.old > 100 && deleted.old < redis.old/50,
		"an outage of the database is not seen":                              deleted.share(withoutDB) > 0.1 && stale.share(withoutDB) < deleted.share(withoutDB)/10,
		"so many at a time, and a share of each process while Redis is away": bounded.most <= 2*10,
	} {
		if !ok {
			t.Errorf("not so: %s", what)
		}
	}
	for _, r := range all {
		if r.failed[withoutRedis] > 0 {
			t.Errorf("%s: %d calls have failed for want of Redis", r.step, r.failed[withoutRedis])
		}
	}
	if *rewrite {
		write(t, all)
	}
}

var rewrite = flag.Bool("rewrite", false, "play the whole scene, and write its numbers into docs/guide.md")

// write replaces the rows of docs/guide.md that are those of a step.
func write(t *testing.T, all []played) {
	const path = "../../docs/guide.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	for i, l := range lines {
		for _, r := range all {
			if strings.HasPrefix(l, "| "+r.step+" |") {
				lines[i] = r.String()
			}
		}
	}
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Every step has its row.
func TestRows(t *testing.T) {
	b, err := os.ReadFile("../../docs/guide.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if !strings.Contains(string(b), "\n| "+s.name+" | ") {
			t.Errorf("no row of %s", s.name)
		}
	}
}
