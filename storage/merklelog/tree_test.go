package merklelog_test

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"cobox/storage/merklelog"

	"golang.org/x/mod/sumdb/tlog"
)

// testLeaf returns a leaf that depends on its index and on the story told.
func testLeaf(story byte, i uint64) merklelog.Leaf {
	var l merklelog.Leaf
	l[0] = byte(merklelog.Data)
	l[1] = story
	binary.BigEndian.PutUint64(l[25:], i)
	return l
}

// testKey returns a fixed key pair.
func testKey(b byte) (ed25519.PrivateKey, merklelog.WriterKey) {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = b
	key := ed25519.NewKeyFromSeed(seed)
	return key, merklelog.WriterKey(key.Public().(ed25519.PublicKey))
}

// story is a sequence of leaves told to this package and to tlog alike.
type story struct {
	leaves   []merklelog.Leaf
	hashes   []tlog.Hash
	frontier merklelog.Frontier
	roots    []merklelog.Hash // by size
	reads    int              // leaves read through tree
	tree     *merklelog.Tree
	signed   map[int]merklelog.Checkpoint // by size
}

func (s *story) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = s.hashes[x]
	}
	return out, nil
}

func (s *story) add(t testing.TB, l merklelog.Leaf) {
	n := int64(len(s.leaves))
	h, err := tlog.StoredHashes(n, l[:], s)
	if err != nil {
		t.Fatal(err)
	}
	s.hashes = append(s.hashes, h...)
	s.leaves = append(s.leaves, l)
	s.frontier.Append(l)
	s.roots = append(s.roots, s.frontier.Root())
}

func newStory(t testing.TB, n int, leaf func(i uint64) merklelog.Leaf) *story {
	s := &story{roots: []merklelog.Hash{merklelog.EmptyRoot()}, signed: map[int]merklelog.Checkpoint{}}
	for i := range n {
		s.add(t, leaf(uint64(i)))
	}
	s.tree = merklelog.NewTree(merklelog.NewLeafTiles(func(first uint64, dst []merklelog.Leaf) error {
		if first+uint64(len(dst)) > uint64(len(s.leaves)) {
			return fmt.Errorf("read of leaves %d+%d of %d", first, len(dst), len(s.leaves))
		}
		s.reads += len(dst)
		copy(dst, s.leaves[first:])
		return nil
	}))
	return s
}

func plain(story byte) func(uint64) merklelog.Leaf {
	return func(i uint64) merklelog.Leaf { return testLeaf(story, i) }
}

func sizes(max int) []int {
	if !testing.Short() {
		all := make([]int, 0, max)
		for i := 1; i <= max; i++ {
			all = append(all, i)
		}
		return all
	}
	return []int{1, 2, 3, 4, 5, 7, 8, 9, 127, 128, 129, 255, 256, 257, 300, 511, 512, 513, max}
}

// Every root, inclusion proof and consistency proof up to 600 leaves is that of
// RFC 6962 as tlog computes it, and only the one that verifies verifies.
func TestAgreesWithTlog(t *testing.T) {
	const max = 600
	s := newStory(t, max, plain(0))
	for _, n := range sizes(max) {
		want, err := tlog.TreeHash(int64(n), s)
		if err != nil {
			t.Fatal(err)
		}
		if merklelog.Hash(want) != s.roots[n] {
			t.Fatalf("frontier root at %d is %v, tlog has %v", n, s.roots[n], want)
		}
		if got, err := s.tree.Root(uint64(n)); err != nil || got != s.roots[n] {
			t.Fatalf("tree root at %d: %v, %v", n, got, err)
		}
		step := 1
		if n > 64 {
			step = 7 // every pair of sizes would be 360,000 proofs
		}
		for i := 0; i < n; i += step {
			checkInclusion(t, s, i, n, want)
		}
		checkInclusion(t, s, n-1, n, want)
		for m := 1; m < n; m += step {
			checkConsistency(t, s, m, n)
		}
		for m := 1; m <= n; m *= 2 {
			checkConsistency(t, s, m, n)
		}
	}
}

func checkInclusion(t *testing.T, s *story, i, n int, root tlog.Hash) {
	t.Helper()
	p, err := s.tree.Inclusion(uint64(i), uint64(n))
	if err != nil {
		t.Fatal(err)
	}
	want, err := tlog.ProveRecord(int64(n), int64(i), s)
	if err != nil {
		t.Fatal(err)
	}
	if !sameHashes(p, want) {
		t.Fatalf("inclusion of %d in %d differs from tlog's", i, n)
	}
	if err := merklelog.VerifyInclusion(s.leaves[i], uint64(i), uint64(n), merklelog.Hash(root), p); err != nil {
		t.Fatalf("inclusion of %d in %d: %v", i, n, err)
	}
	wrong := testLeaf(99, uint64(i))
	if err := merklelog.VerifyInclusion(wrong, uint64(i), uint64(n), merklelog.Hash(root), p); !errors.Is(err, merklelog.ErrProof) {
		t.Fatalf("inclusion of another leaf at %d in %d: %v", i, n, err)
	}
}

