package replica

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cobox/storage/merklelog"
)

func TestBringCommitReadReopen(t *testing.T) {
	for _, size := range []uint64{1, 2, 3, 8, 9, 300, 600} {
		o := testOptions(vfs.NewMem())
		o.Logger = testLogger(t)
		s := openTest(t, o)
		l := newLog(newWriter("a", "d"), "l", int(size))
		if err := l.bring(s, 0, size); err != nil {
			t.Fatal(err)
		}
		d, err := s.Commit(context.Background(), l.id)
		if err != nil {
			t.Fatal(err)
		}
		check := func() {
			t.Helper()
			if d.Checkpoint != l.checkpoint(size) || d.Leaves != size || d.Held != size || len(d.Holes) != 0 ||
				d.HolesTruncated || d.HolesDigest != merklelog.DigestRanges(nil) {
				t.Fatalf("size %d: durable %+v", size, d)
			}
			for i := range size {
				if err := l.checkRead(s, i); err != nil {
					t.Fatal(err)
				}
			}
		}
		check()
		if u := s.Usage(l.w.account); u.Blocks != size<<16 || u.Leaves != 33*size || u.Garbage != 0 || u.Logs != 1 {
			t.Fatalf("usage %+v", u)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := l.checkRead(s, 0); !errors.Is(err, ErrClosed) {
			t.Fatal("read after Close:", err)
		}
		s = openTest(t, o)
		if d, err = s.Commit(context.Background(), l.id); err != nil {
			t.Fatal(err)
		}
		check()
		p, err := s.Inclusion(l.id, size/2, size)
		if err != nil {
			t.Fatal(err)
		}
		if err := merklelog.VerifyInclusion(l.leaves[size/2], size/2, size, l.checkpoint(size).Root, p); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMissing(t *testing.T) {
	const size = 5000
	o := testOptions(vfs.NewMem())
	o.tune.tableSize = 64 << 20
	s := openTest(t, o)
	l := newLog(newWriter("a", "d"), "l", size)
	if err := errors.Join(l.offer(s, size), l.appendLeaves(s, size, size)); err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]uint64{{0, 5}, {7, 8}, {300, 320}, {4990, 5000}} {
		if err := l.put(s, r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Drop(l.id, []merklelog.Range{{First: 100, Count: 3}}); err != nil {
		t.Fatal(err)
	}
	want := []merklelog.Range{{First: 5, Count: 2}, {First: 8, Count: 92}, {First: 103, Count: 197}, {First: 320, Count: 4670}}
	check := func() {
		t.Helper()
		for n := range 6 {
			got, err := s.Missing(l.id, 0, n)
			if err != nil || !slices.Equal(got, want[:min(n, 4)]) {
				t.Fatalf("first %d: %v, %v", n, got, err)
			}
		}
		for from, first := range map[uint64]merklelog.Range{5: want[0], 6: {First: 6, Count: 1}, 101: want[2], 4989: {First: 4989, Count: 1}} {
			if got, err := s.Missing(l.id, from, 1); err != nil || len(got) != 1 || got[0] != first {
				t.Fatalf("from %d: %v, %v", from, got, err)
			}
		}
		if got, err := s.Missing(l.id, 4990, 9); err != nil || len(got) != 0 {
			t.Fatal(got, err)
		}
	}
	check() // as they come in
	if _, err := s.Commit(context.Background(), l.id); err != nil {
		t.Fatal(err)
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, o)
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
