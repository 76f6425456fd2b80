// Package explore walks through all schedules of a play: a program whose every step is chosen by Schedule.Choose. It
// plays it again and again, each time along another path, depth first, until no path is left. A state that was
// reached before is not entered again, so that orders which lead to the same state cost one play and not all that follow.
//
// That is stateless model checking by replay, as in VeriSoft (Godefroid, "Model Checking for Programming Languages using
// VeriSoft", POPL 1997), with cached states. It is sound only if equal states have equal futures. To look whether they
// have, one in a hundred of the plays that would end at a known state goes on at random, and may meet only states that the
// search meets as well.
package explore
