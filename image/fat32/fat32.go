// Package fat32 makes FAT32 file systems from a list of files, and reads them
// (Microsoft's FAT specification, version 1.03).
//
// [Volume.Plan] says where everything of a file system lies and makes all that
// comes before the first file, so that a box can write a slot from a stream;
// [Make] makes a small one whole. What they make depends on their arguments
// only. [Read] returns what is in one, whoever made it.
//
// It is written here because the libraries that can make one leave something for
// fsck to repair, a wrong ".." or a cluster for an empty file, and those that can
// read one take a broken one on trust.
package fat32

import "errors"

// File is a file of a FAT32 file system. Its path has slashes and does not begin
// with one.
type File struct {
	Path string
	Data []byte
}

// ErrNoRoom says that files do not fit a file system.
var ErrNoRoom = errors.New("fat32: the files do not fit")

const (
	// sectorSize is the only one that the Raspberry Pi's firmware is known to read.
	sectorSize    = 512
	fatCopies     = 2
	firstCluster  = 2
	leastClusters = 65525 // with fewer it would be FAT16
	entrySize     = 32

	infoSector   = 1
	backupSector = 6 // of sectors 0 and 1

	endOfChain = 0x0fffffff
	linkMask   = 0x0fffffff // the upper bits of a link mean nothing
)

// Geometry is how a file system is divided. Its numbers are of sectors of 512
// bytes.
type Geometry struct {
	Sectors    uint32 // in all
	PerCluster uint32 // a power of two
	Reserved   uint32 // before the allocation tables, at least 8
	PerTable   uint32 // of each of the two allocation tables
}

// clusterSize is in bytes.
func (g Geometry) clusterSize() int64 { return int64(g.PerCluster) * sectorSize }

// clusters is how many there are.
func (g Geometry) clusters() uint32 {
	return (g.Sectors - g.Reserved - fatCopies*g.PerTable) / g.PerCluster
}

// offset returns the first byte of a cluster.
func (g Geometry) offset(cluster uint32) int64 {
	return int64(g.Reserved+fatCopies*g.PerTable)*sectorSize + int64(cluster-firstCluster)*g.clusterSize()
}

// table returns the first byte of an allocation table, 0 or 1.
func (g Geometry) table(n uint32) int64 { return int64(g.Reserved+n*g.PerTable) * sectorSize }

// clustersOf returns how many clusters so many bytes take.
func (g Geometry) clustersOf(size int64) int64 {
	return (size + g.clusterSize() - 1) / g.clusterSize()
}

// valid says whether these are the numbers of a FAT32 that fits so many bytes.
func (g Geometry) valid(size int64) bool {
	overhead := int64(g.Reserved) + fatCopies*int64(g.PerTable)
	if g.PerCluster == 0 || g.PerCluster > 128 || g.PerCluster&(g.PerCluster-1) != 0 ||
		g.Reserved <= backupSector+infoSector || g.Reserved > 1<<16-1 ||
		int64(g.Sectors) > size/sectorSize || overhead >= int64(g.Sectors) {
		return false
	}
	n := g.clusters()
	return n >= leastClusters && n < 0x0ffffff0 && int64(g.PerTable)*sectorSize/4 >= int64(n)+firstCluster
}
