package merklelog

import (
	"fmt"
	"sync"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight = 8
	// TileWidth is the number of leaves or hashes in a full tile.
	TileWidth = 1 << tileHeight

	treeCache = 8 // tiles, of at most 16 KiB each
)

// Tiles is what proofs are computed from. A tile of level 0 is a run of 256
// leaves; a tile of level k ≥ 1 is a run of 256 hashes, each the root of a full
// tile of level k-1. Tile t of level k covers the leaves from t·256^(k+1).
//
// Both methods return exactly the first n entries of a tile, 1 ≤ n ≤ 256, and
// are asked only for entries that a log of the size given to the [Tree]'s
// method has. The answers never change.
type Tiles interface {
	Leaves(tile uint64, n int) ([]Leaf, error)
	Hashes(level int, tile uint64, n int) ([]Hash, error)
}

// TileRoot returns the root of a full tile of 256 leaves.
func TileRoot(leaves []Leaf) Hash {
	if len(leaves) != TileWidth {
		panic(fmt.Sprintf("merklelog: tile root of %d leaves", len(leaves)))
	}
	return expandLeaves(leaves).root()
}

// HashTileRoot returns the root of a full tile of 256 hashes.
func HashTileRoot(hashes []Hash) Hash {
	if len(hashes) != TileWidth {
		panic(fmt.Sprintf("merklelog: tile root of %d hashes", len(hashes)))
	}
	return expandHashes(hashes).root()
}

// tile holds the first entries of a tile and all nodes above them, within it,
// that they complete: levels[0] the entries, levels[8] the root of a full tile.
type tile struct{ levels [tileHeight + 1][]Hash }

func expandLeaves(leaves []Leaf) *tile {
	hashes := make([]Hash, len(leaves), 2*len(leaves))
	for i := range leaves {
		hashes[i] = leafHash(&leaves[i])
	}
	return expand(hashes)
}

func expandHashes(entries []Hash) *tile {
	return expand(append(make([]Hash, 0, 2*len(entries)), entries...))
}

// expand computes the nodes above the entries, in the spare capacity of their
// slice, which must be twice their number.
func expand(entries []Hash) *tile {
	t := new(tile)
	t.levels[0] = entries
	all := entries
	for l := 1; l <= tileHeight; l++ {
		below := t.levels[l-1]
		start := len(all)
		for i := 0; i+1 < len(below); i += 2 {
			all = append(all, nodeHash(&below[i], &below[i+1]))
		}
		t.levels[l] = all[start:]
	}
	return t
}

func (t *tile) root() Hash { return t.levels[tileHeight][0] }

// Tree computes roots and proofs of a log over its stored tiles. It keeps the
// tiles it last used, with their inner nodes, so that proofs close to each
// other hash next to nothing: at most 128 KiB a Tree. It is safe for concurrent
// use if its Tiles are.
type Tree struct {
	tiles Tiles

	mu    sync.Mutex
	cache []cachedTile // the most recently used last
}

type cachedTile struct {
	level int
	index uint64
	tile  *tile
}

// NewTree returns the tree over the tiles.
func NewTree(t Tiles) *Tree { return &Tree{tiles: t} }

// Root returns the root of the first n leaves.
func (t *Tree) Root(n uint64) (Hash, error) {
	if n > MaxSize {
		return Hash{}, checkSize(n)
	}
	h, err := tlog.TreeHash(int64(n), treeReader{t, n})
	if err != nil {
		return Hash{}, fmt.Errorf("merklelog: root of %d leaves: %w", n, err)
	}
	return Hash(h), nil
}

// Inclusion returns the proof that a leaf is the index'th of the first n.
func (t *Tree) Inclusion(index, n uint64) (Proof, error) {
	if index >= n || n > MaxSize {
		return nil, fmt.Errorf("merklelog: inclusion of leaf %d in %d", index, n)
	}
	p, err := tlog.ProveRecord(int64(n), int64(index), treeReader{t, n})
	if err != nil {
		return nil, fmt.Errorf("merklelog: inclusion of leaf %d in %d: %w", index, n, err)
	}
	return fromTlog(nil, p), nil
}

// Consistency returns the proof that the tree of n leaves begins with that of
// m. For m = 0 and m = n it is empty.
func (t *Tree) Consistency(m, n uint64) (Proof, error) {
	if m > n || n > MaxSize {
		return nil, fmt.Errorf("merklelog: consistency of %d and %d leaves", m, n)
	}
	if m == 0 || m == n {
		return nil, nil
	}
	p, err := tlog.ProveTree(int64(n), int64(m), treeReader{t, n})
	if err != nil {
		return nil, fmt.Errorf("merklelog: consistency of %d and %d leaves: %w", m, n, err)
	}
	var proof Proof
	if m&(m-1) == 0 {
		// See Proof: the one hash that RFC 6962 leaves out.
		root, err := t.Root(m)
		if err != nil {
			return nil, err
		}
		proof = Proof{root}
	}
	return fromTlog(proof, p), nil
}

