// Package examples is a module of programs that run and are made to be copied, each in a directory of its own: README.md has a list. What is
// in the package itself shows the cache beside a database that refuses late writes. It is a module of its own, so that nobody else needs one.
package examples
