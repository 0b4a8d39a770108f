//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"cobox/image/layout"
	"cobox/image/slot"
)

// place is where the one sector of autoboot.txt lies.
type place struct {
	device string // the partition
	offset int64  // bytes
}

// findAutoboot finds the sector with the file system's own driver, so that
// nothing here needs to understand it. The partition is mounted for a moment.
func findAutoboot(device, mountPoint string) (at place, err error) {
	const locked = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY
	if err := unix.Mount(device, mountPoint, "vfat", locked, "umask=0077"); err != nil {
		return place{}, fmt.Errorf("autoboot: mounting %s: %w", device, err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(mountPoint, 0)) }()
	f, err := os.Open(filepath.Join(mountPoint, layout.AutobootFile))
	if err != nil {
		return place{}, fmt.Errorf("autoboot: %w", err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return place{}, fmt.Errorf("autoboot: %w", err)
	} else if !fi.Mode().IsRegular() || fi.Size() != layout.AutobootSize {
		return place{}, fmt.Errorf("%w: it has %d bytes", layout.ErrAutoboot, fi.Size())
	}
	offset, err := firstBlock(f)
	if err != nil {
		return place{}, fmt.Errorf("autoboot: finding its sector: %w", err)
	}
	return place{device, offset}, nil
}

// FIBMAP and FIGETBSZ of linux/fs.h.
const (
	ioctlBlockMap  = 1
	ioctlBlockSize = 2
)

// firstBlock returns where in its partition a file begins.
func firstBlock(f *os.File) (int64, error) {
	size, err := askFile(f, ioctlBlockSize)
	if err != nil {
		return 0, err
	}
	block, err := askFile(f, ioctlBlockMap) // of block 0 of the file
	if err != nil {
		return 0, err
	}
	if size < layout.SectorSize || block <= 0 {
		return 0, fmt.Errorf("block %d of %d bytes", block, size)
	}
	return int64(block) * int64(size), nil
}

// askFile asks for a number by an ioctl that takes the number 0.
func askFile(f *os.File, request uintptr) (int32, error) {
	var n int32
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return 0, errno
	}
	return n, nil
}

// chosenSlot returns the slot that starts.
func chosenSlot(at place) (layout.Slot, error) {
	f, err := os.Open(at.device)
	if err != nil {
		return 0, fmt.Errorf("autoboot: %w", err)
	}
	defer f.Close()
	return readChoice(f, at.offset)
}

func readChoice(f *os.File, offset int64) (layout.Slot, error) {
	b := make([]byte, layout.AutobootSize)
	if _, err := f.ReadAt(b, offset); err != nil {
		return 0, fmt.Errorf("autoboot: %w", err)
	}
	a, err := layout.ParseAutoboot(b)
	return a.Slot, err
}

// chooseSlot makes a slot the one that starts. It overwrites the sector, which a
// disk does wholly or not at all; the kernel may write neighbours along with it,
// which stay as they are. Where an autoboot.txt of ours is not, nothing is
// written.
func chooseSlot(at place, s layout.Slot) (err error) {
	dev, err := slot.OpenBlockDevice(at.device) // refused while it is mounted
	if err != nil {
		return fmt.Errorf("autoboot: %w", err)
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	before, err := readChoice(dev.File, at.offset)
	if err != nil || before == s {
		return err
	}
	if err := writeChoice(dev, at.offset, s); err != nil {
		// A sector of neither kind would start nothing at all.
		return errors.Join(fmt.Errorf("autoboot: choosing slot %v: %w", s, err), writeChoice(dev, at.offset, before))
	}
	return nil
}

// writeChoice writes the sector and compares what the disk has then.
func writeChoice(dev *slot.BlockDevice, offset int64, s layout.Slot) error {
	want := layout.Autoboot{Slot: s}.Append(nil)
	if _, err := dev.WriteAt(want, offset); err != nil {
		return err
	}
	if err := dev.Sync(); err != nil { // drops it from the cache too
		return err
	}
	got := make([]byte, len(want))
	if _, err := dev.ReadAt(got, offset); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("the disk gives back something else than was written")
	}
	return nil
}
