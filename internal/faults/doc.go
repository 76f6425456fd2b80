// Package faults runs fleets of processes against a real redis-server while both, and the network between them, are
// made to fail by a plan that a seed decides. What the callers saw is held against the promises (docs/promises.md). It
// consists of tests: docs/reliability.md says how to run them and what they showed.
package faults
