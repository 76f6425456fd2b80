// Package examples shows the cache beside a real database. It is a module of its own, so that nobody else needs one.
package examples
