package spool

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"cobox/storage/merklelog"
)

const (
	manifestName   = "manifest"
	checkpointName = "checkpoint"
	leavesName     = "leaves"
	rootsName      = "tiles"
	receiptsName   = "receipts"

	checkpointVersion = 1
)

// Open continues a log. Whatever ended the last use, it goes on from the newest
// durable checkpoint: leaves and blocks above it, which nobody has seen, are
// dropped. Blocks of segments that were not closed cleanly are checked against
// their leaves; see [Spool.Holes] for what did not survive.
func Open(dir string, o Options) (*Spool, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	fs := o.FS
	if fs == nil {
		if fs, err = openDir(dir, false); err != nil {
			return nil, fmt.Errorf("spool: open: %w", err)
		}
	}
	return open(fs, o)
}

func open(dir FS, o Options) (*Spool, error) {
	s := &Spool{
		o: o, fs: dir, receipts: map[BoxKey]Receipt{}, changed: make(chan struct{}),
		kick: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	if err := s.load(); err != nil {
		s.abandon()
		return nil, fmt.Errorf("spool: open: %w", err)
	}
	go s.run()
	return s, nil
}

// abandon closes what a failed open left open.
func (s *Spool) abandon() {
	for _, g := range s.segments {
		g.close()
	}
	for _, f := range []File{s.leaves, s.roots} {
		if f != nil {
			f.Close()
		}
	}
	s.fs.Close()
}

func (s *Spool) load() error {
	names, err := s.fs.List()
	if err != nil {
		return err
	}
	if s.manifest, s.newest, err = loadHeader(s.fs, names); err != nil {
		return err
	}
	s.id = s.manifest.ID()
	if err := checkManifest(s.manifest, s.o.Signer); err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, tempSuffix) {
			if err := s.fs.Remove(name); err != nil {
				return err
			}
		}
	}
	if err := s.loadLeaves(); err != nil {
		return err
	}
	if slices.Contains(names, receiptsName) {
		if err := s.loadReceipts(); err != nil {
			return err
		}
	}
	if err := s.loadSegments(names); err != nil {
		return err
	}
	s.remove(s.releaseLocked()) // a crash may have come between a receipt and the removal
	return nil
}

// loadHeader reads and verifies the manifest and the newest checkpoint, whose
// size is 0 if there is none yet.
func loadHeader(dir FS, names []string) (*merklelog.Manifest, merklelog.Checkpoint, error) {
	var cp merklelog.Checkpoint
	b, err := readFile(dir, manifestName, merklelog.MaxManifest)
	if err != nil {
		return nil, cp, err
	}
	m, err := merklelog.ParseManifest(b)
	if err == nil {
		err = m.Verify()
	}
	if err != nil {
		return nil, cp, fmt.Errorf("%w: manifest: %w", ErrDamaged, err)
	}
	if !slices.Contains(names, checkpointName) {
		return m, cp, nil
	}
	if b, err = readFile(dir, checkpointName, 4096); err != nil {
		return nil, cp, err
	}
	if cp, err = parseCheckpoint(b); err == nil {
		err = cp.Verify(m.Writer)
	}
	if err == nil && cp.Log != m.ID() {
		err = errors.New("it is of another log")
	}
	if err != nil {
		return nil, cp, fmt.Errorf("%w: checkpoint: %w", ErrDamaged, err)
	}
	return m, cp, nil
}

