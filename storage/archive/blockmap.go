package archive

import (
	"fmt"
	"slices"
	"sort"

	"cobox/storage/merklelog"
)

// blockMap tells data blocks from envelopes in one log.
type blockMap struct {
	size      uint64
	envelopes []Envelope
	lost      []merklelog.Range
}

func newBlockMap(s *LogState) (*blockMap, error) {
	if s.Size > maxBlockIndex {
		return nil, fmt.Errorf("archive: log %s has %d blocks, more than the format can address", s.ID, s.Size)
	}
	end := uint64(0)
	for i, e := range s.Envelopes {
		if e.Blocks == 0 || e.Index < end || i == 0 && e.Index != 0 {
			return nil, fmt.Errorf("archive: log %s: envelopes %v are not in order from block 0", s.ID, s.Envelopes)
		}
		end = e.Index + uint64(e.Blocks)
	}
	return &blockMap{size: s.Size, envelopes: slices.Clone(s.Envelopes), lost: slices.Clone(s.Lost)}, nil
}

// before returns the number of envelopes that begin at or before block i.
func (m *blockMap) before(i uint64) int {
	return sort.Search(len(m.envelopes), func(k int) bool { return m.envelopes[k].Index > i })
}

// envelope returns the envelope that block i is part of.
func (m *blockMap) envelope(i uint64) (Envelope, bool) {
	k := m.before(i)
	if k == 0 {
		return Envelope{}, false
	}
	e := m.envelopes[k-1]
	return e, i < e.Index+uint64(e.Blocks)
}

// epoch is the epoch of the key that sealed data block i.
func (m *blockMap) epoch(i uint64) uint32 { return uint32(max(0, m.before(i)-1)) }

// data returns the first data block at or after i; it may be m.size.
func (m *blockMap) data(i uint64) uint64 {
	for {
		e, ok := m.envelope(i)
		if !ok {
			return i
		}
		i = e.Index + uint64(e.Blocks)
	}
}

// dataBefore returns the last data block before i.
func (m *blockMap) dataBefore(i uint64) (uint64, bool) {
	for i > 0 {
		e, ok := m.envelope(i - 1)
		if !ok {
			return i - 1, true
		}
		i = e.Index
	}
	return 0, false
}

// span appends the data blocks that a record of n bytes of contents at l lies
// in. It stops at the end of the log.
func (m *blockMap) span(dst []uint64, l location, n uint32) []uint64 {
	left := recordHeader + int(n)
	room := bodySize - int(l.off)
	for i := uint64(l.block); i < m.size; i = m.data(i + 1) {
		dst = append(dst, i)
		if left -= room; left <= 0 {
			break
		}
		room = bodySize
	}
	return dst
}

// isLost reports whether any block of a record is known to be lost.
func (m *blockMap) isLost(l location, n uint32) bool {
	if len(m.lost) == 0 {
		return false
	}
	var buf [16]uint64
	for _, i := range m.span(buf[:0], l, n) {
		if m.lostBlock(i) {
			return true
		}
	}
	return false
}

// lostBlock reports whether block i is known to be lost.
func (m *blockMap) lostBlock(i uint64) bool {
	k := sort.Search(len(m.lost), func(k int) bool { return m.lost[k].First+m.lost[k].Count > i })
	return k < len(m.lost) && m.lost[k].First <= i
}
