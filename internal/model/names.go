package model

import "strings"

// Act is what a step does. Explore counts how often each is seen.
type Act uint8

// notKept marks an answer whose value was not kept in memory: the epoch had moved.
const notKept Act = 0x80

const nobody = -1 // time, Redis, or the network did it

// The acts.
const (
	noAct Act = iota
	callBegins
	callJoins
	refreshBegins
	memoryHit
	goesRound
	readHits
	readMisses
	answerArrives
	acquireWins
	acquireHits
	acquireBusy
	loads
	loadFails
	renews
	commitStores
	commitRejected
	storedArrives
	rejectedArrives
	loadedAlone
	pollHits
	pollMisses
	wakeBrings
	wakeAborted
	wakeLate
	deletionArrives
	streamReturns

	originChanges
	deleteBegins
	unlinks
	publishes
	deleteReturns

	leaseRunsOut
	valueEnds
	lifetimePasses
	replicaLags

	firstFault
	readLost
	acquireLost
	acquireUnanswered
	acquireDelayed
	acquireRepeated
	commitLost
	commitUnanswered
	commitDelayed
	commitRepeated
	abortLost
	abortDelayed
	unlinkUnanswered
	unlinkRepeated
	leaseEnds
	restarts
	evicted
	crashes
	streamLost
	givesUp
	failsOver
	lastFault

	latelyAcquires
	latelyCommits
	latelyAborts
	latelyDisowns
	latelyUnlinks

	setsBarrier
	barrierEvicted
	barrierForgotten

	deposes
	releases
	acts
)

var lateCommandActs = [...]Act{
	lateAcquire: latelyAcquires, lateCommit: latelyCommits, lateAbort: latelyAborts, disown: latelyDisowns,
	lateUnlink: latelyUnlinks,
}

var actNames = [acts]string{
	callBegins: "call", callJoins: "call-joins", refreshBegins: "refresh", memoryHit: "memory-hit",
	goesRound: "goes-round", readHits: "read-hit", readMisses: "read-miss", answerArrives: "answer",
	acquireWins: "acquire", acquireHits: "acquire-hit", acquireBusy: "acquire-busy", loads: "load",
	loadFails: "load-fails", renews: "renew",
	commitStores: "commit", commitRejected: "commit-rejected", storedArrives: "stored", rejectedArrives: "rejected",
	loadedAlone: "loaded-alone", pollHits: "poll-hit", pollMisses: "poll-free", wakeBrings: "woken-with-value",
	wakeAborted: "woken-to-acquire", wakeLate: "wake-for-nobody", deletionArrives: "hears-of-deletion",
	streamReturns: "stream-returns", originChanges: "update", deleteBegins: "delete", unlinks: "unlink",
	publishes: "publish", deleteReturns: "delete-returns", leaseRunsOut: "lease-of-nobody-ends", valueEnds: "value-ends",
	lifetimePasses: "lifetime-passes", replicaLags: "replica-lags-here", readLost: "READ-LOST",
	acquireLost: "ACQUIRE-LOST", acquireUnanswered: "ACQUIRE-UNANSWERED", acquireDelayed: "ACQUIRE-DELAYED",
	acquireRepeated: "ACQUIRE-REPEATED", commitLost: "COMMIT-LOST", commitUnanswered: "COMMIT-UNANSWERED",
	commitDelayed: "COMMIT-DELAYED", commitRepeated: "COMMIT-REPEATED", abortLost: "ABORT-LOST",
	abortDelayed: "ABORT-DELAYED", unlinkUnanswered: "UNLINK-UNANSWERED", unlinkRepeated: "UNLINK-REPEATED",
	leaseEnds: "LEASE-ENDS", restarts: "RESTART", evicted: "EVICTED", crashes: "CRASH", streamLost: "STREAM-LOST",
	givesUp: "GIVES-UP", failsOver: "FAILOVER", latelyAcquires: "late-acquire", latelyCommits: "late-commit",
	latelyAborts: "late-abort", latelyDisowns: "disown", latelyUnlinks: "late-unlink",
	setsBarrier: "barrier", barrierEvicted: "BARRIER-EVICTED", barrierForgotten: "BARRIER-FORGOTTEN",
	deposes: "del-record", releases: "del-lock",
}

func (a Act) String() string { return actNames[a&^notKept] }

// Describe names a step: who does what. Faults are in capitals.
func (p *Protocol) Describe(st *Step[State]) string { return describe(st.Who, st.Via, st.What) }

func describe(who int8, via, what Act) string {
	var b strings.Builder
	if who != nobody {
		b.WriteByte('A' + byte(who))
		b.WriteByte(':')
	}
	if via != noAct {
		b.WriteString(via.String() + "+")
	}
	b.WriteString(what.String())
	if what&notKept != 0 {
		b.WriteString("(not-kept)")
	}
	return b.String()
}
