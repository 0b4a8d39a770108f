//go:build linux

package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cobox/image/layout"
)

// TestStillThere exchanges a disk, and what is on it, while its data moves there.
func TestStillThere(t *testing.T) {
	const size = 4 << 30
	path := filepath.Join(t.TempDir(), "sdx")
	header, err := layout.NewDataDisk(size, layout.DataDiskID{1, 2}, [32]byte{3})
	if err != nil {
		t.Fatal(err)
	}
	write := func(d *layout.DataDisk) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err == nil {
			err = errors.Join(writeHeader(f, d), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(header)
	held, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := stillThere(held, path, header); err != nil {
		t.Errorf("nothing has changed: %v", err)
	}
	other := *header
	other.ID[15]++
	write(&other)
	if err := stillThere(held, path, header); err == nil {
		t.Error("the disk's id is another, and nobody noticed")
	}
	filled := *header
	filled.Filled = true
	write(&filled)
	if err := stillThere(held, path, header); err == nil {
		t.Error("the disk is filled already, and nobody noticed")
	}
	write(header)
	if err := os.Rename(path, path+" pulled out"); err != nil {
		t.Fatal(err)
	}
	if err := stillThere(held, path, header); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the disk is gone: %v", err)
	}
	write(header) // another with the same first sector
	if err := stillThere(held, path, header); err == nil {
		t.Error("another disk has the name, and nobody noticed")
	}
}