func checkConsistency(t *testing.T, s *story, m, n int) {
	t.Helper()
	p, err := s.tree.Consistency(uint64(m), uint64(n))
	if err != nil {
		t.Fatal(err)
	}
	want, err := tlog.ProveTree(int64(n), int64(m), s)
	if err != nil {
		t.Fatal(err)
	}
	rest := p
	if m < n && m&(m-1) == 0 {
		if len(p) == 0 || p[0] != s.roots[m] {
			t.Fatalf("consistency of %d and %d does not begin with the root at %d", m, n, m)
		}
		rest = p[1:]
	}
	if !sameHashes(rest, want) {
		t.Fatalf("consistency of %d and %d differs from tlog's", m, n)
	}
	verify := func(mroot, nroot merklelog.Hash, p merklelog.Proof) error {
		return merklelog.VerifyConsistency(uint64(m), mroot, uint64(n), nroot, p)
	}
	if err := verify(s.roots[m], s.roots[n], p); err != nil {
		t.Fatalf("consistency of %d and %d: %v", m, n, err)
	}
	other := merklelog.Hash{1}
	if err := verify(other, s.roots[n], p); !errors.Is(err, merklelog.ErrDiverged) {
		t.Fatalf("another root at %d of %d: %v", m, n, err)
	}
	if m == n {
		return
	}
	if err := verify(s.roots[m], other, p); !errors.Is(err, merklelog.ErrProof) {
		t.Fatalf("another root at %d: %v", n, err)
	}
	for i := range p {
		bad := slices.Clone(p)
		bad[i][5] ^= 1
		if err := verify(s.roots[m], s.roots[n], bad); !errors.Is(err, merklelog.ErrProof) {
			t.Fatalf("consistency of %d and %d with hash %d changed: %v", m, n, i, err)
		}
	}
	for _, bad := range []merklelog.Proof{p[:len(p)-1], append(slices.Clone(p), other)} {
		if err := verify(s.roots[m], s.roots[n], bad); !errors.Is(err, merklelog.ErrProof) {
			t.Fatalf("consistency of %d and %d with %d hashes, not %d: %v", m, n, len(bad), len(p), err)
		}
	}
}

func sameHashes[T ~[]tlog.Hash](p merklelog.Proof, q T) bool {
	return slices.EqualFunc(p, q, func(a merklelog.Hash, b tlog.Hash) bool { return a == merklelog.Hash(b) })
}

