package cache

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrNotFound says that the origin has no such key. A loader that returns it, wrapped or not, has this answer
	// cached for Options.NegativeTTL; callers served from the cache get ErrNotFound itself.
	ErrNotFound = errors.New("cache: not found")

	// ErrNotCached is returned by a call with OnlyIfCached when nothing is cached that can be served.
	ErrNotCached = errors.New("cache: not cached")

	// ErrOverloaded is returned where a load is not begun, or not waited for, because there are too many: by calls beyond
	// Options.MaxWaiting or MaxWaitingPerKey, and with Options.StrictLoads while Redis does not answer.
	ErrOverloaded = errors.New("cache: overloaded")

	// ErrLeaseLost is returned by Load.Extend where another process may be loading the same key. No call of a Cache returns
	// it, unless its loader does.
	ErrLeaseLost = errors.New("cache: lease lost")

	// ErrClosed is returned by the methods of a Cache after its Close.
	ErrClosed = errors.New("cache: closed")
)

// errOwnKey is what a loader gets instead of waiting for itself.
var errOwnKey = errors.New("cache: a loader asks for the key that it is loading")

// PanicError is what every caller of a load gets whose loader panicked or called runtime.Goexit. The panic does not
// spread to the goroutines of the callers.
type PanicError struct {
	Value  any    // what the loader passed to panic; nil after a Goexit
	Goexit bool   // the loader called runtime.Goexit (testing.T.FailNow does)
	Stack  []byte // where it panicked; nil after a Goexit
}

// Error gives the panic's value, not its stack.
func (e *PanicError) Error() string {
	if e.Goexit {
		return "cache: loader called runtime.Goexit"
	}
	return fmt.Sprintf("cache: loader panicked: %v", e.Value)
}

// Unwrap returns the panic's value if it is an error, so that errors.Is and errors.As see through the panic.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// LoadError is the error of one key of a batch. GetOrLoadMany's error holds one for each key that failed. A BatchLoader
// returns them, joined by errors.Join, for keys that fail while others do not.
type LoadError struct {
	Key string
	Err error
}

// Error gives Err's text, and does not show the key.
func (e *LoadError) Error() string {
	if e == nil || e.Err == nil {
		return "cache: a key failed"
	}
	return fmt.Sprintf("cache: a key failed: %v", e.Err)
}

// Unwrap returns Err.
func (e *LoadError) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.Err
}

// manyErrors are the errors of a call for many keys. Unlike errors.Join it does not write all of them out, nor any key.
type manyErrors []error

func (e manyErrors) Error() string {
	var keys []*LoadError
	var texts []string
	for _, err := range e {
		if le, ok := err.(*LoadError); ok { //nolint:errorlint // as they were put there
			keys = append(keys, le)
		} else {
			texts = append(texts, err.Error())
		}
	}
	switch len(keys) {
	case 0:
	case 1:
		texts = append(texts, keys[0].Error())
	default:
		texts = append(texts, fmt.Sprintf("cache: %d keys failed, the first one: %v", len(keys), keys[0].Err))
	}
	return strings.Join(texts, "; ")
}

func (e manyErrors) Unwrap() []error { return e }

// redisError is an error of Redis that a caller of Set or Delete gets to see. Its text shows no key and no value: a server
// quotes the arguments of a command that it does not know, and go-redis a reply that it does not understand.
type redisError struct{ err error }

func (e *redisError) Error() string {
	text := strings.TrimPrefix(e.err.Error(), "cache: ")
	text, _, _ = strings.Cut(text, ", with args beginning with")
	text, _, _ = strings.Cut(text, `"`)
	return "cache: redis: " + strings.TrimRight(text, ": ")
}

func (e *redisError) Unwrap() error { return e.err }
