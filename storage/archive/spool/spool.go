// Package spool keeps a device's own copy of one log that it writes: every
// leaf for ever, and each sealed block until the boxes have receipted it.
//
// Where to start: [Create] begins a log, [Open] continues one after a clean end
// or a crash. A backup appends through [Spool.Writer]; replication sessions
// offer [Spool.Checkpoint], serve [Spool.Batch], [Spool.Consistency] and
// [Spool.ReadBlock], and hand in what boxes answer with [Spool.Receipted].
// [Spool.SetReach] says which boxes are connected now.
//
// Promises:
//
//   - A checkpoint is signed only after all leaves below it are durable, and
//     leaves this package only after it is durable itself. So whatever crash
//     follows, the log never contradicts a checkpoint that somebody has seen.
//   - Blocks above the newest checkpoint are never served.
//   - With no box in reach, the blocks below a checkpoint are durable too. With
//     one in reach they are in the operating system's page cache only, mostly
//     removed before they reach the disk; after a power cut some may be missing,
//     and [Spool.Holes] names them. The end of the process alone loses none.
//   - No block is kept in memory, and none is copied but into the page cache.
//
// The files are specified in FORMAT.md. Two processes must not open one log: its
// lock is the caller's.
package spool

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cobox/storage/merklelog"
)

var (
	// ErrNotHere says that a block is not in the spool: it was released after a
	// receipt, lost, or lies above the newest checkpoint.
	ErrNotHere = errors.New("spool: block is not here")
	// ErrSpoolFull says that no box is in reach and the spool has reached its
	// limit.
	ErrSpoolFull = errors.New("spool: full, and no box is in reach")
	// ErrDamaged says that the log's own files contradict its signed checkpoint.
	// The log cannot be continued; its device begins a new one.
	ErrDamaged = errors.New("spool: damaged")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("spool: closed")
)

// Options are the dependencies and settings of a spool.
type Options struct {
	// Signer holds the writer's Ed25519 key. Required.
	Signer crypto.Signer
	// Limit is how many bytes of blocks may wait while no box is in reach.
	// Default: 16 GiB.
	Limit uint64
	// Window is how many bytes of blocks may wait while a box is in reach;
	// appending beyond it blocks. At least two segments. Default: 192 MiB: a box
	// receipts every 64 MiB, and meanwhile the next are on their way.
	Window uint64
	// SegmentBlocks is the number of blocks in a segment file, a power of two up
	// to 65,536. Default: 256, which is 16 MiB.
	SegmentBlocks uint64
	// CheckpointBlocks and CheckpointAfter bound what is not yet covered by a
	// checkpoint while a box is in reach. Default: 256 blocks, 2 s.
	CheckpointBlocks uint64
	CheckpointAfter  time.Duration
	// FS replaces the directory, in tests.
	FS FS
	// Logger gets what nobody waits for: errors of checkpoints made in the
	// background, segments that could not be removed. Default: discarded.
	Logger *slog.Logger
}

