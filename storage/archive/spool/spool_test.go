package spool_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cobox/storage/archive"
	"cobox/storage/archive/spool"
	"cobox/storage/merklelog"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	_ archive.Log    = (*spool.Writer)(nil)
	_ archive.Blocks = (*spool.Spool)(nil)
)

// small returns options for small segments, without signatures in the background.
func small(fs *memFS) spool.Options {
	o := spool.Options{
		Signer: newKey(), SegmentBlocks: 4, Window: 1 << 30,
		CheckpointBlocks: 1 << 20, CheckpointAfter: 24 * time.Hour,
	}
	if fs != nil {
		o.FS = fs
	}
	return o
}

func create(t testing.TB, dir string, o spool.Options) *spool.Spool {
	t.Helper()
	s, err := spool.Create(dir, newManifest(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func reopen(t testing.TB, dir string, o spool.Options) *spool.Spool {
	t.Helper()
	s, err := spool.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func fill(t testing.TB, s *spool.Spool, n int) {
	t.Helper()
	for range n {
		size := s.Size()
		if index, err := s.Append(t.Context(), newBlock(1, size)); err != nil || index != size {
			t.Fatalf("append returned %d at size %d: %v", index, size, err)
		}
	}
}

func commit(t testing.TB, s *spool.Spool) merklelog.Checkpoint {
	t.Helper()
	cp, err := s.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

func receipt(box spool.BoxKey, cp merklelog.Checkpoint, holes ...merklelog.Range) spool.Receipt {
	return spool.Receipt{Box: box, Size: cp.Size, Root: cp.Root, Holes: holes, Signed: []byte("signed")}
}

func receipted(t testing.TB, s *spool.Spool, r spool.Receipt) {
	t.Helper()
	if err := s.Receipted(r); err != nil {
		t.Fatal(err)
	}
}

// blocks returns the number of segment files in a directory.
func blocks(t testing.TB, dir string) (n int) {
	t.Helper()
	for _, pattern := range []string{"*.part", "*.blocks"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		n += len(names)
	}
	return n
}

// A log's life on a real file system: append, commit, serve, receipt, close,
// open.
func TestLife(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	s := create(t, dir, small(nil))
	if _, err := s.Commit(t.Context()); err == nil {
		t.Error("an empty log was committed")
	}
	fill(t, s, 600)
	if _, err := s.Leaves(0, 1); err == nil || s.Block(0, make([]byte, merklelog.BlockSize)) == nil {
		t.Error("something above the newest checkpoint was served")
	}
	cp := commit(t, s)
	if cp.Size != 600 || cp.Verify(s.Manifest().Writer) != nil || cp.Log != s.ID() {
		t.Fatalf("checkpoint of size %d", cp.Size)
	}
	if again := commit(t, s); again != cp {
		t.Error("a commit of nothing signed something")
	}
	fill(t, s, 7) // dropped by Close
	check := func(s *spool.Spool) {
		t.Helper()
		var f merklelog.Frontier
		for f.Size() < cp.Size {
			b, err := s.Batch(f.Size(), cp.Size)
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Accept(b, cp); err != nil {
				t.Fatal(err)
			}
			for i, l := range b.Leaves {
				p, err := s.Inclusion(b.First+uint64(i), cp.Size)
				if err != nil {
					t.Fatal(err)
				}
				if err := merklelog.VerifyInclusion(l, b.First+uint64(i), cp.Size, cp.Root, p); err != nil {
					t.Fatal(err)
				}
			}
		}
		block := make([]byte, merklelog.BlockSize)
		for i := range cp.Size {
			if err := s.Block(i, block); err != nil || !bytes.Equal(block, newBlock(1, i)) {
				t.Fatalf("block %d: %v", i, err)
			}
		}
	}
	check(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if _, err := s.Append(t.Context(), newBlock(1, 607)); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if parts, _ := filepath.Glob(filepath.Join(dir, "*.part")); len(parts) != 0 {
		t.Errorf("segments not closed cleanly: %v", parts)
	}
	s = reopen(t, dir, small(nil))
	if s.Size() != 600 || s.Waiting() != 600*merklelog.BlockSize {
		t.Errorf("size %d, %d bytes waiting", s.Size(), s.Waiting())
	}
	check(s)
	info, err := spool.Inspect(dir)
	if err != nil || info.Checkpoint != cp || info.Waiting != s.Waiting() || info.Manifest.ID() != s.ID() {
		t.Errorf("inspect: %v, %v", info, err)
	}
	receipted(t, s, receipt(boxA, cp))
	if s.Waiting() != 0 || blocks(t, dir) != 0 {
		t.Errorf("%d bytes wait in %d files after a receipt", s.Waiting(), blocks(t, dir))
	}
	if err := s.Block(5, make([]byte, merklelog.BlockSize)); !errors.Is(err, spool.ErrNotHere) {
		t.Errorf("a released block: %v", err)
	}
	if len(s.Holes()) != 0 {
		t.Errorf("holes %v, a box has everything", s.Holes())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, dir, small(nil))
	if r := s.Receipts(); len(r) != 1 || r[0].Box != boxA || r[0].Size != 600 || string(r[0].Signed) != "signed" {
		t.Errorf("receipts after opening: %v", r)
	}
	if len(s.Holes()) != 0 || s.Next(0) != 600 {
		t.Errorf("holes %v, next %d", s.Holes(), s.Next(0))
	}
	if err := s.Forget(boxA); err != nil {
		t.Fatal(err)
	}
	if h := s.Holes(); len(h) != 1 || h[0].Count != 600 {
		t.Errorf("holes %v without the box", h)
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	create(t, dir, small(nil))
	if _, err := spool.Create(dir, newManifest(t), small(nil)); err == nil {
		t.Error("a second log was begun in the directory")
	}
	m := newManifest(t)
	m.Nonce[0]++
	if _, err := spool.Create(t.TempDir(), m, small(nil)); err == nil {
		t.Error("a log with an unsigned manifest was begun")
	}
	for _, o := range []spool.Options{
		{}, {Signer: newKey(), SegmentBlocks: 3}, {Signer: newKey(), Window: 1}, {Signer: newKey(), CheckpointAfter: -1},
	} {
		if _, err := spool.Create(t.TempDir(), newManifest(t), o); err == nil {
			t.Errorf("options %+v were accepted", o)
		}
	}
	if _, err := spool.Open(t.TempDir(), small(nil)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("opening an empty directory: %v", err)
	}
}

func TestRelease(t *testing.T) {
	s := create(t, "", small(newMemFS()))
	fill(t, s, 10) // segments of 4, 4, 2
	ten := commit(t, s)
	fill(t, s, 4)
	commit(t, s)
	waiting := func(want uint64) {
		t.Helper()
		if got := s.Waiting() / merklelog.BlockSize; got != want {
			t.Errorf("%d blocks wait, want %d", got, want)
		}
	}
	waiting(14)
	s.SetReach(boxA, boxB)
	receipted(t, s, receipt(boxA, ten))
	waiting(14) // B is in reach and has nothing
	receipted(t, s, receipt(boxB, ten, merklelog.Range{First: 5, Count: 1}))
	waiting(10) // the segment with B's hole stays, and the one that goes on to 12
	s.SetReach(boxA)
	waiting(6)
	if h := s.Holes(); len(h) != 0 {
		t.Errorf("holes %v", h)
	}
	// An old receipt after a newer one changes nothing.
	newest := s.Checkpoint()
	receipted(t, s, receipt(boxA, newest, merklelog.Range{First: 9, Count: 1}))
	receipted(t, s, receipt(boxA, ten))
	waiting(4)
	if s.Next(0) != 8 || s.Next(11) != 11 || s.Next(12) != 14 {
		t.Errorf("next %d, %d, %d", s.Next(0), s.Next(11), s.Next(12))
	}
	for name, r := range map[string]spool.Receipt{
		"another root":         {Box: boxA, Size: 14, Root: merklelog.Hash{1}},
		"beyond the log":       {Box: boxA, Size: 15, Root: newest.Root},
		"nothing":              {Box: boxA},
		"holes out of order":   {Box: boxA, Size: 14, Root: newest.Root, Holes: []merklelog.Range{{First: 3, Count: 1}, {First: 1, Count: 1}}},
		"holes beyond the end": {Box: boxA, Size: 14, Root: newest.Root, Holes: []merklelog.Range{{First: 13, Count: 2}}},
		"too long":             {Box: boxA, Size: 14, Root: newest.Root, Signed: make([]byte, 1025)},
	} {
		if err := s.Receipted(r); err == nil {
			t.Errorf("a receipt with %s was taken in", name)
		}
	}
	waiting(4)
	receipted(t, s, receipt(boxA, newest))
	waiting(0)
	fill(t, s, 1) // a new segment in the middle of a released one's place
	commit(t, s)
	waiting(1)
}

func TestLimitWithoutBoxes(t *testing.T) {
	o := small(newMemFS())
	o.Limit = 6 * merklelog.BlockSize
	s := create(t, "", o)
	fill(t, s, 6)
	if _, err := s.Append(t.Context(), newBlock(1, 6)); !errors.Is(err, spool.ErrSpoolFull) {
		t.Errorf("append beyond the limit: %v", err)
	}
	cp := commit(t, s)
	receipted(t, s, receipt(boxA, cp))
	fill(t, s, 6)
}

// With a box in reach Append waits for receipts, whose checkpoint the spool
// makes by itself; a context or the loss of the box ends the waiting.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := small(newMemFS())
		o.Window = 8 * merklelog.BlockSize
		o.Limit = 9 * merklelog.BlockSize
		s := create(t, "", o)
		s.SetReach(boxA)
		fill(t, s, 8)
		appended := make(chan error)
		start := func(ctx context.Context) {
			go func() {
				_, err := s.Writer(ctx).Append(newBlock(1, s.Size()))
				appended <- err
			}()
			synctest.Wait()
			select {
			case err := <-appended:
				t.Fatalf("append did not wait: %v", err)
			default:
			}
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		start(ctx)
		cp := s.Checkpoint()
		if cp.Size != 8 {
			t.Fatalf("checkpoint of %d while appending waits", cp.Size)
		}
		interrupted := errors.New("interrupted")
		cancel(interrupted)
		if err := <-appended; !errors.Is(err, interrupted) {
			t.Errorf("append after the context ended: %v", err)
		}
		start(t.Context())
		receipted(t, s, receipt(boxA, cp))
		if err := <-appended; err != nil {
			t.Error(err)
		}
		fill(t, s, 7)
		start(t.Context())
		s.SetReach() // the box is gone: the limit holds now
		if err := <-appended; err != nil {
			t.Error(err)
		}
		if _, err := s.Append(t.Context(), newBlock(1, s.Size())); !errors.Is(err, spool.ErrSpoolFull) {
			t.Errorf("append at the limit: %v", err)
		}
		s.SetReach(boxA)
		start(t.Context())
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-appended; !errors.Is(err, spool.ErrClosed) {
			t.Errorf("append during close: %v", err)
		}
	})
}

// While a box is in reach a checkpoint is made of every 256 blocks or after 2 s;
// with none only a commit makes one.
func TestCheckpointsInBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := small(newMemFS())
		o.CheckpointBlocks, o.CheckpointAfter = 0, 0
		s := create(t, "", o)
		size := func(want uint64) {
			t.Helper()
			synctest.Wait()
			if got := s.Checkpoint().Size; got != want {
				t.Fatalf("checkpoint of %d, want %d", got, want)
			}
		}
		fill(t, s, 3)
		time.Sleep(10 * time.Second)
		size(0)
		s.SetReach(boxA)
		time.Sleep(1900 * time.Millisecond)
		size(0)
		changed := s.Changed()
		time.Sleep(101 * time.Millisecond)
		size(3)
		select {
		case <-changed:
		default:
			t.Error("the change was not told")
		}
		fill(t, s, 1)
		time.Sleep(2001 * time.Millisecond)
		size(4)
		fill(t, s, 256)
		size(260)
	})
}

// What is appended while a checkpoint is made waits for the next one no longer than
// anything else.
func TestAppendedDuringACheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newMemFS()
		o := small(fs)
		o.CheckpointAfter = 2 * time.Second
		s := create(t, "", o)
		s.SetReach(boxA)
		fs.before = func(kind string) {
			if kind == "sync" {
				fs.before = nil
				if _, err := s.Append(t.Context(), newBlock(1, 1)); err != nil {
					t.Error(err)
				}
			}
		}
		fill(t, s, 1)
		time.Sleep(2001 * time.Millisecond)
		synctest.Wait()
		if size := s.Checkpoint().Size; size != 1 {
			t.Fatalf("checkpoint of %d, want 1", size)
		}
		fill(t, s, 1)
		time.Sleep(2001 * time.Millisecond)
		synctest.Wait()
		if size := s.Checkpoint().Size; size != 3 {
			t.Errorf("checkpoint of %d, want 3", size)
		}
	})
}

