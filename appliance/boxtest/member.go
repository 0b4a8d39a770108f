// Package boxtest plays the members of a box in its tests: accounts, devices,
// logs full of random blocks, and the connections of honest devices. No program
// imports it.
//
// Start with [NewMember]; its Device pairs with a box and links to it; [NewLog]
// is something to offer over the link. [FreePort] is for a box that starts again
// where it was.
package boxtest

import (
	"crypto/ed25519"
	"crypto/mlkem"
	"crypto/rand"
	"fmt"

	"cobox/netlink/noiseconn"
	"cobox/storage/account"
)

// Member is an account with its phrase, as it were.
type Member struct {
	Card        *account.Card
	RecoveryPSK noiseconn.PSK
	recovery    noiseconn.StaticPrivate
	key         ed25519.PrivateKey
}

// NewMember makes an account with random keys.
func NewMember() (*Member, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	m := &Member{key: key}
	if m.recovery, err = noiseconn.NewStaticPrivate(nil); err != nil {
		return nil, err
	}
	rand.Read(m.RecoveryPSK[:])
	kem, err := kemKey()
	if err != nil {
		return nil, err
	}
	m.Card = &account.Card{ID: account.ID(key.Public().(ed25519.PublicKey)), KEM: kem, Recovery: account.NoiseKey(m.recovery.Public())}
	return m, account.SignCard(m.Card, key)
}

func kemKey() (k account.KEMKey, err error) {
	d, err := mlkem.GenerateKey768()
	if err != nil {
		return k, err
	}
	x, err := noiseconn.NewStaticPrivate(nil)
	if err != nil {
		return k, err
	}
	public := x.Public()
	copy(k[:], append(d.EncapsulationKey().Bytes(), public[:]...))
	return k, nil
}

// Device is a certified device of a member.
type Device struct {
	Member      *Member
	Certificate *account.Certificate
	LinkPSK     noiseconn.PSK // once it has paired
	static      noiseconn.StaticPrivate
	key         ed25519.PrivateKey
}

// NewDevice makes and certifies a device.
func (m *Member) NewDevice() (*Device, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	d := &Device{Member: m, key: key}
	if d.static, err = noiseconn.NewStaticPrivate(nil); err != nil {
		return nil, err
	}
	kem, err := kemKey()
	if err != nil {
		return nil, err
	}
	d.Certificate = &account.Certificate{Account: m.Card.ID, Device: account.DeviceKey(key.Public().(ed25519.PublicKey)),
		Noise: account.NoiseKey(d.static.Public()), KEM: kem, Issued: 1}
	if err := account.SignCertificate(d.Certificate, m.key); err != nil {
		return nil, fmt.Errorf("boxtest: %w", err)
	}
	return d, nil
}
