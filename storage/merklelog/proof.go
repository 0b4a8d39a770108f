package merklelog

import (
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// Proof is a list of tree nodes, at most 64, from the bottom up.
//
//	offset  bytes
//	     0      1  number of hashes, at most 64
//	     1   32·n  hashes
//
// An inclusion proof is that of RFC 6962, section 2.1.1. A consistency proof is
// that of section 2.1.2 with one difference: where the smaller size m is a
// power of two below n, RFC 6962 leaves out the root at m, because the verifier
// has it; here it is sent as the first hash. So the proof yields both roots by
// itself, and a verifier can tell a bad proof (root at n does not come out)
// from a forked log (root at n comes out, that at m is not the signed one).
type Proof []Hash

// VerifyInclusion checks that leaf is the index'th of the size leaves under
// root. An error that wraps [ErrProof] says that it is not.
func VerifyInclusion(leaf Leaf, index, size uint64, root Hash, p Proof) error {
	if err := checkSize(size); err != nil {
		return err
	}
	if index >= size {
		return fmt.Errorf("%w: index %d of a tree of %d", ErrProof, index, size)
	}
	if len(p) > MaxProof {
		return fmt.Errorf("%w: %d hashes", ErrProof, len(p))
	}
	hashes := make(tlog.RecordProof, len(p))
	for i, h := range p {
		hashes[i] = tlog.Hash(h)
	}
	if err := tlog.CheckRecord(hashes, int64(size), tlog.Hash(root), int64(index), tlog.Hash(leafHash(&leaf))); err != nil {
		return fmt.Errorf("%w: inclusion of %d in %d", ErrProof, index, size)
	}
	return nil
}

// VerifyConsistency checks that the tree of n leaves with root nroot begins
// with the tree of m leaves with root mroot.
//
// An error that wraps [ErrProof] says that p does not yield nroot: the sender's
// fault. One that wraps [ErrDiverged] says that p yields nroot at n but a root
// other than mroot at m; if mroot and nroot are both signed, that is a fork.
// For m = n the proof is empty, and different roots have diverged. For m = 0
// the proof is empty too, and mroot must be [EmptyRoot].
func VerifyConsistency(m uint64, mroot Hash, n uint64, nroot Hash, p Proof) error {
	if m > n || n > MaxSize {
		return fmt.Errorf("%w: sizes %d and %d", ErrProof, m, n)
	}
	got, end := mroot, nroot
	switch {
	case m == 0 || m == n:
		if len(p) != 0 {
			return fmt.Errorf("%w: %d hashes where none are needed", ErrProof, len(p))
		}
		if m == 0 {
			got = emptyRoot
		} else {
			got = nroot
		}
	default:
		var ok bool
		if got, end, ok = consistencyRoots(m, n, p); !ok {
			return fmt.Errorf("%w: malformed proof from %d to %d", ErrProof, m, n)
		}
	}
	if end != nroot {
		return fmt.Errorf("%w: at size %d", ErrProof, n)
	}
	if got != mroot {
		return fmt.Errorf("%w: sizes %d and %d", ErrDiverged, m, n)
	}
	return nil
}

// consistencyRoots returns the roots at m and n that p yields, for 0 < m < n.
//
// It walks up from the largest whole subtree that ends at leaf m-1. While that
// node is a right child, or m ends inside its sibling's span, the hash on its
// left belongs to both trees; otherwise the hash on its right lies beyond m and
// belongs to the larger only (RFC 9162, section 2.1.4.2).
func consistencyRoots(m, n uint64, p Proof) (atM, atN Hash, ok bool) {
	if len(p) == 0 || len(p) > MaxProof {
		return atM, atN, false
	}
	node, last := m-1, n-1
	down := bits.TrailingZeros64(m) // levels below the subtree where the walk begins
	node, last = node>>down, last>>down
	atM, atN = p[0], p[0]
	for i := range p[1:] {
		h := &p[1+i]
		if last == 0 {
			return atM, atN, false // more hashes than levels
		}
		if node&1 == 1 || node == last {
			atM, atN = nodeHash(h, &atM), nodeHash(h, &atN)
			for node&1 == 0 && node != 0 {
				node, last = node>>1, last>>1 // the node was moved up without a sibling
			}
		} else {
			atN = nodeHash(&atN, h)
		}
		node, last = node>>1, last>>1
	}
	return atM, atN, last == 0
}

// AppendProof appends p, at most 64 hashes, to dst.
func AppendProof(dst []byte, p Proof) []byte {
	if len(p) > MaxProof {
		panic(fmt.Sprintf("merklelog: proof of %d hashes", len(p)))
	}
	dst = append(dst, byte(len(p)))
	for i := range p {
		dst = append(dst, p[i][:]...)
	}
	return dst
}

// ParseProof reads what [AppendProof] wrote.
func ParseProof(b []byte) (Proof, error) {
	p, rest, err := CutProof(b)
	if err == nil && len(rest) != 0 {
		return nil, fmt.Errorf("merklelog: %d bytes after a proof", len(rest))
	}
	return p, err
}

// CutProof reads a proof from the beginning of b and returns what follows it.
func CutProof(b []byte) (p Proof, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, fmt.Errorf("merklelog: proof without a length")
	}
	n := int(b[0])
	b = b[1:]
	if n > MaxProof || len(b) < n*HashSize {
		return nil, nil, fmt.Errorf("merklelog: proof of %d hashes in %d bytes", n, len(b))
	}
	if n > 0 {
		p = make(Proof, n)
		for i := range p {
			copy(p[i][:], b[i*HashSize:])
		}
	}
	return p, b[n*HashSize:], nil
}
