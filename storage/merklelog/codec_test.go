package merklelog_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"

	"cobox/storage/merklelog"

	"golang.org/x/mod/sumdb/note"
)

var update = flag.Bool("update", false, "write testdata/vectors.txt anew; only for a new format version")

func testManifest(t testing.TB, predecessor bool) *merklelog.Manifest {
	key, writer := testKey(1)
	m := &merklelog.Manifest{Writer: writer, Certificate: []byte("a certificate")}
	copy(m.Nonce[:], "0123456789abcdef")
	copy(m.Space[:], "a space's tag...")
	if predecessor {
		m.Predecessor = &merklelog.Position{Log: merklelog.LogID{1, 2}, Size: 3, Root: merklelog.Hash{4, 5}}
	}
	if err := merklelog.SignManifest(m, key); err != nil {
		t.Fatal(err)
	}
	return m
}

func testBlock(typ merklelog.BlockType) []byte {
	b := make([]byte, merklelog.BlockSize)
	for i := range b {
		b[i] = byte(i * 7)
	}
	b[0] = byte(typ)
	return b
}

// encoding is one encoded object and the parser that must give it back.
type encoding struct {
	name  string
	bytes []byte
	again func([]byte) ([]byte, error) // parse and encode
}

func again[T any](parse func([]byte) (T, error), appendTo func([]byte, T) []byte) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		v, err := parse(b)
		if err != nil {
			return nil, err
		}
		return appendTo(nil, v), nil
	}
}

func text(b []byte) ([]byte, error) {
	_, writer := testKey(1)
	cp, err := merklelog.ParseCheckpointText(b, writer)
	if err != nil {
		return nil, err
	}
	return cp.Text(writer), nil
}

var (
	manifestAgain   = again(merklelog.ParseManifest, merklelog.AppendManifest)
	checkpointAgain = again(merklelog.ParseCheckpoint, merklelog.AppendCheckpoint)
	positionAgain   = again(merklelog.ParsePosition, merklelog.AppendPosition)
	frontierAgain   = again(merklelog.ParseFrontier, merklelog.AppendFrontier)
	leavesAgain     = again(merklelog.ParseLeaves, merklelog.AppendLeaves)
	proofAgain      = again(merklelog.ParseProof, merklelog.AppendProof)
	batchAgain      = again(merklelog.ParseBatch, merklelog.AppendBatch)
	forkAgain       = again(merklelog.ParseFork, merklelog.AppendFork)
	rangesAgain     = again(merklelog.ParseRanges, merklelog.AppendRanges)
)

func encodings(t testing.TB) []encoding {
	s := newStory(t, 300, plain(0))
	forked := newStory(t, 300, split(5))
	_, writer := testKey(1)
	data, err := merklelog.LeafOf(testBlock(merklelog.Data))
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := merklelog.LeafOf(testBlock(merklelog.Envelope))
	if err != nil {
		t.Fatal(err)
	}
	m := testManifest(t, true)
	id := m.ID()
	cp := s.checkpoint(t, 300)
	inclusion, err := s.tree.Inclusion(77, 300)
	if err != nil {
		t.Fatal(err)
	}
	consistency, err := s.tree.Consistency(256, 300)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := forked.tree.Consistency(8, 300)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := s.tree.Batch(250, 300)
	if err != nil {
		t.Fatal(err)
	}
	ranges := []merklelog.Range{{First: 0, Count: 1}, {First: 7, Count: 3}, {First: 1 << 31, Count: 1 << 31}}
	digest := merklelog.DigestRanges(ranges)
	tile := merklelog.TileRoot(s.leaves[:256])
	return []encoding{
		{"manifest", merklelog.AppendManifest(nil, m), manifestAgain},
		{"manifest-first", merklelog.AppendManifest(nil, testManifest(t, false)), manifestAgain},
		{"log-id", id[:], nil},
		{"position", merklelog.AppendPosition(nil, cp.Position()), positionAgain},
		{"checkpoint", merklelog.AppendCheckpoint(nil, cp), checkpointAgain},
		{"checkpoint-text", cp.Text(writer), text},
		{"leaves", merklelog.AppendLeaves(nil, []merklelog.Leaf{data, envelope}), leavesAgain},
		{"frontier", merklelog.AppendFrontier(nil, &s.frontier), frontierAgain},
		{"tile-root", tile[:], nil},
		{"inclusion", merklelog.AppendProof(nil, inclusion), proofAgain},
		{"consistency", merklelog.AppendProof(nil, consistency), proofAgain},
		{"batch", merklelog.AppendBatch(nil, batch), batchAgain},
		{"fork", merklelog.AppendFork(nil, merklelog.Fork{A: s.checkpoint(t, 8), B: forked.checkpoint(t, 300), Proof: proof}), forkAgain},
		{"ranges", merklelog.AppendRanges(nil, ranges), rangesAgain},
		{"ranges-digest", digest[:], nil},
	}
}

