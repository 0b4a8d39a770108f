package merklelog_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"cobox/storage/merklelog"
)

// split returns a leaf function that tells another story from index at on.
func split(at uint64) func(uint64) merklelog.Leaf {
	return func(i uint64) merklelog.Leaf {
		if i < at {
			return testLeaf(0, i)
		}
		return testLeaf(1, i)
	}
}

func (s *story) checkpoint(t testing.TB, size int) merklelog.Checkpoint {
	t.Helper()
	if cp, ok := s.signed[size]; ok {
		return cp
	}
	key, _ := testKey(1)
	cp, err := merklelog.SignCheckpoint(key, merklelog.LogID{42}, uint64(size), s.roots[size])
	if err != nil {
		t.Fatal(err)
	}
	s.signed[size] = cp
	return cp
}

// Invariant 6, first half: honest fork evidence verifies, for every pair of
// sizes and also where the smaller is a power of two.
func TestForkEvidenceVerifies(t *testing.T) {
	max := 70
	if testing.Short() {
		max = 36
	}
	_, writer := testKey(1)
	honest := newStory(t, max, plain(0))
	for _, at := range []uint64{0, 1, 6, 31, 32, 33} {
		forked := newStory(t, max, split(at))
		for n := int(at) + 1; n <= max; n += 3 {
			for m := int(at) + 1; m <= n; m++ {
				// The box holds m of the honest story and is offered n of the other.
				proof, err := forked.tree.Consistency(uint64(m), uint64(n))
				if err != nil {
					t.Fatal(err)
				}
				held, offered := honest.checkpoint(t, m), forked.checkpoint(t, n)
				for _, pair := range [][2]merklelog.Checkpoint{{held, offered}, {offered, held}} {
					var fork *merklelog.ForkError
					if err := merklelog.Compare(pair[0], pair[1], proof); !errors.As(err, &fork) {
						t.Fatalf("fork at %d, sizes %d and %d: %v", at, m, n, err)
					}
					if err := fork.Fork.Verify(writer); err != nil {
						t.Fatalf("fork at %d, sizes %d and %d: %v", at, m, n, err)
					}
					parsed, err := merklelog.ParseFork(merklelog.AppendFork(nil, fork.Fork))
					if err != nil || parsed.Verify(writer) != nil {
						t.Fatalf("fork at %d, sizes %d and %d does not survive encoding: %v", at, m, n, err)
					}
				}
			}
		}
	}
}

// Invariant 6, second half: whatever is made of the checkpoints that an honest
// writer signed, it is no evidence. The liar may use any proof of any tree,
// among them proofs of a forked continuation, shuffled, cut and mixed.
func TestNoForkEvidenceAgainstAnHonestWriter(t *testing.T) {
	max := 40
	if testing.Short() {
		max = 20
	}
	_, writer := testKey(1)
	honest := newStory(t, max, plain(0))
	other := newStory(t, max, split(7))
	rng := rand.New(rand.NewPCG(1, 2))
	material := []merklelog.Hash{{}, merklelog.EmptyRoot()}
	material = append(material, honest.roots...)
	material = append(material, other.roots...)
	for _, h := range honest.hashes {
		material = append(material, merklelog.Hash(h))
	}
	for _, h := range other.hashes {
		material = append(material, merklelog.Hash(h))
	}
	try := func(a, b merklelog.Checkpoint, p merklelog.Proof) {
		t.Helper()
		var fork *merklelog.ForkError
		if err := merklelog.Compare(a, b, p); errors.As(err, &fork) {
			t.Fatalf("evidence against an honest writer: sizes %d and %d", a.Size, b.Size)
		}
		for _, f := range []merklelog.Fork{{A: a, B: b, Proof: p}, {A: b, B: a, Proof: p}} {
			if f.Verify(writer) == nil {
				t.Fatalf("evidence against an honest writer verifies: sizes %d and %d", a.Size, b.Size)
			}
		}
	}
	for m := 1; m <= max; m++ {
		for n := m; n <= max; n++ {
			a, b := honest.checkpoint(t, m), honest.checkpoint(t, n)
			try(a, b, nil)
			for _, tree := range []*merklelog.Tree{honest.tree, other.tree} {
				p, err := tree.Consistency(uint64(m), uint64(n))
				if err != nil {
					t.Fatal(err)
				}
				try(a, b, p)
				for range 4 {
					q := slices.Clone(p)
					switch rng.IntN(4) {
					case 0:
						rng.Shuffle(len(q), func(i, j int) { q[i], q[j] = q[j], q[i] })
					case 1:
						q = append(q, material[rng.IntN(len(material))])
					default:
						if len(q) > 0 {
							q[rng.IntN(len(q))] = material[rng.IntN(len(material))]
						}
					}
					try(a, b, q)
				}
			}
		}
	}
	// Signatures by somebody else, and checkpoints changed after signing.
	stranger, _ := testKey(2)
	foreign, err := merklelog.SignCheckpoint(stranger, merklelog.LogID{42}, 20, other.roots[20])
	if err != nil {
		t.Fatal(err)
	}
	p, err := other.tree.Consistency(10, 20)
	if err != nil {
		t.Fatal(err)
	}
	if f := (merklelog.Fork{A: honest.checkpoint(t, 10), B: foreign, Proof: p}); f.Verify(writer) == nil {
		t.Error("evidence with a stranger's signature verifies")
	}
	changed := honest.checkpoint(t, 20)
	changed.Root = other.roots[20]
	if f := (merklelog.Fork{A: honest.checkpoint(t, 10), B: changed, Proof: p}); f.Verify(writer) == nil {
		t.Error("evidence with a changed checkpoint verifies")
	}
	apart := honest.checkpoint(t, 20)
	apart.Log[0]++
	if f := (merklelog.Fork{A: honest.checkpoint(t, 10), B: apart, Proof: p}); f.Verify(writer) == nil {
		t.Error("evidence that names two logs verifies")
	}
}

