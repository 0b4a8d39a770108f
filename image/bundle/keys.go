package bundle

import (
	_ "embed"
	"fmt"

	"golang.org/x/crypto/blake2b"
)

// Keys are the public keys whose holders may release the system, and how many
// of them must have signed.
type Keys struct {
	threshold int
	keys      []PublicKey
}

// NewKeys makes a set of keys, all of which differ.
func NewKeys(threshold int, keys ...PublicKey) (*Keys, error) {
	if threshold < 1 {
		return nil, fmt.Errorf("bundle: %d keys cannot be asked for", threshold)
	}
	if threshold > len(keys) {
		what := "keys"
		if len(keys) == 1 {
			what = "key"
		}
		return nil, fmt.Errorf("bundle: %d public %s, but at least %d are needed: so many have to sign", len(keys), what, threshold)
	}
	for i, k := range keys {
		for _, other := range keys[:i] {
			if k.ID == other.ID || k.Key == other.Key {
				return nil, fmt.Errorf("bundle: the key %s occurs twice", k.ID)
			}
		}
	}
	return &Keys{threshold, keys}, nil
}

// KeysFile is where a box finds the public keys whose holders may release its
// system, one after another.
const KeysFile = "/etc/cobox-release.pub"

// ReleaseThreshold is how many of the release keys must have signed a release.
const ReleaseThreshold = 2

//go:embed release.pub
var releasePub []byte

// ReleaseKeys returns the project's three release keys, of which two must have
// signed.
//
// The private halves of those that the repository starts with exist nowhere any
// more: until the maintainers replace release.pub with the set that
// "coboximg keys" makes them, no release can be signed and no box takes one.
func ReleaseKeys() *Keys {
	keys, err := ParsePublicKeys(releasePub)
	if err == nil && len(keys) != 3 {
		err = fmt.Errorf("%d keys, want 3", len(keys))
	}
	if err != nil {
		panic("bundle: release.pub: " + err.Error())
	}
	set, err := NewKeys(ReleaseThreshold, keys...)
	if err != nil {
		panic("bundle: release.pub: " + err.Error())
	}
	return set
}

// Threshold returns how many keys must have signed.
func (k *Keys) Threshold() int { return k.threshold }

// Public returns the keys of the set.
func (k *Keys) Public() []PublicKey { return append([]PublicKey(nil), k.keys...) }

// Verify returns which keys have signed the text of a manifest. It is an
// ErrSignature if they are too few, if a key of the set is named by a signature
// that it did not make, or if two signatures name the same key. Signatures of
// keys that are not in the set count for nothing.
func (k *Keys) Verify(manifest []byte, sigs []Signature) ([]KeyID, error) {
	digest := blake2b.Sum512(manifest)
	seen := map[KeyID]bool{}
	var signers []KeyID
	for i := range sigs {
		s := &sigs[i]
		if seen[s.KeyID] {
			return nil, fmt.Errorf("%w: two signatures are of the same key %s", ErrSignature, s.KeyID)
		}
		seen[s.KeyID] = true
		for j := range k.keys {
			key := &k.keys[j]
			if key.ID != s.KeyID {
				continue
			}
			if !s.verify(key, &digest) {
				return nil, fmt.Errorf("%w: the signature of the key %s is not one of this manifest", ErrSignature, s.KeyID)
			}
			signers = append(signers, s.KeyID)
		}
	}
	if len(signers) < k.threshold {
		return nil, fmt.Errorf("%w: %d of %d have signed, %d are needed", ErrSignature, len(signers), len(k.keys), k.threshold)
	}
	return signers, nil
}
