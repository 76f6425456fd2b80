package cachedmutation

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/bellwether-go/cache"
)

// None of these is reported.

func (u *User) rename(name string) { u.Name = name }

func (u *User) detach() { u.Tags = slices.Clone(u.Tags) }

func (u *User) clone() *User {
	c := *u
	c.Tags = slices.Clone(c.Tags)
	c.Tags[0] = "x"
	return &c
}

func reset(p *User, v []string, m map[string]*User) { p.Tags, v[0] = nil, ""; clear(m) }

func values() {
	u, err := users.GetOrLoad(ctx, "1", load[User])
	if err != nil {
		return
	}
	u.Name = "x"
	u.Age++
	u.Scores[1] = 2
	u.Work.Street = "x"
	u.Tags = nil
	u.Tag = nil
	u.Tags[0] = "x"
	u.Labels = map[string]string{}
	u.Labels["a"] = "b"
	u.Home = &Address{}
	u.Home.Street = "x"
	u.Base = &Base{}
	u.Version++
	u.Work.Lines = []string{"a"}
	u.Work.Lines[0] = "b"
}

func parts() {
	u, _ := users.Get(ctx, "1")
	scores := u.Scores[:]
	scores[0] = 1
	w, _ := users.Get(ctx, "1")
	p := &w
	p.Name = "x"
	x, _ := users.Get(ctx, "1")
	work := &x.Work
	work.Street = "x"
	y, _ := (&cache.Cache[[2]User]{}).Get(ctx, "1")
	y[0].Name = "x"
	y[1] = User{}
}

func clones() {
	u, _ := pointers.Get(ctx, "1")
	u = u.clone()
	u.Name = "x"
	w, _ := pointers.Get(ctx, "1")
	c := *w
	c.Name = "x"
	c.Tags = append(c.Tags[:0:0], c.Tags...)
	c.Tags[0] = "x"
	d := c
	d.Tags[0] = "x"
	c.Labels = maps.Clone(c.Labels)
	delete(c.Labels, "a")
	v, _ := lists.Get(ctx, "1")
	v = slices.Clone(v)
	slices.Sort(v)
	x, _ := lists.Get(ctx, "1")
	y := append([]string(nil), x...)
	y[0] = "x"
	z := append(x[:1:1], "z")
	z[0] = "x"
	x = append(slices.Clip(x), "x")
	x[0] = "x"
	sorted := slices.Sorted(slices.Values(x))
	sorted[0] = "x"
	a, _ := users.Get(ctx, "1")
	b := a
	b.Tags = nil
	b.Tags = append(b.Tags, "x")
	b.Tags[0] = "y"
	c.detach()
	c.Tags[0] = "x"
}

func bytesAndStrings(texts *cache.Cache[string], blobs *cache.Cache[[]byte]) {
	s, _ := texts.Get(ctx, "1")
	b := []byte(s)
	b[0] = 'x'
	blob, _ := blobs.Get(ctx, "1")
	t := []byte(string(blob))
	t[0] = 'x'
}

func misses() *User {
	u, ok := pointers.Get(ctx, "1")
	if ok {
		return u
	}
	u = &User{}
	u.Name = "x"

	m, ok := tables.Get(ctx, "1")
	if !ok {
		m = map[string]*User{}
	}
	if !ok {
		m["a"] = u
	}
	s, err := users.GetOrLoad(ctx, "1", load[User])
	if err != nil {
		s.Tags = append(s.Tags[:0], "x")
		s.Tags[0] = "x"
	}
	switch w, err := pointers.GetOrLoad(ctx, "1", load[*User]); {
	case errors.Is(err, context.Canceled):
		w.Name = "x"
	case err != nil:
		w.Name = "x"
	}
	if x, ok := pointers.Get(ctx, "1"); ok || s.Name == "" {
		return x
	} else {
		x.Name = "x"
	}
	if w, err := pointers.GetOrLoad(ctx, "1", load[*User]); err == nil {
		return w
	} else {
		w.Name = "x"
	}
	return u
}

func ways(b bool, ch chan int) {
	u, _ := pointers.Get(ctx, "1")
	if b {
		u = u.clone()
	}
	if b {
		u.Name = "x"
	}
	w, _ := pointers.Get(ctx, "1")
	for i := range 3 {
		if i > 0 {
			w.Name = "x"
		}
		w = &User{}
	}
	w.Name = "x"
	x, _ := pointers.Get(ctx, "1")
	switch {
	case b:
		x = nil
		if ch == nil {
			break
		}
		return
	default:
	}
	x.Name = "x"
	y, _ := pointers.Get(ctx, "1")
	switch {
	case b:
		y = &User{}
		fallthrough
	default:
		y.Name = "x"
	}
	q, _ := pointers.Get(ctx, "1")
	select {
	case <-ch:
		q = nil
	default:
	}
	q.Name = "x"
	var r any = q
	switch t := r.(type) {
	case *User:
		t.Name = "x"
	}
	p, _ := pointers.Get(ctx, "1")
	if b {
		p = &User{}
	} else {
		panic("none")
	}
	p.Name = "x"
	t, _ := pointers.Get(ctx, "1")
	if b {
		b = false
	} else {
		t = &User{}
	}
	t.Name = "x"
	o := &User{}
	switch {
	case b:
		o, _ = pointers.Get(ctx, "1")
	}
	o.Name = "x"
	n, _ := pointers.Get(ctx, "1")
	if b {
		switch {
		default:
			n = &User{}
			if ch == nil {
				break
			}
			return
		}
	}
	n.Name = "x"
}

