package cache

import (
	"context"
	"strings"
)

// tags understands "tags=a,b" and "settags=c" of a get, and remembers which key carries what.
func (s *stage) tags(a *actor, key string, opts map[string]string) []CallOption {
	name := a.cache.core.name
	var co []CallOption
	for _, option := range []string{"tags", "settags"} {
		if opts[option] == "" {
			continue
		}
		tags := strings.Split(opts[option], ",")
		for _, t := range append(tags, "") { // "" stands for all there is
			if s.tagged[name+":"+t] == nil {
				s.tagged[name+":"+t] = map[string]bool{}
			}
			s.tagged[name+":"+t][key] = true
		}
		if option == "tags" {
			co = append(co, WithTags(tags...))
		}
	}
	return co
}

// deleteTags understands "delete-tags a b", and "clear", which has none.
func (s *stage) deleteTags(a *actor, tags []string) {
	versions := map[string]int{}
	for _, t := range append([]string(nil), tags...) {
		for key := range s.tagged[a.cache.core.name+":"+t] {
			versions[key] = len(s.values(key)) - 1
		}
	}
	if len(tags) == 0 {
		for key := range s.origin {
			versions[key] = len(s.values(key)) - 1
		}
	}
	s.begin(a, "", nil, func(ctx context.Context, _ string) string {
		var err error
		if len(tags) == 0 {
			err = a.cache.Clear(ctx)
		} else {
			err = a.cache.DeleteTags(ctx, tags...)
		}
		if err == nil && s.honest {
			s.script.mu.Lock()
			defer s.script.mu.Unlock()
			for key, version := range versions {
				floor := a.cache.core.name + key
				s.floor[floor] = max(s.floor[floor], version)
			}
		}
		return outcomeOf("has invalidated", err)
	})
}
