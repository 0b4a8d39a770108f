package merklelog_test

import (
	"bytes"
	"testing"

	"cobox/storage/merklelog"
)

// fuzzParser checks that whatever parses encodes to the same bytes, starting
// from the vectors whose names begin with name.
func fuzzParser(f *testing.F, parseAndEncode func([]byte) ([]byte, error), names ...string) {
	for _, e := range encodings(f) {
		for _, name := range names {
			if e.name == name {
				f.Add(e.bytes)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseAndEncode(b)
		if err == nil && !bytes.Equal(got, b) {
			t.Errorf("%x was accepted and is %x when encoded", b, got)
		}
	})
}

func FuzzParseManifest(f *testing.F)       { fuzzParser(f, manifestAgain, "manifest", "manifest-first") }
func FuzzParsePosition(f *testing.F)       { fuzzParser(f, positionAgain, "position") }
func FuzzParseCheckpoint(f *testing.F)     { fuzzParser(f, checkpointAgain, "checkpoint") }
func FuzzParseCheckpointText(f *testing.F) { fuzzParser(f, text, "checkpoint-text") }
func FuzzParseLeaves(f *testing.F)         { fuzzParser(f, leavesAgain, "leaves") }
func FuzzParseFrontier(f *testing.F)       { fuzzParser(f, frontierAgain, "frontier") }
func FuzzParseProof(f *testing.F)          { fuzzParser(f, proofAgain, "inclusion", "consistency") }
func FuzzParseBatch(f *testing.F)          { fuzzParser(f, batchAgain, "batch") }
func FuzzParseFork(f *testing.F)           { fuzzParser(f, forkAgain, "fork") }
func FuzzParseRanges(f *testing.F)         { fuzzParser(f, rangesAgain, "ranges") }

// Identities in text form have one spelling each.
func FuzzParseText(f *testing.F) {
	f.Add(merklelog.LogID{1}.String())
	f.Add(merklelog.Tag{2}.String())
	f.Add(merklelog.WriterKey{3}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := merklelog.ParseLogID(s); err == nil && id.String() != s {
			t.Errorf("log id %q", s)
		}
		if h, err := merklelog.ParseHash(s); err == nil && h.String() != s {
			t.Errorf("hash %q", s)
		}
		if tag, err := merklelog.ParseTag(s); err == nil && tag.String() != s {
			t.Errorf("tag %q", s)
		}
		if k, err := merklelog.ParseWriterKey(s); err == nil && k.String() != s {
			t.Errorf("writer key %q", s)
		}
	})
}

// A proof made of any bytes never makes evidence of honest checkpoints, and
// never panics for any sizes.
func FuzzVerifyConsistency(f *testing.F) {
	s := newStory(f, 64, plain(0))
	for _, m := range []uint64{1, 7, 32, 63} {
		p, err := s.tree.Consistency(m, 64)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m, uint64(64), merklelog.AppendProof(nil, p))
	}
	f.Fuzz(func(t *testing.T, m, n uint64, b []byte) {
		p, err := merklelog.ParseProof(b)
		if err != nil {
			return
		}
		merklelog.VerifyInclusion(s.leaves[0], m, n, merklelog.Hash{}, p) // must not panic
		if m == 0 || m > 64 || n == 0 || n > 64 {
			merklelog.VerifyConsistency(m, merklelog.Hash{}, n, merklelog.Hash{}, p)
			return
		}
		err = merklelog.Compare(s.checkpoint(t, int(m)), s.checkpoint(t, int(n)), p)
		if _, ok := err.(*merklelog.ForkError); ok {
			t.Errorf("evidence against an honest writer: sizes %d and %d", m, n)
		}
	})
}
