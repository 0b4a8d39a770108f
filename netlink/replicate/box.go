package replicate

import (
	"context"
	"io"
	"iter"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// Peer is who the handshake found on the other side.
type Peer struct {
	Noise    account.NoiseKey
	Account  account.ID        // zero for a bare administrator key
	Device   account.DeviceKey // zero unless a device of the account
	Recovery bool              // logged in with the account's recovery key
	Admin    bool              // may administer this box
}

// Box is what a session needs in order to hold logs for its peer and to serve
// it. A device leaves it out.
type Box struct {
	Store      Store
	Authorizer Authorizer
	Admin      Admin

	// Receipt fills in, signs and keeps the receipt for what is durable. The
	// session sends it after Receipt has returned. If more is durable by then
	// than d says, Receipt may state that, and changes d. If d.Leaves reaches the
	// checkpoint's size, Receipt keeps the checkpoint too: until the next such
	// one it is what LogEntry.Readable tells, and without it a log whose
	// writer vanished in the middle of sending newer leaves cannot be read.
	Receipt func(ctx context.Context, d *merklelog.Durable) (*Receipt, error)

	// Logs yields the logs of an account that the peer may list.
	Logs func(ctx context.Context, who account.ID) iter.Seq2[*LogEntry, error]

	// Code says what an error of the store means and the peer may know of it,
	// CodeInternal if nothing. It is not asked about ErrUnknownLog, ErrNotHere,
	// an *Error or what merklelog's errors tell already.
	Code func(error) Code
}

// Store is where a box keeps logs. Its methods are called concurrently by all
// sessions, for the same log too. What it returns has been verified.
type Store interface {
	// Log describes a log. An error that wraps ErrUnknownLog, or that Box.Code
	// calls CodeUnknownLog, says that it is not held.
	Log(log merklelog.LogID) (LogState, error)

	// OfferCheckpoint takes in the first checkpoint of a log, or a newer one
	// with its consistency proof from the checkpoint held. An older one that
	// is consistent changes nothing. A *merklelog.ForkError says that the
	// log is frozen, now or since before; an error that wraps
	// merklelog.ErrProof or ErrSignature is the peer's fault.
	OfferCheckpoint(m *merklelog.Manifest, cp merklelog.Checkpoint, proof merklelog.Proof) error

	// AppendLeaves takes in the leaves that follow those held, proven against
	// the newest checkpoint.
	AppendLeaves(log merklelog.LogID, b merklelog.Batch) error

	// Leaves returns n leaves, which all lie in one tile of 256.
	Leaves(log merklelog.LogID, first uint64, n int) ([]merklelog.Leaf, error)

	// Missing returns the first ranges, at most max, of blocks from on that
	// have a leaf and are not held.
	Missing(log merklelog.LogID, from uint64, max int) ([]merklelog.Range, error)

	// PutBlock verifies a block against its leaf and copies it. An error that
	// wraps merklelog.ErrBlock is the peer's fault; one that wraps ErrNotHere,
	// or that Box.Code calls CodeNotHeld, says that the block is not wanted any
	// more. It is durable after Commit.
	PutBlock(ctx context.Context, log merklelog.LogID, index uint64, block []byte) error

	// Commit makes durable what was put before it was called, and says what is.
	Commit(ctx context.Context, log merklelog.LogID) (merklelog.Durable, error)

	// ReadBlock reads a block into dst, which has its length, and verifies it
	// against its leaf. An error that wraps ErrNotHere, or that Box.Code calls
	// CodeNotHeld, says that it is not held; CodeDamaged or CodeInternal that it
	// is damaged or cannot be read. The others of a request are read all the same.
	ReadBlock(log merklelog.LogID, index uint64, dst []byte) error

	// Inclusion returns the inclusion path of a leaf in the tree of size leaves.
	Inclusion(log merklelog.LogID, index, size uint64) (merklelog.Proof, error)
}

// LogState is what a store knows of a log.
type LogState struct {
	Manifest   *merklelog.Manifest
	Checkpoint merklelog.Checkpoint // the newest
	Leaves     uint64               // verified leaves, from the first on
	Held       uint64               // blocks
}

// Authorizer decides who may do what; it holds the roster, the quotas and the
// counters behind the limits of section "Limits" in PROTOCOL.md. To refuse it
// returns an *Error with the code that the peer gets.
type Authorizer interface {
	// MayDeliver decides whether the peer may offer the log, whose manifest
	// and certificate were verified. fresh says that the box does not hold
	// the log yet, so that it counts against the limits on new logs.
	MayDeliver(ctx context.Context, p Peer, log merklelog.LogID, m *merklelog.Manifest, cert *account.Certificate, fresh bool) error

	// MayRead decides whether the peer may read the blocks of a log held here.
	MayRead(ctx context.Context, p Peer, log merklelog.LogID, m *merklelog.Manifest) error

	// MayList decides whether the peer may list the logs of an account.
	MayList(ctx context.Context, p Peer, who account.ID) error
}

// Admin answers requests by method. It authorises them itself.
type Admin interface {
	// Serve answers one request. An *Error reaches the peer, any other error
	// only as CodeInternal.
	Serve(ctx context.Context, p Peer, r *Request) (reply []byte, err error)
}

// Request is what a peer asks an Admin for.
type Request struct {
	Method string
	Body   []byte

	// Upload is what the peer sends with the request; nil if it sends nothing.
	// Nothing of it is sent before it is read here, so a request that is refused
	// unread costs nothing. It is for one goroutine, until Serve returns. It
	// fails if the peer cancels, sends nothing for too long, or goes; io.EOF
	// says that the peer has sent all.
	Upload io.Reader

	// Progress may be called at any rate from any goroutine until Serve returns;
	// what the peer is too slow for is left out. The values are sent as JSON.
	Progress func(any)
}

// Source is a log that a session offers. Its methods are called concurrently.
type Source interface {
	Manifest() *merklelog.Manifest

	// Checkpoint returns the newest signed checkpoint; its size is 0 as long
	// as there is none. What it covers never changes.
	Checkpoint() merklelog.Checkpoint

	// Changed returns a channel that is closed when the checkpoint is next
	// replaced. Take it before looking at the checkpoint.
	Changed() <-chan struct{}

	// Leaves returns the n leaves from first on, below the checkpoint's size.
	Leaves(first uint64, n int) ([]merklelog.Leaf, error)

	// Consistency returns the proof between two sizes up to the checkpoint's.
	Consistency(m, n uint64) (merklelog.Proof, error)

	// Block reads a block into dst, which has its length. An error that wraps
	// ErrNotHere says that the block is not here; any other ends the offer.
	Block(index uint64, dst []byte) error

	// Next returns the least index from on whose block is here now, or the
	// checkpoint's size if there is none. It lets the peer be told of a long
	// hole in one message.
	Next(from uint64) uint64
}
