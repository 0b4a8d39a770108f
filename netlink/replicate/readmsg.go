package replicate

import (
	"encoding/binary"

	"cobox/storage/merklelog"
)

const (
	// maxReadBlocks is the largest number of blocks in one read.
	maxReadBlocks = 64
	// maxLevel is the height of the largest subtree that one path proves.
	maxLevel = 8
	// maxEnvelopes is the largest number of runs of envelope blocks listed with a log.
	maxEnvelopes = 64
)

// subtree names the leaves that one path proves: the 2^level from first on, as
// far as the log goes.
type subtree struct {
	first uint64
	level uint8
}

// count returns the number of leaves of t in a log of this size.
func (t subtree) count(size uint64) int { return int(min(1<<t.level, size-t.first)) }

// read asks for blocks, and for the leaves and paths to verify them with. The
// answers come in this order: the paths, then for each index data or absent.
//
//	offset  bytes
//	     0     32  log
//	    32      8  size of the checkpoint that the paths lead to
//	    40      1  p, number of subtrees, at most 64
//	    41    9·p  for each: first leaf u64, a multiple of 2^level; level u8, at most 8
//	  41+9p     1  n, number of blocks, 1 to 64
//	  42+9p   8·n  indexes, in any order
type read struct {
	log     merklelog.LogID
	size    uint64
	paths   []subtree
	indexes []uint64
}

func appendRead(dst []byte, r *read) []byte {
	dst = append(dst, r.log[:]...)
	dst = binary.BigEndian.AppendUint64(dst, r.size)
	dst = append(dst, byte(len(r.paths)))
	for _, p := range r.paths {
		dst = append(binary.BigEndian.AppendUint64(dst, p.first), p.level)
	}
	dst = append(dst, byte(len(r.indexes)))
	for _, i := range r.indexes {
		dst = binary.BigEndian.AppendUint64(dst, i)
	}
	return dst
}

func parseRead(b []byte) (*read, error) {
	s := scanner{what: "read", b: b}
	r := new(read)
	s.copy(r.log[:])
	r.size = s.size()
	p := int(s.u8())
	if p > maxReadBlocks {
		s.fail("%d paths", p)
	}
	for range p {
		t := subtree{first: s.u64(), level: s.u8()}
		if s.err != nil {
			break
		}
		if t.level > maxLevel || t.first&(1<<t.level-1) != 0 || t.first >= r.size {
			s.fail("path for level %d at %d of %d", t.level, t.first, r.size)
			break
		}
		r.paths = append(r.paths, t)
	}
	n := int(s.u8())
	if s.err == nil && (n == 0 || n > maxReadBlocks || len(s.b) != 8*n) {
		s.fail("%d blocks in %d bytes", n, len(s.b))
	}
	if s.err == nil {
		r.indexes = make([]uint64, n)
		for i := range r.indexes {
			if r.indexes[i] = s.u64(); r.indexes[i] >= r.size {
				s.fail("block %d of %d", r.indexes[i], r.size)
			}
		}
	}
	if err := s.done(); err != nil {
		return nil, err
	}
	return r, nil
}

// path answers for one subtree.
//
//	offset  bytes
//	     0      8  first leaf
//	     8      2  n, number of leaves, 1 to 256
//	    10   33·n  leaves
//	               proof: the inclusion path of the subtree's root
type path struct {
	first  uint64
	leaves []merklelog.Leaf
	proof  merklelog.Proof
}

func appendPath(dst []byte, p *path) []byte {
	dst = binary.BigEndian.AppendUint64(dst, p.first)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(p.leaves)))
	return merklelog.AppendProof(merklelog.AppendLeaves(dst, p.leaves), p.proof)
}

func parsePath(b []byte) (*path, error) {
	s := scanner{what: "path", b: b}
	p := &path{first: s.index()}
	n := int(s.u16())
	if n == 0 || n > 1<<maxLevel {
		s.fail("%d leaves", n)
	}
	p.leaves = s.leaves(n)
	p.proof = s.proof()
	if err := s.done(); err != nil {
		return nil, err
	}
	return p, nil
}

// absent answers for a block that cannot be given.
//
//	offset  bytes
//	     0      8  index
//	     8      2  code: not held, or damaged
type absent struct {
	index uint64
	code  Code
}

func appendAbsent(dst []byte, a absent) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint64(dst, a.index), uint16(a.code))
}

