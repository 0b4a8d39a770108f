package bundle

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/blake2b"
)

// The texts of minisign (https://jedisct1.github.io/minisign/), as strict as
// they can be while what minisign itself writes is accepted.
const (
	untrustedPrefix = "untrusted comment: "
	trustedPrefix   = "trusted comment: "

	keyAlgorithm       = "Ed" // of a public key
	signatureAlgorithm = "ED" // of a signature of the text's BLAKE2b-512
)

// KeyID tells keys apart. It is a hint chosen by the key's maker and proves
// nothing.
type KeyID [8]byte

// String returns the id as minisign shows it.
func (id KeyID) String() string { return fmt.Sprintf("%016X", binary.LittleEndian.Uint64(id[:])) }

// PublicKey is the public half of a release key.
//
// Its file, as minisign writes it:
//
//	untrusted comment: COMMENT
//	base64("Ed" ‖ key id 8 ‖ Ed25519 public key 32)
type PublicKey struct {
	Comment string // covered by nothing
	ID      KeyID
	Key     [ed25519.PublicKeySize]byte
}

// Base64 returns the key as "minisign -P" takes it.
func (k *PublicKey) Base64() string {
	b := append([]byte(keyAlgorithm), k.ID[:]...)
	return base64.StdEncoding.EncodeToString(append(b, k.Key[:]...))
}

// Append appends the key's file.
func (k *PublicKey) Append(b []byte) []byte {
	return fmt.Appendf(b, "%s%s\n%s\n", untrustedPrefix, k.Comment, k.Base64())
}

// ParsePublicKeys reads the files of one or more public keys, one after another.
func ParsePublicKeys(text []byte) ([]PublicKey, error) {
	if len(text) > maxSigBytes {
		return nil, fmt.Errorf("bundle: public keys: %d bytes, at most %d are allowed", len(text), maxSigBytes)
	}
	var keys []PublicKey
	for l := (&lines{rest: string(text)}); len(keys) == 0 || l.rest != ""; {
		var k PublicKey
		k.Comment = l.comment(untrustedPrefix)
		b := l.base64(keyAlgorithm, len(k.ID)+len(k.Key))
		if l.err != nil {
			return nil, fmt.Errorf("bundle: public key %d: line %d: %w", len(keys)+1, l.n, l.err)
		}
		copy(k.ID[:], b)
		copy(k.Key[:], b[len(k.ID):])
		keys = append(keys, k)
	}
	return keys, nil
}

// Signature is a minisign signature of a manifest's text.
//
// Its file, as minisign writes it:
//
//	untrusted comment: COMMENT
//	base64("ED" ‖ key id 8 ‖ Ed25519 signature 64 of BLAKE2b-512(text))
//	trusted comment: COMMENT
//	base64(Ed25519 signature 64 of signature ‖ trusted comment)
type Signature struct {
	Untrusted string // a comment, covered by nothing
	KeyID     KeyID
	Text      [ed25519.SignatureSize]byte
	Trusted   string // a comment, covered by Global
	Global    [ed25519.SignatureSize]byte
}

// Append appends the signature's file.
func (s *Signature) Append(b []byte) []byte {
	sig := append([]byte(signatureAlgorithm), s.KeyID[:]...)
	sig = append(sig, s.Text[:]...)
	return fmt.Appendf(b, "%s%s\n%s\n%s%s\n%s\n", untrustedPrefix, s.Untrusted,
		base64.StdEncoding.EncodeToString(sig), trustedPrefix, s.Trusted,
		base64.StdEncoding.EncodeToString(s.Global[:]))
}

// AppendSignatures appends the files of signatures one after another, which is
// how a bundle and a slot keep them.
func AppendSignatures(b []byte, sigs []Signature) []byte {
	for i := range sigs {
		b = sigs[i].Append(b)
	}
	return b
}

// ParseSignatures reads what AppendSignatures writes, up to MaxSignatures.
func ParseSignatures(text []byte) ([]Signature, error) {
	if len(text) > maxSigBytes {
		return nil, fmt.Errorf("bundle: signatures: %d bytes, at most %d are allowed", len(text), maxSigBytes)
	}
	var sigs []Signature
	for l := (&lines{rest: string(text)}); l.rest != ""; {
		if len(sigs) == MaxSignatures {
			return nil, fmt.Errorf("bundle: more than %d signatures", MaxSignatures)
		}
		var s Signature
		s.Untrusted = l.comment(untrustedPrefix)
		sig := l.base64(signatureAlgorithm, len(s.KeyID)+len(s.Text))
		s.Trusted = l.comment(trustedPrefix)
		global := l.base64("", len(s.Global))
		if l.err != nil {
			return nil, fmt.Errorf("bundle: signature %d: line %d: %w", len(sigs)+1, l.n, l.err)
		}
		copy(s.KeyID[:], sig)
		copy(s.Text[:], sig[len(s.KeyID):])
		copy(s.Global[:], global)
		sigs = append(sigs, s)
	}
	return sigs, nil
}

// verify says whether the key made the signature of a text with this BLAKE2b-512.
func (s *Signature) verify(key *PublicKey, digest *[blake2b.Size]byte) bool {
	return ed25519.Verify(key.Key[:], digest[:], s.Text[:]) &&
		ed25519.Verify(key.Key[:], append(s.Text[:len(s.Text):len(s.Text)], s.Trusted...), s.Global[:])
}

func (l *lines) comment(prefix string) string {
	text := l.line(prefix)
	if len(text) > maxComment || !utf8.ValidString(text) || strings.ContainsAny(text, "\r\x00") {
		l.fail(fmt.Errorf("a comment is at most %d bytes of UTF-8", maxComment))
	}
	return text
}

// base64 takes a line that encodes an algorithm and so many bytes more.
func (l *lines) base64(algorithm string, size int) []byte {
	text := l.line("")
	if l.err != nil {
		return nil
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	switch {
	case err != nil || len(b) != len(algorithm)+size || strings.ContainsAny(text, "\r"):
		l.fail(errors.New("not a key or signature of minisign"))
		return nil
	case string(b[:len(algorithm)]) != algorithm:
		l.fail(fmt.Errorf("the algorithm is %q, want %q", b[:len(algorithm)], algorithm))
		return nil
	}
	return b[len(algorithm):]
}
