package replica

import (
	"encoding/binary"
	"fmt"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// extent says where a stretch of a log's blocks lies: count blocks from an
// index on, under as many consecutive arrival numbers of one run.
//
//	offset  bytes
//	     0      4  count, at least 1
//	     4      8  first arrival
type extent struct {
	first   uint64 // index; from the key
	count   uint32
	arrival uint64
}

func (e extent) end() uint64 { return e.first + uint64(e.count) }

const extentSize = 12

func appendExtent(dst []byte, e extent) []byte {
	dst = binary.BigEndian.AppendUint32(dst, e.count)
	return binary.BigEndian.AppendUint64(dst, e.arrival)
}

// parseExtent reads the value of the extent that begins at index first.
func parseExtent(first uint64, b []byte) (extent, error) {
	e := extent{first: first}
	if len(b) != extentSize {
		return e, fmt.Errorf("replica: extent has %d bytes, want %d", len(b), extentSize)
	}
	e.count = binary.BigEndian.Uint32(b)
	e.arrival = binary.BigEndian.Uint64(b[4:])
	if e.count == 0 || first >= merklelog.MaxSize || uint64(e.count) > merklelog.MaxSize-first ||
		!arrivalsFit(e.arrival, e.count) {
		return e, fmt.Errorf("replica: extent of %d blocks at index %d, arrival %d", e.count, first, e.arrival)
	}
	return e, nil
}

// arrivalsFit reports whether count arrivals from first on are of one kind.
func arrivalsFit(first uint64, count uint32) bool {
	last := first + uint64(count) - 1
	return last >= first && (first < firstSmall) == (last < firstSmall)
}

// run is what is known of the blocks that came in together, in one table or in
// one small batch.
//
//	offset  bytes
//	     0      4  count: arrival numbers used, at least 1
//	     4      4  live: how many of them an extent refers to, at most count
type run struct {
	first uint64 // arrival; from the key
	count uint32
	live  uint32
}

func (r run) end() uint64 { return r.first + uint64(r.count) }

const runSize = 8

func appendRun(dst []byte, r run) []byte {
	dst = binary.BigEndian.AppendUint32(dst, r.count)
	return binary.BigEndian.AppendUint32(dst, r.live)
}

// parseRun reads the value of the run that begins at arrival first.
func parseRun(first uint64, b []byte) (run, error) {
	r := run{first: first}
	if len(b) != runSize {
		return r, fmt.Errorf("replica: run has %d bytes, want %d", len(b), runSize)
	}
	r.count = binary.BigEndian.Uint32(b)
	r.live = binary.BigEndian.Uint32(b[4:])
	if r.count == 0 || r.live > r.count || !arrivalsFit(first, r.count) {
		return r, fmt.Errorf("replica: run of %d blocks at arrival %d with %d live", r.count, first, r.live)
	}
	return r, nil
}

// garbage is a stretch of arrivals of one run that no extent refers to any more
// and whose bytes are still on the disk, and in the account's usage.
//
//	offset  bytes
//	     0      4  count, at least 1
//	     4     32  account whose blocks they were
type garbage struct {
	first   uint64 // arrival; from the key
	count   uint32
	account account.ID
}

func (g garbage) end() uint64 { return g.first + uint64(g.count) }

const garbageSize = 4 + 32

func appendGarbage(dst []byte, g garbage) []byte {
	dst = binary.BigEndian.AppendUint32(dst, g.count)
	return append(dst, g.account[:]...)
}

// parseGarbage reads the value of the garbage that begins at arrival first.
func parseGarbage(first uint64, b []byte) (garbage, error) {
	g := garbage{first: first}
	if len(b) != garbageSize {
		return g, fmt.Errorf("replica: garbage has %d bytes, want %d", len(b), garbageSize)
	}
	g.count = binary.BigEndian.Uint32(b)
	copy(g.account[:], b[4:])
	if g.count == 0 || !arrivalsFit(first, g.count) {
		return g, fmt.Errorf("replica: garbage of %d blocks at arrival %d", g.count, first)
	}
	return g, nil
}

// usage counts an account's blocks. Its leaves are counted from its logs'
// frontiers when the store opens.
//
//	offset  bytes
//	     0      8  blocks that extents refer to
//	     8      8  blocks that are garbage
type usage struct {
	blocks  uint64
	garbage uint64
}

const usageSize = 16

func appendUsage(dst []byte, u usage) []byte {
	dst = binary.BigEndian.AppendUint64(dst, u.blocks)
	return binary.BigEndian.AppendUint64(dst, u.garbage)
}

func parseUsage(b []byte) (usage, error) {
	var u usage
	if len(b) != usageSize {
		return u, fmt.Errorf("replica: usage has %d bytes, want %d", len(b), usageSize)
	}
	u.blocks = binary.BigEndian.Uint64(b)
	u.garbage = binary.BigEndian.Uint64(b[8:])
	const limit = 1 << 47 // blocks of 64 KiB in 2⁶³ bytes
	if u.blocks > limit || u.garbage > limit {
		return u, fmt.Errorf("replica: usage of %d and %d blocks", u.blocks, u.garbage)
	}
	return u, nil
}

// logRecord is what a log began with.
//
//	offset  bytes
//	     0      8  arrival at this box, milliseconds since 1970, signed
//	     8         manifest, as in merklelog
type logRecord struct {
	arrived  int64
	manifest *merklelog.Manifest
}

func appendLogRecord(dst []byte, r logRecord) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.arrived))
	return merklelog.AppendManifest(dst, r.manifest)
}

