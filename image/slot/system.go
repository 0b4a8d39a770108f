package slot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"cobox/image/bundle"
	"cobox/image/layout"
)

// System is what a slot says that it holds.
type System struct {
	Manifest   *bundle.Manifest
	Text       []byte             // of the manifest
	Signatures []bundle.Signature // none in an image that was not released
}

// Read reads the manifest of a slot and its signatures from the slot's files.
// Who has signed is for Keys.Verify to say.
func Read(slot fs.FS) (*System, error) {
	text, err := readFile(slot, layout.ManifestFile, bundle.MaxManifest)
	if err != nil {
		return nil, err
	}
	s := &System{Text: text}
	if s.Manifest, err = bundle.ParseManifest(text); err != nil {
		return nil, fmt.Errorf("slot: %w", err)
	}
	sigs, err := readFile(slot, layout.SignaturesFile, bundle.MaxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if s.Signatures, err = bundle.ParseSignatures(sigs); err != nil {
		return nil, fmt.Errorf("slot: %w", err)
	}
	return s, nil
}

func readFile(slot fs.FS, name string, most int64) ([]byte, error) {
	f, err := slot.Open(name)
	if err != nil {
		return nil, fmt.Errorf("slot: open %s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("slot: read %s: %w", name, err)
	}
	if int64(len(b)) > most {
		return nil, fmt.Errorf("%w: %s is longer than %d bytes", ErrMismatch, name, most)
	}
	return b, nil
}

// Verify reads every file of the manifest and compares it. Files that are not
// in the manifest do not matter: other systems leave some on a card that they
// were shown, and the check is against damage, not against whoever has the card.
func (s *System) Verify(slot fs.FS) error {
	for _, f := range s.Manifest.Files {
		if err := verifyFile(slot, f); err != nil {
			return err
		}
	}
	return nil
}

func verifyFile(slot fs.FS, f bundle.File) error {
	r, err := slot.Open(f.Path)
	if err != nil {
		return fmt.Errorf("slot: open %s: %w", f.Path, err)
	}
	defer r.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, io.LimitReader(r, f.Size+1))
	switch {
	case err != nil:
		return fmt.Errorf("slot: read %s: %w", f.Path, err)
	case n != f.Size || [32]byte(hash.Sum(nil)) != f.SHA256:
		return fmt.Errorf("%w: %s is not the file of the manifest", ErrMismatch, f.Path)
	}
	return nil
}