func TestConsistencyEdges(t *testing.T) {
	empty, root := merklelog.EmptyRoot(), merklelog.Hash{7}
	for _, tt := range []struct {
		name  string
		m     uint64
		mroot merklelog.Hash
		n     uint64
		proof merklelog.Proof
		want  error
	}{
		{"nothing begins everything", 0, empty, 5, nil, nil},
		{"nothing has one root", 0, root, 5, nil, merklelog.ErrDiverged},
		{"nothing needs no proof", 0, empty, 5, merklelog.Proof{root}, merklelog.ErrProof},
		{"the same", 5, root, 5, nil, nil},
		{"the same needs no proof", 5, root, 5, merklelog.Proof{root}, merklelog.ErrProof},
		{"equal sizes, other root", 5, merklelog.Hash{8}, 5, nil, merklelog.ErrDiverged},
		{"backwards", 6, root, 5, nil, merklelog.ErrProof},
		{"no proof", 4, root, 5, nil, merklelog.ErrProof},
		{"too large", 4, root, merklelog.MaxSize + 1, nil, merklelog.ErrProof},
		{"too long", 4, root, 5, make(merklelog.Proof, 65), merklelog.ErrProof},
	} {
		err := merklelog.VerifyConsistency(tt.m, tt.mroot, tt.n, root, tt.proof)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// A tile read while the log was shorter must not answer for a longer one.
func TestTreeWhileTheLogGrows(t *testing.T) {
	s := newStory(t, 0, plain(0))
	for n := 1; n <= 700; n++ {
		s.add(t, testLeaf(0, uint64(n-1)))
		if got, err := s.tree.Root(uint64(n)); err != nil || got != s.roots[n] {
			t.Fatalf("root at %d: %v", n, err)
		}
		m := uint64(n*2/3 + 1)
		p, err := s.tree.Consistency(m, uint64(n))
		if err != nil {
			t.Fatal(err)
		}
		if err := merklelog.VerifyConsistency(m, s.roots[m], uint64(n), s.roots[n], p); err != nil {
			t.Fatalf("consistency of %d and %d: %v", m, n, err)
		}
	}
}

// The proofs of a whole replication read each leaf a constant number of times.
func TestProofsReadFewLeaves(t *testing.T) {
	const n = 40*256 + 17
	s := newStory(t, n, plain(0))
	var f merklelog.Frontier
	cp := merklelog.Checkpoint{Size: n, Root: s.roots[n]}
	for f.Size() < n {
		b, err := s.tree.Batch(f.Size(), n)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Accept(b, cp); err != nil {
			t.Fatal(err)
		}
	}
	if s.reads > 3*n {
		t.Errorf("replicating %d leaves read %d", n, s.reads)
	}
	s.reads = 0
	for i := range uint64(64) {
		if _, err := s.tree.Inclusion(5000+i, n); err != nil {
			t.Fatal(err)
		}
	}
	if s.reads > 3*256 {
		t.Errorf("64 neighbouring inclusion proofs read %d leaves", s.reads)
	}
}

// A log of three tile levels, built of tile roots.
func TestLargeTree(t *testing.T) {
	if testing.Short() {
		t.Skip("hashes 70,000 leaves")
	}
	const n = 256*256 + 3*256 + 5
	s := newStory(t, n, plain(0))
	for _, m := range []uint64{1, 255, 256, 65535, 65536, 65537, 66000, 66304, n - 1, n} {
		p, err := s.tree.Consistency(m, n)
		if err != nil {
			t.Fatal(err)
		}
		if err := merklelog.VerifyConsistency(m, s.roots[m], n, s.roots[n], p); err != nil {
			t.Errorf("consistency of %d and %d: %v", m, n, err)
		}
		p, err = s.tree.Inclusion(m-1, n)
		if err != nil {
			t.Fatal(err)
		}
		if err := merklelog.VerifyInclusion(s.leaves[m-1], m-1, n, s.roots[n], p); err != nil {
			t.Errorf("inclusion of %d in %d: %v", m-1, n, err)
		}
	}
	var f merklelog.Frontier
	var tiles []merklelog.Hash
	for i := range n / 256 {
		root := merklelog.TileRoot(s.leaves[i*256:][:256])
		tiles = append(tiles, root)
		f.AppendTile(root)
	}
	for _, l := range s.leaves[f.Size():] {
		f.Append(l)
	}
	if f.Root() != s.roots[n] {
		t.Error("a frontier of tile roots has another root")
	}
	two := merklelog.HashTileRoot(tiles[:256])
	if two != s.roots[65536] {
		t.Error("the root of a tile of tiles is not the tree's")
	}
	// Roots handed over are not computed again.
	lt := merklelog.NewLeafTiles(func(first uint64, dst []merklelog.Leaf) error {
		if first < 256*256+3*256 {
			return errors.New("a leaf of a known tile was read")
		}
		copy(dst, s.leaves[first:])
		return nil
	})
	lt.Preload(tiles)
	if got, err := merklelog.NewTree(lt).Root(n); err != nil || got != s.roots[n] {
		t.Errorf("root over tiles handed over: %v", err)
	}
}

func TestTreePassesOnErrors(t *testing.T) {
	broken := errors.New("broken disk")
	tree := merklelog.NewTree(merklelog.NewLeafTiles(func(uint64, []merklelog.Leaf) error { return broken }))
	if _, err := tree.Root(300); !errors.Is(err, broken) {
		t.Errorf("root: %v", err)
	}
	if _, err := tree.Inclusion(3, 300); !errors.Is(err, broken) {
		t.Errorf("inclusion: %v", err)
	}
	if _, err := tree.Consistency(3, 300); !errors.Is(err, broken) {
		t.Errorf("consistency: %v", err)
	}
	if _, err := tree.Batch(3, 300); !errors.Is(err, broken) {
		t.Errorf("batch: %v", err)
	}
	for _, err := range []error{
		second(tree.Root(merklelog.MaxSize + 1)), second(tree.Inclusion(5, 5)),
		second(tree.Consistency(6, 5)), second(tree.Batch(5, 5)),
	} {
		if err == nil || errors.Is(err, broken) {
			t.Errorf("nonsense was looked up: %v", err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func BenchmarkFrontierAppend(b *testing.B) {
	var f merklelog.Frontier
	l := testLeaf(0, 1)
	for b.Loop() {
		f.Append(l)
	}
}

func BenchmarkBatchProofs1M(b *testing.B) {
	const n = 1 << 20
	leaves := make([]merklelog.Leaf, n)
	for i := range leaves {
		leaves[i] = testLeaf(0, uint64(i))
	}
	tree := merklelog.NewTree(merklelog.NewLeafTiles(func(first uint64, dst []merklelog.Leaf) error {
		copy(dst, leaves[first:])
		return nil
	}))
	if _, err := tree.Root(n - 3); err != nil {
		b.Fatal(err)
	}
	i := uint64(0)
	for b.Loop() {
		if _, err := tree.Batch(i*256%(n-256), n-3); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkConsistency1M(b *testing.B) {
	const n = 1 << 20
	leaves := make([]merklelog.Leaf, n)
	for i := range leaves {
		leaves[i] = testLeaf(0, uint64(i))
	}
	tree := merklelog.NewTree(merklelog.NewLeafTiles(func(first uint64, dst []merklelog.Leaf) error {
		copy(dst, leaves[first:])
		return nil
	}))
	if _, err := tree.Root(n - 3); err != nil {
		b.Fatal(err)
	}
	i := uint64(0)
	for b.Loop() {
		if _, err := tree.Consistency(1+i*7919%(n-256), n-3); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
