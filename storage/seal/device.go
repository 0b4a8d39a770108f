package seal

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"cobox/storage/account"
)

const (
	deviceVersion = 1
	deviceContext = "cobox/v1/device\x00"
	deviceBody    = 1 + 32 + 32 + 32
)

// DeviceSize is the length of an encoded device, 129 bytes.
const DeviceSize = deviceBody + sha256.Size

// Device is the private half of one install. Its keys are random, never
// derived from the phrase and never backed up: after a loss a device gets new
// keys and begins a new log.
//
// Its plain bytes, for the caller to keep in a file of mode 0600:
//
//	offset  size  field
//	0       1     version, 1
//	1       32    Ed25519 seed
//	33      32    X25519 private key
//	65      32    X-Wing private key
//	97      32    SHA-256("cobox/v1/device\0" ‖ the 97 bytes before)
//	129           end
//
// The hash finds damage, which would otherwise turn the device into another.
type Device struct {
	hidden
	seed  [32]byte
	sign  ed25519.PrivateKey
	noise NoisePrivate
	kem   KEMPrivate
}

// DevicePublic is what an account certifies of a device.
type DevicePublic struct {
	Key   account.DeviceKey
	Noise account.NoiseKey
	KEM   account.KEMKey
}

// NewDevice makes the keys of a new install.
func NewDevice() *Device {
	var seed [32]byte
	var noise NoisePrivate
	var kem KEMPrivate
	for _, b := range [][]byte{seed[:], noise[:], kem[:]} {
		_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	}
	return newDevice(seed, noise, kem)
}

func newDevice(seed [32]byte, noise NoisePrivate, kem KEMPrivate) *Device {
	return &Device{seed: seed, sign: ed25519.NewKeyFromSeed(seed[:]), noise: noise, kem: kem}
}

// Key returns the device's public identity, which is the writer key of its logs.
func (d *Device) Key() account.DeviceKey {
	return account.DeviceKey(d.sign.Public().(ed25519.PublicKey))
}

// Public returns the public halves, to be certified by the account.
func (d *Device) Public() DevicePublic {
	return DevicePublic{Key: d.Key(), Noise: d.noise.Public(), KEM: d.kem.Public()}
}

// Signer signs manifests and checkpoints. It is safe for concurrent use.
func (d *Device) Signer() crypto.Signer { return &signer{key: d.sign} }

// Noise returns the key with which the device logs in to boxes.
func (d *Device) Noise() NoisePrivate { return d.noise }

// KEM returns the key that opens the device's stanza of an envelope.
func (d *Device) KEM() KEMPrivate { return d.kem }

// AppendDevice appends the DeviceSize plain bytes of d.
func AppendDevice(dst []byte, d *Device) []byte {
	start := len(dst)
	dst = append(dst, deviceVersion)
	dst = append(dst, d.seed[:]...)
	dst = append(dst, d.noise[:]...)
	dst = append(dst, d.kem[:]...)
	sum := deviceSum(dst[start:])
	return append(dst, sum[:]...)
}

// ParseDevice reads exactly the bytes of one device.
func ParseDevice(b []byte) (*Device, error) {
	if len(b) != DeviceSize {
		return nil, fmt.Errorf("seal: reading device keys: %d bytes, want %d", len(b), DeviceSize)
	}
	if b[0] != deviceVersion {
		return nil, fmt.Errorf("seal: reading device keys: version %d, want %d", b[0], deviceVersion)
	}
	sum := deviceSum(b[:deviceBody])
	if subtle.ConstantTimeCompare(sum[:], b[deviceBody:]) != 1 {
		return nil, errors.New("seal: reading device keys: damaged, the hash does not match")
	}
	return newDevice([32]byte(b[1:33]), NoisePrivate(b[33:65]), KEMPrivate(b[65:97])), nil
}

func deviceSum(body []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte(deviceContext), body...))
}
