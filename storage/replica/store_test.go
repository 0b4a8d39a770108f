package replica

import (
	"context"
	"errors"
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