func parseAbsent(b []byte) (absent, error) {
	s := scanner{what: "absent", b: b}
	a := absent{index: s.index(), code: Code(s.u16())}
	if s.err == nil && a.code != CodeNotHeld && a.code != CodeDamaged {
		s.fail("%v", a.code)
	}
	return a, s.done()
}

// LogEntry is what a box tells of a log that it holds.
//
//	offset  bytes
//	     0    136  the newest checkpoint
//	   136      8  number of leaves, from the first on
//	   144      8  number of blocks
//	   152     32  digest of the holes below the checkpoint's size
//	   184      1  1 if the log is frozen because its writer forked it, else 0
//	   185      1  1 if a readable checkpoint follows, else 0
//	   186  0|136  the newest checkpoint all of whose leaves are here: reads lead to it
//	               1 if a receipt follows, else 0
//	        0|249  the last receipt given for it
//	               runs of envelope blocks that are held, the last 64 of them, as
//	               merklelog.AppendRanges has them
//	               manifest
type LogEntry struct {
	Manifest    *merklelog.Manifest
	Checkpoint  merklelog.Checkpoint
	Leaves      uint64
	Held        uint64
	HolesDigest merklelog.Hash
	Frozen      bool
	Readable    *merklelog.Checkpoint // nil if no checkpoint has all its leaves here
	Receipt     *Receipt              // nil if none was given
	Envelopes   []merklelog.Range
}

func appendLogEntry(dst []byte, e *LogEntry) []byte {
	dst = merklelog.AppendCheckpoint(dst, e.Checkpoint)
	dst = binary.BigEndian.AppendUint64(dst, e.Leaves)
	dst = binary.BigEndian.AppendUint64(dst, e.Held)
	dst = append(dst, e.HolesDigest[:]...)
	dst = appendFlag(dst, e.Frozen)
	dst = appendFlag(dst, e.Readable != nil)
	if e.Readable != nil {
		dst = merklelog.AppendCheckpoint(dst, *e.Readable)
	}
	dst = appendFlag(dst, e.Receipt != nil)
	if e.Receipt != nil {
		dst = AppendReceipt(dst, e.Receipt)
	}
	dst = merklelog.AppendRanges(dst, e.Envelopes[max(0, len(e.Envelopes)-maxEnvelopes):])
	return merklelog.AppendManifest(dst, e.Manifest)
}

func parseLogEntry(b []byte) (*LogEntry, error) {
	s := scanner{what: "log", b: b}
	e := &LogEntry{Checkpoint: s.checkpoint(), Leaves: s.u64(), Held: s.u64()}
	s.copy(e.HolesDigest[:])
	e.Frozen = s.flag()
	if s.flag() {
		cp := s.checkpoint()
		e.Readable = &cp
	}
	if s.flag() {
		body := s.take(ReceiptSize)
		if s.err == nil {
			var err error
			e.Receipt, err = ParseReceipt(body)
			s.check(err)
		}
	}
	if s.err == nil {
		var err error
		e.Envelopes, s.b, err = merklelog.CutRanges(s.b)
		s.check(err)
	}
	if s.err == nil && len(e.Envelopes) > maxEnvelopes {
		s.fail("%d runs of envelopes", len(e.Envelopes))
	}
	if s.err == nil && e.Readable != nil && e.Readable.Size > e.Leaves {
		s.fail("%d leaves of %d", e.Leaves, e.Readable.Size)
	}
	if s.err == nil && (e.Leaves > e.Checkpoint.Size || e.Held > e.Leaves) {
		s.fail("%d blocks and %d leaves of %d", e.Held, e.Leaves, e.Checkpoint.Size)
	}
	m := s.rest()
	if s.err == nil {
		var err error
		e.Manifest, err = merklelog.ParseManifest(m)
		s.check(err)
	}
	if err := s.done(); err != nil {
		return nil, err
	}
	return e, nil
}

// appendLogsEnd appends the body of what ends a list of logs.
//
//	offset  bytes
//	     0      4  number of logs listed
func appendLogsEnd(dst []byte, n uint32) []byte { return binary.BigEndian.AppendUint32(dst, n) }

func parseLogsEnd(b []byte) (uint32, error) {
	s := scanner{what: "logs-end", b: b}
	n := s.u32()
	return n, s.done()
}

func appendFlag(dst []byte, set bool) []byte {
	if set {
		return append(dst, 1)
	}
	return append(dst, 0)
}

func (s *scanner) flag() bool {
	v := s.u8()
	if v > 1 {
		s.fail("flag %d", v)
	}
	return v == 1
}
