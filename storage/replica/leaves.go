package replica

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// OfferCheckpoint takes in a log's checkpoint: the first, which begins the log
// here, or another of a log that is here, with the consistency proof between
// its size and that of the newest one here. Everything is verified first. An
// older one, or the same, changes nothing; for an older one the proof may be
// missing.
//
// If the writer signed two histories, the log is frozen: the evidence is
// stored, what is here stays and is served, and nothing more is taken in. The
// error is then a *merklelog.ForkError, now and for whatever is offered later.
func (s *Store) OfferCheckpoint(m *merklelog.Manifest, cp merklelog.Checkpoint, proof merklelog.Proof) error {
	if err := s.offer(m, cp, proof); err != nil {
		return fmt.Errorf("replica: offer checkpoint of log %v at size %d: %w", cp.Log, cp.Size, err)
	}
	return nil
}

func (s *Store) offer(m *merklelog.Manifest, cp merklelog.Checkpoint, proof merklelog.Proof) error {
	if err := s.enterWrite(); err != nil {
		return err
	}
	defer s.users.leave()
	if id := m.ID(); id != cp.Log {
		return fmt.Errorf("the manifest is that of log %v", id)
	}
	ls, err := s.acquire(cp.Log)
	if errors.Is(err, ErrUnknownLog) {
		if ls, err = s.createLog(m, cp, proof); ls == nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	defer s.release(ls)
	if err := cp.Verify(ls.writer); err != nil {
		return err
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if err := ls.usableLocked(); err != nil {
		return err
	}
	if cp.Size < ls.cp.Size && len(proof) == 0 {
		if cp.Size > ls.frontier.Size() {
			return nil // nothing here contradicts it, and it brings nothing
		}
		if proof, err = s.treeLocked(ls).Consistency(cp.Size, ls.cp.Size); err != nil {
			if ls.frontier.Size() < ls.cp.Size {
				return nil // the tree is not complete, so there is no proof either way
			}
			return s.damaged(ls.id, cp.Size, "tree", err)
		}
	}
	err = merklelog.Compare(ls.cp, cp, proof)
	var fork *merklelog.ForkError
	if errors.As(err, &fork) {
		return s.freezeLocked(ls, fork)
	}
	if err != nil || cp.Size <= ls.cp.Size {
		return err
	}
	if err := s.space.check(s); err != nil {
		return err
	}
	b := s.db.NewBatch()
	defer b.Close()
	b.Set(logKey(prefixCheckpoint, ls.num), merklelog.AppendCheckpoint(nil, cp), nil)
	if err := s.apply(b, false); err != nil { // the next Commit syncs it
		return err
	}
	ls.cp = cp
	return nil
}

// freezeLocked stores fork evidence, at once and for good.
func (s *Store) freezeLocked(ls *logState, fork *merklelog.ForkError) error {
	b := s.db.NewBatch()
	defer b.Close()
	b.Set(logKey(prefixFork, ls.num), merklelog.AppendFork(nil, fork.Fork), nil)
	if err := s.apply(b, true); err != nil {
		return err
	}
	f := fork.Fork
	ls.fork = &f
	s.counts.forks.Add(1)
	s.opts.Logger.Error("log is frozen: its writer signed two histories", "log", ls.id, "account", ls.account,
		"size", f.A.Size, "other_size", f.B.Size)
	return fork
}

// createLog begins a log here. It is durable when createLog returns. If another
// call did so meanwhile, that log is returned; if the log cannot be begun, nil.
func (s *Store) createLog(m *merklelog.Manifest, cp merklelog.Checkpoint, proof merklelog.Proof) (*logState, error) {
	cert, err := account.VerifyManifest(m)
	if err != nil {
		return nil, err
	}
	if err := cp.Verify(m.Writer); err != nil {
		return nil, err
	}
	limit, ok := s.opts.Quota(cert.Account)
	if !ok {
		return nil, ErrNotAdmitted
	}
	if err := s.space.check(s); err != nil {
		return nil, err
	}
	s.logs.create.Lock()
	defer s.logs.create.Unlock()
	if ls, err := s.acquire(cp.Log); !errors.Is(err, ErrUnknownLog) {
		return ls, err
	}
	if len(proof) != 0 {
		return nil, fmt.Errorf("%w: a log that is not here begins without a proof", merklelog.ErrProof)
	}
	s.mu.Lock()
	u := *s.accountLocked(cert.Account)
	s.mu.Unlock()
	if u.logs >= MaxLogs {
		return nil, ErrTooManyLogs
	}
	if u.bytes() >= limit {
		return nil, ErrQuota
	}
	next, err := s.readNumber(nextKey(nextLog))
	if err != nil {
		return nil, err
	}
	if next >= 1<<32 {
		return nil, errors.New("log numbers are used up")
	}
	num := uint32(next)
	b := s.db.NewBatch()
	defer b.Close()
	b.Set(nextKey(nextLog), appendNumber(nil, next+1), nil)
	b.Set(identityKey(cp.Log), appendLogNumber(nil, num), nil)
	b.Set(accountLogKey(cert.Account, num), nil, nil)
	b.Set(logKey(prefixManifest, num), appendLogRecord(nil, logRecord{s.opts.Now().UnixMilli(), m}), nil)
	b.Set(logKey(prefixCheckpoint, num), merklelog.AppendCheckpoint(nil, cp), nil)
	b.Set(logKey(prefixFrontier, num), merklelog.AppendFrontier(nil, new(merklelog.Frontier)), nil)
	b.Set(logKey(prefixHeld, num), appendNumber(nil, 0), nil)
	if err := s.apply(b, true); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.accountLocked(cert.Account).logs++
	s.mu.Unlock()
	return s.acquire(cp.Log)
}

// AppendLeaves takes in the next leaves of a log, after verifying them against
// its newest checkpoint. They are durable after the next Commit of the log.
func (s *Store) AppendLeaves(log merklelog.LogID, batch merklelog.Batch) error {
	if err := s.appendLeaves(log, batch); err != nil {
		return fmt.Errorf("replica: append %d leaves at %d of log %v: %w", len(batch.Leaves), batch.First, log, err)
	}
	return nil
}

func (s *Store) appendLeaves(log merklelog.LogID, batch merklelog.Batch) error {
	if err := s.enterWrite(); err != nil {
		return err
	}
	defer s.users.leave()
	if err := s.space.check(s); err != nil {
		return err
	}
	ls, err := s.acquire(log)
	if err != nil {
		return err
	}
	defer s.release(ls)
	limit, ok := s.opts.Quota(ls.account)
	if !ok {
		return ErrNotAdmitted
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if err := ls.usableLocked(); err != nil {
		return err
	}
	next := ls.frontier
	if err := next.Accept(batch, ls.cp); err != nil {
		return err
	}
	s.mu.Lock()
	u := s.accountLocked(ls.account)
	if u.bytes()+uint64(len(batch.Leaves))*merklelog.LeafSize > limit {
		s.mu.Unlock()
		return ErrQuota
	}
	u.leaves += uint64(len(batch.Leaves))
	s.mu.Unlock()

	tail, err := s.writeLeaves(ls, &next, batch)
	if err != nil {
		s.mu.Lock()
		s.accountLocked(ls.account).leaves -= uint64(len(batch.Leaves))
		s.mu.Unlock()
		return err
	}
	ls.frontier = next
	ls.tail = tail
	ls.leaves = nil // the cached tile may have grown
	return nil
}

// writeLeaves applies the batch that makes the leaves part of the log, and
// returns those of the last tile if it is not full.
func (s *Store) writeLeaves(ls *logState, next *merklelog.Frontier, batch merklelog.Batch) ([]merklelog.Leaf, error) {
	b := s.db.NewBatch()
	defer b.Close()
	for i := range batch.Leaves {
		if batch.Leaves[i].Type() == merklelog.Envelope {
			b.Set(indexKey(prefixEnvelope, ls.num, batch.First+uint64(i)), nil, nil)
		}
	}
	tail := append(make([]merklelog.Leaf, 0, merklelog.TileWidth), ls.tail...)
	tile := batch.First / merklelog.TileWidth
	for leaves := batch.Leaves; len(leaves) > 0; {
		n := min(len(leaves), merklelog.TileWidth-len(tail))
		tail = append(tail, leaves[:n]...)
		leaves = leaves[n:]
		b.Set(leavesKey(ls.num, tile), merklelog.AppendLeaves(nil, tail), nil)
		if len(tail) == merklelog.TileWidth {
			if err := s.growTree(b, ls, 1, tile, merklelog.TileRoot(tail)); err != nil {
				return nil, s.damaged(ls.id, tile*merklelog.TileWidth, "tree", err)
			}
			tail = tail[:0]
			tile++
		}
	}
	b.Set(logKey(prefixFrontier, ls.num), merklelog.AppendFrontier(nil, next), nil)
	return tail, s.apply(b, false) // the next Commit syncs it
}

// growTree appends the n'th hash of a level to its tile, and what that tile
// completes to the level above. At most 256 leaves are added in one batch, so
// no tile is completed twice in it.
func (s *Store) growTree(b *pebble.Batch, ls *logState, level int, n uint64, h merklelog.Hash) error {
	tile, at := n/merklelog.TileWidth, int(n%merklelog.TileWidth)
	var hashes []merklelog.Hash
	if at > 0 {
		var err error
		if hashes, err = s.readHashes(ls.num, level, tile, at); err != nil {
			return err
		}
	}
	hashes = append(hashes, h)
	value := make([]byte, 0, len(hashes)*merklelog.HashSize)
	for i := range hashes {
		value = append(value, hashes[i][:]...)
	}
	b.Set(treeKey(ls.num, level, tile), value, nil)
	if len(hashes) == merklelog.TileWidth {
		return s.growTree(b, ls, level+1, tile, merklelog.HashTileRoot(hashes))
	}
	return nil
}

// leafLocked returns the leaf of a block, or ErrNoLeaf. It keeps the tile.
func (s *Store) leafLocked(ls *logState, index uint64) (merklelog.Leaf, error) {
	size := ls.frontier.Size()
	if index >= size {
		return merklelog.Leaf{}, ErrNoLeaf
	}
	tile, at := index/merklelog.TileWidth, index%merklelog.TileWidth
	if tile == size/merklelog.TileWidth {
		return ls.tail[at], nil
	}
	if ls.leaves == nil || ls.tile != tile {
		leaves, err := s.readTile(ls.num, tile, merklelog.TileWidth)
		if err != nil {
			return merklelog.Leaf{}, s.damaged(ls.id, tile*merklelog.TileWidth, "leaves", err)
		}
		ls.tile, ls.leaves = tile, leaves
	}
	return ls.leaves[at], nil
}

// Leaves returns up to n verified leaves from an index on, at least one and at
// most those of one tile of 256.
func (s *Store) Leaves(log merklelog.LogID, first uint64, n int) ([]merklelog.Leaf, error) {
	leaves, err := s.leavesFrom(log, first, n)
	if err != nil {
		return nil, fmt.Errorf("replica: leaves from %d of log %v: %w", first, log, err)
	}
	return leaves, nil
}

func (s *Store) leavesFrom(log merklelog.LogID, first uint64, n int) ([]merklelog.Leaf, error) {
	if err := s.enterRead(); err != nil {
		return nil, err
	}
	defer s.users.leave()
	ls, err := s.acquire(log)
	if err != nil {
		return nil, err
	}
	defer s.release(ls)
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if _, err := s.leafLocked(ls, first); err != nil {
		return nil, err
	}
	tile, at := first/merklelog.TileWidth, int(first%merklelog.TileWidth)
	from := ls.leaves
	if tile == ls.frontier.Size()/merklelog.TileWidth {
		from = ls.tail
	}
	from = from[at:]
	return append([]merklelog.Leaf(nil), from[:max(1, min(n, len(from)))]...), nil
}

// Missing returns the first ranges, at most max, of blocks from an index on
// whose leaves are here and that are neither held, nor coming in, nor dropped.
func (s *Store) Missing(log merklelog.LogID, from uint64, max int) ([]merklelog.Range, error) {
	if err := s.enterRead(); err != nil {
		return nil, err
	}
	defer s.users.leave()
	ls, err := s.acquire(log)
	if err != nil {
		return nil, fmt.Errorf("replica: missing blocks of log %v: %w", log, err)
	}
	defer s.release(ls)
	ls.mu.Lock()
	defer ls.mu.Unlock()
	size := ls.frontier.Size()
	// Look no further than it takes to find enough.
	for span := uint64(1024); from < size; span *= 4 {
		r := merklelog.Range{First: from, Count: min(span, size-from)}
		missing := ls.missingLocked(r)
		if len(missing) > max {
			return missing[:max:max], nil
		}
		if r.End() == size {
			return missing, nil
		}
	}
	return nil, nil
}

// missingLocked returns what of a range is neither here, taken in, nor dropped.
func (ls *logState) missingLocked(r merklelog.Range) []merklelog.Range {
	missing := []merklelog.Range{r}
	for _, have := range [][]merklelog.Range{ls.held, ls.dropped} {
		i, _ := slices.BinarySearchFunc(have, r.First, func(h merklelog.Range, first uint64) int {
			return cmp.Compare(h.End(), first)
		})
		for ; i < len(have) && have[i].First < r.End(); i++ {
			missing = merklelog.SubtractRange(missing, have[i])
		}
	}
	for i, in := range ls.pending {
		if in { // else it may still fail, and nobody would ask for it again
			missing = merklelog.SubtractRange(missing, merklelog.Range{First: i, Count: 1})
		}
	}
	return missing
}

// Inclusion proves that the block's leaf is in the tree of the given size.
func (s *Store) Inclusion(log merklelog.LogID, index, size uint64) (merklelog.Proof, error) {
	p, err := s.prove(log, size, func(t *merklelog.Tree) (merklelog.Proof, error) { return t.Inclusion(index, size) })
	if err != nil {
		return nil, fmt.Errorf("replica: inclusion of block %d of log %v in size %d: %w", index, log, size, err)
	}
	return p, nil
}

// Consistency proves that the tree of n leaves begins with that of m.
func (s *Store) Consistency(log merklelog.LogID, m, n uint64) (merklelog.Proof, error) {
	p, err := s.prove(log, n, func(t *merklelog.Tree) (merklelog.Proof, error) { return t.Consistency(m, n) })
	if err != nil {
		return nil, fmt.Errorf("replica: consistency of sizes %d and %d of log %v: %w", m, n, log, err)
	}
	return p, nil
}

// Batch returns verified leaves from an index on with their proof for a tree of
// n leaves, as a peer takes them in.
func (s *Store) Batch(log merklelog.LogID, first, n uint64) (merklelog.Batch, error) {
	var batch merklelog.Batch
	_, err := s.prove(log, n, func(t *merklelog.Tree) (_ merklelog.Proof, err error) {
		batch, err = t.Batch(first, n)
		return nil, err
	})
	if err != nil {
		return batch, fmt.Errorf("replica: leaves from %d of log %v for size %d: %w", first, log, n, err)
	}
	return batch, nil
}

func (s *Store) prove(log merklelog.LogID, size uint64, fn func(*merklelog.Tree) (merklelog.Proof, error)) (merklelog.Proof, error) {
	if err := s.enterRead(); err != nil {
		return nil, err
	}
	defer s.users.leave()
	ls, err := s.acquire(log)
	if err != nil {
		return nil, err
	}
	defer s.release(ls)
	ls.mu.Lock()
	have := ls.frontier.Size()
	tree := s.treeLocked(ls)
	ls.mu.Unlock()
	if size > have {
		return nil, ErrNoLeaf
	}
	p, err := fn(tree)
	if err != nil && isDamage(err) {
		err = s.damaged(log, size, "tree", err)
	}
	return p, err
}

func (s *Store) treeLocked(ls *logState) *merklelog.Tree {
	if ls.tree == nil {
		ls.tree = merklelog.NewTree(storedTiles{s, ls.num})
	}
	return ls.tree
}
