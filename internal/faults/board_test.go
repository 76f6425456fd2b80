package faults

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// board is memory that all processes of a plan share: the origin, and what has been promised about it. It orders events
// of different processes without a clock: what a caller finds here before it asks, it may count on in the answer.
type board struct {
	// restores is raised when deletions may have been lost, and between two values of it nothing is promised.
	restores atomic.Uint64
	restored atomic.Int64 // when that was last done, in Unix ns
	// turns is raised when a time in which nothing is promised begins or ends, and open is the number of those there are.
	turns   atomic.Uint64
	open    atomic.Int64
	keys    [boardKeys]boardKey
	workers [boardWorkers]boardWorker
}

const (
	boardKeys    = 80
	boardWorkers = 64
	confirmKept  = 1024
)

// boardKey is a key at the origin.
type boardKey struct {
	version atomic.Uint64 // what the origin says now
	floor   atomic.Uint64 // no call that begins now may return an older version: restores, then version
	lost    atomic.Uint64 // what the floor was before a restart that may have lost deletions
	loads   atomic.Uint64
	// When deletions were confirmed, in Unix ns, by version; 0: not.
	confirmed [confirmKept]atomic.Int64
	// What each worker is loading: version + 1.
	loading [boardWorkers]atomic.Uint64
}

// boardWorker is what a process counts; it outlives the process.
type boardWorker struct {
	stopped                                atomic.Int64 // time in ns that it was stopped for or is about to be
	calls, updates, unconfirmed            atomic.Uint64
	loads, duplicates                      atomic.Uint64
	own, ended, panics, abandoned          atomic.Uint64 // errors of the loader's, of the caller's context, ...
	memoryStale, lostStale, unjudged       atomic.Uint64
	shards                                 atomic.Int64 // that a Ring believes to be up
	replicaStale                           atomic.Uint64
	replicaOldest                          atomic.Int64 // ns
	goroutines, heap                       atomic.Int64 // bytes that the last collection found alive
	memoryOldest, longestWait, latestEnded atomic.Int64 // ns
}

// mapBoard maps the file, which newBoard has made.
func mapBoard(path string) (*board, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := syscall.Mmap(int(f.Fd()), 0, int(unsafe.Sizeof(board{})), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*board)(unsafe.Pointer(&b[0])), nil
}

func newBoard(t testing.TB) (string, *board) {
	t.Helper()
	path := t.TempDir() + "/board"
	err := os.WriteFile(path, make([]byte, unsafe.Sizeof(board{})), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	b, err := mapBoard(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(b)), unsafe.Sizeof(board{})))
	})
	return path, b
}

// raise makes n the value of a unless it is larger already.
func raise[T uint64 | int64](a interface {
	Load() T
	CompareAndSwap(old, next T) bool
}, n T,
) {
	for {
		old := a.Load()
		if old >= n || a.CompareAndSwap(old, n) {
			return
		}
	}
}

// versionBits are those of a floor that hold the version.
const versionBits = 40

// window begins a time in which nothing is promised about what callers get, since two servers may answer for a key, and
// at the end of which, if loses says so, deletions may have been lost.
func (b *board) window(loses bool) (end func()) {
	turn := func(n int64) {
		if loses {
			b.restore()
		}
		b.open.Add(n)
		b.turns.Add(1)
	}
	turn(1)
	return func() { turn(-1) }
}

// restore is called before a restart that may lose deletions.
func (b *board) restore() {
	old := b.restores.Load()
	for i := range b.keys {
		k := &b.keys[i]
		raise(&k.lost, k.least(old))
	}
	b.restored.Store(time.Now().UnixNano())
	b.restores.Store(old + 1)
}

// least returns the oldest version that may be returned if that many restarts have lost deletions.
func (k *boardKey) least(restores uint64) uint64 { return leastOf(&k.floor, restores) }

func leastOf(floor *atomic.Uint64, restores uint64) uint64 {
	f := floor.Load()
	if f>>versionBits != restores {
		return 0
	}
	return f & (1<<versionBits - 1)
}

// confirm says that a deletion by which a key got this version has been confirmed. It began after so many restarts.
func (k *boardKey) confirm(own *atomic.Uint64, restores, version uint64) {
	raise(own, restores<<versionBits|version)
	k.confirmed[version%confirmKept].Store(time.Now().UnixNano())
	raise(&k.floor, restores<<versionBits|version)
}

// outdated returns for how long, at the time given, a version had been too old, but for deletions that may have been lost.
func (b *board) outdated(k *boardKey, version, floor uint64, at time.Time) time.Duration {
	var first int64
	for v := max(version+1, floor-min(floor, confirmKept-1)); v <= floor; v++ {
		if c := k.confirmed[v%confirmKept].Load(); c > b.restored.Load() && (first == 0 || c < first) {
			first = c
		}
	}
	if first == 0 {
		return 0
	}
	return max(at.Sub(time.Unix(0, first)), 0)
}

func keyName(i int) string { return fmt.Sprintf("key-%d", i) }
