package cache

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"

	"github.com/bellwether-go/cache/internal/record"
)

// Secret is a key for Options.Secrets. It does not show itself when it is printed or encoded.
type Secret []byte

const hidden = "(secret)"

// String returns a placeholder.
func (Secret) String() string { return hidden }

// GoString returns a placeholder.
func (Secret) GoString() string { return hidden }

// MarshalText returns a placeholder.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

const (
	secretBytes = 32      // at least
	sealBytes   = 12 + 16 // nonce and tag: what a sealed payload is longer
)

// sealer encrypts and authenticates payloads with AES-256-GCM, so that who can write to Redis cannot make up or change
// values, nor move them to other keys or keep them for longer.
//
// Every entry has a key of its own, made from the secret and the 16 random bytes of the entry's id by HKDF-SHA256 (RFC
// 5869), and a random nonce besides: with one key for all, random nonces of 96 bits would serve for 2^32 entries only
// (NIST SP 800-38D, section 8.3), which a busy fleet stores in weeks.
type sealer [][]byte // pseudorandom keys, extracted from the secrets

const sealInfo = "github.com/bellwether-go/cache entry "

func newSealer(secrets []Secret) (s sealer) {
	for _, secret := range secrets {
		s = append(s, sure(hkdf.Extract(sha256.New, secret, nil)))
	}
	return s
}

func (sealer) aead(prk []byte, id record.Owner) cipher.AEAD {
	key := sure(hkdf.Expand(sha256.New, prk, sealInfo+string(id[:]), 32))
	return sure(cipher.NewGCMWithRandomNonce(sure(aes.NewCipher(key))))
}

// sure is for functions that only fail if they are given keys or ciphers that they cannot use.
func sure[T any](v T, err error) T {
	if err != nil {
		panic("cache: bug: " + err.Error())
	}
	return v
}

// bound is what is authenticated besides the payload: the entry's header and its whole key, of which the header has only
// a digest that collisions can be made for; and its tags, if it has any.
func (sealer) bound(key string, h *record.Header, tags []byte) []byte {
	b := append(record.AppendEntry(nil, h), key...)
	if h.Tagged {
		b = binary.BigEndian.AppendUint32(append(b, tags...), uint32(len(tags))) // where the key ends
	}
	return b
}

// seal encrypts the payload of an entry with the first secret.
func (s sealer) seal(key string, h *record.Header, tags, payload []byte) []byte {
	return s.aead(s[0], h.ID).Seal(make([]byte, 0, len(payload)+sealBytes), nil, payload, s.bound(key, h, tags))
}

// open decrypts what was sealed with any of the secrets.
func (s sealer) open(key string, h *record.Header, tags, sealed []byte) ([]byte, error) {
	bound := s.bound(key, h, tags)
	for _, prk := range s {
		if payload, err := s.aead(prk, h.ID).Open(nil, nil, sealed, bound); err == nil {
			return payload, nil
		}
	}
	return nil, errUnreadable
}
