package spool

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cobox/storage/merklelog"
)

// Checkpoint returns the newest durable checkpoint; its Size is 0 if there is
// none yet. Everything below it may be sent.
func (s *Spool) Checkpoint() merklelog.Checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest
}

// Leaves returns n leaves from first on, all below the newest checkpoint. It
// checks them against the checkpoint's tree.
func (s *Spool) Leaves(first uint64, n int) ([]merklelog.Leaf, error) {
	if n < 0 || first+uint64(n) > s.Checkpoint().Size || first > merklelog.MaxSize {
		return nil, fmt.Errorf("spool: leaves from %d to %d are not below the newest checkpoint", first, first+uint64(n))
	}
	leaves := make([]merklelog.Leaf, 0, n)
	for n > 0 {
		tile, err := s.leafTile(first / merklelog.TileWidth)
		if err != nil {
			return nil, err
		}
		tile = tile[first%merklelog.TileWidth:]
		k := min(n, len(tile))
		leaves = append(leaves, tile[:k]...)
		first, n = first+uint64(k), n-k
	}
	return leaves, nil
}

// leafTile returns the durable leaves of a tile, checked. The last, incomplete
// tile is kept in memory; a full one must have the root that the checkpoint's
// tree has there.
func (s *Spool) leafTile(index uint64) ([]merklelog.Leaf, error) {
	s.mu.Lock()
	size, edge := s.newest.Size, s.edge
	s.mu.Unlock()
	if index == size/merklelog.TileWidth {
		return edge, nil
	}
	s.tileMu.Lock()
	defer s.tileMu.Unlock()
	if s.tileLeaves != nil && s.tileIndex == index {
		return s.tileLeaves, nil
	}
	leaves := make([]merklelog.Leaf, merklelog.TileWidth)
	if err := s.readLeaves(index*merklelog.TileWidth, leaves); err != nil {
		return nil, err
	}
	root, err := s.tiles.Hashes(1, index/merklelog.TileWidth, int(index%merklelog.TileWidth)+1)
	if err != nil {
		return nil, err
	}
	if merklelog.TileRoot(leaves) != root[len(root)-1] {
		return nil, fmt.Errorf("%w: leaves from %d do not match the log's checkpoint", ErrDamaged, index*merklelog.TileWidth)
	}
	s.tileIndex, s.tileLeaves = index, leaves
	return leaves, nil
}

// readLeaves reads leaves as the file has them.
func (s *Spool) readLeaves(first uint64, dst []merklelog.Leaf) error {
	b := make([]byte, len(dst)*merklelog.LeafSize)
	if err := readFull(s.leaves, b, int64(first)*merklelog.LeafSize); err != nil {
		return fmt.Errorf("spool: read leaves from %d: %w", first, err)
	}
	for i := range dst {
		copy(dst[i][:], b[i*merklelog.LeafSize:])
	}
	return nil
}

// leaf returns one leaf below the newest checkpoint.
func (s *Spool) leaf(index uint64) (merklelog.Leaf, error) {
	leaves, err := s.Leaves(index, 1)
	if err != nil {
		return merklelog.Leaf{}, err
	}
	return leaves[0], nil
}

// Batch returns verified leaves from first on with their proof for a checkpoint
// of n blocks, at most up to the end of first's tile, as [merklelog.Tree.Batch]
// does.
func (s *Spool) Batch(first, n uint64) (merklelog.Batch, error) {
	if n > s.Checkpoint().Size {
		return merklelog.Batch{}, fmt.Errorf("spool: batch of leaves below %d, which has no checkpoint", n)
	}
	if first >= n {
		return merklelog.Batch{}, fmt.Errorf("spool: batch of leaves from %d of %d", first, n)
	}
	end := min(n, (first/merklelog.TileWidth+1)*merklelog.TileWidth)
	leaves, err := s.Leaves(first, int(end-first))
	if err != nil {
		return merklelog.Batch{}, err
	}
	proof, err := s.Consistency(end, n)
	if err != nil {
		return merklelog.Batch{}, err
	}
	return merklelog.Batch{First: first, Leaves: leaves, Proof: proof}, nil
}

// Root returns the root of the first n blocks; n is at most the newest
// checkpoint's size.
func (s *Spool) Root(n uint64) (merklelog.Hash, error) {
	if n > s.Checkpoint().Size {
		return merklelog.Hash{}, fmt.Errorf("spool: root of size %d, which has no checkpoint", n)
	}
	root, err := s.tree.Root(n)
	if err != nil {
		return merklelog.Hash{}, fmt.Errorf("spool: %w", err)
	}
	return root, nil
}

