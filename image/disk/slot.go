package disk

import (
	"errors"
	"fmt"
	"strings"

	"cobox/image/bundle"
	"cobox/image/initrd"
	"cobox/image/layout"
)

// Slot is the system in a slot of an image.
type Slot struct {
	Manifest   *bundle.Manifest
	Signatures []bundle.Signature // none in an image that was not released
	Files      bundle.Contents    // those of the manifest
}

// ReadSlot reads a slot of an image and compares its files with the manifest.
// Files that the manifest does not have are left out: a computer that was shown
// the image may have left some.
func ReadSlot(name string, s layout.Slot) (*Slot, error) {
	files, err := Partition(name, s.Partition())
	if err != nil {
		return nil, err
	}
	all := bundle.Contents{}
	for _, f := range files {
		all[f.Path] = f.Data
	}
	slot, err := slotOf(all)
	if err != nil {
		return nil, fmt.Errorf("disk: slot %s of %s: %w", s, name, err)
	}
	return slot, nil
}

func slotOf(all bundle.Contents) (*Slot, error) {
	text, ok := all[layout.ManifestFile]
	if !ok {
		return nil, fmt.Errorf("there is no %s", layout.ManifestFile)
	}
	s := &Slot{Files: bundle.Contents{}}
	var err error
	if s.Manifest, err = bundle.ParseManifest(text); err != nil {
		return nil, err
	}
	if s.Signatures, err = bundle.ParseSignatures(all[layout.SignaturesFile]); err != nil {
		return nil, err
	}
	for _, f := range s.Manifest.Files {
		b, ok := all[f.Path]
		if !ok {
			return nil, fmt.Errorf("%s is missing", f.Path)
		}
		s.Files[f.Path] = b
	}
	for i, f := range s.Files.Describe() {
		if f != s.Manifest.Files[i] {
			return nil, fmt.Errorf("%s is not the file of the manifest", f.Path)
		}
	}
	return s, nil
}

// ReleaseKeys returns the text of the public keys whose holders may release what
// the system takes as an update. It is where the system has it itself.
func (s *Slot) ReleaseKeys() ([]byte, error) {
	text, err := releaseKeys(s.Files[layout.InitrdFile])
	if err != nil {
		return nil, fmt.Errorf("disk: reading the release keys of the system: %w", err)
	}
	return text, nil
}

// releaseKeys finds the file of the keys in an initramfs.
func releaseKeys(b []byte) ([]byte, error) {
	records, err := initrd.Unpack(b)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		if r.Name == strings.TrimPrefix(bundle.KeysFile, "/") {
			return initrd.Content(r)
		}
	}
	return nil, errors.New("there are none")
}