// loadLeaves cuts the leaves to the newest checkpoint and rebuilds the frontier
// from the tile roots. That its root is the signed one proves the roots; if it is
// not, they are computed anew from the leaves.
func (s *Spool) loadLeaves() error {
	var err error
	if s.leaves, err = s.fs.Open(leavesName, false); err != nil {
		return err
	}
	if s.roots, err = s.fs.Open(rootsName, true); err != nil {
		return err
	}
	size := s.newest.Size
	length, err := s.leaves.Size()
	if err != nil {
		return err
	}
	if want := int64(size) * merklelog.LeafSize; length < want {
		return fmt.Errorf("%w: %d bytes of leaves, the checkpoint covers %d", ErrDamaged, length, want)
	} else if length > want {
		if err := s.leaves.Truncate(want); err != nil {
			return err
		}
	}
	s.edge = make([]merklelog.Leaf, size%merklelog.TileWidth)
	if err := s.readLeaves(size-uint64(len(s.edge)), s.edge); err != nil {
		return err
	}
	s.tiles = merklelog.NewLeafTiles(s.readLeaves)
	s.tree = merklelog.NewTree(s.tiles)
	full := int(size / merklelog.TileWidth)
	roots := s.readRoots(full)
	if size > 0 && (len(roots) < full || s.rebuild(roots) != s.newest.Root) {
		if roots, err = s.computeRoots(full); err != nil {
			return err
		}
		if s.rebuild(roots) != s.newest.Root {
			return fmt.Errorf("%w: the leaves do not have the root of the checkpoint at %d", ErrDamaged, size)
		}
		b := make([]byte, 0, full*merklelog.HashSize)
		for _, r := range roots {
			b = append(b, r[:]...)
		}
		if _, err := s.roots.WriteAt(b, 0); err != nil {
			return err
		}
	}
	s.tiles.Preload(roots)
	return nil
}

// readRoots returns at most n tile roots, as the file has them.
func (s *Spool) readRoots(n int) []merklelog.Hash {
	b := make([]byte, n*merklelog.HashSize)
	k, _ := s.roots.ReadAt(b, 0) // derived: whatever is missing is computed
	roots := make([]merklelog.Hash, k/merklelog.HashSize)
	for i := range roots {
		copy(roots[i][:], b[i*merklelog.HashSize:])
	}
	return roots
}

func (s *Spool) computeRoots(n int) ([]merklelog.Hash, error) {
	leaves := make([]merklelog.Leaf, merklelog.TileWidth)
	roots := make([]merklelog.Hash, n)
	for i := range roots {
		if err := s.readLeaves(uint64(i)*merklelog.TileWidth, leaves); err != nil {
			return nil, err
		}
		roots[i] = merklelog.TileRoot(leaves)
	}
	return roots, nil
}

// rebuild sets the frontier from tile roots and the edge and returns its root.
func (s *Spool) rebuild(roots []merklelog.Hash) merklelog.Hash {
	s.frontier = merklelog.Frontier{}
	for _, r := range roots {
		s.frontier.AppendTile(r)
	}
	for _, l := range s.edge {
		s.frontier.Append(l)
	}
	return s.frontier.Root()
}

// loadReceipts takes what is whole and true. Receipts that a power cut has torn
// are stated again by the boxes; those that cannot be read now may be there
// later, so an error of the disk ends Open before they are written over.
func (s *Spool) loadReceipts() error {
	b, err := readFile(s.fs, receiptsName, maxReceiptFile)
	if err != nil {
		return err
	}
	list, err := parseReceipts(b, s.id)
	if err != nil {
		s.o.Logger.Warn("receipts are lost until the boxes are asked", "log", s.id, "err", err)
		return nil
	}
	for _, r := range list {
		if r.Size > s.newest.Size {
			continue
		}
		root, err := s.tree.Root(r.Size)
		if err != nil {
			return err
		}
		if root == r.Root {
			s.receipts[r.Box] = r
		}
	}
	return nil
}

