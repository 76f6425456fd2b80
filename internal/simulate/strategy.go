package main

import "time"

// draw is when it is decided that a value which is still fresh is loaded anew.
type draw int

const (
	never      draw = iota
	perRequest      // as XFetch has it: the caller for whom it fires loads, and waits
	perValue        // as internal/early has it: once per process and stored value, and the load is in the background
)

// strategy is what a fleet does about expiry.
type strategy struct {
	name   string
	single bool // at most one load per process at a time; the others in that process wait for it
	lease  bool // at most one load in the fleet at a time; who gets no lease waits, or serves what it has
	draw   draw
	beta   float64
	jitter float64       // the TTL is shortened by up to this share of it
	stale  time.Duration // how long an expired value is served while it is loaded anew
}

func strategies() []strategy {
	return []strategy{
		{name: "nothing"},
		{name: "singleflight", single: true},
		{name: "singleflight, lease", single: true, lease: true},
		{name: "singleflight, XFetch", single: true, draw: perRequest, beta: 1},
		byDefault(),
		whileRevalidating(),
	}
}

// byDefault is this package without options.
func byDefault() strategy {
	return strategy{name: "this package", single: true, lease: true, draw: perValue, beta: 0.5, jitter: 0.1}
}

func whileRevalidating() strategy {
	s := byDefault()
	s.name, s.stale = "... with StaleWhileRevalidate", time.Minute
	return s
}
