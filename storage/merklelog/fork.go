package merklelog

import (
	"errors"
	"fmt"
)

// Fork is evidence that a writer signed two histories of one log: two
// checkpoints of which the smaller is no beginning of the larger. Proof yields
// the root of the larger one and, at the size of the smaller, a root other than
// the signed one. For equal sizes it is empty.
//
//	offset  bytes
//	     0    136  checkpoint A
//	   136    136  checkpoint B, larger than A, or of equal size and greater root
//	   272         proof, as in Proof
//
// An inner node has one pair of children (else SHA-256 is broken), so a proof
// that yields B's root names the true subtrees of B's tree, and the root it
// yields at A's size is the root of B's first leaves. A writer who only ever
// appends signed just that root at that size.
type Fork struct {
	A, B  Checkpoint
	Proof Proof
}

// ForkError is returned where two signed checkpoints prove a fork.
type ForkError struct{ Fork Fork }

func (e *ForkError) Error() string {
	return fmt.Sprintf("merklelog: log %v is forked: its writer signed two histories of sizes %d and %d",
		e.Fork.A.Log, e.Fork.A.Size, e.Fork.B.Size)
}

// Compare checks two checkpoints of one log, both with verified signatures and
// given in either order, and the consistency proof between their sizes (empty
// if these are equal). It returns nil if one history begins with the other, a
// [*ForkError] with the evidence if not, or an error that wraps [ErrProof] if
// the proof is wrong and nothing follows.
func Compare(a, b Checkpoint, p Proof) error {
	if a.Log != b.Log {
		return fmt.Errorf("merklelog: checkpoints of different logs, %v and %v", a.Log, b.Log)
	}
	f := Fork{A: a, B: b, Proof: p}
	if !f.ordered() {
		f.A, f.B = b, a
	}
	err := VerifyConsistency(f.A.Size, f.A.Root, f.B.Size, f.B.Root, p)
	if errors.Is(err, ErrDiverged) {
		return &ForkError{Fork: f}
	}
	return err
}

// ordered reports whether A and B are in the one order that is encoded.
func (f *Fork) ordered() bool {
	if f.A.Size != f.B.Size {
		return f.A.Size < f.B.Size
	}
	return string(f.A.Root[:]) <= string(f.B.Root[:])
}

// Verify returns nil if f proves that the writer forked the log: both
// signatures verify and the two histories differ.
func (f Fork) Verify(writer WriterKey) error {
	if f.A.Log != f.B.Log {
		return errors.New("merklelog: fork evidence names two logs")
	}
	if !f.ordered() {
		return errors.New("merklelog: fork evidence has its checkpoints in the wrong order")
	}
	if err := f.A.Verify(writer); err != nil {
		return err
	}
	if err := f.B.Verify(writer); err != nil {
		return err
	}
	err := VerifyConsistency(f.A.Size, f.A.Root, f.B.Size, f.B.Root, f.Proof)
	switch {
	case err == nil:
		return errors.New("merklelog: fork evidence shows no fork: the histories agree")
	case errors.Is(err, ErrDiverged):
		return nil
	}
	return err
}

// AppendFork appends the encoded evidence to dst.
func AppendFork(dst []byte, f Fork) []byte {
	return AppendProof(AppendCheckpoint(AppendCheckpoint(dst, f.A), f.B), f.Proof)
}

// ParseFork reads what [AppendFork] wrote. It verifies nothing but the order.
func ParseFork(b []byte) (Fork, error) {
	if len(b) < 2*CheckpointSize {
		return Fork{}, fmt.Errorf("merklelog: fork evidence has %d bytes", len(b))
	}
	var f Fork
	var err error
	if f.A, err = ParseCheckpoint(b[:CheckpointSize]); err != nil {
		return Fork{}, err
	}
	if f.B, err = ParseCheckpoint(b[CheckpointSize : 2*CheckpointSize]); err != nil {
		return Fork{}, err
	}
	if f.Proof, err = ParseProof(b[2*CheckpointSize:]); err != nil {
		return Fork{}, err
	}
	if !f.ordered() || f.A.Log != f.B.Log {
		return Fork{}, errors.New("merklelog: fork evidence is not in its canonical form")
	}
	return f, nil
}
