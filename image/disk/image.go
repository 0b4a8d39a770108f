package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"cobox/image/fat32"
	"cobox/image/layout"
)

// Contents is what the partitions of an image hold, each of exactly its
// partition's size.
type Contents struct {
	Bootsel []byte
	SlotA   []byte
	SlotB   []byte
	Data    []byte
}

// hole is the unit in which zeros are left out of a file.
const hole = 4096

// Write makes the file name with the image of layout.ImageSize bytes and syncs
// it. Where the image is zero the file has holes.
func Write(name string, perm os.FileMode, c *Contents) error {
	if err := write(name, perm, c); err != nil {
		return fmt.Errorf("disk: writing the image: %w", err)
	}
	return nil
}

func write(name string, perm os.FileMode, c *Contents) (err error) {
	table, err := layout.NewTable(layout.ImageSize)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(layout.ImageSize); err != nil {
		return err
	}
	if err := writeSparse(f, 0, table.AppendMBR(nil)); err != nil {
		return err
	}
	for i, b := range [][]byte{c.Bootsel, c.SlotA, c.SlotB, c.Data} {
		p, _ := table.Partition(i + 1)
		if uint64(len(b)) != p.Size {
			return fmt.Errorf("partition %d has %d bytes, want %d", i+1, len(b), p.Size)
		}
		if err := writeSparse(f, int64(p.Start), b); err != nil {
			return fmt.Errorf("partition %d: %w", i+1, err)
		}
	}
	return f.Sync()
}

// writeSparse writes what is not zero, into a file that is zero.
func writeSparse(w io.WriterAt, off int64, b []byte) error {
	zero := make([]byte, hole)
	for at := 0; at < len(b); {
		n := min(hole, len(b)-at)
		if bytes.Equal(b[at:at+n], zero[:n]) {
			at += n
			continue
		}
		end := at + n
		for end < len(b) && end-at < 1<<20 {
			n := min(hole, len(b)-end)
			if bytes.Equal(b[end:end+n], zero[:n]) {
				break
			}
			end += n
		}
		if _, err := w.WriteAt(b[at:end], off+int64(at)); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// Copy makes the file to with the bytes of the image from, which may be packed,
// with holes where they are zero, and syncs it.
func Copy(to string, perm os.FileMode, from string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("disk: copying the image: %w", err)
		}
	}()
	in, err := OpenSource(from)
	if err != nil {
		return err
	}
	defer in.Close()
	// A file that is there already may be readable for others.
	out, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Truncate(in.Size); err != nil {
		return err
	}
	b := make([]byte, 4<<20)
	for off := int64(0); off < in.Size; off += int64(len(b)) {
		n := min(int64(len(b)), in.Size-off)
		if _, err := io.ReadFull(in, b[:n]); err != nil {
			return err
		}
		if err := writeSparse(out, off, b[:n]); err != nil {
			return err
		}
	}
	// Only the end says that the image was whole.
	if _, err := in.Read(b); !errors.Is(err, io.EOF) {
		return err
	}
	return out.Sync()
}

// Table reads the partition table of an image or a disk. It fails with
// layout.ErrForeignDisk if that is not ours.
func Table(r io.ReaderAt) (*layout.Table, error) {
	sector := make([]byte, layout.SectorSize)
	if _, err := r.ReadAt(sector, 0); err != nil {
		return nil, fmt.Errorf("disk: reading the partition table: %w", err)
	}
	return layout.ParseMBR(sector)
}

// Partition returns the files of one of an image's FAT32 partitions, 1 to 3. The
// image may be packed.
func Partition(name string, n int) ([]fat32.File, error) {
	s, err := OpenSource(name)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	p, ok := s.table.Partition(n)
	if !ok || n == 4 {
		return nil, fmt.Errorf("disk: partition %d is no FAT32", n)
	}
	if !s.Packed {
		return fat32.Read(s.file, int64(p.Start), int64(p.Size))
	}
	if _, err := io.CopyN(io.Discard, s, int64(p.Start)); err != nil {
		return nil, err
	}
	b := make([]byte, p.Size)
	if _, err := io.ReadFull(s, b); err != nil {
		return nil, err
	}
	return fat32.Read(bytes.NewReader(b), 0, int64(p.Size))
}
