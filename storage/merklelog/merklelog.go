// Package merklelog defines what a CoBox log is: its identity, its leaves, the
// signed checkpoints that commit to them, and the proofs that tie these
// together. It does no I/O, reads no clock and starts no goroutine; storage and
// network packages bring the bytes and ask this package whether they are true.
//
// A log is a sequence of blocks of 65,536 bytes. It is begun by a [Manifest],
// whose hash is its [LogID]; each block is committed to by a 33-byte [Leaf];
// the leaves are the records of an RFC 6962 Merkle tree; a [Checkpoint] is the
// writer's signature over the tree's size and root.
//
// Where to start:
//
//   - Writing: [SignManifest], then [LeafOf] and [Frontier.Append] for each
//     block, then [SignCheckpoint].
//   - Taking in: [Manifest.Verify], [Checkpoint.Verify], then for each batch of
//     leaves [Frontier.Accept], then each block against its leaf with [Leaf.Check].
//   - Proving: a [Tree] over stored tiles. [LeafTiles] makes tiles of a flat
//     sequence of leaves.
//   - Catching a writer who told two stories: [Compare] and [Fork].
//
// Promises: every Parse function accepts exactly the bytes that the matching
// Append function produces, checks lengths before it allocates, and never
// panics. Honest fork evidence verifies, and none can be made against a writer
// who never signed two different histories. The bytes are specified in
// FORMAT.md and frozen by testdata/vectors.txt.
package merklelog

import "errors"

const (
	// BlockSize is the length of every block in bytes.
	BlockSize = 65536
	// LeafSize is the length of a leaf in bytes.
	LeafSize = 1 + HashSize
	// HashSize is the length of every hash in bytes.
	HashSize = 32
	// MaxBatch is the largest number of leaves in a Batch.
	MaxBatch = 256
	// MaxSize is the largest number of blocks in a log (256 TiB of blocks).
	MaxSize = 1 << 32
	// MaxProof is the largest number of hashes in a Proof. The longest that a
	// log of MaxSize blocks needs is 33.
	MaxProof = 64
	// MaxCertificate is the longest certificate that a manifest carries, in bytes.
	MaxCertificate = 2048
	// MaxRanges is the largest number of ranges in one encoded list.
	MaxRanges = 1024
)

var (
	// ErrProof says that a proof does not yield the root it was sent for: the
	// fault of whoever sent it, and evidence against nobody else.
	ErrProof = errors.New("merklelog: proof does not yield the signed root")
	// ErrSignature says that a signature does not verify.
	ErrSignature = errors.New("merklelog: signature does not verify")
	// ErrDiverged says that a proof yields the root of the larger tree but not
	// that of the smaller: if both are signed, the writer forked its log.
	ErrDiverged = errors.New("merklelog: the larger tree does not contain the smaller")
	// ErrBlock says that a block does not match its leaf.
	ErrBlock = errors.New("merklelog: block does not match its leaf")
)
