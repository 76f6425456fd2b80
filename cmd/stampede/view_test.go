package main

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// screen is a terminal that remembers all.
type screen struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

// On a terminal a row shows the loads over time while they are under way, and what came of them in the end.
func TestView(t *testing.T) {
	var s screen
	v := newView(&s, true, 8)
	r, err := v.begin("cache")
	if err != nil {
		t.Fatal(err)
	}
	r.show("2 of 8 processes ready")
	o := &origin{}
	o.reset(nil)
	r.run(o)
	o.mu.Lock()
	o.loads = 8
	o.change(8)
	o.mu.Unlock()
	r.show("process 7 is killed")
	for began := time.Now(); !strings.Contains(s.String(), "8 loads, 8 under way, process 7 is killed"); {
		if time.Since(began) > patience {
			t.Fatalf("%q", s.String())
		}
	}
	v.note("a note")
	r.end("%d loads in all", 8)
	v.end()
	text := s.String()
	for _, want := range []string{"this package", "█", "a note\n", "8 loads in all"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in %q", want, text)
		}
	}
}

// Elsewhere there are lines, without any control character.
func TestLines(t *testing.T) {
	var s screen
	v := newView(&s, false, 8)
	r, err := v.begin("cache")
	if err != nil {
		t.Fatal(err)
	}
	r.show("not shown")
	v.note("a note")
	r.end("%d loads", 8)
	v.end()
	if got := s.String(); got != "a note\ncache         8 loads\n" {
		t.Errorf("%q", got)
	}
}

func TestSparkline(t *testing.T) {
	r := row{view: &view{calls: 8}, origin: &origin{began: time.Now().Add(-8 * time.Hour), curve: []level{
		{0, 8}, {time.Hour, 4}, {2 * time.Hour, 1}, {3 * time.Hour, 0},
	}}}
	if got := r.sparkline(8); got != "██▄▁    " && got != "█▄▁     " {
		t.Errorf("%q", got)
	}
	if r.sparkline(0) != "" || r.draw(3) == "" {
		t.Error("width")
	}
	r.origin, r.curve = nil, "▁▂▃▄"
	if r.draw(2) != "▁▂" || r.draw(5) != "▁▂▃▄ " || r.draw(-1) != "" {
		t.Errorf("%q, %q, %q", r.draw(2), r.draw(5), r.draw(-1))
	}
}
