package archive

import (
	"encoding/binary"
)

const formatVersion = 1 // first byte of segments, snapshots and footers

// chunkPrefix is the part of a chunk's id that the index keeps: 128 bits, so
// that neither chance nor, without the key, anybody makes two chunks with the
// same; the whole id is in the listing and checked on reading.
type chunkPrefix [16]byte

// An index segment is the contents of a record of type 2: which chunks lie in
// which groups. It covers a run of blocks and names every group that starts
// there, in the order of their locations.
//
//	bytes    field
//	1        version, 1
//	then for each group, at least one
//	uvarint  block, less that of the group before (first: the block itself)
//	2        offset of the record in the block's body
//	uvarint  length of the record's contents, at most 1 MiB
//	1        number of chunks, less one
//	16 each  first half of each chunk's id
type indexGroup struct {
	loc    location
	length uint32
	chunks []chunkPrefix
}

// appendIndexGroup appends one group to a segment; prev is the block of the
// group before it, 0 for the first.
func appendIndexGroup(dst []byte, prev uint32, g indexGroup) []byte {
	dst = binary.AppendUvarint(dst, uint64(g.loc.block-prev))
	dst = be.AppendUint16(dst, g.loc.off)
	dst = binary.AppendUvarint(dst, uint64(g.length))
	dst = append(dst, byte(len(g.chunks)-1))
	for i := range g.chunks {
		dst = append(dst, g.chunks[i][:]...)
	}
	return dst
}

// eachIndexGroup decodes a segment group by group. The chunks handed to fn
// are valid only during the call.
func eachIndexGroup(b []byte, fn func(indexGroup) error) error {
	c := cursor{b: b}
	if c.u8() != formatVersion || len(c.b) == 0 {
		return malformed("index segment")
	}
	var g indexGroup
	var last location
	for first := true; len(c.b) > 0; first = false {
		block := uint64(last.block) + c.uvarint(maxBlockIndex)
		g.loc.off = c.u16()
		g.length = uint32(c.uvarint(maxGroup))
		n := int(c.u8()) + 1
		ids := c.take(16 * n)
		if c.bad || block > maxBlockIndex || g.loc.off >= bodySize || g.length == 0 {
			return malformed("index segment")
		}
		g.loc.block = uint32(block)
		if !first && !last.before(g.loc) {
			return malformed("order of an index segment")
		}
		last = g.loc
		g.chunks = g.chunks[:0]
		for i := range n {
			g.chunks = append(g.chunks, chunkPrefix(ids[16*i:]))
		}
		if err := fn(g); err != nil {
			return err
		}
	}
	return nil
}

// A segment writer builds an index segment.
type segmentWriter struct {
	buf    []byte
	block  uint32
	chunks int
}

func (w *segmentWriter) add(g indexGroup) {
	if len(w.buf) == 0 {
		w.buf = append(w.buf, formatVersion)
		w.block = 0
	}
	w.buf = appendIndexGroup(w.buf, w.block, g)
	w.block = g.loc.block
	w.chunks += len(g.chunks)
}

// A snapshot segment is the contents of a record of type 3: snapshots in the
// order in which they were added to the log.
//
//	bytes    field
//	1        version, 1
//	then for each snapshot, at least one
//	4        number of blocks up to and including the snapshot's footer, or 0
//	         for "as the segment's coverage ends" (always so in generation 0)
//	uvarint  length
//	…        snapshot
type snapshotEntry struct {
	end    uint32
	record []byte
}

func appendSnapshotSegment(dst []byte, es []snapshotEntry) []byte {
	dst = append(dst, formatVersion)
	for _, e := range es {
		dst = be.AppendUint32(dst, e.end)
		dst = binary.AppendUvarint(dst, uint64(len(e.record)))
		dst = append(dst, e.record...)
	}
	return dst
}

// parseSnapshotSegment decodes a segment; the records alias b.
func parseSnapshotSegment(b []byte) (es []snapshotEntry, err error) {
	c := cursor{b: b}
	if c.u8() != formatVersion || len(c.b) == 0 {
		return nil, malformed("snapshot segment")
	}
	for len(c.b) > 0 {
		e := snapshotEntry{end: c.u32()}
		e.record = c.take(int(c.uvarint(maxSegment)))
		if c.bad || len(e.record) == 0 {
			return nil, malformed("snapshot segment")
		}
		es = append(es, e)
	}
	return es, nil
}

// segmentRef is one live segment in a footer: where its record starts, the
// length of the record's contents, how often it was merged, and which blocks
// it speaks for, from first up to but not including end. Coverage of one kind
// does not overlap and ascends.
//
//	bytes  field
//	4, 2   location of the record: block, offset
//	4      length of its contents, at most 8 MiB
//	1      generation: 0 as written by a commit, n+1 for eight merged of n
//	4, 4   coverage: first block, end
type segmentRef struct {
	loc        location
	length     uint32
	generation uint8
	first, end uint32
}

