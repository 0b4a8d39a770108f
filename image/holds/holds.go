// Package holds says what is on a disk, by reading some of it. A box takes a disk
// for its data only if it is blank or CoBox's own, and tells people what it has
// found on any other. Nothing here writes.
//
// Start at [Look]. A disk is blank if all of these bytes are zero:
//
//   - the first 16 MiB, where every partition table and file system begins, and
//     those of a first partition at the usual 1 MiB,
//   - the last 1 MiB, where GPT, RAID and ZFS keep their copies,
//   - [Samples] blocks of 4 KiB, spread evenly over the rest.
//
// That is no proof: what lies only between the samples is not seen. No file
// system, no partition table and no disk image looks so, for each has something
// in the first part; and a disk of which somebody has overwritten only the
// beginning has something at a sample, unless all of it is smaller than the
// distance between two. Such a disk must not be given to a box.
//
// What is found is named by the magic numbers of its format, for people only: no
// decision rests on them, so a format that is not known here is as foreign as one
// that is.
package holds

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"cobox/image/layout"
)

// Kind is what a disk is to a box.
type Kind uint8

// The kinds.
const (
	Foreign Kind = iota // it holds something that is not CoBox's
	Blank               // it holds nothing
	Data                // it is a box's data disk
	System              // a box starts from it
)

// Contents is what Look has found.
type Contents struct {
	Kind  Kind
	Found string           // for people: "a file system ext4 named \"PHOTOS\""; "" if Blank
	Disk  *layout.DataDisk // of a data disk
}

const (
	head   = 16 << 20 // bytes that are read at the beginning,
	tail   = 1 << 20  // at the end,
	sample = 4 << 10  // and at each sample
)

// Samples is how many blocks are looked at between beginning and end.
const Samples = 512

// Look reads a disk of so many bytes. An error means that it cannot be read: then
// nothing is known of it.
func Look(r io.ReaderAt, size int64) (*Contents, error) {
	first := make([]byte, min(layout.SectorSize, max(size, 0)))
	if err := readAt(r, first, 0); err != nil {
		return nil, err
	}
	if d, err := layout.ParseDataDisk(first); err == nil {
		return &Contents{Kind: Data, Found: "data of a CoBox", Disk: d}, nil
	}
	if _, err := layout.ParseMBR(first); err == nil {
		return &Contents{Kind: System, Found: "a CoBox that a box can start from"}, nil
	}
	blank, err := isBlank(r, size)
	if err != nil {
		return nil, err
	}
	if blank {
		return &Contents{Kind: Blank}, nil
	}
	return &Contents{Kind: Foreign, Found: describe(r, size)}, nil
}

func isBlank(r io.ReaderAt, size int64) (bool, error) {
	buf := make([]byte, 1<<20)
	for off := int64(0); off < min(head, size); off += int64(len(buf)) {
		if zero, err := isZero(r, buf, off, size); !zero {
			return false, err
		}
	}
	if size <= head {
		return true, nil
	}
	if zero, err := isZero(r, buf, max(head, size-tail), size); !zero {
		return false, err
	}
	if rest := size - head - tail; rest > 0 {
		step := max(sample, rest/Samples) &^ (sample - 1)
		for off := int64(head); off < size-tail; off += step {
			if zero, err := isZero(r, buf[:sample], off, size); !zero {
				return false, err
			}
		}
	}
	return true, nil
}

// isZero reads into b, as far as the disk goes.
func isZero(r io.ReaderAt, b []byte, off, size int64) (bool, error) {
	b = b[:min(int64(len(b)), size-off)]
	if err := readAt(r, b, off); err != nil {
		return false, err
	}
	return len(bytes.Trim(b, "\x00")) == 0, nil
}

func readAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("holds: reading at %d: %w", off, err)
}
