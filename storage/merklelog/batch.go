package merklelog

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxBatchSize is the length of the longest encoded batch in bytes.
const MaxBatchSize = 8 + 2 + MaxBatch*LeafSize + 1 + MaxProof*HashSize

// Batch is a run of leaves that can be verified, and kept, by itself: Proof is
// the consistency proof from its end to the size of the checkpoint it was made
// for, empty where the two are equal.
//
//	offset  bytes
//	     0      8  index of the first leaf
//	     8      2  number of leaves, 1 to 256
//	    10   33·n  leaves
//	               proof, as in Proof
type Batch struct {
	First  uint64
	Leaves []Leaf
	Proof  Proof
}

func (b *Batch) check() error {
	n := len(b.Leaves)
	if n == 0 || n > MaxBatch {
		return fmt.Errorf("merklelog: batch of %d leaves, want 1 to %d", n, MaxBatch)
	}
	if b.First > MaxSize-uint64(n) {
		return fmt.Errorf("merklelog: batch of %d leaves at %d ends beyond the largest log", n, b.First)
	}
	if len(b.Proof) > MaxProof {
		return fmt.Errorf("merklelog: proof of %d hashes", len(b.Proof))
	}
	for i := range b.Leaves {
		if t := b.Leaves[i].Type(); !t.Valid() {
			return fmt.Errorf("merklelog: leaf %d is of unknown %v", b.First+uint64(i), t)
		}
	}
	return nil
}

// AppendBatch appends the encoded batch to dst. It panics on a batch beyond the
// limits.
func AppendBatch(dst []byte, b Batch) []byte {
	if err := b.check(); err != nil {
		panic(err)
	}
	dst = binary.BigEndian.AppendUint64(dst, b.First)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(b.Leaves)))
	return AppendProof(AppendLeaves(dst, b.Leaves), b.Proof)
}

// ParseBatch reads what [AppendBatch] wrote. Nothing in it is verified until
// [Frontier.Accept].
func ParseBatch(buf []byte) (Batch, error) {
	var b Batch
	if len(buf) < 10 || len(buf) > MaxBatchSize {
		return b, fmt.Errorf("merklelog: batch has %d bytes, the limit is %d", len(buf), MaxBatchSize)
	}
	first := binary.BigEndian.Uint64(buf)
	n := int(binary.BigEndian.Uint16(buf[8:]))
	buf = buf[10:]
	if n == 0 || n > MaxBatch {
		return b, fmt.Errorf("merklelog: batch of %d leaves, want 1 to %d", n, MaxBatch)
	}
	if len(buf) < n*LeafSize {
		return b, errors.New("merklelog: batch ends within its leaves")
	}
	leaves, err := ParseLeaves(buf[:n*LeafSize])
	if err != nil {
		return b, err
	}
	proof, err := ParseProof(buf[n*LeafSize:])
	if err != nil {
		return b, err
	}
	got := Batch{First: first, Leaves: leaves, Proof: proof}
	if err := got.check(); err != nil {
		return b, err
	}
	return got, nil
}
