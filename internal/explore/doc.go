// Package explore walks through all schedules of a program that is played in a bubble of testing/synctest.
package explore
