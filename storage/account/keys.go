package account

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"strings"
)

// ID is an account: its Ed25519 public key.
// Its text form is "acct:" and 64 lower-case hexadecimal digits.
type ID [32]byte

// DeviceKey is a device: its Ed25519 public key, which is also the writer key
// of the device's logs. Its text form begins with "device:".
type DeviceKey [32]byte

// NoiseKey is an X25519 public key that logs in to a box: a device's, or the
// recovery key of an account. Its text form begins with "noise:".
type NoiseKey [32]byte

// KEMKey is an X-Wing (ML-KEM-768 and X25519) public key, for which key
// envelopes are sealed.
type KEMKey [KEMKeySize]byte

const (
	idPrefix     = "acct:"
	devicePrefix = "device:"
	noisePrefix  = "noise:"
	kemPrefix    = "kem:"
)

// ParseID reads the text form of an account.
func ParseID(text string) (ID, error) { return parseKey[ID](idPrefix, text) }

func (id ID) String() string { return idPrefix + hex.EncodeToString(id[:]) }

// Fingerprint is the short form in which people compare accounts: four groups
// of four characters, the first 80 bits of SHA-256("cobox/v1/fingerprint\0" ‖
// key) in base 32. It is for eyes; programs compare the whole ID.
func (id ID) Fingerprint() string {
	sum := sha256.Sum256(append([]byte("cobox/v1/fingerprint\x00"), id[:]...))
	s := base32.StdEncoding.EncodeToString(sum[:10])
	return s[0:4] + "-" + s[4:8] + "-" + s[8:12] + "-" + s[12:16]
}

// MarshalText makes the text form, so that an ID can stand in JSON.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText makes.
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseID(string(text))
	return err
}

// ParseDeviceKey reads the text form of a device key.
func ParseDeviceKey(text string) (DeviceKey, error) { return parseKey[DeviceKey](devicePrefix, text) }

func (k DeviceKey) String() string { return devicePrefix + hex.EncodeToString(k[:]) }

// MarshalText makes the text form, so that a device key can stand in JSON.
func (k DeviceKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText makes.
func (k *DeviceKey) UnmarshalText(text []byte) (err error) {
	*k, err = ParseDeviceKey(string(text))
	return err
}

// ParseNoiseKey reads the text form of an X25519 key.
func ParseNoiseKey(text string) (NoiseKey, error) { return parseKey[NoiseKey](noisePrefix, text) }

func (k NoiseKey) String() string { return noisePrefix + hex.EncodeToString(k[:]) }

// MarshalText makes the text form, so that a key can stand in JSON.
func (k NoiseKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText makes.
func (k *NoiseKey) UnmarshalText(text []byte) (err error) {
	*k, err = ParseNoiseKey(string(text))
	return err
}

// String names the key by the first 16 bytes of its SHA-256: the key itself
// would fill a screen.
func (k KEMKey) String() string {
	sum := sha256.Sum256(k[:])
	return kemPrefix + hex.EncodeToString(sum[:16])
}

// parseKey accepts the prefix and lower-case digits only: one key, one text.
func parseKey[K ~[32]byte](prefix, text string) (K, error) {
	digits, ok := strings.CutPrefix(text, prefix)
	if !ok || len(digits) != 64 || strings.ToLower(digits) != digits {
		return K{}, fmt.Errorf("account: parsing key: want %q and 64 lower-case hexadecimal digits", prefix)
	}
	raw, err := hex.DecodeString(digits)
	if err != nil {
		return K{}, fmt.Errorf("account: parsing key: %w", err)
	}
	return K(raw), nil
}