func parseLogRecord(b []byte) (logRecord, error) {
	if len(b) < 8 {
		return logRecord{}, fmt.Errorf("replica: log record has %d bytes", len(b))
	}
	m, err := merklelog.ParseManifest(b[8:])
	if err != nil {
		return logRecord{}, fmt.Errorf("replica: log record: %w", err)
	}
	return logRecord{arrived: int64(binary.BigEndian.Uint64(b)), manifest: m}, nil
}

// parseTile reads a leaf tile: 1 to 256 leaves of 33 bytes.
func parseTile(b []byte) ([]merklelog.Leaf, error) {
	if len(b) == 0 || len(b) > merklelog.TileWidth*merklelog.LeafSize {
		return nil, fmt.Errorf("replica: leaf tile has %d bytes", len(b))
	}
	return merklelog.ParseLeaves(b)
}

// parseHashes reads a tree tile: 1 to 256 hashes of 32 bytes.
func parseHashes(b []byte) ([]merklelog.Hash, error) {
	if len(b) == 0 || len(b) > merklelog.TileWidth*merklelog.HashSize || len(b)%merklelog.HashSize != 0 {
		return nil, fmt.Errorf("replica: tree tile has %d bytes", len(b))
	}
	hashes := make([]merklelog.Hash, len(b)/merklelog.HashSize)
	for i := range hashes {
		copy(hashes[i][:], b[i*merklelog.HashSize:])
	}
	return hashes, nil
}

// parseNumber reads a count or a next number: 8 bytes.
func parseNumber(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("replica: number has %d bytes, want 8", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

func appendNumber(dst []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(dst, n) }

// parseLogNumber reads the value of an identity: the log's number.
func parseLogNumber(b []byte) (uint32, error) {
	if len(b) != 4 {
		return 0, fmt.Errorf("replica: log number has %d bytes, want 4", len(b))
	}
	return binary.BigEndian.Uint32(b), nil
}

func appendLogNumber(dst []byte, n uint32) []byte { return binary.BigEndian.AppendUint32(dst, n) }

// parseDropped reads the value of the dropped range that begins at an index.
//
//	offset  bytes
//	     0      8  count, at least 1
func parseDropped(first uint64, b []byte) (merklelog.Range, error) {
	n, err := parseNumber(b)
	if err != nil {
		return merklelog.Range{}, err
	}
	if n == 0 || first >= merklelog.MaxSize || n > merklelog.MaxSize-first {
		return merklelog.Range{}, fmt.Errorf("replica: dropped range of %d blocks at index %d", n, first)
	}
	return merklelog.Range{First: first, Count: n}, nil
}
