// Package bundletest signs updates for tests, with keys that everybody knows.
// It imports nothing of the testing package, so that programs that drive a box
// can use it too.
package bundletest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"

	"golang.org/x/crypto/blake2b"

	"cobox/image/bundle"
)

// Key is a private key of minisign.
type Key struct {
	ID      bundle.KeyID
	Private ed25519.PrivateKey
}

// NewKey returns the key with a number; the same number is always the same key.
func NewKey(n int) *Key {
	seed := sha256.Sum256(fmt.Appendf(nil, "cobox test release key %d", n))
	private := ed25519.NewKeyFromSeed(seed[:])
	id := sha256.Sum256(private.Public().(ed25519.PublicKey))
	return &Key{ID: bundle.KeyID(id[:8]), Private: private}
}

// Public returns the public half.
func (k *Key) Public() bundle.PublicKey {
	return bundle.PublicKey{
		Comment: "CoBox test key " + k.ID.String(),
		ID:      k.ID,
		Key:     [ed25519.PublicKeySize]byte(k.Private.Public().(ed25519.PublicKey)),
	}
}

// Sign signs the text of a manifest.
func (k *Key) Sign(manifest []byte, comment string) bundle.Signature {
	digest := blake2b.Sum512(manifest)
	s := bundle.Signature{
		Untrusted: "signature of CoBox test key " + k.ID.String(),
		KeyID:     k.ID,
		Text:      [ed25519.SignatureSize]byte(ed25519.Sign(k.Private, digest[:])),
		Trusted:   comment,
	}
	s.Global = [ed25519.SignatureSize]byte(ed25519.Sign(k.Private, append(s.Text[:len(s.Text):len(s.Text)], comment...)))
	return s
}

// Keys returns the keys 1 to 3 and the set that asks for two of them.
func Keys() ([3]*Key, *bundle.Keys) {
	private := [3]*Key{NewKey(1), NewKey(2), NewKey(3)}
	set, err := bundle.NewKeys(2, private[0].Public(), private[1].Public(), private[2].Public())
	if err != nil {
		panic("bundletest: " + err.Error())
	}
	return private, set
}

// Sign signs a manifest with several keys.
func Sign(m *bundle.Manifest, keys ...*Key) ([]bundle.Signature, error) {
	text, err := m.Append(nil)
	if err != nil {
		return nil, err
	}
	var sigs []bundle.Signature
	for _, k := range keys {
		sigs = append(sigs, k.Sign(text, "CoBox "+m.Version))
	}
	return sigs, nil
}

// Files are the contents of a slot, by path.
type Files = bundle.Contents
