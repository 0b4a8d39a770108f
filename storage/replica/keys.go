package replica

import (
	"encoding/binary"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// Every key begins with one of these bytes. Blocks come first in the key
// order and everything small after them, so that a flushed memtable, which
// spans all small keys, never overlaps a table of blocks and no compaction
// ever has a reason to rewrite one.
//
//	b  block            arrival u64 ‖ log number u32 ‖ index u64
//	c  checkpoint       log number u32
//	e  extent           log number u32 ‖ first index u64
//	f  frontier         log number u32
//	g  garbage          first arrival u64
//	h  held             log number u32
//	i  identity         LogID 32
//	k  fork evidence    log number u32
//	l  leaf tile        log number u32 ‖ tile u32
//	m  manifest         log number u32
//	n  next number      what u8
//	o  log of account   account 32 ‖ log number u32
//	p  dropped (pruned) log number u32 ‖ first index u64
//	q  usage (quota)    account 32
//	r  run              first arrival u64
//	t  tree tile        log number u32 ‖ level u8 ‖ tile u32
//	u  table            length of name u8 ‖ name ‖ key
//	v  envelope         log number u32 ‖ index u64
const (
	prefixBlock      = 'b'
	prefixCheckpoint = 'c'
	prefixExtent     = 'e'
	prefixFrontier   = 'f'
	prefixGarbage    = 'g'
	prefixHeld       = 'h'
	prefixIdentity   = 'i'
	prefixFork       = 'k'
	prefixLeaves     = 'l'
	prefixManifest   = 'm'
	prefixNext       = 'n'
	prefixAccountLog = 'o'
	prefixDropped    = 'p'
	prefixUsage      = 'q'
	prefixRun        = 'r'
	prefixTree       = 't'
	prefixTable      = 'u'
	prefixEnvelope   = 'v'
)

// firstSmall is the first arrival number of the blocks that were written
// through the WAL: they live apart from the bulk, see the package comment.
const firstSmall = 1 << 63

// What a prefixNext key counts.
const (
	nextBulk  = 'b' // arrival number of the next block that comes in by a table
	nextSmall = 's' // arrival number of the next block that comes in by the WAL
	nextLog   = 'l' // number of the next log
)

const blockKeySize = 1 + 8 + 4 + 8

func appendBlockKey(dst []byte, arrival uint64, log uint32, index uint64) []byte {
	dst = append(dst, prefixBlock)
	dst = binary.BigEndian.AppendUint64(dst, arrival)
	dst = binary.BigEndian.AppendUint32(dst, log)
	return binary.BigEndian.AppendUint64(dst, index)
}

// parseBlockKey reads what appendBlockKey wrote.
func parseBlockKey(k []byte) (arrival uint64, log uint32, index uint64, ok bool) {
	if len(k) != blockKeySize || k[0] != prefixBlock {
		return 0, 0, 0, false
	}
	return binary.BigEndian.Uint64(k[1:]), binary.BigEndian.Uint32(k[9:]), binary.BigEndian.Uint64(k[13:]), true
}

// arrivalKey is the lower bound of all keys of blocks, runs or garbage from an
// arrival number on.
func arrivalKey(prefix byte, arrival uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefix}, arrival)
}

func parseArrivalKey(prefix byte, k []byte) (uint64, bool) {
	if len(k) != 9 || k[0] != prefix {
		return 0, false
	}
	return binary.BigEndian.Uint64(k[1:]), true
}

// logKey is the key of what there is once for each log, and the lower bound of
// what there is more often.
func logKey(prefix byte, log uint32) []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, 16), prefix), log)
}

// logEnd is the upper bound of a log's keys under a prefix.
func logEnd(prefix byte, log uint32) []byte {
	if log == 1<<32-1 {
		return []byte{prefix + 1}
	}
	return logKey(prefix, log+1)
}

// indexKey is the key of an extent, a dropped range or an envelope.
func indexKey(prefix byte, log uint32, index uint64) []byte {
	return binary.BigEndian.AppendUint64(logKey(prefix, log), index)
}

func parseIndexKey(prefix byte, k []byte) (log uint32, index uint64, ok bool) {
	if len(k) != 13 || k[0] != prefix {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(k[1:]), binary.BigEndian.Uint64(k[5:]), true
}

func leavesKey(log uint32, tile uint64) []byte {
	return binary.BigEndian.AppendUint32(logKey(prefixLeaves, log), uint32(tile))
}

func treeKey(log uint32, level int, tile uint64) []byte {
	return binary.BigEndian.AppendUint32(append(logKey(prefixTree, log), byte(level)), uint32(tile))
}

func identityKey(id merklelog.LogID) []byte {
	return append([]byte{prefixIdentity}, id[:]...)
}

func accountLogKey(id account.ID, log uint32) []byte {
	return binary.BigEndian.AppendUint32(append([]byte{prefixAccountLog}, id[:]...), log)
}

func parseAccountLogKey(k []byte) (id account.ID, log uint32, ok bool) {
	if len(k) != 1+len(id)+4 || k[0] != prefixAccountLog {
		return id, 0, false
	}
	copy(id[:], k[1:])
	return id, binary.BigEndian.Uint32(k[1+len(id):]), true
}

func usageKey(id account.ID) []byte {
	return append([]byte{prefixUsage}, id[:]...)
}

func nextKey(what byte) []byte { return []byte{prefixNext, what} }

// tableKey is the key of an entry in a named table; with a nil key it is the
// prefix of all of them.
func tableKey(name string, key []byte) []byte {
	k := append([]byte{prefixTable, byte(len(name))}, name...)
	return append(k, key...)
}

// prefixEnd returns the first key after all that begin with prefix, which must
// not be all 0xFF.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	panic("replica: prefix without an end")
}
