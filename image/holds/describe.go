package holds

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxNamed is how many partitions are named.
const maxNamed = 4

// describe names what is on a disk that is neither blank nor CoBox's.
func describe(r io.ReaderAt, size int64) string {
	d := area{r, 0, size}
	// What fills the whole disk comes first: FAT looks much like a table.
	if what := d.fileSystem(); what != "" {
		return what
	}
	kind, parts := d.partitions()
	if kind == "" {
		return "something that is not known here, or the rest of it"
	}
	if len(parts) == 0 {
		return "partitions (" + kind + ")"
	}
	var named []string
	for _, p := range parts[:min(len(parts), maxNamed)] {
		what := p.fileSystem()
		if what == "" {
			what = "something that is not known here"
		}
		named = append(named, what)
	}
	text := fmt.Sprintf("partitions (%s): %s", kind, strings.Join(named, ", "))
	if n := len(parts) - maxNamed; n > 0 {
		text += fmt.Sprintf(", and %d more", n)
	}
	return text
}

// area is a disk or a partition.
type area struct {
	r           io.ReaderAt
	start, size int64
}

// bytes returns n bytes at an offset, or zeros if they are not there: what cannot
// be read has no magic number.
func (a area) bytes(off int64, n int) []byte {
	b := make([]byte, n)
	if off < 0 || off > a.size-int64(n) {
		return b
	}
	if got, _ := a.r.ReadAt(b, a.start+off); got != n {
		clear(b)
	}
	return b
}

func (a area) has(off int64, magic string) bool {
	return string(a.bytes(off, len(magic))) == magic
}

// A format is recognised by a magic number.
type format struct {
	name  string
	at    int64
	magic string
	// label is where the name of the file system lies, if it has one there.
	label, size int
}

// formats are those whose magic number says all. The order counts: the first
// that fits is named.
var formats = []format{
	{"a LUKS encrypted volume", 0, "LUKS\xba\xbe", 0, 0},
	{"a BitLocker encrypted volume", 3, "-FVE-FS-", 0, 0},
	{"a file system exFAT", 3, "EXFAT   ", 0, 0},
	{"a file system NTFS", 3, "NTFS    ", 0, 0},
	{"a file system XFS", 0, "XFSB", 108, 12},
	{"a file system btrfs", 0x10040, "_BHRfS_M", 0x1012b, 256},
	{"a file system F2FS", 1024, "\x10\x20\xf5\xf2", 0, 0},
	{"a file system APFS", 32, "NXSB", 0, 0},
	{"a file system HFS+", 1024, "H+\x00\x04", 0, 0},
	{"a file system HFSX", 1024, "HX\x00\x05", 0, 0},
	{"a file system squashfs", 0, "hsqs", 0, 0},
	{"a disc image ISO 9660", 0x8001, "CD001", 0x8028, 32},
	{"swap space", 4096 - 10, "SWAPSPACE2", 0, 0},
	{"a part of a RAID (md)", 0, "\xfc\x4e\x2b\xa9", 0, 0},
	{"a part of a RAID (md)", 4096, "\xfc\x4e\x2b\xa9", 0, 0},
	{"a file system FAT32", 0x52, "FAT32   ", 0x47, 11},
	{"a file system FAT16", 0x36, "FAT16   ", 0x2b, 11},
	{"a file system FAT12", 0x36, "FAT12   ", 0x2b, 11},
}

// fileSystem names what begins here; "" if nothing is known.
func (a area) fileSystem() string {
	for _, f := range formats {
		if a.has(f.at, f.magic) {
			return f.name + named(a.bytes(int64(f.label), f.size))
		}
	}
	for _, probe := range []func() string{a.ext, a.lvm, a.zfs, a.raidAtEnd} {
		if what := probe(); what != "" {
			return what
		}
	}
	return ""
}

