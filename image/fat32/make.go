package fat32

import (
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"time"
)

// reserved is what Make leaves before the allocation tables, as mkfs.fat does;
// the last sectors are not used.
const reserved = 32

// Make returns the size bytes of a file system that holds the files and nothing
// else. Every file and directory bears the time made, and names are printable
// ASCII. The order of the files does not matter.
func Make(size int64, label string, made time.Time, files []File) ([]byte, error) {
	g, err := geometryOf(size)
	if err != nil {
		return nil, fmt.Errorf("fat32: making %s: %w", label, err)
	}
	files = slices.SortedFunc(slices.Values(files), func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	entries := make([]Entry, len(files))
	for i, f := range files {
		entries[i] = Entry{f.Path, int64(len(f.Data))}
	}
	v := &Volume{Geometry: g, Label: label, Serial: crc32.ChecksumIEEE([]byte(label)), Made: made}
	p, err := v.Plan(entries)
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	copy(b, p.Head)
	for i, f := range files {
		if len(f.Data) > 0 {
			copy(b[p.Offsets[i]:], f.Data)
		}
	}
	return b, nil
}

// geometryOf takes the largest clusters with which it is still FAT32: the
// firmware has fewer to follow.
func geometryOf(size int64) (best Geometry, err error) {
	if size <= 0 || size%sectorSize != 0 || size > 1<<31 {
		return best, fmt.Errorf("no file system has %d bytes", size)
	}
	for per := uint32(1); per <= 64; per *= 2 {
		g := Geometry{Sectors: uint32(size / sectorSize), PerCluster: per, Reserved: reserved}
		if g.Sectors <= reserved {
			break
		}
		// A sector of each table has 128 entries. Rounding up is at most a few
		// sectors too many.
		g.PerTable = ((g.Sectors-reserved)/per+firstCluster)/(sectorSize/4) + 1
		if g.valid(size) {
			best = g
		}
	}
	if best.PerCluster == 0 {
		return best, fmt.Errorf("%d bytes are too few for FAT32", size)
	}
	return best, nil
}
