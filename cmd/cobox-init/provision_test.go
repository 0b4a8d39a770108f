//go:build linux

package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cobox/appliance/datadir"
)

// boxes is a boot partition and a data directory, without the mounting.
type boxes struct{ original, data string }

func newBoxes(t *testing.T, provision []byte) boxes {
	t.Helper()
	b := boxes{filepath.Join(t.TempDir(), "provision"), t.TempDir()}
	if provision != nil {
		if err := os.WriteFile(b.original, provision, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (b boxes) move(writable error) (bool, error) {
	return moveProvision(b.original, b.data, os.Getuid(), func() error { return writable })
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

func newProvision() (*datadir.Provision, []byte) {
	p := &datadir.Provision{Identity: datadir.NewIdentity(), InviteID: [8]byte{1}, Secret: [16]byte{2}}
	return p, datadir.AppendProvision(nil, p)
}

func TestProvisionIsMoved(t *testing.T) {
	_, bytesOf := newProvision()
	b := newBoxes(t, bytesOf)
	if taken, err := b.move(nil); !taken || err != nil {
		t.Fatal(taken, err)
	}
	got, err := os.ReadFile(filepath.Join(b.data, provisionCopy))
	if err != nil || !bytes.Equal(got, bytesOf) {
		t.Errorf("copied %x, %v", got, err)
	}
	if info, _ := os.Stat(filepath.Join(b.data, provisionCopy)); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if exists(b.original) {
		t.Error("the original is still there")
	}
	if taken, err := b.move(nil); taken || err != nil {
		t.Errorf("nothing to move: %v, %v", taken, err)
	}
}

// Every state that a power cut can leave ends where an uncut start ends.
func TestProvisionAcrossCuts(t *testing.T) {
	p, bytesOf := newProvision()
	t.Run("before the original is erased", func(t *testing.T) {
		b := newBoxes(t, bytesOf)
		if _, err := b.move(errors.New("cut")); err == nil || !exists(b.original) {
			t.Fatal("not cut", err)
		}
		if taken, err := b.move(nil); !taken || err != nil || exists(b.original) || !exists(filepath.Join(b.data, provisionCopy)) {
			t.Error(taken, err)
		}
	})
	t.Run("and coboxd has taken the copy", func(t *testing.T) {
		b := newBoxes(t, bytesOf)
		if err := os.WriteFile(filepath.Join(b.data, identityFile), datadir.AppendIdentity(nil, p.Identity), 0o600); err != nil {
			t.Fatal(err)
		}
		if taken, err := b.move(nil); taken || err != nil || exists(b.original) || exists(filepath.Join(b.data, provisionCopy)) {
			t.Error(taken, err)
		}
	})
	t.Run("after the zeros", func(t *testing.T) {
		b := newBoxes(t, make([]byte, len(bytesOf)))
		if taken, err := b.move(nil); taken || err != nil || exists(b.original) || exists(filepath.Join(b.data, provisionCopy)) {
			t.Error(taken, err)
		}
	})
	t.Run("an unfinished copy", func(t *testing.T) {
		b := newBoxes(t, bytesOf)
		if err := os.WriteFile(filepath.Join(b.data, provisionCopy+".tmp"), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		if taken, err := b.move(nil); !taken || err != nil || exists(filepath.Join(b.data, provisionCopy+".tmp")) {
			t.Error(taken, err)
		}
	})
}

// What is no identity of this box is left alone.
func TestProvisionOfAnother(t *testing.T) {
	_, bytesOf := newProvision()
	b := newBoxes(t, bytesOf)
	if err := os.WriteFile(filepath.Join(b.data, identityFile), datadir.AppendIdentity(nil, datadir.NewIdentity()), 0o600); err != nil {
		t.Fatal(err)
	}
	if taken, err := b.move(nil); taken || err == nil || !exists(b.original) || exists(filepath.Join(b.data, provisionCopy)) {
		t.Error("another box's identity:", taken, err)
	}
	for name, bad := range map[string][]byte{
		"flipped": append([]byte{bytesOf[0] ^ 1}, bytesOf[1:]...), "short": bytesOf[:50], "long": append(bytes.Clone(bytesOf), 0),
	} {
		b := newBoxes(t, bad)
		if taken, err := b.move(nil); taken || err == nil || !exists(b.original) || exists(filepath.Join(b.data, provisionCopy)) {
			t.Error(name, taken, err)
		}
	}
}

func TestEraseOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path) // still shows the bytes when the name is gone
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := erase(path, 6); err != nil || exists(path) {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	if _, err := f.ReadAt(b, 0); err != nil || !allZero(b) {
		t.Errorf("left %q, %v", b, err)
	}
}

func TestIdentityIsKnownEarly(t *testing.T) {
	p, bytesOf := newProvision()
	b := newBoxes(t, bytesOf)
	if readIdentity(b.data) != nil {
		t.Error("an identity out of nothing")
	}
	if _, err := b.move(nil); err != nil {
		t.Fatal(err)
	}
	if id := readIdentity(b.data); id == nil || *id != *p.Identity {
		t.Error("the provisioned identity is not known")
	}
	own := datadir.NewIdentity()
	if err := os.WriteFile(filepath.Join(b.data, identityFile), datadir.AppendIdentity(nil, own), 0o600); err != nil {
		t.Fatal(err)
	}
	if id := readIdentity(b.data); id == nil || *id != *own {
		t.Error("the box's own identity does not come first")
	}
}
