package main

import (
	"fmt"
	"os"

	"cobox/image/bundle"
)

// readPublicKeys reads a file of public keys.
func readPublicKeys(name string) (text []byte, keys []bundle.PublicKey, err error) {
	if text, err = os.ReadFile(name); err != nil {
		return nil, nil, fmt.Errorf("reading the release keys: %w", err)
	}
	if len(text) == 0 {
		return nil, nil, fmt.Errorf("%s is empty; public keys of minisign should be in it", name)
	}
	if keys, err = bundle.ParsePublicKeys(text); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return text, keys, nil
}

// readSignatures reads files of signatures, which are all of different keys.
func readSignatures(names []string) (all []bundle.Signature, text []byte, err error) {
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, nil, fmt.Errorf("reading a signature: %w", err)
		}
		if len(b) == 0 {
			return nil, nil, fmt.Errorf("%s is empty; a signature of minisign should be in it", name)
		}
		sigs, err := bundle.ParseSignatures(b)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		all, text = append(all, sigs...), append(text, b...)
	}
	return all, text, oneOfEach(all)
}

// oneOfEach refuses two signatures of one key: they count for one, and whoever
// gives them believes to have two.
func oneOfEach(sigs []bundle.Signature) error {
	seen := map[bundle.KeyID]bool{}
	for i := range sigs {
		if id := sigs[i].KeyID; seen[id] {
			return fmt.Errorf("two signatures are of the same key, %s: give one of each, and one of another key", id)
		}
		seen[sigs[i].KeyID] = true
	}
	return nil
}
