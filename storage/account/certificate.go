package account

import (
	"crypto"
	"encoding/binary"
	"fmt"
)

// Certificate ties a device's keys to an account. It is bound to no space and
// never expires; a [Revocation] ends it.
//
//	offset  size   field
//	0       1      version, 1
//	1       32     account: Ed25519 public key
//	33      32     device: Ed25519 public key, the writer key of its logs
//	65      32     noise: X25519 public key with which the device logs in
//	97      1,216  KEM: X-Wing public key
//	1,313   4      revocations: number of the newest revocation of the account
//	               that the issuer knew, 0 for none
//	1,317   8      issued: seconds since 1970, signed
//	1,325   64     Ed25519 signature of the account over "cobox/v1/certificate\0" ‖ the 1,325 bytes before
//	1,389          end
//
// Issued is for people: no decision rests on it. Which of a certificate and a
// revocation is newer is told by the number of revocations.
type Certificate struct {
	Account     ID
	Device      DeviceKey
	Noise       NoiseKey
	KEM         KEMKey
	Revocations uint32
	Issued      int64
	Sig         [SignatureSize]byte
}

const certificateBody = 1 + 32 + 32 + 32 + KEMKeySize + 4 + 8

// CertificateSize is the length of an encoded certificate, 1,389 bytes.
const CertificateSize = certificateBody + SignatureSize

// SignCertificate fills in the signature. The key must be that of c.Account.
func SignCertificate(c *Certificate, key crypto.Signer) (err error) {
	if c.Sig, err = sign(key, c.Account, certificateContext, c.appendBody(nil)); err != nil {
		return fmt.Errorf("account: signing certificate: %w", err)
	}
	return nil
}

// Verify checks the account's signature and that the keys are usable.
// A bad signature is ErrSignature. Whether the device has been revoked since
// is for the caller to look up.
func (c *Certificate) Verify() error {
	if err := verify(c.Account, certificateContext, c.appendBody(nil), &c.Sig); err != nil {
		return fmt.Errorf("account: verifying certificate: %w", err)
	}
	if err := c.KEM.check(); err != nil {
		return fmt.Errorf("account: verifying certificate: %w", err)
	}
	if err := checkX25519(c.Noise[:]); err != nil {
		return fmt.Errorf("account: verifying certificate: noise key: %w", err)
	}
	return nil
}

// AppendCertificate appends the CertificateSize bytes of c.
func AppendCertificate(dst []byte, c *Certificate) []byte {
	return append(c.appendBody(dst), c.Sig[:]...)
}

func (c *Certificate) appendBody(dst []byte) []byte {
	dst = append(dst, Version)
	dst = append(dst, c.Account[:]...)
	dst = append(dst, c.Device[:]...)
	dst = append(dst, c.Noise[:]...)
	dst = append(dst, c.KEM[:]...)
	dst = binary.BigEndian.AppendUint32(dst, c.Revocations)
	return binary.BigEndian.AppendUint64(dst, uint64(c.Issued))
}

// ParseCertificate reads exactly one certificate. It does not verify it.
func ParseCertificate(b []byte) (*Certificate, error) {
	if len(b) != CertificateSize {
		return nil, fmt.Errorf("account: parsing certificate: %d bytes, want %d", len(b), CertificateSize)
	}
	f := fields(b)
	if err := checkVersion(f.u8()); err != nil {
		return nil, fmt.Errorf("account: parsing certificate: %w", err)
	}
	c := new(Certificate)
	f.take(c.Account[:])
	f.take(c.Device[:])
	f.take(c.Noise[:])
	f.take(c.KEM[:])
	c.Revocations = f.u32()
	c.Issued = int64(f.u64())
	f.take(c.Sig[:])
	return c, nil
}
