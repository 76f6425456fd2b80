// Package hotkey holds tests of one hot key that expires again and again, asked for by several processes on a real Redis:
// how often it is loaded, what its callers wait, and what becomes of them when the origin fails.
package hotkey
