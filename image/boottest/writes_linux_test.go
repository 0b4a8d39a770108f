package boottest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
)

// write is something that a machine has done to its disk: written bytes, or
// made sure that all before is on the medium.
type write struct {
	at    int64
	data  []byte
	flush bool
}

func (w write) end() int64 { return w.at + int64(len(w.data)) }

// touches tells whether some bytes lie between two offsets.
func (w write) touches(from, to uint64) bool {
	return len(w.data) > 0 && uint64(w.at) < to && uint64(w.end()) > from
}

// readWrites reads the logs of a disk's writes, one after another.
func readWrites(t testing.TB, paths []string) []write {
	t.Helper()
	var all []write
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		ws, err := parseWrites(bufio.NewReaderSize(f, 1<<20))
		f.Close()
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, ws...)
	}
	return all
}

// Flags of an entry.
const (
	writeFlush   = 1 << 0 // before the write, if there are bytes
	writeThrough = 1 << 1 // these bytes are on the medium when the write is done
	writeDiscard = 1 << 2
)

// parseWrites reads what QEMU's driver blklogwrites has logged, in the format of
// the kernel's dm-log-writes: sectors of 512 bytes, all numbers u64 and
// little-endian.
//
//	first sector  magic "shrwsgj" as a number, version 1, entries, sector size u32
//	each entry    a sector: first sector, sectors, flags, length of a mark;
//	              then the data, which a discard has not
//
// The number of entries in the first sector is brought up to date only now and
// then, so the log ends where the file does. A killed QEMU may leave an entry
// half written; the disk does not have it then.
func parseWrites(r io.Reader) ([]write, error) {
	const sectorSize = 512
	sector := make([]byte, sectorSize)
	if _, err := io.ReadFull(r, sector); err != nil {
		return nil, fmt.Errorf("first sector: %w", err)
	}
	u64 := func(off int) uint64 { return binary.LittleEndian.Uint64(sector[off:]) }
	if u64(0) != 0x6a736677736872 || u64(8) != 1 || binary.LittleEndian.Uint32(sector[24:]) != sectorSize {
		return nil, errors.New("not a log of writes")
	}
	var ws []write
	for {
		_, err := io.ReadFull(r, sector)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return ws, nil
		}
		if err != nil {
			return nil, err
		}
		first, count, flags := u64(0), u64(8), u64(16)
		if first > 1<<32 || count > 1<<21 || flags&^(writeFlush|writeThrough|writeDiscard) != 0 || u64(24) != 0 {
			return nil, fmt.Errorf("entry %d makes no sense: %x", len(ws), sector[:32])
		}
		if count == 0 && flags&writeFlush == 0 {
			return ws, nil // a hole, where an entry was to come
		}
		if flags&writeFlush != 0 {
			ws = append(ws, write{flush: true})
		}
		if flags&writeDiscard != 0 || count == 0 {
			continue // QEMU keeps what is discarded unless it is told otherwise
		}
		data := make([]byte, count*sectorSize)
		if _, err := io.ReadFull(r, data); err == io.EOF || err == io.ErrUnexpectedEOF {
			return ws, nil
		} else if err != nil {
			return nil, err
		}
		ws = append(ws, write{at: int64(first * sectorSize), data: data})
		if flags&writeThrough != 0 {
			ws = append(ws, write{flush: true})
		}
	}
}

// apply does what was done to a disk to another.
func apply(t testing.TB, disk io.WriterAt, ws []write) {
	t.Helper()
	for _, w := range ws {
		if _, err := disk.WriteAt(w.data, w.at); err != nil {
			t.Fatal(err)
		}
	}
}

// with is a disk as it is with one write more.
type with struct {
	io.ReaderAt
	more write
}

func (d with) ReadAt(b []byte, off int64) (int, error) {
	n, err := d.ReaderAt.ReadAt(b, off)
	from, to := max(off, d.more.at), min(off+int64(n), d.more.end())
	if from < to {
		copy(b[from-off:to-off], d.more.data[from-d.more.at:])
	}
	return n, err
}