func labels(b bool) {
	z, _ := pointers.Get(ctx, "1")
again:
	for {
		for {
			z = &User{}
			if b {
				continue again
			}
			break again
		}
	}
	z.Name = "x"
	u, _ := pointers.Get(ctx, "1")
outer:
	switch {
	default:
		for {
			u = &User{}
			break outer
		}
	}
	u.Name = "x"
}

// From the second round on these are others.
func rounds(others []*User, renew func(*User)) {
	u, _ := pointers.Get(ctx, "1")
	for i := 0; i < 3; i++ {
		if i > 0 {
			u.Name = "x"
		}
		u = &User{}
	}
	v, _ := lists.Get(ctx, "1")
	for i := range 3 {
		if i > 0 {
			v[0] = "x"
		}
		v = append(v, "x")
	}
	w, _ := users.Get(ctx, "1")
	for i := range 3 {
		if i > 0 {
			w.Tags[0] = "x"
		}
		renew(&w)
	}
	x, _ := pointers.Get(ctx, "1")
	for i := range 3 {
		if i > 0 {
			x.Name = "x"
		}
		for _, x = range others {
			x.Name = "x"
		}
	}
	z, _ := pointers.Get(ctx, "1")
	for i := range 3 {
		if i > 0 {
			z.Name = "x"
		}
		for z = range map[*User]bool{} {
			z.Name = "x"
		}
	}
	y, _ := users.Get(ctx, "1")
	for i := range 3 {
		if i > 0 {
			y.Tags[0] = "x"
		}
		y.detach()
	}
}

func jumps(b bool) {
	u, _ := pointers.Get(ctx, "1")
back:
	u.Name = "x" // what goto does is not looked at
	if b {
		u = &User{}
		goto back
	}
}

func elsewhere() {
	u, _ := pointers.Get(ctx, "1")
	u.rename("x") // what methods and functions do is not looked at
	v, _ := lists.Get(ctx, "1")
	m, _ := tables.Get(ctx, "1")
	reset(u, v, m)
	json.Unmarshal(nil, u)
	atomic.AddInt64(new(int64), 1)
	_ = append(v, "x") // is not known to write anywhere

	w, _ := pointers.Get(ctx, "1")
	replace := func() { w = &User{} }
	replace()
	w.Name = "x"
	x, _ := pointers.Get(ctx, "1")
	func(p **User) { *p = &User{} }(&x)
	x.Name = "x"
	y, _ := pointers.Get(ctx, "1")
	later := func() { y.Name = "x" }
	y = &User{}
	later()
}

func ofOne() {
	found, _ := pointers.GetOrLoadMany(ctx, nil, loadAll[*User])
	delete(found, "b")
	found["a"] = &User{}
	found["a"].Name = "x"
	rest, _ := pointers.GetOrLoadMany(ctx, nil, loadAll[*User])
	clear(rest)
	found, _ = pointers.GetOrLoadMany(ctx, nil, loadAll[*User])
	for k, u := range found {
		c := *u
		c.Name = "x"
		found[k] = &c
	}
	for _, u := range found {
		u.Name = "x"
	}
	given, _ := pointers.GetOrLoadMany(ctx, nil, loadAll[*User])
	cloneAll(given)
	given["a"].Name = "x"
	alias, _ := pointers.GetOrLoadMany(ctx, nil, loadAll[*User])
	second := alias
	second["a"] = &User{}
	alias["a"].Name = "x"
	first, _ := pointers.GetOrLoadMany(ctx, nil, loadAll[*User])
	name, converted := first, map[string]*User(first)
	first["a"] = &User{}
	name["a"].Name = "x"
	converted["a"].Name = "x"
	later, _ := pointers.GetOrLoadMany(ctx, nil, loadAll[*User])
	run := func() { later["a"].Name = "x" }
	later["a"] = &User{}
	run()
	inside, _ := pointers.GetOrLoadMany(ctx, nil, loadAll[*User])
	func() { inside["a"] = &User{} }()
	inside["a"].Name = "x"
	structs, _ := users.GetOrLoadMany(ctx, nil, loadAll[User])
	structs["a"] = User{}
	for part := range users.GetOrLoadSeq(ctx, nil, loadAll[User]) {
		part["a"] = User{}
		for _, u := range part {
			u.Name = "x"
		}
	}
	for part := range users.GetOrLoadSeq(ctx, nil, loadAll[User]) {
		func() { part["a"] = User{Tags: []string{"x"}} }()
		part["a"].Tags[0] = "x"
	}
	list, _ := (&cache.Cache[[]User]{}).Get(ctx, "1")
	c := slices.Clone(list)
	c[0].Name = "x"
	c[0].Tags = nil
	c[0].Tags = append(c[0].Tags, "x")
	c[0].Tags[0] = "x"
	e := slices.Clone(list)
	for i := range e {
		p := &e[i]
		p.Tags = []string{""}
		e[i].Tags[0] = "x"
	}
	sort.Slice(c, func(i, j int) bool { return c[i].Age < c[j].Age })
}

func cloneAll(m map[string]*User) {
	for k, u := range m {
		m[k] = u.clone()
	}
}

// counter guards itself.
type counter struct {
	mu sync.RWMutex
	n  int
	by map[string]int
}

func guarding(counters *cache.Cache[*counter]) {
	c, _ := counters.Get(ctx, "1")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	c.by["x"]++
}

func loader() (*User, error) {
	return pointers.GetOrLoad(ctx, "1", func(context.Context, string) (*User, error) {
		u := &User{}
		u.Name = "x"
		u.Tags = append(u.Tags[:0], "x")
		return u, nil
	})
}

var global *User

func kept() {
	global, _ = pointers.Get(ctx, "1")
	renew()
	global.Name = "x"
}

func renew() { global = &User{} }
