// Package fat32 makes FAT32 file systems from a list of files and reads them:
// [Make] for the boot selection and the slots of a box's disk, [Read] for what is
// in one. What Make makes depends on its arguments only (Microsoft's FAT
// specification, version 1.03).
//
// It is written here because the libraries that can make one leave something for
// fsck to repair: a wrong ".." or a cluster for an empty file.
package fat32

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// File is a file of a FAT32 file system. Its path has slashes and does not begin
// with one.
type File struct {
	Path string
	Data []byte
}

// Make returns the size bytes of a file system that holds the files and nothing
// else. Every file and directory bears the time made, every file lies in one
// piece, and names are printable ASCII.
func Make(size int64, label string, made time.Time, files []File) ([]byte, error) {
	b, err := makeAll(size, label, made, files)
	if err != nil {
		return nil, fmt.Errorf("fat32: making %s: %w", label, err)
	}
	return b, nil
}

func makeAll(size int64, label string, made time.Time, files []File) ([]byte, error) {
	stamp, err := stampOf(made)
	if err != nil {
		return nil, err
	}
	if len(label) == 0 || len(label) > 11 {
		return nil, fmt.Errorf("a label of %d bytes", len(label))
	}
	g, err := geometryOf(size)
	if err != nil {
		return nil, err
	}
	root, err := treeOf(files)
	if err != nil {
		return nil, err
	}
	w := &writer{geometry: g, label: fmt.Sprintf("%-11s", label), stamp: stamp, b: make([]byte, size), next: firstCluster}
	if err := w.directory(root, 0); err != nil {
		return nil, err
	}
	w.table()
	w.bootSectors()
	return w.b, nil
}

const (
	reservedSectors = 32 // as mkfs.fat has it; the last ones are not used
	fatCopies       = 2
	firstCluster    = 2
	leastClusters   = 65525 // with fewer it would be FAT16
	endOfChain      = 0x0fffffff
	entrySize       = 32
)

// geometry is how a file system of some size is divided.
type geometry struct {
	sectors    uint32 // in all
	perCluster uint32 // sectors
	perFAT     uint32 // sectors
	clusters   uint32
}

// geometryOf takes the largest clusters with which it is still FAT32: the
// firmware has fewer to follow.
func geometryOf(size int64) (geometry, error) {
	if size <= 0 || size%sectorSize != 0 || size > 1<<31 {
		return geometry{}, fmt.Errorf("no file system has %d bytes", size)
	}
	best := geometry{}
	for per := uint32(1); per <= 64; per *= 2 {
		g := geometry{sectors: uint32(size / sectorSize), perCluster: per}
		if g.sectors <= reservedSectors {
			break
		}
		// A sector of each table has 128 entries. Rounding up is at most a few
		// sectors too many.
		rest := g.sectors - reservedSectors
		g.perFAT = (rest/per+firstCluster)/(sectorSize/4) + 1
		if rest <= fatCopies*g.perFAT {
			break
		}
		g.clusters = (rest - fatCopies*g.perFAT) / per
		if g.clusters >= leastClusters {
			best = g
		}
	}
	if best.clusters == 0 {
		return geometry{}, fmt.Errorf("%d bytes are too few for FAT32", size)
	}
	return best, nil
}

// clusterSize is in bytes.
func (g geometry) clusterSize() uint32 { return g.perCluster * sectorSize }

// offset returns the first byte of a cluster.
func (g geometry) offset(cluster uint32) uint32 {
	return (reservedSectors+fatCopies*g.perFAT)*sectorSize + (cluster-firstCluster)*g.clusterSize()
}

// node is a file or a directory, by its own name.
type node struct {
	name  string
	data  []byte
	isDir bool
	below []*node // sorted
}

// treeOf sorts files into directories.
func treeOf(files []File) (*node, error) {
	root := &node{isDir: true}
	for _, f := range slices.SortedFunc(slices.Values(files), func(a, b File) int { return strings.Compare(a.Path, b.Path) }) {
		if !fs.ValidPath(f.Path) || f.Path == "." {
			return nil, fmt.Errorf("%q is no path of a file", f.Path)
		}
		at := root
		parts := strings.Split(f.Path, "/")
		for i, name := range parts {
			if err := checkName(name); err != nil {
				return nil, fmt.Errorf("%q: %w", f.Path, err)
			}
			last := i == len(parts)-1
			n := slices.IndexFunc(at.below, func(n *node) bool { return strings.EqualFold(n.name, name) })
			switch {
			case n < 0:
				at.below = append(at.below, &node{name: name, isDir: !last})
				n = len(at.below) - 1
			case last || !at.below[n].isDir || at.below[n].name != name:
				return nil, fmt.Errorf("%q: the name is there twice", f.Path)
			}
			at = at.below[n]
		}
		at.data = f.Data
	}
	return root, nil
}

// writer fills a file system from the first cluster to the last.
type writer struct {
	geometry
	label string
	stamp stamp
	b     []byte
	next  uint32   // the first free cluster
	ends  []uint32 // the last cluster of each chain, ascending
}

