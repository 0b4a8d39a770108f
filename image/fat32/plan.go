package fat32

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// Volume is what a file system is, beside its files.
type Volume struct {
	Geometry
	Label  string    // 1 to 11 capitals, digits, "-" and "_"
	Serial uint32    // whatever tells it from others
	Before uint32    // sectors of the disk before it
	Made   time.Time // of every file and directory, in UTC
}

// Entry is a file that gets a place.
type Entry struct {
	Path string
	Size int64
}

// Plan is where everything of a file system lies.
//
// In the clusters lie, each in one piece and with nothing between them, the root
// directory, the other directories in the order in which the paths first name
// them, and the files in the order that they were given in. What is left of the
// last cluster of each is to be zero; all that follows the last is free.
type Plan struct {
	// Head is all that comes before the first file.
	Head []byte
	// Offsets are where the files begin, 0 for one that is empty.
	Offsets []int64
}

// Plan gives every file its place. It is ErrNoRoom if there is none.
func (v *Volume) Plan(files []Entry) (*Plan, error) {
	p, err := v.plan(files)
	if errors.Is(err, ErrNoRoom) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("fat32: making %s: %w", v.Label, err)
	}
	return p, nil
}

func (v *Volume) plan(files []Entry) (*Plan, error) {
	at, err := stampOf(v.Made)
	if err != nil {
		return nil, err
	}
	if !v.valid(int64(v.Sectors) * sectorSize) {
		return nil, fmt.Errorf("%+v is no FAT32", v.Geometry)
	}
	label, ok := labelOf(v.Label)
	if !ok {
		return nil, fmt.Errorf("%q is no label", v.Label)
	}
	dirs, err := treeOf(files)
	if err != nil {
		return nil, err
	}

	// Directories first, then the files.
	next := int64(firstCluster)
	for _, d := range dirs {
		d.cluster, d.clusters = uint32(next), v.clustersOf(int64(d.entries()*entrySize))
		next += d.clusters
	}
	head := v.offset(uint32(next))
	p := &Plan{Offsets: make([]int64, len(files))}
	first := make([]uint32, len(files))
	room := int64(v.clusters()) * v.clusterSize()
	for i, f := range files {
		if f.Size < 0 || f.Size > room {
			return nil, fmt.Errorf("%w: %s has %d bytes, there is room for %d", ErrNoRoom, f.Path, f.Size, room)
		}
		if n := v.clustersOf(f.Size); n > 0 {
			first[i], p.Offsets[i] = uint32(next), v.offset(uint32(next))
			next += n
		}
	}
	if need := (next - firstCluster) * v.clusterSize(); need > room {
		return nil, fmt.Errorf("%w: %d KiB are needed, there are %d", ErrNoRoom, need>>10, room>>10)
	}

	p.Head = make([]byte, head)
	boot, info := v.bootSector(label), v.infoSector(uint32(next))
	for _, base := range []int{0, backupSector} {
		copy(p.Head[base*sectorSize:], boot)
		copy(p.Head[(base+infoSector)*sectorSize:], info)
	}
	table := p.Head[v.table(0):v.table(1)]
	binary.LittleEndian.PutUint32(table, 0x0ffffff8)
	binary.LittleEndian.PutUint32(table[4:], endOfChain)
	for _, d := range dirs {
		chain(table, d.cluster, d.clusters)
		d.put(p.Head[v.offset(d.cluster):], label, at, files, first)
	}
	for i, f := range files {
		chain(table, first[i], v.clustersOf(f.Size))
	}
	copy(p.Head[v.table(1):], table)
	return p, nil
}

// directory is a directory of a file system.
type directory struct {
	parent   *directory // nil for the root
	names    []string
	dirs     map[string]*directory
	files    map[string]int // numbers of files
	folded   map[string]bool
	cluster  uint32
	clusters int64
}

