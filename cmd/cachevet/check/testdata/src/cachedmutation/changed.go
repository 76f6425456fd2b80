// Package cachedmutation has functions that change cached values.
package cachedmutation

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sort"

	"github.com/bellwether-go/cache"
)

type Address struct {
	Street string
	Lines  []string
}

type Base struct{ Version int }

type User struct {
	*Base
	Name    string
	Age     int
	Tag     []string
	Tags    []string
	Labels  map[string]string
	Home    *Address
	Work    Address
	Scores  [3]int
	Numbers *[3]int
	Friends []*User
	Past    []Address
}

var (
	ctx      = context.Background()
	pointers *cache.Cache[*User]
	users    *cache.Cache[User]
	lists    *cache.Cache[[]string]
	tables   *cache.Cache[map[string]*User]
	anys     *cache.Cache[any]
)

func load[V any](context.Context, string) (v V, err error) { return v, nil }

func loadAll[V any](context.Context, []string) (map[string]V, error) { return nil, nil }

func pointer() {
	u, err := pointers.GetOrLoad(ctx, "1", load[*User])
	if err != nil {
		return
	}
	u.Name = "x"           // want `assignment to u.Name: that is part of a cached value, which all callers share and which is not copied: change a copy`
	u.Age++                // want `assignment to u.Age`
	u.Age -= 2             // want `assignment to u.Age`
	u.Scores[1] = 2        // want `assignment to u.Scores\[1\]`
	u.Work.Street = "x"    // want `assignment to u.Work.Street`
	u.Home.Street = "x"    // want `assignment to u.Home.Street`
	u.Version = 2          // want `assignment to u.Version`
	*u = User{}            // want `assignment to \*u`
	(*u).Name, _ = "x", 1  // want `assignment to \(\*u\).Name`
	u.Labels["a"] = "b"    // want `assignment to u.Labels\["a"\]`
	u.Friends[0].Name = "" // want `assignment to u.Friends\[0\].Name`
	u.Past[0].Street = ""  // want `assignment to u.Past\[0\].Street`
	u.Numbers[0] = 1       // want `assignment to u.Numbers\[0\]`
	for u.Age = range 3 {  // want `assignment to u.Age`
	}
}

func structure() {
	u, ok := users.Get(ctx, "1")
	if !ok {
		return
	}
	u.Tags[0] = "x"                             // want `assignment to u.Tags\[0\]`
	u.Labels["a"] = "b"                         // want `assignment to u.Labels\["a"\]`
	u.Home.Street = "x"                         // want `assignment to u.Home.Street`
	u.Work.Lines[0] = "x"                       // want `assignment to u.Work.Lines\[0\]`
	u.Version++                                 // want `assignment to u.Version`
	delete(u.Labels, "a")                       // want `delete changes u.Labels`
	clear(u.Labels)                             // want `clear changes u.Labels`
	copy(u.Tags[1:], u.Tags)                    // want `copy changes u.Tags\[1:\]`
	u.Tags[0], u.Tags[1] = u.Tags[1], u.Tags[0] // want `assignment to u.Tags\[0\]`
	defer delete(u.Labels, "a")                 // want `delete changes u.Labels`
	u.Numbers[0] = 1                            // want `assignment to u.Numbers\[0\]`
	_ = append(u.Tags[:1], "x")                 // want `append overwrites what is behind u.Tags\[:1\]`
	u.Tags = append(u.Tags[:1], u.Tags[2:]...)  // want `append overwrites what is behind u.Tags\[:1\]`
}

// What is its own in a struct says nothing of the rest.
func partly() {
	u, _ := users.Get(ctx, "1")
	u.Name, u.Scores[1], u.Work.Street, u.Tags = "x", 2, "x", []string{"x"}
	u.Tags[0] = "y"
	u.Work.Lines[0] = "x" // want `assignment to u.Work.Lines\[0\]`
	u.Home.Street = "x"   // want `assignment to u.Home.Street`
}

func inPlace() {
	v, _ := lists.Refresh(ctx, "1", load[[]string])
	v[0] = "x"                                             // want `assignment to v\[0\]`
	v[0] += "x"                                            // want `assignment to v\[0\]`
	sort.Strings(v)                                        // want `sort.Strings changes v`
	sort.Slice(v, func(i, j int) bool { return i < j })    // want `sort.Slice changes v`
	sort.Sort(sort.StringSlice(v))                         // want `sort.Sort changes sort.StringSlice\(v\)`
	sort.Sort(sort.Reverse(sort.StringSlice(v[1:])))       // want `sort.Sort changes`
	slices.Sort(v)                                         // want `slices.Sort changes v`
	slices.SortFunc(v, func(a, b string) int { return 0 }) // want `slices.SortFunc changes v`
	slices.Reverse(v[1:3])                                 // want `slices.Reverse changes v\[1:3\]`
	_ = slices.Delete(v, 0, 1)                             // want `slices.Delete changes v`
	_ = slices.Insert(v, 0, "x")                           // want `slices.Insert changes v`
	_ = slices.Compact[[]string, string](v)                // want `slices.Compact changes v`
	slices.Clip(v)[0] = "x"                                // want `assignment to slices.Clip\(v\)\[0\]`
	m, _ := tables.GetOrLoad(ctx, "1", load[map[string]*User])
	m["a"] = nil            // want `assignment to m\["a"\]`
	m["a"].Name = ""        // want `assignment to m\["a"\].Name`
	maps.Copy(m, m)         // want `maps.Copy changes m`
	maps.DeleteFunc(m, nil) // want `maps.DeleteFunc changes m`
}