// Every encoding is frozen: testdata/vectors.txt changes with a format version
// and never otherwise.
func TestKnownAnswers(t *testing.T) {
	var got strings.Builder
	for _, e := range encodings(t) {
		fmt.Fprintf(&got, "%s %s\n", e.name, hex.EncodeToString(e.bytes))
	}
	const file = "testdata/vectors.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wantLines, gotLines := strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")
	if len(wantLines) != len(gotLines) {
		t.Fatalf("%d vectors, %s has %d", len(gotLines), file, len(wantLines))
	}
	for i := range gotLines {
		if gotLines[i] != wantLines[i] {
			name, _, _ := strings.Cut(gotLines[i], " ")
			t.Errorf("encoding of %s has changed", name)
		}
	}
}

// Invariant 19: decode(encode(x)) = x, and no other bytes decode: neither cut
// short, nor with bytes added.
func TestCanonical(t *testing.T) {
	for _, e := range encodings(t) {
		if e.again == nil {
			continue
		}
		got, err := e.again(e.bytes)
		if err != nil || !bytes.Equal(got, e.bytes) {
			t.Errorf("%s: encoded again differs: %v", e.name, err)
		}
		for n := range e.bytes {
			if e.name == "leaves" && n%merklelog.LeafSize == 0 {
				continue // a shorter list of leaves is a list of leaves
			}
			if _, err := e.again(e.bytes[:n:n]); err == nil {
				t.Errorf("%s cut to %d of %d bytes was accepted", e.name, n, len(e.bytes))
			}
		}
		if _, err := e.again(append(bytes.Clone(e.bytes), 0)); err == nil {
			t.Errorf("%s with a byte added was accepted", e.name)
		}
	}
}

