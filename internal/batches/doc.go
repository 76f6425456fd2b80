// Package batches holds tests of calls for many keys, by several processes on a real Redis.
package batches
