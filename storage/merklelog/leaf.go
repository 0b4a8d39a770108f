package merklelog

import (
	"fmt"

	"github.com/zeebo/blake3"
)

// BlockType is the first byte of a block.
type BlockType uint8

const (
	// Data is a block of sealed records.
	Data BlockType = 1
	// Envelope is a block of a key envelope.
	Envelope BlockType = 2
)

// Valid reports whether t is a type that this version knows.
func (t BlockType) Valid() bool { return t == Data || t == Envelope }

// String returns "data", "envelope" or the number of an unknown type.
func (t BlockType) String() string {
	switch t {
	case Data:
		return "data"
	case Envelope:
		return "envelope"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Leaf commits to one block. It is the record of the log's tree, so a block can
// be dropped later without changing the tree.
//
//	offset  bytes
//	     0      1  type of the block, its first byte
//	     1     32  BLAKE3-256 of the block's 65,536 bytes
type Leaf [LeafSize]byte

// LeafOf returns the leaf of a block. It fails if the block's length or type is
// not one of this version.
func LeafOf(block []byte) (Leaf, error) {
	var l Leaf
	if len(block) != BlockSize {
		return l, fmt.Errorf("merklelog: block has %d bytes, want %d", len(block), BlockSize)
	}
	if t := BlockType(block[0]); !t.Valid() {
		return l, fmt.Errorf("merklelog: block of unknown %v", t)
	}
	l[0] = block[0]
	sum := blake3.Sum256(block)
	copy(l[1:], sum[:])
	return l, nil
}

// Type returns the type of the block.
func (l Leaf) Type() BlockType { return BlockType(l[0]) }

// Check returns nil if block is the block that l commits to, else an error that
// wraps [ErrBlock].
func (l Leaf) Check(block []byte) error {
	got, err := LeafOf(block)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBlock, err)
	}
	if got != l {
		return ErrBlock
	}
	return nil
}

// AppendLeaves appends the leaves to dst, 33 bytes each.
func AppendLeaves(dst []byte, leaves []Leaf) []byte {
	for i := range leaves {
		dst = append(dst, leaves[i][:]...)
	}
	return dst
}

// ParseLeaves reads what [AppendLeaves] wrote. Leaves of unknown types are
// refused.
func ParseLeaves(b []byte) ([]Leaf, error) {
	if len(b)%LeafSize != 0 {
		return nil, fmt.Errorf("merklelog: %d bytes are no whole number of leaves", len(b))
	}
	leaves := make([]Leaf, len(b)/LeafSize)
	for i := range leaves {
		copy(leaves[i][:], b[i*LeafSize:])
		if !leaves[i].Type().Valid() {
			return nil, fmt.Errorf("merklelog: leaf of unknown %v", leaves[i].Type())
		}
	}
	return leaves, nil
}
