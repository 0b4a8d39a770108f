package noiseconn

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"golang.org/x/crypto/curve25519"
)

// KeySize is the length of every key in this package, in bytes.
const KeySize = 32

const publicPrefix = "noise:"

// StaticPublic is the X25519 public key of a box or of a device.
type StaticPublic [KeySize]byte

// ParseStaticPublic reads the text form that String gives.
func ParseStaticPublic(s string) (StaticPublic, error) {
	var k StaticPublic
	digits, ok := strings.CutPrefix(s, publicPrefix)
	if !ok {
		return k, fmt.Errorf("noiseconn: parsing public key: no prefix %q", publicPrefix)
	}
	if len(digits) != 2*KeySize || strings.ToLower(digits) != digits {
		return k, errors.New("noiseconn: parsing public key: want 64 lower-case hex digits")
	}
	if _, err := hex.Decode(k[:], []byte(digits)); err != nil {
		return StaticPublic{}, fmt.Errorf("noiseconn: parsing public key: %w", err)
	}
	return k, nil
}

// String is "noise:" and 64 hex digits.
func (k StaticPublic) String() string { return publicPrefix + hex.EncodeToString(k[:]) }

// Equal compares in constant time.
func (k StaticPublic) Equal(o StaticPublic) bool {
	return subtle.ConstantTimeCompare(k[:], o[:]) == 1
}

// IsZero reports whether no key has been set.
func (k StaticPublic) IsZero() bool { return k == StaticPublic{} }

// StaticPrivate is an X25519 private key. It never prints itself.
type StaticPrivate [KeySize]byte

// NewStaticPrivate draws a key from random; nil means crypto/rand.
func NewStaticPrivate(random io.Reader) (StaticPrivate, error) {
	if random == nil {
		random = rand.Reader
	}
	var k StaticPrivate
	if _, err := io.ReadFull(random, k[:]); err != nil {
		return StaticPrivate{}, fmt.Errorf("noiseconn: making a static key: %w", err)
	}
	return k, nil
}

// Public is the public half.
func (k StaticPrivate) Public() StaticPublic {
	var pub StaticPublic
	// X25519 with the base point fails only for the wrong length.
	p, err := curve25519.X25519(k[:], curve25519.Basepoint)
	if err != nil {
		panic("noiseconn: a 32-byte scalar was refused: " + err.Error())
	}
	copy(pub[:], p)
	return pub
}

// Equal compares in constant time.
func (k StaticPrivate) Equal(o StaticPrivate) bool {
	return subtle.ConstantTimeCompare(k[:], o[:]) == 1
}

// String shows that there is a key, and nothing of it.
func (k StaticPrivate) String() string { return "noiseconn.StaticPrivate(secret)" }

// Format keeps %x and its like from printing the key.
func (k StaticPrivate) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// LogValue keeps the key out of logs.
func (k StaticPrivate) LogValue() slog.Value { return slog.StringValue(k.String()) }

// PSK is a secret that both ends hold before they meet. It never prints itself.
// The zero PSK is no PSK, and no handshake takes it.
type PSK [KeySize]byte

// IsZero reports in constant time whether no PSK has been set.
func (k PSK) IsZero() bool { return k.Equal(PSK{}) }

// Equal compares in constant time.
func (k PSK) Equal(o PSK) bool { return subtle.ConstantTimeCompare(k[:], o[:]) == 1 }

// String shows that there is a secret, and nothing of it.
func (k PSK) String() string { return "noiseconn.PSK(secret)" }

// Format keeps %x and its like from printing the secret.
func (k PSK) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// LogValue keeps the secret out of logs.
func (k PSK) LogValue() slog.Value { return slog.StringValue(k.String()) }
