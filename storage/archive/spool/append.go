package spool

import (
	"context"
	"fmt"
	"time"

	"cobox/storage/merklelog"
)

// Writer appends to a spool on behalf of one context: it is the log that a
// backup writes to.
type Writer struct {
	ctx context.Context
	s   *Spool
}

// Writer returns a writer whose Append stops waiting when ctx ends.
func (s *Spool) Writer(ctx context.Context) *Writer { return &Writer{ctx, s} }

// ID returns the log's identity.
func (w *Writer) ID() merklelog.LogID { return w.s.ID() }

// Size returns the number of blocks appended so far, the index of the next.
func (w *Writer) Size() uint64 { return w.s.Size() }

// Append is [Spool.Append] under the writer's context.
func (w *Writer) Append(block []byte) (uint64, error) { return w.s.Append(w.ctx, block) }

// Commit is [Spool.Commit].
func (w *Writer) Commit(ctx context.Context) (merklelog.Checkpoint, error) { return w.s.Commit(ctx) }

// Append adds a sealed block and returns its index. It does not keep the slice.
//
// While a box is in reach it waits as long as the window is full. With none in
// reach it never waits, and returns ErrSpoolFull at the limit. After that error,
// or one of the file system, the log is as it was and Append may be tried again.
func (s *Spool) Append(ctx context.Context, block []byte) (uint64, error) {
	leaf, err := merklelog.LeafOf(block)
	if err != nil {
		return 0, fmt.Errorf("spool: append: %w", err)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	index, err := s.admit(ctx)
	if err != nil {
		return 0, err
	}
	if err := s.write(index, block); err != nil {
		return 0, fmt.Errorf("spool: append block %d: %w", index, err)
	}
	s.mu.Lock()
	s.frontier.Append(leaf)
	s.pending = append(s.pending, leaf)
	s.active.count++
	s.active.busy = false
	s.waiting += merklelog.BlockSize
	due := len(s.pending) == 1 || uint64(len(s.pending)) >= s.o.CheckpointBlocks
	s.mu.Unlock()
	if due {
		s.wake()
	}
	return index, nil
}

// admit waits until there is room for a block and returns its index.
func (s *Spool) admit(ctx context.Context) (uint64, error) {
	for {
		s.mu.Lock()
		index, changed := s.frontier.Size(), s.changed
		need := s.waiting + merklelog.BlockSize
		live := len(s.reach) > 0
		closed, failed := s.closed, s.failed
		s.mu.Unlock()
		switch {
		case closed:
			return 0, ErrClosed
		case failed != nil:
			return 0, failed
		case index >= merklelog.MaxSize:
			return 0, fmt.Errorf("spool: the log has its largest size, %d blocks", uint64(merklelog.MaxSize))
		case !live && need > s.o.Limit:
			return 0, ErrSpoolFull
		case !live || need <= s.o.Window:
			return index, nil
		}
		// What waits can be receipted only below a checkpoint.
		s.wake()
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, fmt.Errorf("spool: append: %w", context.Cause(ctx))
		}
	}
}

// write puts the block into the active segment, after beginning one if need be.
func (s *Spool) write(index uint64, block []byte) error {
	if g := s.active; g != nil && index >= g.end {
		if err := s.leave(g); err != nil {
			return err
		}
		s.active = nil
	}
	// While busy, the active segment is not released.
	s.mu.Lock()
	if s.active != nil && s.active.released {
		s.active = nil // it was receipted as far as it went
	}
	g := s.active
	if g != nil {
		g.busy = true
	}
	s.mu.Unlock()
	if g != nil {
		err := g.write(index, block)
		if err != nil {
			s.mu.Lock()
			g.busy = false
			s.mu.Unlock()
		}
		return err
	}
	g, err := newSegment(s.fs, index, s.o.SegmentBlocks)
	if err != nil {
		return err
	}
	if err := g.write(index, block); err != nil {
		g.remove()
		return err
	}
	g.busy = true
	s.mu.Lock()
	s.segments = append(s.segments, g)
	s.mu.Unlock()
	s.active = g
	return nil
}

// leave is done with a full segment. With no box in reach it is synced now, so
// that a commit waits for little and no more handles than needed are open.
func (s *Spool) leave(g *segment) error {
	s.mu.Lock()
	live := len(s.reach) > 0
	s.mu.Unlock()
	if live {
		return nil
	}
	if err := g.sync(); err != nil {
		return s.fail(fmt.Errorf("sync blocks from %d: %w", g.first, err))
	}
	return s.seal(g)
}

// Commit makes everything appended so far part of the log: the leaves are
// durable, the blocks in the spool (and durable, if no box is in reach), and
// then a signed checkpoint over them is durable, which is returned. With nothing
// new it returns the newest checkpoint.
//
// After an error nothing more is signed by this Spool; see [Spool.Err].
func (s *Spool) Commit(ctx context.Context) (merklelog.Checkpoint, error) {
	if err := ctx.Err(); err != nil {
		return merklelog.Checkpoint{}, fmt.Errorf("spool: commit: %w", context.Cause(ctx))
	}
	cp, err := s.checkpoint()
	if err != nil {
		return merklelog.Checkpoint{}, fmt.Errorf("spool: commit: %w", err)
	}
	if cp.Size == 0 {
		return merklelog.Checkpoint{}, fmt.Errorf("spool: commit: the log is empty")
	}
	return cp, nil
}

