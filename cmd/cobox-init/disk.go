//go:build linux

package main

import (
	"context"
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

// waitForDisk looks for the box's disk until it appears, for at most timeout.
// Drivers find their disks while the system is running already.
func waitForDisk(ctx context.Context, timeout time.Duration) (*disk, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		d, err := findDisk("/sys/block", "/dev")
		if err == nil {
			return d, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}

// findDisk looks once. A disk that cannot be read is not ours as far as can be
// told, and is named in the error.
func findDisk(sys, dev string) (*disk, error) {
	entries, err := os.ReadDir(sys)
	if err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
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
		return &disk{name, size, table}, nil
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
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sector := make([]byte, layout.SectorSize)
	if _, err := io.ReadFull(f, sector); err != nil {
		return nil, fmt.Errorf("reading the first sector: %w", err)
	}
	return layout.ParseMBR(sector)
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