// treeOf returns the directories, the root first, each after its parent.
func treeOf(files []Entry) ([]*directory, error) {
	newDirectory := func(parent *directory) *directory {
		return &directory{parent: parent, dirs: map[string]*directory{}, files: map[string]int{}, folded: map[string]bool{}}
	}
	all := []*directory{newDirectory(nil)}
	for i, f := range files {
		if !fs.ValidPath(f.Path) || f.Path == "." {
			return nil, fmt.Errorf("%q is no path of a file", f.Path)
		}
		d, path := all[0], f.Path
		for more := true; more; {
			var name string
			name, path, more = strings.Cut(path, "/")
			below := d.dirs[name]
			if below == nil {
				if err := checkName(name); err != nil {
					return nil, fmt.Errorf("%q: %w", f.Path, err)
				}
			}
			folded := strings.ToLower(name)
			switch {
			case more && below != nil:
			case d.folded[folded]: // FAT does not tell case apart
				return nil, fmt.Errorf("%q: the name is there twice", f.Path)
			case more:
				below = newDirectory(d)
				d.dirs[name] = below
				all = append(all, below)
				d.names, d.folded[folded] = append(d.names, name), true
			default:
				d.files[name] = i
				d.names, d.folded[folded] = append(d.names, name), true
			}
			d = below
		}
	}
	return all, nil
}

// chain links the clusters of something that lies in one piece.
func chain(table []byte, first uint32, n int64) {
	for i := range uint32(n) {
		next := first + i + 1
		if int64(i) == n-1 {
			next = endOfChain
		}
		binary.LittleEndian.PutUint32(table[4*(first+i):], next)
	}
}

// bootSector returns sector 0:
//
//	offset size  what, little-endian
//	     0    3  jump: eb 58 90
//	     3    8  "MSWIN4.1", which some readers ask for
//	    11    2  512, bytes of a sector
//	    13    1  sectors of a cluster
//	    14    2  sectors before the allocation table
//	    16    1  2, allocation tables
//	    21    1  f8, a disk
//	    24    2  63 and 26: 255, a geometry that nobody uses
//	    28    4  sectors before the partition
//	    32    4  sectors
//	    36    4  sectors of an allocation table
//	    44    4  2, cluster of the root directory
//	    48    2  1, sector of the free count
//	    50    2  6, sector of the copy
//	    64    1  80, the first disk
//	    66    1  29: what follows is there
//	    67    4  serial number
//	    71   11  label
//	    82    8  "FAT32   "
//	   510    2  55 aa
func (v *Volume) bootSector(label [11]byte) []byte {
	b := make([]byte, sectorSize)
	le := binary.LittleEndian
	copy(b, "\xeb\x58\x90MSWIN4.1")
	le.PutUint16(b[11:], sectorSize)
	b[13] = byte(v.PerCluster)
	le.PutUint16(b[14:], uint16(v.Reserved))
	b[16] = fatCopies
	b[21] = 0xf8
	le.PutUint16(b[24:], 63)
	le.PutUint16(b[26:], 255)
	le.PutUint32(b[28:], v.Before)
	le.PutUint32(b[32:], v.Sectors)
	le.PutUint32(b[36:], v.PerTable)
	le.PutUint32(b[44:], firstCluster)
	le.PutUint16(b[48:], infoSector)
	le.PutUint16(b[50:], backupSector)
	b[64] = 0x80
	b[66] = 0x29
	le.PutUint32(b[67:], v.Serial)
	copy(b[71:], label[:])
	copy(b[82:], "FAT32   ")
	b[510], b[511] = 0x55, 0xaa
	return b
}

// infoSector returns the sector with the number of free clusters and the first
// of them.
func (v *Volume) infoSector(next uint32) []byte {
	b := make([]byte, sectorSize)
	copy(b, "RRaA")
	copy(b[484:], "rrAa")
	last := firstCluster + v.clusters() - 1
	binary.LittleEndian.PutUint32(b[488:], last+1-next)
	binary.LittleEndian.PutUint32(b[492:], min(next, last))
	b[510], b[511] = 0x55, 0xaa
	return b
}
