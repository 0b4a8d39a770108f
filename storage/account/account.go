// Package account holds the public identity records of CoBox: the card of an
// account, the certificates of its devices and the revocations of them.
//
// An account is its Ed25519 key ([ID]); whoever holds the recovery phrase can
// derive the private half, and nobody else. The account signs three records:
//
//   - a [Card], which tells others how to seal keys for the account and which
//     key logs in for it during recovery;
//   - a [Certificate] for each device, which ties the device's three keys to
//     the account;
//   - a [Revocation], which ends a device and says up to which point of each
//     of its logs the account still stands by what the device wrote.
//
// Start with [ParseCard], [ParseCertificate] and [ParseRevocation], followed by
// the record's Verify method; [VerifyManifest] does the same for a log's
// manifest and the certificate inside it. Parsing checks form, Verify checks
// the signature and the keys: a record that was parsed and not verified proves
// nothing.
//
// Everything here is public. The package holds no key that signs or opens
// anything, so a box may import it; the private halves live in storage/seal.
//
// The encodings are canonical: a parser accepts exactly the bytes that the
// matching Append function makes, so decode(encode(x)) = x and the other way
// round. They are specified in storage/seal/FORMAT.md. All functions are safe
// for concurrent use as long as the records given to them are not changed
// meanwhile.
package account

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/mlkem"
	"encoding/binary"
	"errors"
	"fmt"
)

// Version is the format version of the three records.
const Version = 1

// Sizes in bytes of the keys and of a signature.
const (
	KEMKeySize    = mlkem.EncapsulationKeySize768 + 32 // 1,216
	SignatureSize = ed25519.SignatureSize              // 64
)

// What an account signs begins with one of these, so that a signature under
// one meaning can never be presented under another.
const (
	cardContext        = "cobox/v1/card\x00"
	certificateContext = "cobox/v1/certificate\x00"
	revocationContext  = "cobox/v1/revocation\x00"
)

// ErrSignature means that a record is well formed but was not signed by the
// key that it names.
var ErrSignature = errors.New("signature does not verify")

// sign makes the Ed25519 signature over context ‖ body after checking that the
// signer is the key that the record names: a record signed by another key
// would only be noticed by whoever receives it.
func sign(key crypto.Signer, named [32]byte, context string, body []byte) (sig [SignatureSize]byte, err error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return sig, fmt.Errorf("signing key is %T, not Ed25519", key.Public())
	}
	if !public.Equal(ed25519.PublicKey(named[:])) {
		return sig, errors.New("signing key is not the account's")
	}
	raw, err := key.Sign(nil, append([]byte(context), body...), crypto.Hash(0))
	if err != nil {
		return sig, err
	}
	if len(raw) != SignatureSize {
		return sig, fmt.Errorf("signer returned %d bytes", len(raw))
	}
	return [SignatureSize]byte(raw), nil
}

func verify(key [32]byte, context string, body []byte, sig *[SignatureSize]byte) error {
	if !ed25519.Verify(key[:], append([]byte(context), body...), sig[:]) {
		return ErrSignature
	}
	return nil
}

// checkX25519 refuses the points with which every key agreement yields zero.
// A peer that published one would make every attempt to seal for it fail.
func checkX25519(public []byte) error {
	var scalar [32]byte
	scalar[0] = 8 // any scalar does: the agreement clamps it to a multiple of 8
	private, err := ecdh.X25519().NewPrivateKey(scalar[:])
	if err != nil {
		return err
	}
	point, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return err
	}
	if _, err := private.ECDH(point); err != nil {
		return errors.New("X25519 key is a point of low order")
	}
	return nil
}

// check refuses a KEM key that nothing could be sealed for: an ML-KEM half out
// of range, or an X25519 half of low order.
func (k *KEMKey) check() error {
	if _, err := mlkem.NewEncapsulationKey768(k[:mlkem.EncapsulationKeySize768]); err != nil {
		return fmt.Errorf("KEM key: %w", err)
	}
	if err := checkX25519(k[mlkem.EncapsulationKeySize768:]); err != nil {
		return fmt.Errorf("KEM key: %w", err)
	}
	return nil
}

// fields takes the parts of a fixed layout off the front of a record. The
// caller has checked that the record is long enough.
type fields []byte

func (f *fields) take(dst []byte) { *f = (*f)[copy(dst, *f):] }

func (f *fields) u8() byte {
	v := (*f)[0]
	*f = (*f)[1:]
	return v
}

func (f *fields) u16() uint16 {
	v := binary.BigEndian.Uint16(*f)
	*f = (*f)[2:]
	return v
}

func (f *fields) u32() uint32 {
	v := binary.BigEndian.Uint32(*f)
	*f = (*f)[4:]
	return v
}

func (f *fields) u64() uint64 {
	v := binary.BigEndian.Uint64(*f)
	*f = (*f)[8:]
	return v
}

func checkVersion(v byte) error {
	if v != Version {
		return fmt.Errorf("version %d, want %d", v, Version)
	}
	return nil
}