// wake has the checkpointer look again.
func (s *Spool) wake() {
	select {
	case s.kick <- struct{}{}:
	default: // it will look anyway
	}
}

// run makes the checkpoints that a live replication needs between commits. It is
// the spool's only goroutine; Close waits for it.
func (s *Spool) run() {
	defer close(s.done)
	timer := time.NewTimer(s.o.CheckpointAfter)
	defer timer.Stop()
	armed := false
	for {
		late := false
		select {
		case <-s.stop:
			return
		case <-timer.C:
			late, armed = true, false
		case <-s.kick:
		}
		s.mu.Lock()
		n := uint64(len(s.pending))
		stuck := s.waiting+merklelog.BlockSize > s.o.Window
		quiet := len(s.reach) == 0 || s.failed != nil || s.closed
		s.mu.Unlock()
		if n == 0 || quiet {
			continue
		}
		if late || stuck || n >= s.o.CheckpointBlocks {
			if _, err := s.checkpoint(); err != nil {
				s.o.Logger.Error("checkpoint in the background failed", "log", s.id, "err", err)
			}
			continue
		}
		if !armed {
			timer.Reset(s.o.CheckpointAfter)
			armed = true
		}
	}
}

// checkpoint signs everything appended so far. The order is what the package
// promises: (blocks, with no box in reach), leaves, signature, checkpoint. A
// crash between any two steps leaves the previous checkpoint as the newest one,
// and what lies above it is dropped by the next Open; a signature that was made
// but did not become durable has been seen by nobody.
func (s *Spool) checkpoint() (merklelog.Checkpoint, error) {
	s.signing.Lock()
	defer s.signing.Unlock()

	s.mu.Lock()
	if s.failed != nil || s.closed {
		err := s.failed
		if err == nil {
			err = ErrClosed
		}
		s.mu.Unlock()
		return merklelog.Checkpoint{}, err
	}
	newest, size, root := s.newest, s.frontier.Size(), s.frontier.Root()
	leaves := s.pending[:len(s.pending):len(s.pending)]
	edge := s.edge
	var unsynced []*segment
	if len(s.reach) == 0 {
		unsynced = append(unsynced, s.segments...)
	}
	s.mu.Unlock()

	for i, g := range unsynced {
		err := g.sync()
		if err == nil && i < len(unsynced)-1 {
			err = s.seal(g) // only the last one may still be written to
		}
		if err != nil {
			return newest, s.fail(fmt.Errorf("sync blocks from %d: %w", g.first, err))
		}
	}
	if size == newest.Size {
		return newest, nil
	}
	if _, err := s.leaves.WriteAt(merklelog.AppendLeaves(nil, leaves), int64(newest.Size)*merklelog.LeafSize); err != nil {
		return newest, s.fail(fmt.Errorf("write leaves from %d: %w", newest.Size, err))
	}
	if err := s.leaves.Sync(); err != nil {
		return newest, s.fail(fmt.Errorf("sync leaves from %d: %w", newest.Size, err))
	}
	edge, err := s.writeRoots(newest.Size, edge, leaves)
	if err != nil {
		return newest, s.fail(err)
	}
	cp, err := merklelog.SignCheckpoint(s.o.Signer, s.id, size, root)
	if err != nil {
		return newest, s.fail(err)
	}
	if err := replaceFile(s.fs, checkpointName, appendCheckpoint(nil, cp), true); err != nil {
		return newest, s.fail(err)
	}

	s.mu.Lock()
	s.newest, s.edge = cp, edge
	rest := s.pending[len(leaves):]
	s.pending = append(make([]merklelog.Leaf, 0, max(len(rest), merklelog.MaxBatch)), rest...)
	free := s.releaseLocked()
	s.broadcastLocked()
	s.mu.Unlock()
	if len(rest) > 0 {
		s.wake() // appended meanwhile: their time runs too
	}
	s.remove(free)
	return cp, nil
}

// writeRoots appends the roots of the tiles that the leaves from size on
// complete, and returns the leaves of the last, incomplete tile. The roots are
// derived from the leaves and checked at Open, so they are not synced.
func (s *Spool) writeRoots(size uint64, edge, leaves []merklelog.Leaf) ([]merklelog.Leaf, error) {
	tile := size / merklelog.TileWidth
	all := append(append(make([]merklelog.Leaf, 0, len(edge)+len(leaves)), edge...), leaves...)
	var roots []byte
	for len(all) >= merklelog.TileWidth {
		root := merklelog.TileRoot(all[:merklelog.TileWidth])
		roots = append(roots, root[:]...)
		all = all[merklelog.TileWidth:]
	}
	if len(roots) > 0 {
		if _, err := s.roots.WriteAt(roots, int64(tile)*merklelog.HashSize); err != nil {
			return nil, fmt.Errorf("write tile roots from %d: %w", tile, err)
		}
	}
	return append([]merklelog.Leaf(nil), all...), nil
}
