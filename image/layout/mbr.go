package layout

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// DiskID is the disk signature in the MBR of every CoBox image. The box finds
// its own disk by it.
const DiskID = 0x786f4243 // "CBox"

// Partition types as in an MBR.
const (
	typeFAT32 = 0x0c // with LBA
	typeLinux = 0x83
)

const (
	mbrIDOffset    = 440
	mbrTableOffset = 446
	mbrEntrySize   = 16
	mbrMagicOffset = 510
)

// A Partition is a range of a disk, in bytes.
type Partition struct{ Start, Size uint64 }

// End returns the first byte behind the partition.
func (p Partition) End() uint64 { return p.Start + p.Size }

// Table is the partitions of a CoBox disk: three that are always the same, and
// the data partition, which grows.
type Table struct{ Data Partition }

// Partition returns a partition by its number, from 1 to 4.
func (t *Table) Partition(n int) (Partition, bool) {
	switch n {
	case 1:
		return Partition{BootselStart, BootselSize}, true
	case 2, 3:
		return Partition{BootselStart + BootselSize + uint64(n-2)*SlotSize, SlotSize}, true
	case 4:
		return t.Data, true
	}
	return Partition{}, false
}

// NewTable returns the table for a disk of so many bytes, whose data partition
// takes all that is left, in whole MiB.
func NewTable(disk uint64) (*Table, error) {
	const maxSectors = 1<<32 - 1
	end := min(disk, maxSectors*SectorSize) &^ (1<<20 - 1)
	if end < ImageSize {
		return nil, fmt.Errorf("layout: the disk has %d MiB; at least %d are needed", disk>>20, ImageSize>>20)
	}
	return &Table{Data: Partition{DataStart, end - DataStart}}, nil
}

// AppendMBR appends the 512 bytes of the first sector:
//
//	offset  size  what
//	0       440   zero: the firmware needs no boot code
//	440     4     DiskID, little-endian
//	444     2     zero
//	446     64    four entries of 16 bytes:
//	              zero ‖ CHS fe ff ff ‖ type ‖ CHS fe ff ff ‖ first sector u32 ‖ sectors u32, little-endian
//	510     2     55 aa
func (t *Table) AppendMBR(b []byte) []byte {
	sector := make([]byte, SectorSize)
	binary.LittleEndian.PutUint32(sector[mbrIDOffset:], DiskID)
	for n := 1; n <= 4; n++ {
		p, _ := t.Partition(n)
		putMBREntry(sector[mbrTableOffset+(n-1)*mbrEntrySize:], mbrType(n), p)
	}
	sector[mbrMagicOffset], sector[mbrMagicOffset+1] = 0x55, 0xaa
	return append(b, sector...)
}

// putMBREntry writes one entry of a partition table.
func putMBREntry(e []byte, kind byte, p Partition) {
	copy(e[1:4], "\xfe\xff\xff")
	e[4] = kind
	copy(e[5:8], "\xfe\xff\xff")
	binary.LittleEndian.PutUint32(e[8:], uint32(p.Start/SectorSize))
	binary.LittleEndian.PutUint32(e[12:], uint32(p.Size/SectorSize))
}

func mbrType(n int) byte {
	if n == 4 {
		return typeLinux
	}
	return typeFAT32
}

// ErrForeignDisk says that a disk's first sector is not that of a CoBox disk.
var ErrForeignDisk = errors.New("layout: not a CoBox disk")

// ParseMBR reads the first sector of a disk. It accepts only what AppendMBR
// writes, so that a disk that somebody has partitioned anew is not taken for
// ours.
func ParseMBR(sector []byte) (*Table, error) {
	if len(sector) != SectorSize {
		return nil, fmt.Errorf("%w: a sector of %d bytes", ErrForeignDisk, len(sector))
	}
	e := sector[mbrTableOffset+3*mbrEntrySize:]
	t := &Table{Data: Partition{
		Start: uint64(binary.LittleEndian.Uint32(e[8:])) * SectorSize,
		Size:  uint64(binary.LittleEndian.Uint32(e[12:])) * SectorSize,
	}}
	if t.Data.Start != DataStart || t.Data.Size < TemplateSize || string(t.AppendMBR(nil)) != string(sector) {
		return nil, ErrForeignDisk
	}
	return t, nil
}