// Batch returns leaves from first on, with their proof for a checkpoint of n
// leaves: at most MaxBatch of them, and none beyond the end of first's tile, so
// that the batches after the first are whole tiles, whose proofs are cheapest.
func (t *Tree) Batch(first, n uint64) (Batch, error) {
	if first >= n || n > MaxSize {
		return Batch{}, fmt.Errorf("merklelog: batch of leaves from %d of %d", first, n)
	}
	index, skip := first/TileWidth, int(first%TileWidth)
	end := min(n, (index+1)*TileWidth)
	leaves, err := t.tiles.Leaves(index, int(end-index*TileWidth))
	if err != nil {
		return Batch{}, fmt.Errorf("merklelog: batch of leaves from %d: %w", first, err)
	}
	p, err := t.Consistency(end, n)
	if err != nil {
		return Batch{}, err
	}
	return Batch{First: first, Leaves: leaves[skip:], Proof: p}, nil
}

func fromTlog[P ~[]tlog.Hash](dst Proof, p P) Proof {
	for _, h := range p {
		dst = append(dst, Hash(h))
	}
	return dst
}

// treeReader serves tlog, which numbers the nodes of a tree in the order in
// which appending completes them.
type treeReader struct {
	t *Tree
	n uint64 // size of the log that the proof is about
}

func (r treeReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	hashes := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		level, n := tlog.SplitStoredHashIndex(x)
		h, err := r.t.nodeLocked(level, uint64(n), r.n)
		if err != nil {
			return nil, err
		}
		hashes[i] = tlog.Hash(h)
	}
	return hashes, nil
}

// nodeLocked returns the n'th node of a level of the tree of size leaves.
func (t *Tree) nodeLocked(level int, n, size uint64) (Hash, error) {
	tileLevel, inner := level/tileHeight, level%tileHeight
	if inner == 0 && level > 0 {
		// The tile below may be cached where the one above is not.
		if c := t.findLocked(tileLevel-1, n); c != nil && len(c.levels[0]) == TileWidth {
			return c.root(), nil
		}
	}
	index, within := n>>(tileHeight-inner), n&(1<<(tileHeight-inner)-1)
	entries := size>>(tileLevel*tileHeight) - index*TileWidth // of the tile, in a tree of this size
	c, err := t.tileLocked(tileLevel, index, int(min(entries, TileWidth)), int((within+1)<<inner))
	if err != nil {
		return Hash{}, err
	}
	return c.levels[inner][within], nil
}

func (t *Tree) findLocked(level int, index uint64) *tile {
	for i := len(t.cache) - 1; i >= 0; i-- {
		if c := t.cache[i]; c.level == level && c.index == index {
			copy(t.cache[i:], t.cache[i+1:])
			t.cache[len(t.cache)-1] = c
			return c.tile
		}
	}
	return nil
}

// tileLocked returns a tile with at least need entries, reading have of them if
// it is not in the cache. Entries never change, so a tile read for a larger log
// serves proofs about a smaller one.
func (t *Tree) tileLocked(level int, index uint64, have, need int) (*tile, error) {
	if c := t.findLocked(level, index); c != nil && len(c.levels[0]) >= need {
		return c, nil
	}
	var c *tile
	if level == 0 {
		leaves, err := t.tiles.Leaves(index, have)
		if err != nil {
			return nil, err
		}
		if len(leaves) != have {
			return nil, fmt.Errorf("leaf tile %d has %d entries, asked for %d", index, len(leaves), have)
		}
		c = expandLeaves(leaves)
	} else {
		hashes, err := t.tiles.Hashes(level, index, have)
		if err != nil {
			return nil, err
		}
		if len(hashes) != have {
			return nil, fmt.Errorf("tile %d of level %d has %d entries, asked for %d", index, level, len(hashes), have)
		}
		c = expandHashes(hashes)
	}
	t.keepLocked(cachedTile{level, index, c})
	return c, nil
}

func (t *Tree) keepLocked(c cachedTile) {
	for i, old := range t.cache {
		if old.level == c.level && old.index == c.index {
			t.cache = append(t.cache[:i], t.cache[i+1:]...)
			break
		}
	}
	if len(t.cache) == treeCache {
		copy(t.cache, t.cache[1:])
		t.cache = t.cache[:treeCache-1]
	}
	t.cache = append(t.cache, c)
}
