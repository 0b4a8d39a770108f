package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// committed opens a store with one log of n blocks that were committed.
func committed(t *testing.T, o Options, n int) (*Store, *fixtureLog) {
	t.Helper()
	s := openTest(t, o)
	l := newLog(newWriter("a", "d"), "l", n)
	if err := l.bring(s, 0, uint64(n)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(context.Background(), l.id); err != nil {
		t.Fatal(err)
	}
	return s, l
}

func closeTest(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, fsys vfs.FS, name, text string) {
	t.Helper()
	f, err := fsys.Create(name, vfs.WriteCategoryUnspecified)
	if err == nil {
		_, err = f.Write([]byte(text))
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefusals(t *testing.T) {
	mem := vfs.NewMem()
	o := testOptions(mem)
	s := openTest(t, o)
	if _, err := Open("box", o); !errors.Is(err, ErrInUse) {
		t.Error("opened twice:", err)
	}
	ro := o
	ro.ReadOnly = true
	if _, err := Open("box", ro); !errors.Is(err, ErrInUse) {
		t.Error("opened for reading while in use:", err)
	}
	closeTest(t, s)
	writeFile(t, mem, "box/FORMAT", "cobox-replica 2\n")
	if _, err := Open("box", o); !errors.Is(err, ErrNewerFormat) {
		t.Error("a newer format:", err)
	}
	writeFile(t, mem, "box/FORMAT", "cobox-replica 01\n")
	if _, err := Open("box", o); err == nil || errors.Is(err, ErrNewerFormat) {
		t.Error("a malformed format:", err)
	}
	if err := mem.Remove("box/FORMAT"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("box", o); err == nil {
		t.Error("a database without a format was opened")
	}
	writeFile(t, mem, "box/FORMAT", "cobox-replica 1\n")
	closeTest(t, openTest(t, o))
	if _, err := Open("nothing", ro); err == nil {
		t.Error("nothing was opened for reading")
	}
}

func TestQuota(t *testing.T) {
	var limit atomic.Uint64
	var member atomic.Bool
	limit.Store(10*merklelog.BlockSize + 20*merklelog.LeafSize)
	o := testOptions(vfs.NewMem())
	o.Quota = func(account.ID) (uint64, bool) { return limit.Load(), member.Load() }
	s := openTest(t, o)
	l := newLog(newWriter("a", "d"), "l", 20)
	if err := l.offer(s, 20); !errors.Is(err, ErrNotAdmitted) {
		t.Fatal("log of a stranger:", err)
	}
	member.Store(true)
	if err := l.bring(s, 0, 20); !errors.Is(err, ErrQuota) {
		t.Fatal("over quota:", err)
	}
	d, err := s.Commit(context.Background(), l.id)
	if err != nil || d.Held != 10 {
		t.Fatalf("held %d of the 10 blocks that the quota allows (%v)", d.Held, err)
	}
	if err := l.put(s, 0, 10); err != nil {
		t.Fatal("blocks that are here already cost nothing:", err)
	}
	limit.Store(5)
	if err := l.checkRead(s, 9); err != nil {
		t.Fatal("quota took back what was held:", err)
	}
	if err := newLog(l.w, "other", 1).offer(s, 1); !errors.Is(err, ErrQuota) {
		t.Fatal("new log over quota:", err)
	}
	closeTest(t, s)
	s = openTest(t, o)
	if u := s.Usage(l.w.account); u.Total() != 10*merklelog.BlockSize+20*merklelog.LeafSize {
		t.Fatalf("usage %+v", u)
	}
	closeTest(t, s)
}

func TestLowDisk(t *testing.T) {
	var free atomic.Uint64
	free.Store(100 << 30)
	mem := vfs.NewMem()
	o := testOptions(mem)
	o.NoBallast = false
	o.FreeSpace = func() (uint64, uint64, error) { return free.Load(), 200 << 30, nil }
	s, l := committed(t, o, 3)
	if _, err := mem.Stat("box/" + ballastName); err == nil {
		t.Fatal("a ballast on a disk that is half empty")
	}
	free.Store(10 << 30) // below 8 %
	s.space.asked = time.Time{}
	other := newLog(l.w, "other", 3)
	if err := newLog(l.w, "third", 1).offer(s, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := mem.Stat("box/" + ballastName); err != nil {
		t.Fatal("no ballast:", err)
	}
	free.Store(3 << 30) // below 2 %
	s.space.asked = time.Time{}
	if err := other.offer(s, 3); !errors.Is(err, ErrNoSpace) {
		t.Fatal("new log on a full disk:", err)
	}
	if err := l.checkRead(s, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(context.Background(), l.id); err != nil {
		t.Fatal(err)
	}
	if m := s.Metrics(); !m.Low || m.FreeBytes != 3<<30 {
		t.Errorf("metrics %+v", m)
	}
	free.Store(1 << 20)
	s.space.asked = time.Time{}
	if err := other.offer(s, 3); !errors.Is(err, ErrNoSpace) {
		t.Fatal(err)
	}
	if _, err := mem.Stat("box/" + ballastName); err == nil {
		t.Fatal("the ballast was not released")
	}
	free.Store(100 << 30)
	s.space.asked = time.Time{}
	if err := other.bring(s, 0, 3); err != nil {
		t.Fatal("with space again:", err)
	}
	closeTest(t, s)
}

// failFS fails what rule picks, as the operating system would.
func failFS(fsys vfs.FS, errno *atomic.Int32, rule func(errorfs.Op) bool) vfs.FS {
	return errorfs.Wrap(fsys, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if e := errno.Load(); e != 0 && rule(op) {
			return &fs.PathError{Op: "injected", Path: op.Path, Err: syscall.Errno(e)}
		}
		return nil
	}))
}

// TestFullDisk: a write finds the disk full. The run is lost and was not
// receipted, nothing else is, and it goes on when there is space again.
func TestFullDisk(t *testing.T) {
	var errno atomic.Int32
	fsys := failFS(vfs.NewMem(), &errno, func(op errorfs.Op) bool {
		return op.Kind == errorfs.OpFileWrite && strings.Contains(op.Path, incomingDir)
	})
	s, l := committed(t, testOptions(fsys), 12)
	other := newLog(l.w, "other", 12)
	errno.Store(int32(syscall.ENOSPC))
	err := other.bring(s, 0, 12)
	if err == nil {
		_, err = s.Commit(context.Background(), other.id)
	}
	if !errors.Is(err, ErrNoSpace) {
		t.Fatal("full disk:", err)
	}
	for i := range uint64(12) {
		if err := l.checkRead(s, i); err != nil {
			t.Fatal(err)
		}
	}
	errno.Store(0)
	if _, err := s.Commit(context.Background(), other.id); err != nil {
		t.Fatal(err)
	}
	if err := other.put(s, 0, 12); err != nil {
		t.Fatal(err)
	}
	d, err := s.Commit(context.Background(), other.id)
	if err != nil || d.Held != 12 {
		t.Fatal(d.Held, err)
	}
	if err := recount(s); err != nil {
		t.Fatal(err)
	}
	closeTest(t, s)
}

// TestReadOnlyDisk: nothing can be written, and everything can be read.
func TestReadOnlyDisk(t *testing.T) {
	var errno atomic.Int32
	mem := vfs.NewMem()
	fsys := failFS(mem, &errno, func(op errorfs.Op) bool {
		return op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose
	})
	o := testOptions(fsys)
	s, l := committed(t, o, 12)
	if err := s.Table("t").Put([]byte("k"), []byte("v")); err != nil {
		t.Fatal(err)
	}
	closeTest(t, s)
	errno.Store(int32(syscall.EROFS))
	s = openTest(t, o)
	if !s.ReadOnly() {
		t.Fatal("not read-only")
	}
	for i := range uint64(12) {
		if err := l.checkRead(s, i); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Inclusion(l.id, 3, 12); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Table("t").Get([]byte("k")); err != nil || string(v) != "v" {
		t.Fatal(v, err)
	}
	for name, err := range map[string]error{
		"offer":  l.offer(s, 12),
		"put":    l.put(s, 0, 1),
		"drop":   s.Drop(l.id, []merklelog.Range{{First: 0, Count: 1}}),
		"remove": s.RemoveLog(l.id),
		"table":  s.Table("t").Put(nil, nil),
	} {
		if !errors.Is(err, ErrReadOnly) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Commit(context.Background(), l.id); !errors.Is(err, ErrReadOnly) {
		t.Error("commit:", err)
	}
	if r, err := s.Check(context.Background(), nil); err != nil || !r.OK() {
		t.Error("check:", r, err)
	}
	closeTest(t, s)
}

// TestFailedSyncIsNeverRepeated: the write-ahead log cannot be synced. The
// process is told to end, once, nothing is receipted, and no sync is tried again.
func TestFailedSyncIsNeverRepeated(t *testing.T) {
	var errno atomic.Int32
	var syncs atomic.Int32
	fsys := failFS(vfs.NewMem(), &errno, func(op errorfs.Op) bool {
		if !strings.HasSuffix(op.Path, walSuffix) || op.Kind != errorfs.OpFileSync && op.Kind != errorfs.OpFileSyncData {
			return false
		}
		syncs.Add(1)
		return true
	})
	o := testOptions(fsys)
	fatal := make(chan error, 9)
	o.Fatal = func(err error) { fatal <- err }
	s, l := committed(t, o, 3)
	if err := newLog(l.w, "other", 3).offer(s, 3); err != nil {
		t.Fatal(err)
	}
	errno.Store(int32(syscall.EIO))
	result := make(chan error, 1)
	go func() { result <- s.Table("t").Put([]byte("k"), []byte("v")) }()
	err := <-fatal
	if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), walSuffix) {
		t.Error("not a clear message:", err)
	}
	if err := l.put(s, 0, 1); !errors.Is(err, syscall.EIO) {
		t.Error("goes on:", err)
	}
	if _, err := s.Commit(context.Background(), l.id); !errors.Is(err, syscall.EIO) {
		t.Error("receipts:", err)
	}
	if err := s.Close(); !errors.Is(err, syscall.EIO) {
		t.Error("close:", err)
	}
	select {
	case err := <-result:
		t.Error("a put returned:", err)
	case err := <-fatal:
		t.Error("told twice:", err)
	default:
	}
	if n := syncs.Load(); n != 1 {
		t.Errorf("%d syncs were tried", n)
	}
}

func TestForks(t *testing.T) {
	w := newWriter("a", "d")
	for name, sizes := range map[string][2]uint64{"equal": {6, 6}, "longer": {6, 9}, "shorter": {9, 6}} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(vfs.NewMem())
			s := openTest(t, o)
			good := newLog(w, "forked", 9)
			if err := good.bring(s, 0, sizes[0]); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Commit(context.Background(), good.id); err != nil {
				t.Fatal(err)
			}
			// The same log with another history from block 4 on.
			evil := newLog(w, "forked", 9)
			for i := 4; i < 9; i++ {
				evil.leaves[i][5] ^= 1
			}
			evil.tree = merklelog.NewTree(merklelog.NewLeafTiles(func(first uint64, dst []merklelog.Leaf) error {
				copy(dst, evil.leaves[first:])
				return nil
			}))
			var proof merklelog.Proof
			if sizes[1] > sizes[0] {
				proof = must(evil.tree.Consistency(sizes[0], sizes[1]))
			}
			err := s.OfferCheckpoint(evil.manifest, evil.checkpoint(sizes[1]), proof)
			var fork *merklelog.ForkError
			if !errors.As(err, &fork) || fork.Fork.Verify(good.manifest.Writer) != nil {
				t.Fatal("fork was not found:", err)
			}
			for range 2 { // also after opening again
				if err := good.offer(s, 9); !errors.As(err, &fork) {
					t.Error("a frozen log goes on:", err)
				}
				if err := good.put(s, 0, 1); !errors.As(err, &fork) {
					t.Error("a frozen log takes in blocks:", err)
				}
				if err := good.checkRead(s, 5); err != nil {
					t.Error("a frozen log is not served:", err)
				}
				info, err := s.Log(good.id)
				if err != nil || info.Fork == nil || info.Fork.Verify(good.manifest.Writer) != nil {
					t.Fatal("no evidence:", err)
				}
				if d, err := s.Commit(context.Background(), good.id); err != nil || d.Checkpoint != good.checkpoint(sizes[0]) {
					t.Error("receipt of a frozen log:", d, err)
				}
				closeTest(t, s)
				s = openTest(t, o)
			}
			closeTest(t, s)
		})
	}
}

// TestLies: what is not true is refused and changes nothing.
func TestLies(t *testing.T) {
	s, l := committed(t, testOptions(vfs.NewMem()), 9)
	ctx := context.Background()
	other := newLog(l.w, "other", 9)
	before := s.Usage(l.w.account)
	forged := other.checkpoint(9)
	forged.Sig[7] ^= 1
	longer := newLog(l.w, "l", 20)
	wrong := must(longer.tree.Batch(9, 20))
	wrong.Leaves = append([]merklelog.Leaf(nil), wrong.Leaves...)
	wrong.Leaves[3][8] ^= 1
	foreign := *l.manifest
	foreign.Certificate = newWriter("b", "d").cert
	for name, err := range map[string]error{
		"checkpoint of another log": s.OfferCheckpoint(l.manifest, other.checkpoint(3), nil),
		"forged checkpoint":         s.OfferCheckpoint(other.manifest, forged, nil),
		"foreign certificate":       s.OfferCheckpoint(&foreign, l.checkpoint(9), nil),
		"wrong proof":               s.OfferCheckpoint(l.manifest, longer.checkpoint(20), must(longer.tree.Consistency(8, 20))),
		"new log with a proof":      s.OfferCheckpoint(other.manifest, other.checkpoint(9), must(other.tree.Consistency(3, 9))),
		"leaves beyond the size":    s.AppendLeaves(l.id, must(longer.tree.Batch(9, 20))),
		"unknown log":               s.AppendLeaves(other.id, must(other.tree.Batch(0, 9))),
		"block without a leaf":      s.PutBlock(ctx, l.id, 9, longer.block(9)),
		"block of an unknown log":   s.PutBlock(ctx, other.id, 0, other.block(0)),
		"other block":               s.PutBlock(ctx, l.id, 3, l.block(4)),
		"short block":               s.PutBlock(ctx, l.id, 3, l.block(3)[:100]),
		"drop of nothing":           s.Drop(l.id, []merklelog.Range{{}}),
	} {
		if err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if err := longer.offer(s, 20); err != nil {
		t.Fatal(err)
	}
	if err := s.AppendLeaves(l.id, wrong); !errors.Is(err, merklelog.ErrProof) {
		t.Error("wrong leaf:", err)
	}
	if s.Usage(l.w.account) != before {
		t.Error("usage changed")
	}
	if _, err := s.Log(other.id); !errors.Is(err, ErrUnknownLog) {
		t.Error(err)
	}
	if _, _, err := s.ReadBlock(l.id, 12, nil); !errors.Is(err, ErrNotHeld) {
		t.Error(err)
	}
	if _, err := s.Inclusion(l.id, 3, 20); !errors.Is(err, ErrNoLeaf) {
		t.Error(err)
	}
	closeTest(t, s)
}

// TestDropFrees: quota falls when the bytes are gone, and not before.
func TestDropFrees(t *testing.T) {
	dir := t.TempDir()
	o := testOptions(nil)
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	a, b := newLog(newWriter("a", "d"), "a", 64), newLog(newWriter("b", "d"), "b", 64)
	for i := uint64(0); i < 64; i += 4 { // both in every table
		for _, l := range []*fixtureLog{a, b} {
			if err := l.bring(s, i, i+4); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, l := range []*fixtureLog{a, b} {
		if _, err := s.Commit(context.Background(), l.id); err != nil {
			t.Fatal(err)
		}
	}
	full := du(t, dir)
	// A quarter of every table: too little to rewrite them.
	var quarter, rest []merklelog.Range
	for i := uint64(0); i < 64; i += 4 {
		quarter = append(quarter, merklelog.Range{First: i, Count: 2})
	}
	rest = []merklelog.Range{{First: 0, Count: 64}}
	if err := s.Drop(a.id, quarter); err != nil {
		t.Fatal(err)
	}
	if err := s.reclaimAll(context.Background()); err != nil {
		t.Fatal(err)
	}
	if u := s.Usage(a.w.account); u.Blocks != 32<<16 || u.Garbage == 0 {
		t.Fatalf("usage %+v", u)
	}
	if err := a.put(s, 0, 1); !errors.Is(err, ErrDropped) {
		t.Fatal("a dropped block was taken in again:", err)
	}
	if err := s.Drop(a.id, rest); err != nil {
		t.Fatal(err)
	}
	if err := s.Drop(b.id, []merklelog.Range{{First: 0, Count: 3}}); err != nil {
		t.Fatal(err)
	}
	if err := s.reclaimAll(context.Background()); err != nil {
		t.Fatal(err)
	}
	d, err := s.Commit(context.Background(), a.id)
	if err != nil || d.Held != 0 || d.Checkpoint.Size != 64 || len(d.Holes) != 1 {
		t.Fatalf("receipt %+v, %v", d, err)
	}
	for i := uint64(3); i < 64; i++ {
		if err := b.checkRead(s, i); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.RemoveLog(b.id); err != nil {
		t.Fatal(err)
	}
	if err := s.reclaimAll(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, l := range []*fixtureLog{a, b} {
		if u := s.Usage(l.w.account); u.Blocks != 0 || u.Garbage != 0 {
			t.Errorf("usage %+v", u)
		}
	}
	if err := recount(s); err != nil {
		t.Fatal(err)
	}
	closeTest(t, s)
	if left := du(t, dir); left > full/8 {
		t.Errorf("%d of %d bytes are left", left, full)
	}
	if s, err = Open(dir, o); err != nil {
		t.Fatal(err)
	}
	// A removed log may come back, a dropped block may not.
	if err := b.bring(s, 0, 64); err != nil {
		t.Fatal(err)
	}
	if d, err = s.Commit(context.Background(), b.id); err != nil || d.Held != 64 {
		t.Fatal(d.Held, err)
	}
	if err := a.put(s, 5, 6); !errors.Is(err, ErrDropped) {
		t.Fatal(err)
	}
	if r, err := s.Check(context.Background(), nil); err != nil || !r.OK() {
		t.Fatal(r.Damage, err)
	}
	if err := s.RemoveAccount(a.w.account); err != nil {
		t.Fatal(err)
	}
	for info := range s.AllLogs() {
		if info.ID == a.id {
			t.Error("the account's log is still here")
		}
	}
	closeTest(t, s)
}

func du(t *testing.T, dir string) (n int64) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if i, err := f.Info(); err == nil {
			n += i.Size()
		}
	}
	return n
}

// TestCommitsShareTables: under a steady stream, Commits wait up to two seconds
// for the table to fill; without one they do not wait.
func TestCommitsShareTables(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := testOptions(vfs.NewMem())
		o.tune.tableSize = 1 << 30
		o.tune.quiet = 0 // the default
		s := openTest(t, o)
		l := newLog(newWriter("a", "d"), "l", 600)
		other := newLog(newWriter("b", "d"), "other", 40)
		if err := l.bring(s, 0, 20); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := s.Commit(context.Background(), l.id); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > 100*time.Millisecond {
			t.Errorf("a Commit after the last block took %v", d)
		}
		tables := s.Metrics().Tables

		if err := l.offer(s, 600); err != nil {
			t.Fatal(err)
		}
		if err := l.appendLeaves(s, 600, 600); err != nil {
			t.Fatal(err)
		}
		if err := other.bring(s, 0, 20); err != nil {
			t.Fatal(err)
		}
		start = time.Now()
		var wg sync.WaitGroup
		var slowest atomic.Int64
		for i := uint64(20); i < 600; i++ {
			if err := l.put(s, i, i+1); err != nil {
				t.Fatal(err)
			}
			if i%50 == 0 {
				for _, log := range []merklelog.LogID{l.id, other.id} {
					wg.Go(func() {
						asked := time.Now()
						if _, err := s.Commit(context.Background(), log); err != nil {
							t.Error(err)
						}
						slowest.Store(max(slowest.Load(), int64(time.Since(asked))))
					})
				}
			}
			time.Sleep(10 * time.Millisecond) // 5.8 s in all
		}
		wg.Wait()
		if n := s.Metrics().Tables - tables; n > 4 {
			t.Errorf("%d tables for %v", n, time.Since(start))
		}
		if d := time.Duration(slowest.Load()); d > 2100*time.Millisecond {
			t.Errorf("a Commit waited %v", d)
		}
		// The sender knows that it is done.
		if err := other.bring(s, 20, 40); err != nil {
			t.Fatal(err)
		}
		s.Flush(other.id)
		start = time.Now()
		if d, err := s.Commit(context.Background(), other.id); err != nil || d.Held != 40 {
			t.Fatal(d, err)
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("a Commit after Flush waited %v", d)
		}
		// Without any Commit a table is closed after two seconds.
		if err := other.put(s, 0, 1); err != nil {
			t.Fatal(err)
		}
		last := newLog(newWriter("b", "d"), "last", 20)
		if err := last.bring(s, 0, 20); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.ReadBlock(last.id, 0, nil); !errors.Is(err, ErrNotHeld) {
			t.Fatal("read before it was durable:", err)
		}
		time.Sleep(3 * time.Second)
		if err := last.checkRead(s, 0); err != nil {
			t.Fatal(err)
		}
		closeTest(t, s)
	})
}

// TestManySessions: sessions send the same and different logs at once, some
// blocks twice. Each block is counted once.
func TestManySessions(t *testing.T) {
	o := testOptions(vfs.NewMem())
	s := openTest(t, o)
	logs := crashLogs()
	var wg sync.WaitGroup
	for n := range 12 {
		l := logs[n%len(logs)]
		if n < len(logs) {
			if err := errors.Join(l.offer(s, crashLogSize), l.appendLeaves(s, crashLogSize, crashLogSize)); err != nil {
				t.Fatal(err)
			}
		}
		wg.Go(func() {
			for i := range uint64(crashLogSize) {
				if n%2 == 1 {
					i = crashLogSize - 1 - i
				}
				if err := l.put(s, i, i+1); err != nil {
					t.Error(err)
				}
				if i%16 == 5 {
					if _, err := s.Commit(context.Background(), l.id); err != nil {
						t.Error(err)
					}
				}
				s.ReadBlock(l.id, i/2, nil)
				s.Missing(l.id, 0, 3)
			}
			if d, err := s.Commit(context.Background(), l.id); err != nil || d.Held != crashLogSize {
				t.Error(d.Held, err)
			}
		})
	}
	wg.Wait()
	if err := recount(s); err != nil {
		t.Fatal(err)
	}
	if m := s.Metrics(); m.Held != 6*crashLogSize<<16 {
		t.Errorf("%d bytes held", m.Held)
	}
	closeTest(t, s)
	if err := s.Close(); !errors.Is(err, ErrClosed) {
		t.Error("closed twice:", err)
	}
}

func TestTables(t *testing.T) {
	mem := vfs.NewMem()
	o := testOptions(mem)
	s := openTest(t, o)
	a, b := s.Table("a"), s.Table("ab")
	err := s.Update(func(u *TableBatch) {
		u.Put(a, []byte("b1"), []byte("x"))
		u.Put(a, []byte("c"), nil)
		u.Put(b, []byte("1"), []byte("y"))
		u.Put(a, []byte("gone"), []byte("z"))
		u.Delete(a, []byte("gone"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Put(make([]byte, maxTableKey+1), nil); err == nil {
		t.Error("a key that is too long was taken")
	}
	closeTest(t, s)
	s = openTest(t, o)
	a, b = s.Table("a"), s.Table("ab")
	if v, err := a.Get([]byte("b1")); err != nil || string(v) != "x" {
		t.Error(v, err)
	}
	if _, err := a.Get([]byte("gone")); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	var got []string
	for e, err := range a.Scan(nil) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(e.Key)+"="+string(e.Value))
		if v, err := b.Get([]byte("1")); err != nil || !bytes.Equal(v, []byte("y")) { // within the loop
			t.Error(v, err)
		}
	}
	if fmt.Sprint(got) != "[b1=x c=]" {
		t.Error(got)
	}
	if err := a.Delete([]byte("c")); err != nil {
		t.Fatal(err)
	}
	for e := range a.Scan([]byte("c")) {
		t.Error("deleted key", e)
	}
	closeTest(t, s)
}

func TestLogs(t *testing.T) {
	o := testOptions(vfs.NewMem())
	at := time.UnixMilli(1_700_000_000_123)
	o.Now = func() time.Time { return at }
	s := openTest(t, o)
	w := newWriter("a", "d")
	var want []merklelog.LogID
	for i := range 5 {
		l := newLog(w, fmt.Sprint(i), 4)
		if err := l.bring(s, 0, 4); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(context.Background(), l.id); err != nil {
			t.Fatal(err)
		}
		want = append(want, l.id)
	}
	if err := newLog(newWriter("b", "d"), "b", 1).offer(s, 1); err != nil {
		t.Fatal(err)
	}
	var got []merklelog.LogID
	for info, err := range s.Logs(w.account) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, info.ID)
		if info.Account != w.account || info.Leaves != 4 || info.Held != 4 || info.Bytes() != 4<<16 || !info.Arrived.Equal(at) ||
			len(info.Envelopes) != 1 || info.Envelopes[0] != 0 || info.EnvelopesTruncated || info.Manifest.ID() != info.ID {
			t.Errorf("%+v", info)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Error(got, want)
	}
	n := 0
	for range s.AllLogs() {
		n++
	}
	if n != 6 {
		t.Errorf("%d logs", n)
	}
	if _, err := s.Log(merklelog.LogID{1}); !errors.Is(err, ErrUnknownLog) {
		t.Error(err)
	}
	closeTest(t, s)
}

// TestBulkIsWrittenOnce holds the reason for tables of our own: blocks that
// came by tables stay in the tables in which they came, whatever small things
// are written in between.
func TestBulkIsWrittenOnce(t *testing.T) {
	o := testOptions(vfs.NewMem())
	o.MemTableBytes = 256 << 10
	s := openTest(t, o)
	l := newLog(newWriter("a", "d"), "l", 400)
	for i := uint64(0); i < 400; {
		n := uint64(16) // two tables
		if i%50 == 48 {
			n = 2 // through the WAL
		}
		n = min(n, 400-i)
		if err := l.bring(s, i, i+n); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(context.Background(), l.id); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if err := s.Table("t").Put([]byte(fmt.Sprint("key", i)), make([]byte, 4096)); err != nil {
				t.Fatal(err)
			}
		}
		i += n
	}
	if err := s.db.Compact(context.Background(), []byte{prefixBlock + 1}, []byte{0xff}, false); err != nil {
		t.Fatal(err)
	}
	tables, err := s.db.SSTables(pebble.WithKeyRangeFilter(arrivalKey(prefixBlock, 0), arrivalKey(prefixBlock, firstSmall)))
	if err != nil {
		t.Fatal(err)
	}
	bulk := uint64(0)
	for level, files := range tables {
		for _, f := range files {
			if f.Smallest.UserKey[0] == prefixBlock {
				bulk++
				if level != 6 {
					t.Errorf("a table of blocks is on level %d", level)
				}
			}
		}
	}
	if m := s.Metrics(); bulk < m.Tables || m.SmallRuns == 0 {
		t.Errorf("%d tables of blocks, ingested were %d; %d small runs", bulk, m.Tables, m.SmallRuns)
	}
	closeTest(t, s)
}