// withDefaults returns o with the defaults in place, or names the bad field.
func (o Options) withDefaults() (Options, error) {
	def := func(v *uint64, d uint64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.SegmentBlocks, 256)
	def(&o.Limit, 16<<30)
	def(&o.Window, max(192<<20, 2*o.SegmentBlocks*merklelog.BlockSize))
	def(&o.CheckpointBlocks, merklelog.MaxBatch)
	if o.CheckpointAfter == 0 {
		o.CheckpointAfter = 2 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	switch n := o.SegmentBlocks; {
	case o.Signer == nil:
		return o, errors.New("spool: Options.Signer is missing")
	case n > 65536 || n&(n-1) != 0:
		return o, fmt.Errorf("spool: Options.SegmentBlocks is %d, want a power of two up to 65536", n)
	case o.Window < 2*n*merklelog.BlockSize:
		return o, fmt.Errorf("spool: Options.Window is %d, less than two segments", o.Window)
	case o.CheckpointAfter < 0:
		return o, errors.New("spool: Options.CheckpointAfter is negative")
	}
	return o, nil
}

// Spool is one log of this device. All methods are safe for concurrent use;
// appending is one at a time.
type Spool struct {
	o        Options
	fs       FS
	manifest *merklelog.Manifest
	id       merklelog.LogID
	tree     *merklelog.Tree
	tiles    *merklelog.LeafTiles

	// writing is held by the one Append at a time, also while it waits.
	writing sync.Mutex
	active  *segment // where the next block goes; nil: a new segment

	// signing is held while a checkpoint is made: checkpoints are made one after
	// the other, so their sizes ascend.
	signing sync.Mutex
	leaves  File
	roots   File // tile roots, derived from leaves

	// The full leaf tile read last, checked: blocks are read in runs.
	tileMu     sync.Mutex
	tileIndex  uint64
	tileLeaves []merklelog.Leaf

	receiptFile sync.Mutex // held while the receipts file is replaced

	mu       sync.Mutex
	frontier merklelog.Frontier   // of all blocks appended
	pending  []merklelog.Leaf     // appended, not yet below newest
	edge     []merklelog.Leaf     // durable leaves of the last, incomplete tile
	newest   merklelog.Checkpoint // durable; Size 0 if there is none
	segments []*segment           // ascending, disjoint
	waiting  uint64               // bytes of blocks in segments
	reach    map[BoxKey]bool
	receipts map[BoxKey]Receipt // replaced as a whole, under receiptFile
	changed  chan struct{}      // closed and replaced at every change
	failed   error              // sticky: an error after which nothing is signed any more
	closed   bool

	kick chan struct{} // wakes the checkpointer; capacity 1
	stop chan struct{}
	done chan struct{}
}

// Create begins a log in a directory that holds none: the manifest must be
// signed by the signer's key. The log is durable when Create returns; a crash
// before leaves a directory without a manifest, which Create accepts again.
func Create(dir string, m *merklelog.Manifest, o Options) (*Spool, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := checkManifest(m, o.Signer); err != nil {
		return nil, fmt.Errorf("spool: create: %w", err)
	}
	fs := o.FS
	if fs == nil {
		if fs, err = openDir(dir, true); err != nil {
			return nil, fmt.Errorf("spool: create: %w", err)
		}
	}
	if err := create(fs, m); err != nil {
		fs.Close()
		return nil, fmt.Errorf("spool: create: %w", err)
	}
	return open(fs, o)
}

func create(fs FS, m *merklelog.Manifest) error {
	names, err := fs.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == manifestName {
			return errors.New("the directory already holds a log")
		}
	}
	f, err := fs.Open(leavesName, true)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	// The manifest comes last: where it is, everything is.
	return replaceFile(fs, manifestName, merklelog.AppendManifest(nil, m), true)
}

// checkManifest checks that the manifest is signed, and by this signer's key.
func checkManifest(m *merklelog.Manifest, signer crypto.Signer) error {
	if err := m.Verify(); err != nil {
		return err
	}
	pub, ok := signer.Public().(ed25519.PublicKey)
	if !ok || !m.Writer.Equal(merklelog.WriterKey(pub)) {
		return errors.New("the signer is not the log's writer")
	}
	return nil
}

// ID returns the log's identity.
func (s *Spool) ID() merklelog.LogID { return s.id }

// Manifest returns the log's manifest. It must not be changed.
func (s *Spool) Manifest() *merklelog.Manifest { return s.manifest }

// Size returns the number of blocks appended, committed or not.
func (s *Spool) Size() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.frontier.Size()
}

// Waiting returns how many bytes of blocks the spool holds.
func (s *Spool) Waiting() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

// Changed returns a channel that is closed at the next change: a new
// checkpoint, a receipt, another set of boxes in reach, a failure or Close. Take
// the channel first, then look at the state, then wait.
func (s *Spool) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Err returns the error after which the spool signs nothing any more, if there
// was one. What is durable stays readable; open the log anew to go on.
func (s *Spool) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *Spool) broadcastLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// fail makes an error sticky. A failed sync is never retried: the next one could
// succeed without having written what the first one lost.
func (s *Spool) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
		s.broadcastLocked()
	}
	return err
}

// Close ends the spool: blocks and leaves above the newest checkpoint are
// dropped, what is left is synced so that the next Open need not check it. A
// Close that fails leaves what a crash would.
func (s *Spool) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.broadcastLocked()
	s.mu.Unlock()
	close(s.stop)
	<-s.done
	s.writing.Lock()
	defer s.writing.Unlock()
	s.signing.Lock()
	defer s.signing.Unlock()
	s.receiptFile.Lock()
	defer s.receiptFile.Unlock()

	s.mu.Lock()
	segments, size, failed := s.segments, s.newest.Size, s.failed
	receipts := sorted(s.receipts)
	s.mu.Unlock()
	var errs []error
	if failed == nil {
		for _, g := range segments {
			err := g.finish(size)
			if err == nil {
				err = s.seal(g)
			}
			errs = append(errs, err)
		}
		if len(receipts) > 0 {
			errs = append(errs, replaceFile(s.fs, receiptsName, appendReceipts(nil, s.id, receipts), true))
		}
	}
	for _, g := range segments {
		errs = append(errs, g.close())
	}
	errs = append(errs, s.leaves.Close(), s.roots.Close(), s.fs.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("spool: close: %w", err)
	}
	return nil
}