// A proof that does not yield the root at n proves nothing about the writer,
// even if the writer has forked.
func TestBadProofIsTheSendersFault(t *testing.T) {
	honest, forked := newStory(t, 40, plain(0)), newStory(t, 40, split(3))
	for m := 4; m < 40; m++ {
		p, err := forked.tree.Consistency(uint64(m), 40)
		if err != nil {
			t.Fatal(err)
		}
		for i := range p {
			bad := slices.Clone(p)
			bad[i][31] ^= 0x80
			err := merklelog.Compare(honest.checkpoint(t, m), forked.checkpoint(t, 40), bad)
			if !errors.Is(err, merklelog.ErrProof) {
				t.Fatalf("size %d, hash %d changed: %v", m, i, err)
			}
		}
	}
}

func TestAccept(t *testing.T) {
	const n = 700
	s := newStory(t, n, plain(0))
	other := newStory(t, n, split(300))
	cp := s.checkpoint(t, n)
	at := func(size int) *merklelog.Frontier {
		var f merklelog.Frontier
		for _, l := range s.leaves[:size] {
			f.Append(l)
		}
		return &f
	}
	batch := func(s *story, first, end int) merklelog.Batch {
		p, err := s.tree.Consistency(uint64(end), n)
		if err != nil {
			t.Fatal(err)
		}
		return merklelog.Batch{First: uint64(first), Leaves: s.leaves[first:end], Proof: p}
	}
	for _, tt := range []struct{ first, end int }{{0, 1}, {0, 256}, {1, 256}, {256, 512}, {511, 512}, {512, 699}, {512, 700}, {699, 700}} {
		f := at(tt.first)
		if err := f.Accept(batch(s, tt.first, tt.end), cp); err != nil {
			t.Errorf("leaves %d to %d: %v", tt.first, tt.end, err)
		}
		if f.Size() != uint64(tt.end) || f.Root() != s.roots[tt.end] {
			t.Errorf("leaves %d to %d: the frontier has %d", tt.first, tt.end, f.Size())
		}
	}
	reject := func(name string, f *merklelog.Frontier, b merklelog.Batch, cp merklelog.Checkpoint, want error) {
		t.Helper()
		before := *f
		err := f.Accept(b, cp)
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
		var fork *merklelog.ForkError
		if errors.As(err, &fork) || errors.Is(err, merklelog.ErrDiverged) {
			t.Errorf("%s counts as evidence: %v", name, err)
		}
		if *f != before {
			t.Errorf("%s changed the frontier", name)
		}
	}
	good := batch(s, 256, 512)
	reject("a gap", at(255), good, cp, nil)
	reject("a repetition", at(257), good, cp, nil)
	reject("nothing", at(256), merklelog.Batch{First: 256}, cp, nil)
	reject("too many leaves", at(0), merklelog.Batch{Leaves: s.leaves[:257]}, cp, nil)
	reject("a foreign proof", at(256), merklelog.Batch{First: 256, Leaves: good.Leaves, Proof: batch(s, 256, 511).Proof}, cp, merklelog.ErrProof)
	reject("no proof", at(256), merklelog.Batch{First: 256, Leaves: good.Leaves}, cp, merklelog.ErrProof)
	reject("other leaves", at(256), merklelog.Batch{First: 256, Leaves: other.leaves[256:512], Proof: good.Proof}, cp, merklelog.ErrProof)
	reject("another story", at(256), batch(other, 256, 512), cp, merklelog.ErrProof)
	reject("the end of another story", at(512), batch(other, 512, 700), cp, merklelog.ErrProof)
	reject("beyond the checkpoint", at(256), good, s.checkpoint(t, 511), nil)
	end := batch(s, 512, 700)
	end.Proof = merklelog.Proof{{}}
	reject("a proof where none is needed", at(512), end, cp, merklelog.ErrProof)
	typed := batch(s, 256, 512)
	typed.Leaves = slices.Clone(typed.Leaves)
	typed.Leaves[4][0] = 3
	reject("an unknown type", at(256), typed, cp, nil)
}

func TestCompareHonest(t *testing.T) {
	s := newStory(t, 50, plain(0))
	p, err := s.tree.Consistency(16, 50)
	if err != nil {
		t.Fatal(err)
	}
	if err := merklelog.Compare(s.checkpoint(t, 16), s.checkpoint(t, 50), p); err != nil {
		t.Error(err)
	}
	if err := merklelog.Compare(s.checkpoint(t, 50), s.checkpoint(t, 16), p); err != nil {
		t.Error(err)
	}
	other := s.checkpoint(t, 50)
	other.Log[3]++
	if err := merklelog.Compare(s.checkpoint(t, 16), other, p); err == nil {
		t.Error("checkpoints of two logs were compared")
	}
}