const (
	segmentRefSize = 19
	mergeCount     = 8 // segments of one generation that are merged
	maxGeneration  = 15
)

// A footer is the contents of a record of type 4. It lies in one payload and
// ends it exactly, and so does its length, from which its start is found.
//
//	bytes    field
//	1        version, 1
//	1        flags: 1 the commit ends a backup; others 0
//	4        block that ends with the footer before it, 0xFFFFFFFF none
//	2        number of index segments
//	2        number of snapshot segments
//	19 each  index segments, then snapshot segments
//	2        length of the contents, this field included
type footer struct {
	complete  bool
	previous  uint32
	index     []segmentRef
	snapshots []segmentRef
}

const (
	footerFixed    = 12
	maxSegmentRefs = (bodySize - recordHeader - footerFixed) / segmentRefSize
)

func (f *footer) size() int {
	return footerFixed + segmentRefSize*(len(f.index)+len(f.snapshots))
}

func appendFooter(dst []byte, f *footer) []byte {
	flags := byte(0)
	if f.complete {
		flags = 1
	}
	dst = append(dst, formatVersion, flags)
	dst = be.AppendUint32(dst, f.previous)
	dst = be.AppendUint16(dst, uint16(len(f.index)))
	dst = be.AppendUint16(dst, uint16(len(f.snapshots)))
	for _, list := range [][]segmentRef{f.index, f.snapshots} {
		for _, s := range list {
			dst = be.AppendUint32(dst, s.loc.block)
			dst = be.AppendUint16(dst, s.loc.off)
			dst = be.AppendUint32(dst, s.length)
			dst = append(dst, s.generation)
			dst = be.AppendUint32(dst, s.first)
			dst = be.AppendUint32(dst, s.end)
		}
	}
	return be.AppendUint16(dst, uint16(f.size()))
}

// parseFooter decodes the contents of a footer record that ends block index.
func parseFooter(b []byte, index uint32) (*footer, error) {
	c := cursor{b: b}
	version, flags := c.u8(), c.u8()
	f := &footer{complete: flags&1 != 0, previous: c.u32()}
	ni, ns := int(c.u16()), int(c.u16())
	if c.bad || version != formatVersion || flags > 1 || len(c.b) != segmentRefSize*(ni+ns)+2 {
		return nil, malformed("footer")
	}
	if f.previous != noFooter && f.previous >= index {
		return nil, malformed("footer of block %d names block %d as the one before", index, f.previous)
	}
	var err error
	if f.index, err = parseSegmentRefs(&c, ni, index); err != nil {
		return nil, err
	}
	if f.snapshots, err = parseSegmentRefs(&c, ns, index); err != nil {
		return nil, err
	}
	if int(c.u16()) != len(b) || !c.end() {
		return nil, malformed("length of a footer")
	}
	return f, nil
}

func parseSegmentRefs(c *cursor, n int, index uint32) ([]segmentRef, error) {
	if n == 0 {
		return nil, nil
	}
	refs := make([]segmentRef, n)
	covered := uint32(0)
	for i := range refs {
		s := &refs[i]
		s.loc = location{c.u32(), c.u16()}
		s.length, s.generation = c.u32(), c.u8()
		s.first, s.end = c.u32(), c.u32()
		switch {
		case s.loc.block > index, s.loc.off >= bodySize,
			s.length == 0, s.length > maxSegment, s.generation > maxGeneration,
			s.first < covered, s.end <= s.first, uint64(s.end) > uint64(index)+1:
			return nil, malformed("segment %d of a footer", i)
		}
		covered = s.end
	}
	return refs, nil
}

// lastFooter finds the footer that ends the body of block index.
func lastFooter(body []byte, index uint32) (*footer, error) {
	n := int(be.Uint16(body[len(body)-2:]))
	at := len(body) - n - recordHeader
	if n < footerFixed || at < 0 {
		return nil, malformed("length of a footer")
	}
	typ, m, err := parseRecordHeader(body[at:])
	if err != nil {
		return nil, err
	}
	if typ != typeFooter || m != n {
		return nil, malformed("no footer ends block %d", index)
	}
	return parseFooter(body[at+recordHeader:], index)
}

// mergeable returns the number of segments at the end of refs that the next
// commit should merge with its own of size extra: seven of one generation,
// or 0. Eight of generation g then become one of generation g+1, which may
// complete another eight, and so on.
func mergeable(refs []segmentRef, extra int) (n int, generation uint8) {
	size := extra
	for generation < maxGeneration {
		run := 0
		for i := len(refs) - 1 - n; i >= 0 && refs[i].generation == generation && run < mergeCount-1; i-- {
			size += int(refs[i].length)
			run++
		}
		if run < mergeCount-1 || size > maxSegment/2 {
			return n, generation
		}
		n += run
		generation++
	}
	return n, generation
}
