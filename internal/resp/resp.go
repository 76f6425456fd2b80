// Package resp cuts a stream of the Redis serialization protocol (RESP2 and RESP3) into messages, for tests and
// demonstrations that count, hold back or lose them. It decodes nothing more than it needs for that.
package resp

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// ErrSyntax is returned for bytes that are not RESP.
var ErrSyntax = errors.New("resp: syntax error")

// Next returns the length of the first message in b, 0 if it is not complete yet.
func Next(b []byte) (int, error) {
	line, pos := head(b)
	if pos == 0 {
		return 0, nil
	}
	if len(line) == 0 {
		return 0, ErrSyntax
	}
	count := func() (int, error) {
		n, err := strconv.Atoi(string(line[1:]))
		if err != nil {
			return 0, fmt.Errorf("%w: length %q", ErrSyntax, line[1:])
		}
		return max(n, 0), nil // -1 is a nil of RESP2
	}
	switch line[0] {
	case '+', '-', ':', '_', ',', '#', '(':
		return pos, nil
	case '$', '=', '!':
		n, err := count()
		if err != nil || string(line) == "$-1" {
			return pos, err
		}
		if len(b) < pos+n+2 {
			return 0, nil
		}
		return pos + n + 2, nil
	case '*', '~', '>', '%', '|':
		n, err := count()
		if err != nil {
			return 0, err
		}
		switch line[0] {
		case '%':
			n *= 2
		case '|':
			n = 2*n + 1 // attributes come before the message they belong to
		}
		for range n {
			k, err := Next(b[pos:])
			if k == 0 || err != nil {
				return 0, err
			}
			pos += k
		}
		return pos, nil
	}
	return 0, fmt.Errorf("%w: type %q", ErrSyntax, line[0])
}

// Args returns the words of a request that Next found complete.
func Args(b []byte) ([]string, error) {
	line, pos := head(b)
	if pos == 0 || len(line) == 0 || line[0] != '*' {
		return nil, ErrSyntax
	}
	var args []string
	for pos < len(b) {
		word, k := head(b[pos:])
		if k == 0 || len(word) == 0 || word[0] != '$' {
			return nil, ErrSyntax
		}
		n, err := strconv.Atoi(string(word[1:]))
		if err != nil || n < 0 || pos+k+n+2 > len(b) {
			return nil, ErrSyntax
		}
		args = append(args, string(b[pos+k:pos+k+n]))
		pos += k + n + 2
	}
	return args, nil
}

// head returns the first line of b, without its end, and where the next begins; 0 if it is not complete.
func head(b []byte) (line []byte, next int) {
	i := bytes.Index(b, []byte("\r\n"))
	if i < 0 {
		return nil, 0
	}
	return b[:i], i + 2
}

// Words returns the strings and numbers of a message that Next found complete, in order, those of inner lists among
// them; an error reply is one word that begins with "-".
func Words(b []byte) ([]string, error) {
	var words []string
	for pos := 0; pos < len(b); {
		line, k := head(b[pos:])
		if k == 0 || len(line) == 0 {
			return nil, ErrSyntax
		}
		pos += k
		switch line[0] {
		case '*', '~', '>', '%', '|', '_':
		case '-':
			words = append(words, string(line))
		case '$', '=', '!':
			n, err := strconv.Atoi(string(line[1:]))
			switch {
			case err == nil && n < 0: // nil of RESP2
				continue
			case err != nil || pos+n+2 > len(b):
				return nil, ErrSyntax
			}
			words = append(words, string(b[pos:pos+n]))
			pos += n + 2
		default:
			words = append(words, string(line[1:]))
		}
	}
	return words, nil
}
