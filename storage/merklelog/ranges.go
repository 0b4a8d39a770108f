package merklelog

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"
)

const rangesContext = "cobox/v1/ranges\x00"

// Range is a run of block indexes: First, First+1, … First+Count-1.
type Range struct{ First, Count uint64 }

// End returns the index after the last.
func (r Range) End() uint64 { return r.First + r.Count }

// CheckRanges returns an error unless the ranges are canonical: none empty,
// ascending, disjoint, with a gap between neighbours, and below limit.
func CheckRanges(ranges []Range, limit uint64) error {
	next := uint64(0) // the first index that the next range may begin at
	for i, r := range ranges {
		if r.Count == 0 || r.First < next || r.First > limit || r.Count > limit-r.First {
			return fmt.Errorf("merklelog: range %d (%d blocks at %d) is empty, out of order or beyond %d", i, r.Count, r.First, limit)
		}
		next = r.End() + 1
	}
	return nil
}

// AddRange returns the canonical list of all indexes in ranges, which must be
// canonical, and in r. It may reuse the memory of ranges.
func AddRange(ranges []Range, r Range) []Range {
	if r.Count == 0 {
		return ranges
	}
	// The neighbours from i to j touch or overlap r and melt into it.
	i, _ := slices.BinarySearchFunc(ranges, r.First, func(a Range, first uint64) int {
		if a.End() < first {
			return -1
		}
		return 1
	})
	j := i
	for ; j < len(ranges) && ranges[j].First <= r.End(); j++ {
		end := max(r.End(), ranges[j].End())
		r.First = min(r.First, ranges[j].First)
		r.Count = end - r.First
	}
	return slices.Replace(ranges, i, j, r)
}

// SubtractRange returns the canonical list of the indexes in ranges, which must
// be canonical, and not in r. It may reuse the memory of ranges.
func SubtractRange(ranges []Range, r Range) []Range {
	if r.Count == 0 {
		return ranges
	}
	i, _ := slices.BinarySearchFunc(ranges, r.First, func(a Range, first uint64) int {
		if a.End() <= first {
			return -1
		}
		return 1
	})
	var left []Range
	j := i
	for ; j < len(ranges) && ranges[j].First < r.End(); j++ {
		a := ranges[j]
		if a.First < r.First {
			left = append(left, Range{a.First, r.First - a.First})
		}
		if a.End() > r.End() {
			left = append(left, Range{r.End(), a.End() - r.End()})
		}
	}
	return slices.Replace(ranges, i, j, left...)
}

// CountRanges returns the number of indexes in all ranges together.
func CountRanges(ranges []Range) (n uint64) {
	for _, r := range ranges {
		n += r.Count
	}
	return n
}

// RangesContain reports whether the canonical list holds the index.
func RangesContain(ranges []Range, index uint64) bool {
	i, _ := slices.BinarySearchFunc(ranges, index, func(a Range, index uint64) int {
		if a.End() <= index {
			return -1
		}
		return 1
	})
	return i < len(ranges) && ranges[i].First <= index
}

// AppendRanges appends the encoded list, at most MaxRanges canonical ranges, to
// dst. It panics on any other list.
//
//	offset  bytes
//	     0      2  number of ranges, at most 1,024
//	     2   16·n  for each: first index u64, count u64
func AppendRanges(dst []byte, ranges []Range) []byte {
	if len(ranges) > MaxRanges {
		panic(fmt.Sprintf("merklelog: %d ranges in one list", len(ranges)))
	}
	if err := CheckRanges(ranges, MaxSize); err != nil {
		panic(err)
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(ranges)))
	for _, r := range ranges {
		dst = appendRange(dst, r)
	}
	return dst
}

func appendRange(dst []byte, r Range) []byte {
	dst = binary.BigEndian.AppendUint64(dst, r.First)
	return binary.BigEndian.AppendUint64(dst, r.Count)
}

// ParseRanges reads what [AppendRanges] wrote.
func ParseRanges(b []byte) ([]Range, error) {
	r, rest, err := CutRanges(b)
	if err == nil && len(rest) != 0 {
		return nil, fmt.Errorf("merklelog: %d bytes after a list of ranges", len(rest))
	}
	return r, err
}

// CutRanges reads a list of ranges from the beginning of b and returns what
// follows it.
func CutRanges(b []byte) (ranges []Range, rest []byte, err error) {
	if len(b) < 2 {
		return nil, nil, fmt.Errorf("merklelog: list of ranges without a length")
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if n > MaxRanges || len(b) < 16*n {
		return nil, nil, fmt.Errorf("merklelog: list of %d ranges in %d bytes", n, len(b))
	}
	if n > 0 {
		ranges = make([]Range, n)
		for i := range ranges {
			ranges[i] = Range{binary.BigEndian.Uint64(b[16*i:]), binary.BigEndian.Uint64(b[16*i+8:])}
		}
		if err := CheckRanges(ranges, MaxSize); err != nil {
			return nil, nil, err
		}
	}
	return ranges, b[16*n:], nil
}

// DigestRanges returns the SHA-256 of "cobox/v1/ranges\0" and the 16 bytes of
// each range. Unlike the encoding it covers a list of any length, so a receipt
// commits to all holes even where it lists only the first.
func DigestRanges(ranges []Range) Hash {
	d := NewRangeDigest()
	for _, r := range ranges {
		d.Add(r)
	}
	return d.Sum()
}

// RangeDigest computes [DigestRanges] of a list that is not held in memory.
type RangeDigest struct{ h hash.Hash }

// NewRangeDigest returns the digest of the empty list.
func NewRangeDigest() *RangeDigest {
	d := &RangeDigest{h: sha256.New()}
	d.h.Write([]byte(rangesContext))
	return d
}

// Add appends a range. The caller keeps the list canonical.
func (d *RangeDigest) Add(r Range) { d.h.Write(appendRange(make([]byte, 0, 16), r)) }

// Sum returns the digest of the ranges added so far.
func (d *RangeDigest) Sum() Hash { return Hash(d.h.Sum(nil)) }

// Durable says what of a log is durable in a replica: what a receipt may state.
// It is made by a box's store after everything it covers has been synced.
type Durable struct {
	Checkpoint     Checkpoint
	Leaves         uint64  // verified leaves held, counted from the first
	Held           uint64  // blocks held below Checkpoint.Size
	Holes          []Range // blocks below Checkpoint.Size that are not held: the first MaxRanges ranges
	HolesTruncated bool    // there are more holes than listed
	HolesDigest    Hash    // DigestRanges of all holes, listed or not
}
