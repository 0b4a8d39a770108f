package merklelog

import (
	"fmt"
	"sync"
)

// LeafTiles makes [Tiles] of a flat sequence of leaves, for a writer or a cache
// that stores nothing else. It remembers the root of every full tile it has
// seen, 32 bytes for 256 leaves (128 KiB for a log of 1,048,576 blocks), so
// that a proof hashes a few tiles at most. It is safe for concurrent use.
type LeafTiles struct {
	read func(first uint64, dst []Leaf) error

	mu    sync.Mutex
	roots [][]Hash // roots[k]: the roots of the full tiles of level k from the first on
}

// NewLeafTiles returns the tiles of the leaves that read fills dst with. read
// may be called concurrently.
func NewLeafTiles(read func(first uint64, dst []Leaf) error) *LeafTiles {
	return &LeafTiles{read: read}
}

// Preload hands over the roots of the first full leaf tiles, so that they need
// not be computed. The caller has checked them against a signed root, for
// instance by [Frontier.AppendTile]. Roots already known are kept.
func (t *LeafTiles) Preload(roots []Hash) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.roots) == 0 {
		t.roots = append(t.roots, nil)
	}
	if have := len(t.roots[0]); have < len(roots) {
		t.roots[0] = append(t.roots[0], roots[have:]...)
	}
}

// Leaves implements [Tiles].
func (t *LeafTiles) Leaves(tile uint64, n int) ([]Leaf, error) {
	if n < 1 || n > TileWidth {
		return nil, fmt.Errorf("merklelog: %d entries of a tile", n)
	}
	leaves := make([]Leaf, n)
	if err := t.read(tile*TileWidth, leaves); err != nil {
		return nil, err
	}
	return leaves, nil
}

// Hashes implements [Tiles]. The roots of leaf tiles that are not known yet are
// computed in order, once.
func (t *LeafTiles) Hashes(level int, tile uint64, n int) ([]Hash, error) {
	if level < 1 || level > 4 || n < 1 || n > TileWidth || tile > MaxSize/TileWidth {
		return nil, fmt.Errorf("merklelog: %d entries of tile %d of level %d", n, tile, level)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.fillLocked(level-1, tile*TileWidth+uint64(n)); err != nil {
		return nil, err
	}
	return append([]Hash(nil), t.roots[level-1][tile*TileWidth:][:n]...), nil
}

// fillLocked makes known the roots of the first n full tiles of a level.
func (t *LeafTiles) fillLocked(level int, n uint64) error {
	for len(t.roots) <= level {
		t.roots = append(t.roots, nil)
	}
	if uint64(len(t.roots[level])) >= n {
		return nil
	}
	if level > 0 {
		if err := t.fillLocked(level-1, n*TileWidth); err != nil {
			return err
		}
	}
	leaves := make([]Leaf, TileWidth)
	for i := uint64(len(t.roots[level])); i < n; i++ {
		var root Hash
		if level > 0 {
			root = HashTileRoot(t.roots[level-1][i*TileWidth:][:TileWidth])
		} else {
			if err := t.read(i*TileWidth, leaves); err != nil {
				return err
			}
			root = TileRoot(leaves)
		}
		t.roots[level] = append(t.roots[level], root)
	}
	return nil
}
