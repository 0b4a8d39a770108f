package slot

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"

	"cobox/image/bundle"
	"cobox/image/layout"
)

// The geometry of a slot's FAT32. Clusters of 1 KiB leave more than the 65,525
// that make a file system FAT32, and the data area starts at a multiple of 4 KiB.
const (
	sectors           = layout.SlotSize / layout.SectorSize
	sectorsPerCluster = 2
	clusterSize       = sectorsPerCluster * layout.SectorSize
	reservedSectors   = 36
	fatSectors        = 762
	fatSize           = fatSectors * layout.SectorSize
	dataOffset        = (reservedSectors + 2*fatSectors) * layout.SectorSize
	clusterCount      = (layout.SlotSize - dataOffset) / clusterSize
	firstCluster      = 2

	infoSector   = 1
	backupSector = 6 // of sectors 0 and 1
)

// extent is a file and where its bytes lie, which is always in one piece.
type extent struct {
	file    bundle.File
	offset  int64
	cluster uint32 // 0 if the file is empty
	content []byte // of the manifest and its signatures, else nil
}

// plan is every byte of a slot: the head, which is all that comes before the
// files, and the files.
type plan struct {
	head  []byte // sectors 0 to the end of the last directory
	files []extent
}

// directory is a directory of a slot.
type directory struct {
	parent  *directory // nil for the root
	names   []string
	dirs    map[string]*directory
	files   map[string]int // index in plan.files
	cluster uint32
	size    uint32 // in clusters
}

func newPlan(s layout.Slot, m *bundle.Manifest, sigs []bundle.Signature) (*plan, error) {
	text, err := m.Append(nil)
	if err != nil {
		return nil, err
	}
	p := new(plan)
	for _, f := range m.Files {
		p.files = append(p.files, extent{file: f})
	}
	p.add(layout.ManifestFile, text)
	if len(sigs) > 0 {
		p.add(layout.SignaturesFile, bundle.AppendSignatures(nil, sigs))
	}
	dirs := p.tree()

	// Directories first, then the files in their order.
	next := uint32(firstCluster)
	for _, d := range dirs {
		d.cluster, d.size = next, clusters(int64(d.entries()*entrySize))
		next += d.size
	}
	head := dataOffset + int(next-firstCluster)*clusterSize
	for i := range p.files {
		e := &p.files[i]
		if n := clusters(e.file.Size); n > 0 {
			// Both are far from 2^32: a manifest's files are at most a slot together.
			e.cluster, e.offset = next, dataOffset+int64(next-firstCluster)*clusterSize
			next += n
		}
	}
	if next-firstCluster > clusterCount {
		return nil, fmt.Errorf("%w: %d KiB are needed, there are %d", ErrNoRoom, (next-firstCluster)*clusterSize>>10, clusterCount*clusterSize>>10)
	}

	p.head = make([]byte, head)
	sum := sha256.Sum256(text)
	boot := bootSector(s, binary.LittleEndian.Uint32(sum[:]))
	info := infoSectorOf(clusterCount-(next-firstCluster), next)
	for _, base := range []int{0, backupSector} {
		copy(p.head[base*layout.SectorSize:], boot)
		copy(p.head[(base+infoSector)*layout.SectorSize:], info)
	}
	fat := p.head[reservedSectors*layout.SectorSize:][:fatSize]
	binary.LittleEndian.PutUint32(fat, 0x0ffffff8)
	binary.LittleEndian.PutUint32(fat[4:], 0x0fffffff)
	for _, d := range dirs {
		chain(fat, d.cluster, d.size)
		d.put(p.head[dataOffset+(d.cluster-firstCluster)*clusterSize:], s, p.files)
	}
	for _, e := range p.files {
		chain(fat, e.cluster, clusters(e.file.Size))
	}
	copy(p.head[(reservedSectors+fatSectors)*layout.SectorSize:], fat)
	return p, nil
}

// add adds a file whose bytes are known.
func (p *plan) add(name string, content []byte) {
	p.files = append(p.files, extent{
		file:    bundle.File{Path: name, Size: int64(len(content)), SHA256: sha256.Sum256(content)},
		content: content,
	})
}