// An error in the background is not lost: it ends appending and committing.
func TestErrorInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newMemFS()
		o := small(fs)
		o.CheckpointAfter = time.Second
		s := create(t, "", o)
		s.SetReach(boxA)
		fill(t, s, 5)
		cp := commit(t, s)
		fs.fault = func(_ int, kind string) fault {
			if kind == "sync" {
				return fault{err: errInjected}
			}
			return fault{}
		}
		fill(t, s, 1)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		fs.fault = nil
		if !errors.Is(s.Err(), errInjected) {
			t.Errorf("error is %v", s.Err())
		}
		if _, err := s.Append(t.Context(), newBlock(1, 6)); !errors.Is(err, errInjected) {
			t.Errorf("append: %v", err)
		}
		if _, err := s.Commit(t.Context()); !errors.Is(err, errInjected) {
			t.Errorf("commit: a failed sync was tried again: %v", err)
		}
		if s.Checkpoint() != cp || s.Block(2, make([]byte, merklelog.BlockSize)) != nil {
			t.Error("what is durable is not served any more")
		}
	})
}

// A full disk while a block is written leaves the log as it was.
func TestFullDiskWhileAppending(t *testing.T) {
	fs := newMemFS()
	s := create(t, "", small(fs))
	fill(t, s, 5)
	for _, kind := range []string{"write", "create"} {
		fs.fault = func(_ int, k string) fault {
			if k == kind {
				return fault{err: errInjected, half: true}
			}
			return fault{}
		}
		for s.Size()%4 != 0 || kind == "write" {
			if _, err := s.Append(t.Context(), newBlock(2, s.Size())); kind == "write" {
				if !errors.Is(err, errInjected) {
					t.Fatalf("append: %v", err)
				}
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if kind == "create" {
			if _, err := s.Append(t.Context(), newBlock(2, s.Size())); !errors.Is(err, errInjected) {
				t.Fatalf("append: %v", err)
			}
		}
		fs.fault = nil
		fill(t, s, 2)
	}
	cp := commit(t, s)
	block := make([]byte, merklelog.BlockSize)
	for i := range cp.Size {
		leaf, err := s.Leaves(i, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Block(i, block); err != nil || leaf[0].Check(block) != nil {
			t.Errorf("block %d: %v", i, err)
		}
	}
}

func TestRegressed(t *testing.T) {
	fs := newMemFS()
	s := create(t, "", small(fs))
	fill(t, s, 6)
	six := commit(t, s)
	old := fs.afterKill()
	fill(t, s, 3)
	nine := commit(t, s)
	if back, err := s.Regressed(six); back || err != nil {
		t.Errorf("an older checkpoint: %v, %v", back, err)
	}
	s.Close()
	// The state goes back, as with a disk image restored.
	s = reopen(t, "", small(old))
	if back, err := s.Regressed(nine); !back || err != nil {
		t.Errorf("a box knows more: %v, %v", back, err)
	}
	// And on, to another story of the same length.
	for range 3 {
		if _, err := s.Append(t.Context(), newBlock(2, s.Size())); err != nil {
			t.Fatal(err)
		}
	}
	commit(t, s)
	if back, err := s.Regressed(nine); !back || err != nil {
		t.Errorf("a box knows another story: %v, %v", back, err)
	}
	nine.Sig[0]++
	if _, err := s.Regressed(nine); !errors.Is(err, merklelog.ErrSignature) {
		t.Errorf("a checkpoint that nobody signed: %v", err)
	}
	nine.Log[0]++
	if _, err := s.Regressed(nine); err == nil {
		t.Error("a checkpoint of another log was compared")
	}
}

// flip changes a byte of a file.
func flip(t *testing.T, file string, at int64) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 1
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A flipped bit anywhere is found, costs what it hit, and is never served.
func TestFlippedBits(t *testing.T) {
	dir := t.TempDir()
	s := create(t, dir, small(nil))
	fill(t, s, 1)
	receipted(t, s, receipt(boxA, commit(t, s), merklelog.Range{First: 0, Count: 1})) // frees nothing
	fill(t, s, 599)
	cp := commit(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	block := make([]byte, merklelog.BlockSize)

	flip(t, filepath.Join(dir, "0000000000000008.blocks"), 70000)
	s = reopen(t, dir, small(nil))
	if err := s.Block(9, block); !errors.Is(err, spool.ErrNotHere) || !errors.Is(err, merklelog.ErrBlock) {
		t.Errorf("a damaged block: %v", err)
	}
	if err := s.Block(8, block); err != nil {
		t.Error(err)
	}
	if h := s.Holes(); !slices.Equal(h, []merklelog.Range{{First: 9, Count: 1}}) || s.Next(9) != 10 {
		t.Errorf("holes %v, next %d", h, s.Next(9))
	}
	var got []uint64
	if err := s.Fetch(t.Context(), s.ID(), []uint64{7, 9, 10, 900}, func(i uint64, b []byte) error {
		got = append(got, i)
		return nil
	}); err != nil || !slices.Equal(got, []uint64{7, 10}) {
		t.Errorf("fetched %v: %v", got, err)
	}
	s.Close()

	// A segment that was not closed cleanly is checked at once.
	if err := os.Rename(filepath.Join(dir, "0000000000000008.blocks"), filepath.Join(dir, "0000000000000008.part")); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, dir, small(nil))
	if h := s.Holes(); !slices.Equal(h, []merklelog.Range{{First: 9, Count: 1}}) {
		t.Errorf("holes %v", h)
	}
	s.Close()

	// Derived data is made anew.
	flip(t, filepath.Join(dir, "tiles"), 40)
	flip(t, filepath.Join(dir, "receipts"), 3)
	s = reopen(t, dir, small(nil))
	if root, err := s.Leaves(0, 600); err != nil || len(root) != 600 {
		t.Error(err)
	}
	s.Close()

	// A leaf: the root proves that it is wrong as soon as it is read.
	flip(t, filepath.Join(dir, "leaves"), 33*300+5)
	s = reopen(t, dir, small(nil))
	if _, err := s.Leaves(256, 100); !errors.Is(err, spool.ErrDamaged) {
		t.Errorf("a damaged leaf: %v", err)
	}
	if _, err := s.Leaves(0, 256); err != nil {
		t.Error(err)
	}
	if _, err := s.Batch(256, cp.Size); !errors.Is(err, spool.ErrDamaged) {
		t.Errorf("a batch with a damaged leaf: %v", err)
	}
	s.Close()
	flip(t, filepath.Join(dir, "leaves"), 33*300+5)

	for file, at := range map[string]int64{"leaves": 33 * 599, "checkpoint": 60, "manifest": 20} {
		flip(t, filepath.Join(dir, file), at)
		if _, err := spool.Open(dir, small(nil)); !errors.Is(err, spool.ErrDamaged) {
			t.Errorf("%s damaged: %v", file, err)
		}
		flip(t, filepath.Join(dir, file), at)
	}
	if err := os.Truncate(filepath.Join(dir, "leaves"), 33*599); err != nil {
		t.Fatal(err)
	}
	if _, err := spool.Open(dir, small(nil)); !errors.Is(err, spool.ErrDamaged) {
		t.Errorf("leaves cut short: %v", err)
	}
}

// Sessions read, receipts come in and checkpoints are made while a backup
// appends: nothing that is not yet receipted gets lost.
func TestConcurrentUse(t *testing.T) {
	o := small(nil)
	o.Window = 16 * merklelog.BlockSize
	o.CheckpointBlocks = 7
	s := create(t, t.TempDir(), o)
	s.SetReach(boxA)
	const n = 400
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() { // the box: takes everything in order, then says so
		block := make([]byte, merklelog.BlockSize)
		var f merklelog.Frontier
		for {
			changed, cp := s.Changed(), s.Checkpoint()
			for f.Size() < cp.Size {
				b, err := s.Batch(f.Size(), cp.Size)
				if err != nil {
					t.Error(err)
					return
				}
				for i, leaf := range b.Leaves {
					index := b.First + uint64(i)
					if err := s.Block(index, block); err != nil || leaf.Check(block) != nil {
						t.Errorf("block %d: %v", index, err)
						return
					}
				}
				if err := f.Accept(b, cp); err != nil {
					t.Error(err)
					return
				}
			}
			if f.Size() > 0 {
				if err := s.Receipted(receipt(boxA, cp)); err != nil {
					t.Error(err)
					return
				}
			}
			if f.Size() == n {
				return
			}
			select {
			case <-changed:
			case <-stop:
				return
			}
		}
	})
	wg.Go(func() { // somebody curious
		for {
			select {
			case <-stop:
				return
			default:
			}
			s.Holes()
			s.Receipts()
			s.Next(s.Size() / 2)
			s.Waiting()
		}
	})
	for range n {
		if _, err := s.Append(t.Context(), newBlock(1, s.Size())); err != nil {
			t.Fatal(err)
		}
	}
	commit(t, s)
	for s.Waiting() > 0 && !t.Failed() {
		changed := s.Changed()
		if s.Waiting() > 0 {
			<-changed
		}
	}
	close(stop)
	wg.Wait()
	if len(s.Holes()) != 0 {
		t.Errorf("holes %v", s.Holes())
	}
}

func BenchmarkAppendReadRelease(b *testing.B) {
	s := create(b, b.TempDir(), spool.Options{Signer: newKey()})
	s.SetReach(boxA)
	block, dst := newBlock(1, 1), make([]byte, merklelog.BlockSize)
	b.SetBytes(merklelog.BlockSize)
	i := 0
	for b.Loop() {
		if _, err := s.Append(b.Context(), block); err != nil {
			b.Fatal(err)
		}
		if i++; i%1024 == 0 {
			cp, err := s.Commit(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			for j := cp.Size - 1024; j < cp.Size; j++ {
				if err := s.Block(j, dst); err != nil {
					b.Fatal(err)
				}
			}
			receipted(b, s, receipt(boxA, cp))
		}
	}
}
