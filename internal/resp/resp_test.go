package resp

import (
	"errors"
	"slices"
	"testing"
)

func TestNext(t *testing.T) {
	for _, m := range []string{
		"+OK\r\n", "-ERR x\r\n", ":1\r\n", "_\r\n", ",1.5\r\n", "#t\r\n", "(123\r\n", "$-1\r\n", "*-1\r\n", "$0\r\n\r\n",
		"$3\r\na\r\n\r\n", "=5\r\ntxt:x\r\n", "!3\r\nERR\r\n", "*0\r\n", "*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
		"%1\r\n+a\r\n:1\r\n", "~1\r\n:1\r\n", ">2\r\n+a\r\n+b\r\n", "|1\r\n+a\r\n+b\r\n:1\r\n",
	} {
		if n, err := Next([]byte(m + "+more\r\n")); n != len(m) || err != nil {
			t.Errorf("%q: %d, %v", m, n, err)
		}
		for i := range m {
			if n, err := Next([]byte(m[:i])); n != 0 || err != nil {
				t.Errorf("%q: %d, %v", m[:i], n, err)
			}
		}
	}
	for _, m := range []string{"\r\n", "?\r\n", "$x\r\n", "*x\r\n", "*1\r\n?\r\n"} {
		if _, err := Next([]byte(m)); !errors.Is(err, ErrSyntax) {
			t.Errorf("%q: %v", m, err)
		}
	}
}

func TestArgs(t *testing.T) {
	got, err := Args([]byte("*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n"))
	if err != nil || !slices.Equal(got, []string{"GET", "a\r\nb"}) {
		t.Errorf("%q, %v", got, err)
	}
	for _, m := range []string{"", "+OK\r\n", "*1\r\n+GET\r\n", "*1\r\n$9\r\nGET\r\n", "*1\r\n$x\r\nGET\r\n"} {
		if _, err := Args([]byte(m)); !errors.Is(err, ErrSyntax) {
			t.Errorf("%q: %v", m, err)
		}
	}
}

func TestWords(t *testing.T) {
	for m, want := range map[string][]string{
		"+OK\r\n":                              {"OK"},
		"-ERR x y\r\n":                         {"-ERR x y"},
		":1\r\n":                               {"1"},
		"$3\r\na\r\n\r\n":                      {"a\r\n"},
		"$-1\r\n":                              nil,
		"_\r\n":                                nil,
		"*3\r\n$1\r\na\r\n*1\r\n:2\r\n$-1\r\n": {"a", "2"},
		">3\r\n$7\r\nmessage\r\n+c\r\n+m\r\n":  {"message", "c", "m"},
	} {
		if got, err := Words([]byte(m)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", m, got, err)
		}
	}
	for _, m := range []string{"+OK", "\r\n", "$x\r\n", "$9\r\nabc\r\n"} {
		if got, err := Words([]byte(m)); !errors.Is(err, ErrSyntax) {
			t.Errorf("%q: %q, %v", m, got, err)
		}
	}
}
