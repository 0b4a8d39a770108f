//go:build linux

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// blockDisk is a disk that is plugged in, as the kernel shows it.
type blockDisk struct {
	device   string // as in /sys/block
	name     string // maker and model, for people
	bytes    uint64
	sector   uint64 // bytes of the sectors that it is addressed by
	readOnly bool
	// key tells it apart from others for as long as it is the same: what the maker
	// gave it, or, if that is nothing, the place where it is plugged in.
	key string
}

// id is the short name of a disk that is not a box's. One that becomes a data disk
// keeps it: its id begins so.
func (d *blockDisk) id() [4]byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "cobox/v1/disk\x00%s\x00%d", d.key, d.bytes))
	return [4]byte(sum[:])
}

// notDisks are names of what /sys/block has beside disks.
var notDisks = []string{"loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd", "mtdblock"}

// listDisks lists the disks that are plugged in, by the names of their devices.
func listDisks(sys string) ([]blockDisk, error) {
	entries, err := os.ReadDir(sys)
	if err != nil {
		return nil, fmt.Errorf("disks: %w", err)
	}
	var list []blockDisk
	for _, e := range entries {
		name := e.Name()
		// An eMMC shows its boot and replay-protected areas as disks of their own.
		if slices.ContainsFunc(notDisks, func(p string) bool { return strings.HasPrefix(name, p) }) ||
			strings.Contains(name, "boot") || strings.Contains(name, "rpmb") {
			continue
		}
		if d, ok := readDisk(filepath.Join(sys, name), name); ok {
			list = append(list, d)
		}
	}
	return list, nil
}

// readDisk reads what /sys says of a disk. One without a size is a reader without
// a card.
func readDisk(dir, name string) (blockDisk, bool) {
	size, err := sysSize(filepath.Join(dir, "size"))
	if err != nil || size == 0 {
		return blockDisk{}, false
	}
	d := blockDisk{device: name, bytes: size, sector: 512, readOnly: sysText(dir, "ro") == "1"}
	if n, err := strconv.ParseUint(sysText(dir, "queue/logical_block_size"), 10, 32); err == nil && n > 0 {
		d.sector = n
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		real = dir
	}
	usb := usbDevice(real)
	d.name = strings.Join(strings.Fields(strings.Join([]string{sysText(dir, "device/vendor"), sysText(dir, "device/model"), sysText(dir, "device/name")}, " ")), " ")
	if d.name == "" || strings.HasPrefix(d.name, "0x") { // virtio has numbers there
		d.name = "disk without a name"
	}
	for _, key := range []string{
		sysText(dir, "wwid"), sysText(dir, "device/wwid"), sysText(dir, "device/cid"), sysText(dir, "device/serial"), sysText(dir, "serial"),
		usb, real,
	} {
		if key != "" {
			d.key = key
			break
		}
	}
	return d, true
}

// usbDevice returns what the USB device that a disk is part of says of itself; ""
// if it is none, or has no serial number.
func usbDevice(dir string) string {
	for ; len(dir) > 1; dir = filepath.Dir(dir) {
		if vendor := sysText(dir, "idVendor"); vendor != "" {
			serial := sysText(dir, "serial")
			if serial == "" {
				return ""
			}
			return "usb " + vendor + ":" + sysText(dir, "idProduct") + " " + serial
		}
	}
	return ""
}

// maxSysText bounds what is read of a file in /sys: a device that lies can make
// it long.
const maxSysText = 256

// sysText reads a line; "" if there is none, or it is not printable.
func sysText(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(b[:min(len(b), maxSysText)]))
	return strings.TrimSpace(text)
}

// partitionOf returns the name of a disk's partition, as the kernel makes it.
func partitionOf(device string, n int) string {
	if c := device[len(device)-1]; c >= '0' && c <= '9' {
		return device + "p" + strconv.Itoa(n)
	}
	return device + strconv.Itoa(n)
}

// shortID writes the short name of a disk.
func shortID(b [4]byte) string { return hex.EncodeToString(b[:]) }
