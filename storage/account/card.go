package account

import (
	"crypto"
	"crypto/sha256"
	"fmt"
)

// Card is what an account publishes about itself.
//
//	offset  size   field
//	0       1      version, 1
//	1       32     account: Ed25519 public key
//	33      1,216  KEM: X-Wing public key (ML-KEM-768 1,184 ‖ X25519 32)
//	1,249   32     recovery: X25519 public key
//	1,281   64     Ed25519 signature of the account over "cobox/v1/card\0" ‖ the 1,281 bytes before
//	1,345          end
type Card struct {
	ID       ID
	KEM      KEMKey
	Recovery NoiseKey
	Sig      [SignatureSize]byte
}

const cardBody = 1 + 32 + KEMKeySize + 32

// CardSize is the length of an encoded card, 1,345 bytes.
const CardSize = cardBody + SignatureSize

// CardHash names one exact card, see [Card.Hash].
type CardHash [32]byte

// SignCard fills in the signature. The key must be that of c.ID.
func SignCard(c *Card, key crypto.Signer) (err error) {
	if c.Sig, err = sign(key, c.ID, cardContext, c.appendBody(nil)); err != nil {
		return fmt.Errorf("account: signing card: %w", err)
	}
	return nil
}

// Verify checks the account's signature and that the keys are usable.
// A bad signature is ErrSignature.
func (c *Card) Verify() error {
	if err := verify(c.ID, cardContext, c.appendBody(nil), &c.Sig); err != nil {
		return fmt.Errorf("account: verifying card: %w", err)
	}
	if err := c.KEM.check(); err != nil {
		return fmt.Errorf("account: verifying card: %w", err)
	}
	if err := checkX25519(c.Recovery[:]); err != nil {
		return fmt.Errorf("account: verifying card: recovery key: %w", err)
	}
	return nil
}

// Hash is SHA-256("cobox/v1/card\0" ‖ the card without its signature). The
// signature is left out so that signing anew does not make another card.
func (c *Card) Hash() CardHash {
	return sha256.Sum256(c.appendBody([]byte(cardContext)))
}

// AppendCard appends the CardSize bytes of c.
func AppendCard(dst []byte, c *Card) []byte {
	return append(c.appendBody(dst), c.Sig[:]...)
}

func (c *Card) appendBody(dst []byte) []byte {
	dst = append(dst, Version)
	dst = append(dst, c.ID[:]...)
	dst = append(dst, c.KEM[:]...)
	return append(dst, c.Recovery[:]...)
}

// ParseCard reads exactly one card. It does not verify it.
func ParseCard(b []byte) (*Card, error) {
	if len(b) != CardSize {
		return nil, fmt.Errorf("account: parsing card: %d bytes, want %d", len(b), CardSize)
	}
	f := fields(b)
	if err := checkVersion(f.u8()); err != nil {
		return nil, fmt.Errorf("account: parsing card: %w", err)
	}
	c := new(Card)
	f.take(c.ID[:])
	f.take(c.KEM[:])
	f.take(c.Recovery[:])
	f.take(c.Sig[:])
	return c, nil
}