func aliases() {
	u, _ := pointers.GetOrLoad(ctx, "1", load[*User])
	w := u
	w.Name = "x" // want `assignment to w.Name`
	home := u.Home
	home.Street = "x" // want `assignment to home.Street`
	age := &u.Age
	*age = 3 // want `assignment to \*age`
	work := &u.Work
	work.Street = "x" // want `assignment to work.Street`
	past := &u.Past[0]
	past.Street = "x" // want `assignment to past.Street`
	c := *u
	c.Tags[0] = "x" // want `assignment to c.Tags\[0\]`
	d := c
	d.Home.Street = "x" // want `assignment to d.Home.Street`
	scores := u.Scores[:]
	scores[0] = 1 // want `assignment to scores\[0\]`
	var e, f = u.Tags, u.Labels
	e[0] = "x"     // want `assignment to e\[0\]`
	delete(f, "a") // want `delete changes f`
	g := struct{ tags []string }{}
	g.tags = u.Tags
	g.tags[0] = "x" // want `assignment to g.tags\[0\]`
	friend, ok := tables.Get(ctx, "1")
	if first, there := friend["a"]; ok && there {
		first.Name = "x" // want `assignment to first.Name`
	}
}

func loops() {
	us, _ := (&cache.Cache[[]*User]{}).Get(ctx, "1")
	for _, u := range us {
		u.Name = "x" // want `assignment to u.Name`
	}
	for i := range us {
		us[i] = nil // want `assignment to us\[i\]`
	}
	for i := 0; i < len(us); i++ {
		us[i].Age++ // want `assignment to us\[i\].Age`
	}
	m, _ := tables.Get(ctx, "1")
	for k, u := range m {
		m[k] = u // want `assignment to m\[k\]`
		u.Age++  // want `assignment to u.Age`
	}
	for _, id := range []string{"1", "2"} {
		u, err := users.GetOrLoad(ctx, id, load[User])
		if err != nil {
			continue
		}
		for _, past := range u.Past {
			past.Street = ""   // of the loop's own
			past.Lines[0] = "" // want `assignment to past.Lines\[0\]`
		}
		for i := range u.Scores {
			u.Scores[i] = 0 // of its own too
		}
	}
	// The filter that needs no other memory.
	v, _ := lists.Get(ctx, "1")
	kept := v[:0]
	for _, x := range v {
		if x != "" {
			kept = append(kept, x) // want `append overwrites what is behind kept`
		}
	}
	for {
		if v[0] == "" {
			break
		}
		v[0] = "" // want `assignment to v\[0\]`
	}
	rand.Shuffle(len(v), func(i, j int) {
		v[i], v[j] = v[j], v[i] // want `assignment to v\[i\]`
	})
}

func many() {
	found, err := pointers.GetOrLoadMany(ctx, nil, loadAll[*User])
	if err != nil {
		found["a"].Name = "x" // want `assignment to found\["a"\].Name`
	}
	for _, u := range found {
		u.Name = "x" // want `assignment to u.Name`
	}
	for k := range found {
		found[k].Age++ // want `assignment to found\[k\].Age`
	}
	if u, ok := found["a"]; ok {
		u.Name = "x" // want `assignment to u.Name`
	}
	for part, err := range users.GetOrLoadSeq(ctx, nil, loadAll[User]) {
		if err != nil {
			return
		}
		for _, u := range part {
			u.Tags[0] = "x" // want `assignment to u.Tags\[0\]`
		}
	}
	seq := pointers.GetOrLoadSeq(ctx, nil, loadAll[*User])
	for part := range seq {
		part["a"].Name = "x" // want `assignment to part\["a"\].Name`
	}
}

func clonedOutsideOnly() {
	us, _ := (&cache.Cache[[]*User]{}).Get(ctx, "1")
	c := slices.Clone(us)
	c[0].Name = "x" // want `assignment to c\[0\].Name`
	m, _ := tables.Get(ctx, "1")
	n := maps.Clone(m)
	for _, u := range n {
		u.Name = "x" // want `assignment to u.Name`
	}
}