// loadSegments finds the segments, drops what lies above the newest checkpoint
// and checks the blocks of those not closed cleanly.
func (s *Spool) loadSegments(names []string) error {
	// What is dropped here must not come back with a power cut, when the log has
	// grown past it: a segment that was closed cleanly is not checked again.
	dropped := false
	for _, name := range names {
		first, clean, ok := parseSegmentName(name)
		if !ok {
			continue
		}
		g := &segment{first: first, fs: s.fs, clean: clean}
		// Both names for one index can only come of a power cut during a renaming
		// or after a removal; the one that gets checked has what can be had.
		twice := clean && slices.Contains(names, segmentName(first, false))
		if first >= s.newest.Size || twice {
			if err := g.remove(); err != nil {
				return err
			}
			dropped = true
			continue
		}
		if err := g.reopen(); err != nil {
			return err
		}
		s.segments = append(s.segments, g)
		length, err := g.f.Size()
		if err != nil {
			return err
		}
		g.count = uint64(length) / merklelog.BlockSize // a torn last block is a hole
	}
	if dropped {
		if err := s.fs.SyncDir(); err != nil {
			return err
		}
	}
	slices.SortFunc(s.segments, func(a, b *segment) int { return cmp.Compare(a.first, b.first) })
	found := s.segments
	s.segments = nil
	for i, g := range found {
		limit := s.newest.Size
		if i+1 < len(found) {
			limit = min(limit, found[i+1].first)
		}
		if g.count == 0 {
			if err := g.remove(); err != nil {
				return err
			}
			continue
		}
		s.segments = append(s.segments, g)
		// Beyond a checkpoint lies what was dropped; beyond the next segment what
		// was dropped earlier and came back with a power cut.
		if g.count > limit-g.first {
			g.count = limit - g.first
			err := g.truncate(g.count)
			if err == nil {
				err = g.f.Sync()
			}
			if err != nil {
				return err
			}
		}
		g.end = g.first + g.count // nothing is added to it
		s.waiting += g.count * merklelog.BlockSize
		if err := s.checkSegment(g); err != nil {
			return err
		}
	}
	return nil
}

// checkSegment finds the bad blocks of a segment that was not closed cleanly. A
// good one is synced and sealed, so that this is done once.
func (s *Spool) checkSegment(g *segment) error {
	if g.clean || g.count == 0 {
		return g.close()
	}
	leaves, err := s.Leaves(g.first, int(g.count))
	if err != nil {
		return err
	}
	block := make([]byte, merklelog.BlockSize)
	for i, leaf := range leaves {
		index := g.first + uint64(i)
		err := g.read(index, block)
		if err == nil {
			err = leaf.Check(block)
		}
		if err != nil {
			s.lose(g, index, err)
		}
	}
	if len(g.bad) > 0 {
		return g.close()
	}
	if err := g.truncate(g.count); err != nil { // a torn block at the end
		return err
	}
	if err := g.sync(); err != nil {
		return err
	}
	return g.seal()
}

// appendCheckpoint appends the checkpoint file: version 1, then the checkpoint.
func appendCheckpoint(dst []byte, cp merklelog.Checkpoint) []byte {
	return merklelog.AppendCheckpoint(append(dst, checkpointVersion), cp)
}

func parseCheckpoint(b []byte) (merklelog.Checkpoint, error) {
	if len(b) == 0 || b[0] != checkpointVersion {
		return merklelog.Checkpoint{}, errors.New("spool: checkpoint file of another version")
	}
	return merklelog.ParseCheckpoint(b[1:])
}

// Info is what a log's files say without opening it.
type Info struct {
	Manifest   *merklelog.Manifest
	Checkpoint merklelog.Checkpoint // Size 0 if there is none yet
	Receipts   []Receipt            // as last saved
	Waiting    uint64               // bytes of blocks in segment files
}

// Inspect reads a log's state and changes nothing, so it may be called while
// another process writes the log.
func Inspect(dir string) (Info, error) {
	d, err := openDir(dir, false)
	if err != nil {
		return Info{}, fmt.Errorf("spool: inspect: %w", err)
	}
	defer d.Close()
	info, err := inspect(d)
	if err != nil {
		return Info{}, fmt.Errorf("spool: inspect: %w", err)
	}
	return info, nil
}

func inspect(d FS) (Info, error) {
	var info Info
	names, err := d.List()
	if err != nil {
		return info, err
	}
	if info.Manifest, info.Checkpoint, err = loadHeader(d, names); err != nil {
		return info, err
	}
	if slices.Contains(names, receiptsName) {
		if b, err := readFile(d, receiptsName, maxReceiptFile); err == nil {
			info.Receipts, _ = parseReceipts(b, info.Manifest.ID()) // lost ones come back
		}
	}
	for _, name := range names {
		if _, _, ok := parseSegmentName(name); !ok {
			continue
		}
		f, err := d.Open(name, false)
		if errors.Is(err, fs.ErrNotExist) {
			continue // released meanwhile
		}
		if err != nil {
			return info, err
		}
		size, err := f.Size()
		f.Close()
		if err != nil {
			return info, err
		}
		info.Waiting += uint64(size)
	}
	return info, nil
}
