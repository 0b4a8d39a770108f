// Package layout says where everything lies on a box's disk and which bytes are
// there: the partition table, the two slots of the system, and the file that
// the Raspberry Pi's firmware chooses a slot by. The program that builds the
// image, the init that boots from it and the updater that writes a slot share
// it. Nothing here reads or writes a disk.
//
//	partition  starts at   size      holds
//	1          1 MiB       36 MiB    FAT32 "BOOTSEL": autoboot.txt and what chooses a slot
//	2          37 MiB      96 MiB    FAT32 "SLOT-A": a whole system
//	3          133 MiB     96 MiB    FAT32 "SLOT-B": another
//	4          229 MiB     the rest  ext4 "COBOX": the box's data
//
// Start at [Table] for the partitions, at [Autoboot] for the choice of a slot and
// at [DataDisk] for a disk that holds the data instead. The bytes are specified
// in FORMAT.md.
package layout

import "fmt"

// Sizes in bytes. The partitions keep their places for ever: an update writes
// one slot and nothing else.
const (
	SectorSize = 512

	BootselStart = 1 << 20
	BootselSize  = 36 << 20
	SlotSize     = 96 << 20
	DataStart    = BootselStart + BootselSize + 2*SlotSize
	// TemplateSize is how large the data partition's file system is made. It is
	// grown on the first start; one made smaller would keep its few inodes and
	// its small journal for ever.
	TemplateSize = 256 << 20
	// ImageSize is that of the image, before it grows to the card.
	ImageSize = DataStart + TemplateSize
)

// Names of file systems.
const (
	BootselLabel = "BOOTSEL"
	SlotALabel   = "SLOT-A"
	SlotBLabel   = "SLOT-B"
	DataLabel    = "COBOX"
)

// Names of files in the boot selection's partition.
const (
	// AutobootFile tells the firmware which slot to start.
	AutobootFile = "autoboot.txt"
	// ProvisionFile is an identity and a pairing secret made where the image was
	// written; the first start moves it to the data partition.
	ProvisionFile = "provision"
)

// Names of files in a slot.
const (
	KernelFile   = "kernel8.img"
	InitrdFile   = "initrd.zst"
	CmdlineFile  = "cmdline.txt"
	ConfigFile   = "config.txt"
	ManifestFile = "manifest.txt"
	// SignaturesFile is the signatures of the manifest, one after another.
	SignaturesFile = "manifest.sig"
	// TemplateFile is the file system that a data partition begins as, on the card
	// or on a disk of its own: TemplateSize bytes in one zstd frame.
	TemplateFile = "data.ext4.zst"
)

// TemplateWindow is the zstd window of TemplateFile, small because a box unpacks
// it beside everything else.
const TemplateWindow = 1 << 20

// Slot is one of the two places for a system.
type Slot uint8

// The two slots.
const (
	SlotA Slot = iota + 1
	SlotB
)

// Other returns the slot that this one is not.
func (s Slot) Other() Slot {
	if s == SlotA {
		return SlotB
	}
	return SlotA
}

// Partition returns the number of the slot's partition, 2 or 3.
func (s Slot) Partition() int { return int(s) + 1 }

// SlotOf returns the slot that a partition is, and whether it is one.
func SlotOf(partition int) (Slot, bool) {
	if partition != SlotA.Partition() && partition != SlotB.Partition() {
		return 0, false
	}
	return Slot(partition - 1), true
}

func (s Slot) String() string {
	switch s {
	case SlotA:
		return "a"
	case SlotB:
		return "b"
	}
	return fmt.Sprintf("slot(%d)", uint8(s))
}

// ParseSlot reads what String writes.
func ParseSlot(text string) (Slot, error) {
	switch text {
	case "a":
		return SlotA, nil
	case "b":
		return SlotB, nil
	}
	return 0, fmt.Errorf("layout: %.20q is no slot", text)
}

// Label returns the name of the slot's file system.
func (s Slot) Label() string {
	if s == SlotA {
		return SlotALabel
	}
	return SlotBLabel
}