func TestParsersRefuse(t *testing.T) {
	byName := map[string]encoding{}
	for _, e := range encodings(t) {
		byName[e.name] = e
	}
	set := func(name string, at int, b ...byte) []byte {
		c := bytes.Clone(byName[name].bytes)
		copy(c[at:], b)
		return c
	}
	zero := make([]byte, 8)
	beyond := []byte{0, 0, 0, 1, 0, 0, 0, 1}
	long := testManifest(t, false)
	long.Certificate = make([]byte, merklelog.MaxCertificate+1)
	for _, tt := range []struct {
		name, enc string
		bytes     []byte
	}{
		{"manifest of another version", "manifest", set("manifest", 0, 2)},
		{"manifest with a long certificate", "manifest", merklelog.AppendManifest(nil, long)},
		{"manifest with a certificate beyond its end", "manifest", set("manifest", 65, 8, 0)},
		{"manifest with flag 2", "manifest", set("manifest", 67+13, 2)},
		{"manifest with a predecessor of size 0", "manifest", set("manifest", 68+13+32, zero...)},
		{"checkpoint of size 0", "checkpoint", set("checkpoint", 32, zero...)},
		{"checkpoint beyond the largest log", "checkpoint", set("checkpoint", 32, beyond...)},
		{"leaf of type 0", "leaves", set("leaves", 0, 0)},
		{"leaf of type 3", "leaves", set("leaves", 33, 3)},
		{"frontier beyond the largest log", "frontier", set("frontier", 0, beyond...)},
		{"proof of 65 hashes", "inclusion", append([]byte{65}, make([]byte, 65*32)...)},
		{"batch of no leaves", "batch", set("batch", 8, 0, 0)},
		{"batch of 257 leaves", "batch", set("batch", 8, 1, 1)},
		{"batch beyond the largest log", "batch", set("batch", 0, beyond...)},
		{"fork in the wrong order", "fork", append(append(bytes.Clone(byName["fork"].bytes[136:272]), byName["fork"].bytes[:136]...), byName["fork"].bytes[272:]...)},
		{"fork of two logs", "fork", set("fork", 0, 1)},
		{"ranges out of order", "ranges", set("ranges", 2, 0, 0, 0, 0, 0, 0, 0, 8)},
		{"ranges that touch", "ranges", set("ranges", 2+15, 7)},
		{"empty range", "ranges", set("ranges", 2+15, 0)},
		{"range that wraps", "ranges", set("ranges", 2+40, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)},
		{"1,025 ranges", "ranges", append([]byte{4, 1}, make([]byte, 16*1025)...)},
	} {
		if _, err := byName[tt.enc].again(tt.bytes); err == nil {
			t.Errorf("%s was accepted", tt.name)
		} else if !strings.HasPrefix(err.Error(), "merklelog: ") {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestManifestSignature(t *testing.T) {
	m := testManifest(t, true)
	if err := m.Verify(); err != nil {
		t.Fatal(err)
	}
	id := m.ID()
	enc := merklelog.AppendManifest(nil, m)
	for i := range enc {
		bad := bytes.Clone(enc)
		bad[i] ^= 1
		got, err := merklelog.ParseManifest(bad)
		if err != nil {
			continue
		}
		if got.Verify() == nil {
			t.Fatalf("manifest verifies with byte %d changed", i)
		}
		if same := got.ID() == id; same != (i >= len(enc)-64) {
			t.Fatalf("byte %d changed: identity the same: %v", i, same)
		}
	}
	stranger, _ := testKey(2)
	if err := merklelog.SignManifest(m, stranger); err == nil {
		t.Error("a stranger signed the manifest")
	}
	m.Certificate = make([]byte, merklelog.MaxCertificate+1)
	key, _ := testKey(1)
	if err := merklelog.SignManifest(m, key); err == nil {
		t.Error("a manifest with a certificate too long was signed")
	}
}

func TestCheckpointSignature(t *testing.T) {
	s := newStory(t, 10, plain(0))
	_, writer := testKey(1)
	_, stranger := testKey(2)
	cp := s.checkpoint(t, 10)
	if err := cp.Verify(writer); err != nil {
		t.Fatal(err)
	}
	if err := cp.Verify(stranger); !errors.Is(err, merklelog.ErrSignature) {
		t.Errorf("verifies with a stranger's key: %v", err)
	}
	enc := merklelog.AppendCheckpoint(nil, cp)
	for i := range enc {
		bad := bytes.Clone(enc)
		bad[i] ^= 1
		if got, err := merklelog.ParseCheckpoint(bad); err == nil && got.Verify(writer) == nil {
			t.Errorf("checkpoint verifies with byte %d changed", i)
		}
	}
	body := cp.Text(writer)
	for i := range body {
		bad := bytes.Clone(body)
		bad[i] ^= 1
		if _, err := merklelog.ParseCheckpointText(bad, writer); err == nil {
			t.Errorf("checkpoint text is accepted with byte %d changed", i)
		}
	}
	if _, err := merklelog.ParseCheckpointText(body, stranger); err == nil {
		t.Error("checkpoint text is accepted with a stranger's key")
	}
	if _, err := merklelog.ParseCheckpointText(make([]byte, 2000), writer); err == nil {
		t.Error("a long text was looked at")
	}
}

// What Text writes is a note that the note package opens by itself.
func TestCheckpointIsASignedNote(t *testing.T) {
	s := newStory(t, 10, plain(0))
	cp := s.checkpoint(t, 10)
	_, writer := testKey(1)
	vkey, err := note.NewEd25519VerifierKey("cobox/v1/log/"+cp.Log.String(), writer[:])
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(cp.Text(writer), note.VerifierList(v))
	if err != nil {
		t.Fatal(err)
	}
	if len(n.Sigs) != 1 || !strings.HasPrefix(n.Text, "cobox/v1/log/2a00") {
		t.Errorf("note of %d signatures: %q", len(n.Sigs), n.Text)
	}
}

// badSigner returns other bytes than a signature, or a signature of other bytes.
type badSigner struct {
	ed25519.PrivateKey
	sig func(message []byte) ([]byte, error)
}

func (b badSigner) Sign(_ io.Reader, message []byte, _ crypto.SignerOpts) ([]byte, error) {
	return b.sig(message)
}

func TestFaultySigners(t *testing.T) {
	key, _ := testKey(1)
	broken := errors.New("no token")
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []crypto.Signer{
		ec,
		badSigner{key, func([]byte) ([]byte, error) { return nil, broken }},
		badSigner{key, func([]byte) ([]byte, error) { return make([]byte, 64), nil }},
		badSigner{key, func([]byte) ([]byte, error) { return nil, nil }},
		badSigner{key, func(m []byte) ([]byte, error) { return ed25519.Sign(key, m[1:]), nil }},
	} {
		if _, err := merklelog.SignCheckpoint(k, merklelog.LogID{}, 1, merklelog.Hash{}); err == nil {
			t.Errorf("%T made a checkpoint", k)
		}
		m := testManifest(t, false)
		if err := merklelog.SignManifest(m, k); err == nil {
			t.Errorf("%T made a manifest", k)
		}
	}
	for _, size := range []uint64{0, merklelog.MaxSize + 1} {
		if _, err := merklelog.SignCheckpoint(key, merklelog.LogID{}, size, merklelog.Hash{}); err == nil {
			t.Errorf("a checkpoint of size %d was signed", size)
		}
	}
}

func TestLeaf(t *testing.T) {
	block := testBlock(merklelog.Data)
	l, err := merklelog.LeafOf(block)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Check(block); err != nil || l.Type() != merklelog.Data {
		t.Errorf("%v: %v", l.Type(), err)
	}
	for _, at := range []int{0, 1, 40000, merklelog.BlockSize - 1} {
		bad := bytes.Clone(block)
		bad[at] ^= 3 // makes type 1 an Envelope
		if err := l.Check(bad); !errors.Is(err, merklelog.ErrBlock) {
			t.Errorf("byte %d changed: %v", at, err)
		}
	}
	for _, bad := range [][]byte{nil, block[:65535], append(block, 0), testBlock(0), testBlock(3)} {
		if _, err := merklelog.LeafOf(bad); err == nil {
			t.Errorf("a block of %d bytes has a leaf", len(bad))
		}
		if err := l.Check(bad); !errors.Is(err, merklelog.ErrBlock) {
			t.Errorf("a block of %d bytes: %v", len(bad), err)
		}
	}
}

func TestText(t *testing.T) {
	id, hash, tag, key := merklelog.LogID{0xab}, merklelog.Hash{0xcd}, merklelog.Tag{0xef}, merklelog.WriterKey{1}
	if got, err := merklelog.ParseLogID(id.String()); err != nil || got != id {
		t.Errorf("log id %v: %v", got, err)
	}
	if got, err := merklelog.ParseHash(hash.String()); err != nil || got != hash {
		t.Errorf("hash %v: %v", got, err)
	}
	if got, err := merklelog.ParseTag(tag.String()); err != nil || got != tag {
		t.Errorf("tag %v: %v", got, err)
	}
	if got, err := merklelog.ParseWriterKey(key.String()); err != nil || !got.Equal(key) {
		t.Errorf("writer key %v: %v", got, err)
	}
	for _, bad := range []string{"", id.String()[1:], id.String() + "0", strings.ToUpper(id.String()), strings.Repeat("g", 64)} {
		if _, err := merklelog.ParseLogID(bad); err == nil {
			t.Errorf("log id %q was accepted", bad)
		}
	}
	for _, bad := range []string{"", key.String()[7:], "writer:" + strings.Repeat("00", 31), strings.Repeat("x", 5000)} {
		if _, err := merklelog.ParseWriterKey(bad); err == nil || len(err.Error()) > 200 {
			t.Errorf("writer key of %d characters: %v", len(bad), err)
		}
	}
}

// The range operations against a plain set of indexes.
func TestRanges(t *testing.T) {
	const limit = 40
	state := uint64(1)
	next := func(n uint64) uint64 { // any cheap sequence will do
		state = state*6364136223846793005 + 1442695040888963407
		return (state >> 33) % n
	}
	for range 300 {
		var ranges []merklelog.Range
		set := map[uint64]bool{}
		for range 20 {
			r := merklelog.Range{First: next(limit), Count: next(6)}
			r.Count = min(r.Count, limit-r.First)
			add := next(3) > 0
			if add {
				ranges = merklelog.AddRange(ranges, r)
			} else {
				ranges = merklelog.SubtractRange(ranges, r)
			}
			for i := r.First; i < r.End(); i++ {
				set[i] = add
			}
			if err := merklelog.CheckRanges(ranges, limit); err != nil {
				t.Fatal(err)
			}
			count := uint64(0)
			for i := range uint64(limit) {
				if merklelog.RangesContain(ranges, i) != set[i] {
					t.Fatalf("index %d after %v: %v", i, r, ranges)
				}
				if set[i] {
					count++
				}
			}
			if merklelog.CountRanges(ranges) != count {
				t.Fatalf("%v counts %d", ranges, merklelog.CountRanges(ranges))
			}
			got, err := merklelog.ParseRanges(merklelog.AppendRanges(nil, ranges))
			if err != nil || len(got) != len(ranges) || len(got) > 0 && !reflect.DeepEqual(got, ranges) {
				t.Fatalf("%v came back as %v: %v", ranges, got, err)
			}
		}
	}
	if merklelog.DigestRanges(nil) == merklelog.DigestRanges([]merklelog.Range{{First: 0, Count: 1}}) {
		t.Error("the digest does not depend on the ranges")
	}
}
