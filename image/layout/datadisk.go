package layout

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// DataDiskStart is where the one partition of a data disk begins.
const DataDiskStart = 1 << 20

// MinDataDisk is how large a data disk must be: room for the file system as it
// is made.
const MinDataDisk = DataDiskStart + TemplateSize

// DataDiskID names a data disk for as long as it exists. It is random.
type DataDiskID [16]byte

func (id DataDiskID) String() string { return fmt.Sprintf("%x", id[:]) }

// DataDisk is a disk that holds a box's data instead of the disk that the box
// starts from. Other systems see an MBR with one Linux partition.
type DataDisk struct {
	ID DataDiskID
	// Box is the static key of the box whose data it holds.
	Box [32]byte
	// Filled says that the disk has been taken into use, with all of the data. Until
	// then it may be filled anew.
	Filled bool
	Data   Partition
}

// ErrNoDataDisk says that a disk's first sector is not that of a data disk.
var ErrNoDataDisk = errors.New("layout: not a CoBox data disk")

const (
	dataDiskMagic  = "cobox/v1/datadisk\x00"
	dataDiskState  = len(dataDiskMagic)
	dataDiskID     = dataDiskState + 1
	dataDiskBox    = dataDiskID + 16
	dataDiskSum    = dataDiskBox + 32
	dataDiskSumEnd = dataDiskSum + sha256.Size
)

// NewDataDisk returns what a disk of so many bytes is to begin with. Its
// partition takes all that is left, in whole MiB.
func NewDataDisk(disk uint64, id DataDiskID, box [32]byte) (*DataDisk, error) {
	const maxSectors = 1<<32 - 1
	end := min(disk, maxSectors*SectorSize) &^ (1<<20 - 1)
	if end < MinDataDisk {
		return nil, fmt.Errorf("layout: the disk has %d MiB; at least %d are needed", disk>>20, MinDataDisk>>20)
	}
	return &DataDisk{ID: id, Box: box, Data: Partition{DataDiskStart, end - DataDiskStart}}, nil
}

// Append appends the 512 bytes of the first sector:
//
//	offset  size  what
//	0       18    "cobox/v1/datadisk" ‖ 0
//	18      1     1 if it has been taken into use, 0 while it is being filled
//	19      16    id
//	35      32    static key of the box
//	67      32    SHA-256 of the sector without these 32 bytes
//	99      341   zero
//	440     4     the first bytes of the id, so that no two disks have one signature
//	444     2     zero
//	446     16    the partition, as in a Table
//	462     48    zero
//	510     2     55 aa
func (d *DataDisk) Append(b []byte) []byte {
	sector := make([]byte, SectorSize)
	copy(sector, dataDiskMagic)
	if d.Filled {
		sector[dataDiskState] = 1
	}
	copy(sector[dataDiskID:], d.ID[:])
	copy(sector[dataDiskBox:], d.Box[:])
	copy(sector[mbrIDOffset:], d.ID[:4])
	putMBREntry(sector[mbrTableOffset:], typeLinux, d.Data)
	sector[mbrMagicOffset], sector[mbrMagicOffset+1] = 0x55, 0xaa
	sum := sha256.New()
	sum.Write(sector[:dataDiskSum])
	sum.Write(sector[dataDiskSumEnd:])
	sum.Sum(sector[:dataDiskSum])
	return append(b, sector...)
}

// ParseDataDisk reads the first sector of a disk. It accepts only what Append
// writes.
func ParseDataDisk(sector []byte) (*DataDisk, error) {
	if len(sector) != SectorSize || string(sector[:len(dataDiskMagic)]) != dataDiskMagic {
		return nil, ErrNoDataDisk
	}
	e := sector[mbrTableOffset:]
	d := &DataDisk{
		ID:     DataDiskID(sector[dataDiskID:]),
		Box:    [32]byte(sector[dataDiskBox:]),
		Filled: sector[dataDiskState] == 1,
		Data: Partition{
			Start: uint64(binary.LittleEndian.Uint32(e[8:])) * SectorSize,
			Size:  uint64(binary.LittleEndian.Uint32(e[12:])) * SectorSize,
		},
	}
	if d.Data.Start != DataDiskStart || d.Data.Size < TemplateSize || d.Data.Size%(1<<20) != 0 ||
		d.ID == (DataDiskID{}) || string(d.Append(nil)) != string(sector) {
		return nil, fmt.Errorf("%w: its header is damaged", ErrNoDataDisk)
	}
	return d, nil
}