func interfaces() {
	v, _ := anys.Get(ctx, "1")
	v.(*User).Name = "x" // want `assignment to v.\(\*User\).Name`
	if u, ok := v.(*User); ok {
		u.Name = "x" // want `assignment to u.Name`
	}
	switch v := v.(type) {
	case *User:
		v.Name = "x" // want `assignment to v.Name`
	case User:
		v.Name = "x"
		v.Tags[0] = "x" // want `assignment to v.Tags\[0\]`
	}
}

// In loaders, literals, goroutines, variables of the package.
func literals() {
	u, _ := pointers.GetOrLoad(ctx, "1", func(ctx context.Context, id string) (*User, error) {
		old, ok := cache.Previous[*User](ctx)
		if ok {
			old.Age++ // want `assignment to old.Age`
			return old, nil
		}
		return &User{}, nil
	})
	go func() {
		u.Name = "x" // want `assignment to u.Name`
	}()
	defer func() {
		delete(u.Labels, "a") // want `delete changes u.Labels`
	}()
}

var ofThePackage = func() {
	u, _ := pointers.Get(ctx, "1")
	u.Name = "x" // want `assignment to u.Name`
}

func methodValues() {
	get := pointers.Get
	u, _ := get(ctx, "1")
	u.Name = "x" // want `assignment to u.Name`
	w, _ := (*cache.Cache[*User]).Get(pointers, ctx, "1")
	w.Name = "x" // want `assignment to w.Name`
}

type service struct{ *cache.Cache[*User] }

func (s service) promoted() {
	u, _ := s.Get(ctx, "1")
	u.Name = "x" // want `assignment to u.Name`
}

func generic[V any](c *cache.Cache[[]V], v V) {
	vs, _ := c.Get(ctx, "1")
	vs[0] = v // want `assignment to vs\[0\]`
}

// Ways that meet.
func meet(b bool, ch chan int) {
	u, ok := pointers.Get(ctx, "1")
	if !ok {
		u = &User{} // nobody else's, but then it is the cache's if ok
	}
	u.Name = "x" // want `assignment to u.Name`

	v, err := lists.GetOrLoad(ctx, "1", load[[]string])
	if err != nil && b {
		v = []string{"x"}
	}
	v[0] = "x" // want `assignment to v\[0\]`

	w, _ := pointers.Get(ctx, "1")
	if w == nil {
		w = &User{}
	}
	w.Name = "x" // want `assignment to w.Name`
	if b {
		w.Name = "y" // want `assignment to w.Name`
	} else {
		w.Name = "z" // want `assignment to w.Name`
	}
	switch {
	case b:
		w.Age = 1 // want `assignment to w.Age`
		fallthrough
	case !b:
		w.Age = 2 // want `assignment to w.Age`
	default:
		w = nil
		return
	}
	w.Age = 3 // want `assignment to w.Age`
	select {
	case <-ch:
		w.Age = 4 // want `assignment to w.Age`
	case ch <- 1:
		w = &User{}
		return
	}
	w.Age = 5 // want `assignment to w.Age`
outer:
	for {
		for {
			if b {
				break outer
			}
			w.Age = 6 // want `assignment to w.Age`
		}
	}
	w.Age = 7 // want `assignment to w.Age`

	var x []string
	switch {
	case b:
		x, _ = lists.Get(ctx, "1")
	default:
		x, _ = lists.Get(ctx, "2")
	}
	x[0] = "" // want `assignment to x\[0\]`
	var y []string
	select {
	case <-ch:
		y, _ = lists.Get(ctx, "1")
	case ch <- 1:
		y, _ = lists.Get(ctx, "2")
	}
	y[0] = "" // want `assignment to y\[0\]`
	o, ok := pointers.Get(ctx, "1")
	switch {
	case b:
		b = false
	case !ok:
		o = &User{}
	default:
	}
	o.Name = "x" // want `assignment to o.Name`
	p, ok := pointers.Get(ctx, "1")
	if b && ok {
		p = &User{}
		panic("b")
	}
	p.Name = "x" // want `assignment to p.Name`
	z, _ := lists.Get(ctx, "1")
	if b {
		z = z[:0]
	}
	z[0] = "" // want `assignment to z\[0\]`
}

// An error says something of the call that it is of.
func otherErrors() {
	u, err := pointers.GetOrLoad(ctx, "1", load[*User])
	err = errors.New("another")
	if err != nil {
		u.Name = "x" // want `assignment to u.Name`
	}
	v, err := pointers.GetOrLoad(ctx, "1", load[*User])
	w, err := pointers.GetOrLoad(ctx, "1", load[*User])
	if err != nil {
		v.Name = "x" // want `assignment to v.Name`
		w.Name = "x"
	}
	x, ok := pointers.Get(ctx, "1")
	x = w
	if !ok {
		x.Name = "x" // want `assignment to x.Name`
	}
}