// Consistency returns the proof that the log of n blocks begins with that of m;
// n is at most the newest checkpoint's size.
func (s *Spool) Consistency(m, n uint64) (merklelog.Proof, error) {
	if n > s.Checkpoint().Size {
		return nil, fmt.Errorf("spool: proof for size %d, which has no checkpoint", n)
	}
	p, err := s.tree.Consistency(m, n)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	return p, nil
}

// Inclusion returns the proof that a leaf is the index'th of the first n; n is
// at most the newest checkpoint's size.
func (s *Spool) Inclusion(index, n uint64) (merklelog.Proof, error) {
	if n > s.Checkpoint().Size {
		return nil, fmt.Errorf("spool: proof for size %d, which has no checkpoint", n)
	}
	p, err := s.tree.Inclusion(index, n)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	return p, nil
}

// findLocked returns the segment that has the block, or nil.
func (s *Spool) findLocked(index uint64) *segment {
	i, ok := slices.BinarySearchFunc(s.segments, index, func(g *segment, index uint64) int {
		switch {
		case g.first+g.count <= index:
			return -1
		case g.first > index:
			return 1
		}
		return 0
	})
	if !ok || merklelog.RangesContain(s.segments[i].bad, index) {
		return nil
	}
	return s.segments[i]
}

// Block fills dst, of merklelog.BlockSize bytes, with a block below the newest
// checkpoint. An error that wraps ErrNotHere says that the spool does not have
// it, or not any more.
//
// A block that this process appended is handed out as the page cache has it; the
// receiver checks it against its leaf anyway. One found at Open is checked here,
// and is not here if it is damaged.
func (s *Spool) Block(index uint64, dst []byte) error { return s.block(index, dst, false) }

func (s *Spool) block(index uint64, dst []byte, check bool) error {
	if len(dst) != merklelog.BlockSize {
		return fmt.Errorf("spool: buffer of %d bytes for a block", len(dst))
	}
	s.mu.Lock()
	var g *segment
	if index < s.newest.Size && !s.closed {
		g = s.findLocked(index)
	}
	s.mu.Unlock()
	if g == nil {
		return fmt.Errorf("%w: block %d", ErrNotHere, index)
	}
	if err := g.read(index, dst); err != nil {
		if errors.Is(err, ErrNotHere) {
			return fmt.Errorf("%w: block %d", ErrNotHere, index)
		}
		// An unreadable block must not stop the others.
		return s.lose(g, index, err)
	}
	if g.fresh && !check {
		return nil
	}
	leaf, err := s.leaf(index)
	if err != nil {
		return err
	}
	if err := leaf.Check(dst); err != nil {
		return s.lose(g, index, err)
	}
	return nil
}

// lose makes a block a hole.
func (s *Spool) lose(g *segment, index uint64, cause error) error {
	s.mu.Lock()
	g.bad = merklelog.AddRange(g.bad, merklelog.Range{First: index, Count: 1})
	s.mu.Unlock()
	s.o.Logger.Warn("block in the spool is lost", "log", s.id, "index", index, "err", cause)
	return fmt.Errorf("%w: block %d is damaged: %w", ErrNotHere, index, cause)
}

// Next returns the least index from on whose block is here, or the newest
// checkpoint's size if there is none.
func (s *Spool) Next(from uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.segments {
		for i := max(from, g.first); i < min(g.first+g.count, s.newest.Size); i++ {
			if !merklelog.RangesContain(g.bad, i) {
				return i
			}
		}
	}
	return s.newest.Size
}

// Fetch calls fn with each of the blocks that the spool has, verified against
// its leaf; blocks of other logs, and those that are not here, are left out. fn
// must not keep block. An error of fn ends Fetch and is returned.
func (s *Spool) Fetch(ctx context.Context, log merklelog.LogID, indexes []uint64, fn func(index uint64, block []byte) error) error {
	if log != s.id {
		return nil
	}
	block := make([]byte, merklelog.BlockSize)
	for _, index := range indexes {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		err := s.block(index, block, true)
		if errors.Is(err, ErrNotHere) {
			continue
		}
		if err == nil {
			err = fn(index, block)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Regressed reports whether a checkpoint that a box knows shows that this copy
// of the log went back: the box knows a longer log, or another one, signed by
// our own key. Then the log must be left and a new one begun; nothing may be
// appended to it. An error says that known is not our checkpoint, or that the
// answer could not be found.
func (s *Spool) Regressed(known merklelog.Checkpoint) (bool, error) {
	if known.Log != s.id {
		return false, fmt.Errorf("spool: checkpoint of another log, %v", known.Log)
	}
	if err := known.Verify(s.manifest.Writer); err != nil {
		return false, fmt.Errorf("spool: checkpoint that a box knows: %w", err)
	}
	if known.Size > s.Checkpoint().Size {
		return true, nil
	}
	root, err := s.tree.Root(known.Size)
	if err != nil {
		return false, fmt.Errorf("spool: %w", err)
	}
	return root != known.Root, nil
}