// allocate takes clusters for so many bytes, in one piece.
func (w *writer) allocate(bytes uint32) (first uint32, err error) {
	n := (bytes + w.clusterSize() - 1) / w.clusterSize()
	if n == 0 {
		return 0, nil
	}
	if w.next-firstCluster+n > w.clusters {
		return 0, errors.New("the files do not fit")
	}
	first = w.next
	w.next += n
	w.ends = append(w.ends, w.next-1)
	return first, nil
}

// directory writes a directory with all below it. Parent is the first cluster of
// the one above, 0 for the root directory as the specification wants it.
func (w *writer) directory(dir *node, parent uint32) error {
	_, err := w.directoryAt(dir, parent, true)
	return err
}

func (w *writer) directoryAt(dir *node, parent uint32, isRoot bool) (uint32, error) {
	names := newShortNames()
	heads := make([][]byte, len(dir.below)) // the entries, their clusters still missing
	length := entrySize                     // the label, or the two dots
	if !isRoot {
		length += entrySize
	}
	for i, n := range dir.below {
		var err error
		if heads[i], err = names.entries(n, w.stamp); err != nil {
			return 0, err
		}
		length += len(heads[i])
	}
	first, err := w.allocate(uint32(length))
	if err != nil {
		return 0, err
	}
	self := first
	if isRoot {
		self = 0
	}
	var entries []byte
	if isRoot {
		entries = append(entries, w.stamp.entry(w.label, attrLabel, 0)...)
	} else {
		entries = append(entries, withCluster(w.stamp.entry(".          ", attrDirectory, 0), first)...)
		entries = append(entries, withCluster(w.stamp.entry("..         ", attrDirectory, 0), parent)...)
	}
	for i, n := range dir.below {
		cluster := uint32(0)
		if n.isDir {
			cluster, err = w.directoryAt(n, self, false)
		} else if uint64(len(n.data)) > uint64(len(w.b)) {
			err = errors.New("the files do not fit")
		} else if cluster, err = w.allocate(uint32(len(n.data))); err == nil && cluster != 0 {
			copy(w.b[w.offset(cluster):], n.data)
		}
		if err != nil {
			return 0, fmt.Errorf("%s: %w", n.name, err)
		}
		head := heads[i]
		withCluster(head[len(head)-entrySize:], cluster)
		entries = append(entries, head...)
	}
	copy(w.b[w.offset(first):], entries)
	return first, nil
}

// table writes both copies of the file allocation table.
func (w *writer) table() {
	fat := w.b[reservedSectors*sectorSize:][:w.perFAT*sectorSize]
	binary.LittleEndian.PutUint32(fat, 0x0ffffff8)
	binary.LittleEndian.PutUint32(fat[4:], endOfChain)
	ends := w.ends
	for c := uint32(firstCluster); c < w.next; c++ {
		follower := c + 1
		if c == ends[0] {
			follower, ends = endOfChain, ends[1:]
		}
		binary.LittleEndian.PutUint32(fat[4*c:], follower)
	}
	copy(w.b[(reservedSectors+w.perFAT)*sectorSize:], fat)
}

// bootSectors writes the first sector, the one with the free clusters, and the
// copies of both.
func (w *writer) bootSectors() {
	s := make([]byte, 2*sectorSize)
	copy(s, "\xeb\x58\x90COBOX   ")
	le := binary.LittleEndian
	le.PutUint16(s[11:], sectorSize)
	s[13] = byte(w.perCluster)
	le.PutUint16(s[14:], reservedSectors)
	s[16] = fatCopies
	s[21] = 0xf8              // a disk that stays
	le.PutUint16(s[24:], 63)  // sectors of a track, which nobody asks for any more
	le.PutUint16(s[26:], 255) // heads, the same
	le.PutUint32(s[32:], w.sectors)
	le.PutUint32(s[36:], w.perFAT)
	le.PutUint32(s[44:], firstCluster)
	le.PutUint16(s[48:], 1) // where the free clusters are told
	le.PutUint16(s[50:], 6) // where the copies are
	s[64] = 0x80
	s[66] = 0x29 // the next three are there
	le.PutUint32(s[67:], crc32.ChecksumIEEE([]byte(w.label)))
	copy(s[71:], w.label)
	copy(s[82:], "FAT32   ")
	copy(s[510:], "\x55\xaa")

	info := s[sectorSize:]
	copy(info, "RRaA")
	copy(info[484:], "rrAa")
	le.PutUint32(info[488:], w.clusters-(w.next-firstCluster))
	le.PutUint32(info[492:], w.next)
	copy(info[510:], "\x55\xaa")
	copy(w.b, s)
	copy(w.b[6*sectorSize:], s)
}

// Used returns how many bytes of a file system that Make has made matter: all
// that follow are free clusters, which may hold anything.
func Used(b []byte) (int64, error) {
	if len(b) < 2*sectorSize || string(b[510:512]) != "\x55\xaa" || string(b[sectorSize:sectorSize+4]) != "RRaA" || b[13] == 0 {
		return 0, errors.New("fat32: not a file system of ours")
	}
	le := binary.LittleEndian
	g := geometry{perCluster: uint32(b[13]), perFAT: le.Uint32(b[36:])}
	used := int64(g.offset(le.Uint32(b[sectorSize+492:])))
	if used > int64(len(b)) {
		return 0, errors.New("fat32: not a file system of ours")
	}
	return used, nil
}
