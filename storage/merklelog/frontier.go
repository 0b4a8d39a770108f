package merklelog

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

const frontierLevels = 33 // level 32 is used at MaxSize only

// Frontier is the right edge of a log's tree: what it takes to append leaves
// and compute the root, at most 32 hashes whatever the size. The zero value is
// the frontier of the empty log. A Frontier may be copied; it is not safe for
// concurrent use.
//
//	offset  bytes
//	     0      8  size
//	     8   32·k  roots of the whole subtrees that size is the sum of, largest
//	               first; k is the number of ones in size
type Frontier struct {
	size uint64
	// nodes[l] is the root of the whole subtree of 1<<l leaves that the tree
	// ends with, if bit l of size is set; otherwise it has no meaning.
	nodes [frontierLevels]Hash
}

// Size returns the number of leaves.
func (f *Frontier) Size() uint64 { return f.size }

// Append adds a leaf. It panics beyond MaxSize leaves.
func (f *Frontier) Append(l Leaf) { f.push(leafHash(&l), 0) }

// push adds the root of a whole subtree of 1<<level leaves; the size must be a
// multiple of that.
func (f *Frontier) push(h Hash, level int) {
	if f.size&(1<<level-1) != 0 || f.size+1<<level > MaxSize {
		panic(fmt.Sprintf("merklelog: a subtree of level %d does not fit after %d leaves", level, f.size))
	}
	l := level
	for ; f.size>>l&1 == 1; l++ {
		h = nodeHash(&f.nodes[l], &h)
	}
	f.nodes[l] = h
	f.size += 1 << level
}

// AppendTile adds 256 leaves by the root of their tile (see [TileRoot]). The
// size must be a multiple of 256, or it panics.
func (f *Frontier) AppendTile(root Hash) { f.push(root, tileHeight) }

// Root returns the root of the tree.
func (f *Frontier) Root() Hash {
	if f.size == 0 {
		return emptyRoot
	}
	l := bits.TrailingZeros64(f.size)
	h := f.nodes[l]
	for l++; l < frontierLevels; l++ {
		if f.size>>l&1 == 1 {
			h = nodeHash(&f.nodes[l], &h)
		}
	}
	return h
}

// Clone returns a copy that shares nothing with f.
func (f *Frontier) Clone() *Frontier { c := *f; return &c }

// Accept verifies a batch against a checkpoint whose signature the caller has
// verified, and appends its leaves. On error f is unchanged. An error that
// wraps [ErrProof] says that the batch is not what the checkpoint commits to,
// which is its sender's fault.
func (f *Frontier) Accept(b Batch, cp Checkpoint) error {
	if err := b.check(); err != nil {
		return err
	}
	end := b.First + uint64(len(b.Leaves))
	if b.First != f.size {
		return fmt.Errorf("merklelog: batch begins at %d, the log continues at %d", b.First, f.size)
	}
	if end > cp.Size {
		return fmt.Errorf("merklelog: batch ends at %d, beyond the checkpoint's %d", end, cp.Size)
	}
	next := f.Clone()
	for i := range b.Leaves {
		next.Append(b.Leaves[i])
	}
	root := next.Root()
	if end == cp.Size {
		// The root itself is what is proven: a difference is no fork.
		if len(b.Proof) != 0 || root != cp.Root {
			return fmt.Errorf("%w: leaves %d to %d of log %v", ErrProof, b.First, end, cp.Log)
		}
	} else if err := VerifyConsistency(end, root, cp.Size, cp.Root, b.Proof); err != nil {
		// The root at the batch's end was never signed, so even ErrDiverged is
		// only a bad batch.
		return fmt.Errorf("%w: leaves %d to %d of log %v at size %d", ErrProof, b.First, end, cp.Log, cp.Size)
	}
	*f = *next
	return nil
}

// AppendFrontier appends the encoded frontier to dst.
func AppendFrontier(dst []byte, f *Frontier) []byte {
	dst = binary.BigEndian.AppendUint64(dst, f.size)
	for l := frontierLevels - 1; l >= 0; l-- {
		if f.size>>l&1 == 1 {
			dst = append(dst, f.nodes[l][:]...)
		}
	}
	return dst
}

// ParseFrontier reads what [AppendFrontier] wrote. The hashes are taken as they
// are: compare Root with a verified checkpoint before trusting them.
func ParseFrontier(b []byte) (*Frontier, error) {
	if len(b) < 8 {
		return nil, fmt.Errorf("merklelog: frontier has %d bytes", len(b))
	}
	f := &Frontier{size: binary.BigEndian.Uint64(b)}
	b = b[8:]
	if f.size > MaxSize {
		return nil, fmt.Errorf("merklelog: frontier of %d leaves, the limit is %d", f.size, uint64(MaxSize))
	}
	if want := HashSize * bits.OnesCount64(f.size); len(b) != want {
		return nil, fmt.Errorf("merklelog: frontier of %d leaves has %d bytes of hashes, want %d", f.size, len(b), want)
	}
	for l := frontierLevels - 1; l >= 0; l-- {
		if f.size>>l&1 == 1 {
			copy(f.nodes[l][:], b)
			b = b[HashSize:]
		}
	}
	return f, nil
}