// ext tells the three of the family apart by their features.
func (a area) ext() string {
	b := a.bytes(1024, 1024)
	if binary.LittleEndian.Uint16(b[0x38:]) != 0xef53 {
		return ""
	}
	const journal, extents, metadataSums = 0x4, 0x40, 0x400
	kind := "ext2"
	if binary.LittleEndian.Uint32(b[0x5c:])&journal != 0 {
		kind = "ext3"
	}
	if binary.LittleEndian.Uint32(b[0x60:])&extents != 0 || binary.LittleEndian.Uint32(b[0x64:])&metadataSums != 0 {
		kind = "ext4"
	}
	return "a file system " + kind + named(b[0x78:0x88])
}

// lvm looks at the four sectors that the label may be in.
func (a area) lvm() string {
	for sector := range int64(4) {
		if a.has(sector*512, "LABELONE") && a.has(sector*512+24, "LVM2 001") {
			return "a part of an LVM volume group"
		}
	}
	return ""
}

// zfs looks at the ring of the first label, whose entries are of 1 KiB or more.
func (a area) zfs() string {
	b := a.bytes(128<<10, 128<<10)
	for ; len(b) > 0; b = b[1024:] {
		if binary.LittleEndian.Uint64(b) == 0x00bab10c || binary.BigEndian.Uint64(b) == 0x00bab10c {
			return "a part of a ZFS pool"
		}
	}
	return ""
}

// raidAtEnd finds the two kinds that keep their description at the end.
func (a area) raidAtEnd() string {
	const magic = "\xfc\x4e\x2b\xa9"
	if a.has((a.size-8<<10)&^(4<<10-1), magic) || a.has(a.size&^(64<<10-1)-64<<10, magic) {
		return "a part of a RAID (md)"
	}
	return ""
}

// partitions lists those of a table; kind is "" if there is none.
func (a area) partitions() (kind string, list []area) {
	for _, sector := range []int64{512, 4096} {
		if a.has(sector, "EFI PART") {
			return "GPT", a.gpt(sector, sector)
		}
		if last := a.size - sector; a.has(last, "EFI PART") {
			return "GPT", a.gpt(sector, last)
		}
	}
	b := a.bytes(0, 512)
	if b[510] != 0x55 || b[511] != 0xaa {
		return "", nil
	}
	for n := range 4 {
		e := b[446+16*n:][:16]
		if e[0]&0x7f != 0 {
			return "", nil // no table, but something that one starts from
		}
		start := int64(binary.LittleEndian.Uint32(e[8:])) * 512
		size := int64(binary.LittleEndian.Uint32(e[12:])) * 512
		if e[4] != 0 && size > 0 {
			list = append(list, a.part(start, size))
		}
	}
	return "MBR", list
}

// gpt reads the entries of a header, as many as are worth naming.
func (a area) gpt(sector, header int64) (list []area) {
	const maxEntries = 128
	h := a.bytes(header, 92)
	first := binary.LittleEndian.Uint64(h[72:])
	count := min(binary.LittleEndian.Uint32(h[80:]), maxEntries)
	size := int64(binary.LittleEndian.Uint32(h[84:]))
	if size < 128 || size > 4096 || first > uint64(a.size/sector) {
		return nil
	}
	for n := range int64(count) {
		e := a.bytes(int64(first)*sector+n*size, 128)
		from, to := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
		if string(e[:16]) == string(make([]byte, 16)) || from > to || to > uint64(a.size/sector) {
			continue
		}
		list = append(list, a.part(int64(from)*sector, int64(to-from+1)*sector))
	}
	return list
}

// part is a part of an area, as far as it lies in it.
func (a area) part(start, size int64) area {
	if start < 0 || start > a.size {
		return area{a.r, a.start, 0}
	}
	return area{a.r, a.start + start, max(0, min(size, a.size-start))}
}

// named writes the name of a file system behind its kind. It is somebody's text:
// what does not print is left out.
func named(label []byte) string {
	text, _, _ := strings.Cut(string(label), "\x00")
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	if text = strings.TrimSpace(text); text == "" || text == "NO NAME" {
		return ""
	}
	return fmt.Sprintf(" named %q", text)
}
