package imagetest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"

	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
	"cobox/image/disk"
	"cobox/image/layout"
	"cobox/image/slot"
)

// Variant says how a system is to differ from another. What is zero stays as it
// is, but for the release keys.
type Variant struct {
	Version string // also what the system says of itself in /etc/cobox-release
	Number  uint32
	Floor   uint32
	Board   string
	// ReleaseKeys is the text of the keys that the system takes updates of; empty
	// means those that [Variant.Of] signs with.
	ReleaseKeys []byte
	// Initramfs are files of the initramfs with other contents, as for [Repack].
	Initramfs map[string][]byte
	// Slot are files of the slot with other contents, or more of them.
	Slot map[string][]byte
	// Signers are the test keys that sign, by number; none means 1 and 2.
	Signers []int
}

// Of returns the variant of a system, signed.
func (v *Variant) Of(s *disk.Slot) (*disk.Slot, error) {
	m := *s.Manifest
	if v.Version != "" {
		m.Version = v.Version
	}
	if v.Number != 0 {
		m.Number = v.Number
	}
	if v.Floor != 0 {
		m.Floor = v.Floor
	}
	if v.Board != "" {
		m.Board = v.Board
	}
	m.Floor = min(m.Floor, m.Number)

	initramfs := map[string][]byte{
		"etc/cobox-release":                      []byte(m.Version + "\n"),
		strings.TrimPrefix(bundle.KeysFile, "/"): v.ReleaseKeys,
	}
	if len(v.ReleaseKeys) == 0 {
		initramfs[strings.TrimPrefix(bundle.KeysFile, "/")] = ReleaseKeys()
	}
	maps.Copy(initramfs, v.Initramfs)
	files := maps.Clone(s.Files)
	var err error
	if files[layout.InitrdFile], err = Repack(files[layout.InitrdFile], initramfs); err != nil {
		return nil, err
	}
	maps.Copy(files, v.Slot)

	m.Files = files.Describe()
	signers := v.Signers
	if len(signers) == 0 {
		signers = []int{1, 2}
	}
	var keys []*bundletest.Key
	for _, n := range signers {
		keys = append(keys, bundletest.NewKey(n))
	}
	sigs, err := bundletest.Sign(&m, keys...)
	if err != nil {
		return nil, fmt.Errorf("imagetest: sign a variant: %w", err)
	}
	return &disk.Slot{Manifest: &m, Signatures: sigs, Files: files}, nil
}

// ReleaseKeys returns the text of the public halves of the test keys 1 to 3.
func ReleaseKeys() []byte {
	_, set := bundletest.Keys()
	var text []byte
	for _, k := range set.Public() {
		text = k.Append(text)
	}
	return text
}

// Bundle returns the update of a system.
func Bundle(s *disk.Slot) ([]byte, error) {
	var b bytes.Buffer
	if err := bundle.Write(&b, s.Manifest, s.Signatures, s.Files.Open); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Install puts a system into a slot of an image, as a box does.
func Install(image string, to layout.Slot, s *disk.Slot) (err error) {
	b, err := slot.Image(to, slot.NewFiles(s.Manifest, s.Signatures, s.Files.Open))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("imagetest: install: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	table, err := disk.Table(f)
	if err != nil {
		return err
	}
	p, _ := table.Partition(to.Partition())
	if _, err := f.WriteAt(b, int64(p.Start)); err != nil {
		return fmt.Errorf("imagetest: install: %w", err)
	}
	return nil
}
