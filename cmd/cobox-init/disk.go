//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cobox/image/layout"
)

// diskKinds are the disks that a box can start from, in the order in which they
// are looked at: with a CoBox card and a CoBox stick, the card is the box.
var diskKinds = []string{"mmcblk", "vd", "nvme", "sd"}

// disk is the box's own disk.
type disk struct {
	name  string // as in /sys/block
	size  uint64 // bytes
	table *layout.Table
}

// path returns the device of the whole disk.
func (d *disk) path() string { return "/dev/" + d.name }

// partition returns the name of a partition, as the kernel makes it.
func (d *disk) partition(n int) string {
	return partitionOf(d.name, n)
}

// errNoDisk says that none of the disks is a box's.
var errNoDisk = errors.New("disk: there is no disk with a CoBox partition table")

// bootMode is where the Raspberry Pi's firmware tells what kind of disk it started
// from.
const bootMode = "/proc/device-tree/chosen/bootloader/boot-mode"

// kindOfMode reads what the firmware tells, 4 bytes big-endian. It is the number
// that the firmware's BOOT_ORDER has for that kind; "" is one that tells no disk.
func kindOfMode(b []byte) string {
	if len(b) != 4 {
		return ""
	}
	switch binary.BigEndian.Uint32(b) {
	case 1:
		return "mmcblk"
	case 4, 5: // at either controller
		return "sd"
	case 6:
		return "nvme"
	}
	return ""
}

// startedKind returns the kind of the disk that the firmware started from; "" if
// that is unknown.
func startedKind() string {
	b, err := os.ReadFile(bootMode)
	if err != nil {
		return ""
	}
	return kindOfMode(b)
}

// pickDisk returns the first disk of a kind. If there is none, or the kind is
// unknown, it is the first of all, and not certain unless it is the only one that
// can be meant.
func pickDisk(all []*disk, kind string) (d *disk, certain bool) {
	var same []*disk
	for _, d := range all {
		if kind != "" && strings.HasPrefix(d.name, kind) {
			same = append(same, d)
		}
	}
	if len(same) > 0 {
		return same[0], len(same) == 1
	}
	return all[0], len(all) == 1 && kind == ""
}

// namesOf names disks for people.
func namesOf(all []*disk) string {
	var names []string
	for _, d := range all {
		names = append(names, d.name)
	}
	return strings.Join(names, ", ")
}

// waitForDisk looks for disks of a box until that appears which the firmware
// started from, or any if that is unknown, for at most timeout; then any is taken.
// Drivers find their disks while the system is running already.
func waitForDisk(ctx context.Context, timeout time.Duration, kind string) ([]*disk, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		all, err := findDisks("/sys/block", "/dev")
		if err == nil {
			if d, _ := pickDisk(all, kind); strings.HasPrefix(d.name, kind) {
				return all, nil
			}
		}
		select {
		case <-ctx.Done():
			return all, err
		case <-tick.C:
		}
	}
}

// findDisk looks once, and returns the first disk of a box.
func findDisk(sys, dev string) (*disk, error) {
	all, err := findDisks(sys, dev)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// findDisks looks once for all of them: one at least, or it fails. A disk that
// cannot be read is not ours as far as can be told, and is named in the error.
func findDisks(sys, dev string) ([]*disk, error) {
	entries, err := os.ReadDir(sys)
	if err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	var all []*disk
	var seen []string
	for _, name := range sortDisks(names) {
		table, err := readTable(filepath.Join(dev, name))
		if err != nil {
			seen = append(seen, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		size, err := sysSize(filepath.Join(sys, name, "size"))
		if err != nil {
			seen = append(seen, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		all = append(all, &disk{name, size, table})
	}
	if len(all) > 0 {
		return all, nil
	}
	if len(seen) == 0 {
		return nil, errNoDisk
	}
	return nil, fmt.Errorf("%w (%s)", errNoDisk, strings.Join(seen, "; "))
}

// sortDisks returns those of names that can be a box's disk, best first.
func sortDisks(names []string) []string {
	var sorted []string
	for _, kind := range diskKinds {
		var some []string
		for _, n := range names {
			// An eMMC shows its boot and replay-protected areas as disks of their own.
			if strings.HasPrefix(n, kind) && !strings.Contains(n, "boot") && !strings.Contains(n, "rpmb") {
				some = append(some, n)
			}
		}
		slices.Sort(some)
		sorted = append(sorted, some...)
	}
	return sorted
}

func readTable(path string) (*layout.Table, error) {
	sector, err := firstSector(path)
	if err != nil {
		return nil, err
	}
	return layout.ParseMBR(sector)
}

// firstSector reads the first sector of a disk.
func firstSector(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sector := make([]byte, layout.SectorSize)
	if _, err := io.ReadFull(f, sector); err != nil {
		return nil, fmt.Errorf("reading the first sector: %w", err)
	}
	return sector, nil
}

// sysSize reads a size from /sys, which counts sectors of 512 bytes whatever
// the disk's are.
func sysSize(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 54)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n * 512, nil
}
