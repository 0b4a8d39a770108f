package archive

import "cobox/storage/archive/fstree"

// dirKey is a keyed hash of a directory's path.
type dirKey [16]byte

// scanRecord is one directory in the scan cache.
//
//	bytes  field
//	16     key: keyed hash of the path
//	16     digest of the stat data of everything below
//	1      flags: 1 racy, equal stat data do not prove that nothing changed
//	4, n   extents of the listing (fstree.AppendExtents)
//	4, n   the listing
//	20 ·   for each node of the listing: inode 8, change time 8 + 4
type scanRecord struct {
	key     dirKey
	digest  [16]byte
	flags   byte
	content []fstree.Extent
	listing []byte
	stats   []entryStat
}

// entryStat is what tells that a file is still the same, beyond what its node
// has.
type entryStat struct {
	inode uint64
	ctime fstree.Time
}

const flagRacy = 1

// never is a change time that no entry has.
var never = fstree.Time{Nsec: 1<<32 - 1}

func appendScanRecord(dst []byte, r *scanRecord) ([]byte, error) {
	dst = append(dst, r.key[:]...)
	dst = append(dst, r.digest[:]...)
	dst = append(dst, r.flags)
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst, err := fstree.AppendExtents(dst, r.content)
	if err != nil {
		return nil, err
	}
	be.PutUint32(dst[at:], uint32(len(dst)-at-4))
	dst = be.AppendUint32(dst, uint32(len(r.listing)))
	dst = append(dst, r.listing...)
	for _, s := range r.stats {
		dst = be.AppendUint64(dst, s.inode)
		dst = be.AppendUint64(dst, uint64(s.ctime.Sec))
		dst = be.AppendUint32(dst, s.ctime.Nsec)
	}
	return dst, nil
}

// parseScanRecord decodes a record; the listing aliases b.
func parseScanRecord(b []byte) (*scanRecord, error) {
	c := cursor{b: b}
	r := &scanRecord{}
	copy(r.key[:], c.take(16))
	copy(r.digest[:], c.take(16))
	r.flags = c.u8()
	extents := c.take(int(c.u32()))
	r.listing = c.take(int(c.u32()))
	if c.bad || r.flags > flagRacy || len(c.b)%20 != 0 {
		return nil, malformed("cached directory")
	}
	es, rest, err := fstree.ParseExtents(extents)
	if err != nil || len(rest) > 0 {
		return nil, malformed("content of a cached directory")
	}
	r.content = es
	for len(c.b) > 0 {
		r.stats = append(r.stats, entryStat{c.u64(), fstree.Time{Sec: int64(c.u64()), Nsec: c.u32()}})
	}
	return r, nil
}
