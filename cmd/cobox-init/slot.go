//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"cobox/image/layout"
)

// slotMount is where a slot is mounted when its files are looked at.
const slotMount = "/slot"

// bootPartition is where the Raspberry Pi's firmware tells which partition it
// started.
const bootPartition = "/proc/device-tree/chosen/bootloader/partition"

// runningSlot finds out which slot the system was started from.
func runningSlot() (layout.Slot, error) {
	tree, err := os.ReadFile(bootPartition)
	if err == nil {
		return slotOfTree(tree)
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return 0, fmt.Errorf("slot: %w", err)
	}
	return slotOfCmdline(string(line))
}

// slotOfTree reads the firmware's number of a partition, 4 bytes big-endian.
func slotOfTree(b []byte) (layout.Slot, error) {
	if len(b) != 4 {
		return 0, fmt.Errorf("slot: the firmware's partition number has %d bytes", len(b))
	}
	n := binary.BigEndian.Uint32(b)
	if n <= 4 {
		if s, ok := layout.SlotOf(int(n)); ok {
			return s, nil
		}
	}
	return 0, fmt.Errorf("slot: the firmware started partition %d, which is no slot", n)
}

// slotOfCmdline reads cobox.slot= from the kernel's arguments, which stands
// there where the firmware tells nothing. The last one counts, as for the
// kernel's own.
func slotOfCmdline(line string) (layout.Slot, error) {
	slot, err := layout.Slot(0), errors.New("slot: neither the firmware nor the kernel's arguments tell it")
	for _, arg := range strings.Fields(line) {
		if text, ok := strings.CutPrefix(arg, "cobox.slot="); ok {
			slot, err = layout.ParseSlot(text)
		}
	}
	return slot, err
}

// slotDevice returns the partition of a slot.
func (d *disk) slotDevice(s layout.Slot) string { return "/dev/" + d.partition(s.Partition()) }

// slotMounted is held while a slot is mounted: there is one place for both, and
// several may want to look.
var slotMounted sync.Mutex

// mountSlot shows the files of a slot, which cannot be changed, until done is
// called. It waits for whoever looks at one.
func (d *disk) mountSlot(s layout.Slot) (files fs.FS, done func() error, err error) {
	const locked = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY
	files, done, err = mountAlone(&slotMounted, slotMount,
		func() error { return unix.Mount(d.slotDevice(s), slotMount, "vfat", locked, "umask=0077") },
		func() error { return unix.Unmount(slotMount, 0) })
	if err != nil {
		return nil, nil, fmt.Errorf("slot: mounting slot %v: %w", s, err)
	}
	return files, done, nil
}

// mountAlone holds the lock from before the mount until done was called.
func mountAlone(lock *sync.Mutex, on string, mount, unmount func() error) (fs.FS, func() error, error) {
	lock.Lock()
	if err := mount(); err != nil {
		lock.Unlock()
		return nil, nil, err
	}
	return os.DirFS(on), sync.OnceValue(func() error {
		defer lock.Unlock()
		return unmount()
	}), nil
}

// autoboot finds the sector that chooses a slot.
func (d *disk) autoboot() (place, error) { return findAutoboot("/dev/"+d.partition(1), bootMount) }
