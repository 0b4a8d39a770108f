package slot

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// BlockDevice is a partition, or an image of one.
type BlockDevice struct{ *os.File }

// OpenBlockDevice opens a partition for writing; the kernel refuses it while it
// is mounted.
func OpenBlockDevice(path string) (*BlockDevice, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return nil, fmt.Errorf("slot: open the partition: %w", err)
	}
	return &BlockDevice{f}, nil
}

// Sync flushes what was written to the medium, and forgets it, so that it is
// read from there.
func (d *BlockDevice) Sync() error {
	if err := d.File.Sync(); err != nil {
		return err
	}
	return unix.Fadvise(int(d.Fd()), 0, 0, unix.FADV_DONTNEED)
}
