package merklelog

import (
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"strings"
)

// LogID names a log: the SHA-256 of its manifest (see [Manifest.ID]).
type LogID [32]byte

// Hash is a SHA-256 node of a log's tree.
type Hash [HashSize]byte

// Tag is the random name by which a box knows a space.
type Tag [16]byte

// WriterKey is the Ed25519 public key of the one device that writes a log.
type WriterKey [32]byte

const writerPrefix = "writer:"

// String returns 64 lower-case hexadecimal digits.
func (id LogID) String() string { return hex.EncodeToString(id[:]) }

// String returns 64 lower-case hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// String returns 32 lower-case hexadecimal digits.
func (t Tag) String() string { return hex.EncodeToString(t[:]) }

// String returns "writer:" and 64 lower-case hexadecimal digits.
func (k WriterKey) String() string { return writerPrefix + hex.EncodeToString(k[:]) }

// Equal reports whether two keys are the same, in constant time.
func (k WriterKey) Equal(o WriterKey) bool { return subtle.ConstantTimeCompare(k[:], o[:]) == 1 }

// ParseLogID reads what [LogID.String] wrote.
func ParseLogID(s string) (id LogID, err error) {
	return id, parseHex(id[:], s, "log id")
}

// ParseHash reads what [Hash.String] wrote.
func ParseHash(s string) (h Hash, err error) {
	return h, parseHex(h[:], s, "hash")
}

// ParseTag reads what [Tag.String] wrote.
func ParseTag(s string) (t Tag, err error) {
	return t, parseHex(t[:], s, "space tag")
}

// ParseWriterKey reads what [WriterKey.String] wrote.
func ParseWriterKey(s string) (k WriterKey, err error) {
	rest, ok := strings.CutPrefix(s, writerPrefix)
	if !ok {
		return k, fmt.Errorf("merklelog: writer key %q does not begin with %q", abbreviate(s), writerPrefix)
	}
	return k, parseHex(k[:], rest, "writer key")
}

// parseHex fills dst from exactly its length in lower-case hexadecimal. On
// error dst is left as zeros.
func parseHex(dst []byte, s, what string) error {
	if len(s) != 2*len(dst) {
		return fmt.Errorf("merklelog: %s has %d characters, want %d", what, len(s), 2*len(dst))
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("merklelog: %s %q is not lower-case hexadecimal", what, abbreviate(s))
		}
	}
	_, err := hex.Decode(dst, []byte(s))
	return err // never: the digits were checked
}

// abbreviate keeps an error message short whatever the input.
func abbreviate(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