// tree returns the directories, the root first, each after its parent.
func (p *plan) tree() []*directory {
	newDirectory := func(parent *directory) *directory {
		return &directory{parent: parent, dirs: map[string]*directory{}, files: map[string]int{}}
	}
	all := []*directory{newDirectory(nil)}
	for i, e := range p.files {
		d := all[0]
		path := e.file.Path
		for {
			name, rest, more := strings.Cut(path, "/")
			if !more {
				break
			}
			below := d.dirs[name]
			if below == nil {
				below = newDirectory(d)
				d.dirs[name] = below
				d.names = append(d.names, name)
				all = append(all, below)
			}
			d, path = below, rest
		}
		d.files[path] = i
		d.names = append(d.names, path)
	}
	return all
}

// clusters returns how many clusters so many bytes take.
func clusters(size int64) uint32 { return uint32((size + clusterSize - 1) / clusterSize) }

// chain links the clusters of something that lies in one piece.
func chain(fat []byte, first, n uint32) {
	for i := range n {
		next := first + i + 1
		if i == n-1 {
			next = 0x0fffffff // the last
		}
		binary.LittleEndian.PutUint32(fat[4*(first+i):], next)
	}
}

// bootSector returns sector 0:
//
//	offset size  what, little-endian
//	     0    3  eb 58 90
//	     3    8  "MSWIN4.1", which old drivers look for
//	    11    2  bytes a sector
//	    13    1  sectors a cluster
//	    14    2  reserved sectors
//	    16    1  2 allocation tables
//	    21    1  f8, a disk
//	    24    2  63 sectors a track, 255 heads (26, 2): not used
//	    28    4  first sector of the partition
//	    32    4  sectors
//	    36    4  sectors of an allocation table
//	    44    4  cluster of the root directory
//	    48    2  sector of the free count
//	    50    2  sector of the copy
//	    64    1  80, the first disk
//	    66    1  29: what follows is there
//	    67    4  serial number: the first 4 bytes of the manifest's SHA-256
//	    71   11  label
//	    82    8  "FAT32   "
//	   510    2  55 aa
func bootSector(s layout.Slot, serial uint32) []byte {
	b := make([]byte, layout.SectorSize)
	le := binary.LittleEndian
	partition, _ := new(layout.Table).Partition(s.Partition())
	copy(b, "\xeb\x58\x90MSWIN4.1")
	le.PutUint16(b[11:], layout.SectorSize)
	b[13] = sectorsPerCluster
	le.PutUint16(b[14:], reservedSectors)
	b[16] = 2
	b[21] = 0xf8
	le.PutUint16(b[24:], 63)
	le.PutUint16(b[26:], 255)
	le.PutUint32(b[28:], uint32(partition.Start/layout.SectorSize))
	le.PutUint32(b[32:], sectors)
	le.PutUint32(b[36:], fatSectors)
	le.PutUint32(b[44:], firstCluster)
	le.PutUint16(b[48:], infoSector)
	le.PutUint16(b[50:], backupSector)
	b[64] = 0x80
	b[66] = 0x29
	le.PutUint32(b[67:], serial)
	label := labelOf(s)
	copy(b[71:], label[:])
	copy(b[82:], "FAT32   ")
	b[510], b[511] = 0x55, 0xaa
	return b
}

// infoSectorOf returns the sector with the free clusters and the first of them.
func infoSectorOf(free, next uint32) []byte {
	b := make([]byte, layout.SectorSize)
	copy(b, "RRaA")
	copy(b[484:], "rrAa")
	binary.LittleEndian.PutUint32(b[488:], free)
	binary.LittleEndian.PutUint32(b[492:], min(next, firstCluster+clusterCount-1))
	b[510], b[511] = 0x55, 0xaa
	return b
}

func labelOf(s layout.Slot) (label [11]byte) {
	copy(label[:], fmt.Sprintf("%-11s", s.Label()))
	return label
}
