package replica

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"cobox/storage/merklelog"
)

// ReadBlock returns a durable block, in dst if its capacity is at least
// BlockSize, and its leaf. The block is verified against the leaf before it
// leaves the store. A block that is bad becomes a hole, which Missing reports
// from then on, and the error is a *DamagedError; one that is not here is
// ErrNotHeld.
func (s *Store) ReadBlock(log merklelog.LogID, index uint64, dst []byte) ([]byte, merklelog.Leaf, error) {
	if err := s.enterRead(); err != nil {
		return nil, merklelog.Leaf{}, err
	}
	defer s.users.leave()
	ls, err := s.acquire(log)
	if err != nil {
		return nil, merklelog.Leaf{}, fmt.Errorf("replica: read block %d of log %v: %w", index, log, err)
	}
	defer s.release(ls)
	block, leaf, err := s.readBlock(ls, index, dst)
	if err != nil {
		return nil, leaf, fmt.Errorf("replica: read block %d of log %v: %w", index, log, err)
	}
	s.counts.blocksOut.Add(1)
	return block, leaf, nil
}

func (s *Store) readBlock(ls *logState, index uint64, dst []byte) ([]byte, merklelog.Leaf, error) {
	for range 3 { // a dropped block may be gone between the look-up and the reading
		ls.mu.Lock()
		leaf, err := s.leafLocked(ls, index)
		if err == ErrNoLeaf {
			err = ErrNotHeld
		}
		var e extent
		if err == nil {
			e, err = s.extentLocked(ls, index)
		}
		ls.mu.Unlock()
		if err != nil {
			return nil, leaf, err
		}
		arrival := e.arrival + (index - e.first)
		var key [blockKeySize]byte
		err = s.get(appendBlockKey(key[:0], arrival, ls.num, index), func(v []byte) error {
			if len(v) != merklelog.BlockSize {
				return fmt.Errorf("%w: it has %d bytes", merklelog.ErrBlock, len(v))
			}
			dst = append(dst[:0], v...)
			return nil
		})
		if err == nil {
			err = leaf.Check(dst)
		}
		if err == nil {
			return dst, leaf, nil
		}
		if !isDamage(err) {
			return nil, leaf, err // EIO may pass
		}
		again, err := s.markBad(ls, index, arrival, leaf, dst, err)
		if !again || err != nil {
			return nil, leaf, err
		}
	}
	return nil, merklelog.Leaf{}, ErrNotHeld
}

// isDamage tells bytes that are wrong from bytes that could not be read.
func isDamage(err error) bool {
	return errors.Is(err, merklelog.ErrBlock) || errors.Is(err, pebble.ErrNotFound) || pebble.IsCorruptionError(err)
}

// extentLocked returns the extent of a block, or ErrNotHeld.
func (s *Store) extentLocked(ls *logState, index uint64) (extent, error) {
	if e := ls.ext; e.count > 0 && e.first <= index && index < e.end() {
		return e, nil
	}
	if ls.removed || !merklelog.RangesContain(ls.held, index) {
		return extent{}, ErrNotHeld
	}
	e, err := s.findExtent(ls.num, index)
	if err != nil {
		return e, s.damaged(ls.id, index, "index", err)
	}
	ls.ext = e
	return e, nil
}

// markBad makes a hole of a block that does not match its leaf, so that it is
// neither receipted nor served and is asked for again. If it is the leaf that is
// damaged, it is made anew of the block. markBad returns true if the reader
// should look again.
func (s *Store) markBad(ls *logState, index, arrival uint64, leaf merklelog.Leaf, block []byte, cause error) (again bool, err error) {
	if s.readOnly {
		return false, s.damaged(ls.id, index, "block", cause)
	}
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	e, err := s.findExtent(ls.num, index)
	if err == ErrNotHeld {
		return true, nil
	}
	if err != nil {
		return false, s.damaged(ls.id, index, "index", err)
	}
	if e.arrival+(index-e.first) != arrival {
		return true, nil
	}
	// The leaf is what decides: be sure that it is right.
	if err := s.verifyLeaf(ls, index, leaf); err != nil {
		if made, e := merklelog.LeafOf(block); e == nil && errors.Is(cause, merklelog.ErrBlock) && s.verifyLeaf(ls, index, made) == nil {
			return true, s.repairLeaf(ls, index, made)
		}
		return false, s.damaged(ls.id, index, "leaves", err)
	}
	if err := s.removeBlocks(ls, []merklelog.Range{{First: index, Count: 1}}, nil); err != nil {
		return false, errors.Join(s.damaged(ls.id, index, "block", cause), err)
	}
	s.opts.Logger.Error("block is damaged and will be asked for again", "log", ls.id, "block", index, "error", cause)
	return false, s.damaged(ls.id, index, "block", cause)
}

// verifyLeaf proves a leaf by the stored tree and the frontier, whose root the
// writer signed.
func (s *Store) verifyLeaf(ls *logState, index uint64, leaf merklelog.Leaf) error {
	ls.mu.Lock()
	size, root := ls.frontier.Size(), ls.frontier.Root()
	ls.mu.Unlock()
	p, err := merklelog.NewTree(storedTiles{s, ls.num}).Inclusion(index, size)
	if err != nil {
		return err
	}
	return merklelog.VerifyInclusion(leaf, index, size, root, p)
}

// repairLeaf writes a leaf that was verified in the place of a damaged one.
func (s *Store) repairLeaf(ls *logState, index uint64, leaf merklelog.Leaf) error {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	tile, at := index/merklelog.TileWidth, index%merklelog.TileWidth
	n := min(ls.frontier.Size()-tile*merklelog.TileWidth, merklelog.TileWidth)
	leaves, err := s.readTile(ls.num, tile, int(n))
	if err != nil {
		return s.damaged(ls.id, index, "leaves", err)
	}
	leaves[at] = leaf
	b := s.db.NewBatch()
	defer b.Close()
	b.Set(leavesKey(ls.num, tile), merklelog.AppendLeaves(nil, leaves), nil)
	if err := s.apply(b, true); err != nil {
		return err
	}
	if tile == ls.frontier.Size()/merklelog.TileWidth {
		ls.tail = leaves
	}
	ls.leaves, ls.tree = nil, nil
	s.counts.damaged.Add(1)
	s.opts.Logger.Error("leaf was damaged and has been made anew of its block", "log", ls.id, "block", index)
	return nil
}
