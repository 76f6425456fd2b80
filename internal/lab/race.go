//go:build race

package lab

// Race tells whether the race detector is on.
const Race = true
