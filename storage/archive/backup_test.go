package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cobox/storage/archive/fstree"
	"cobox/storage/merklelog"
)

var background = context.Background()

func writeTree(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, data := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// later is a time at which no change that a test has made counts as recent.
func later() time.Time { return time.Now().Add(time.Minute) }

func randomBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	var k [32]byte
	be.PutUint64(k[:], seed)
	rand.NewChaCha8(k).Read(b)
	return b
}

func (s *memSpace) options(l *memLog, paths ...string) BackupOptions {
	return BackupOptions{Log: l, Sealer: l.sealer(), Paths: paths, Program: "test", Host: "host", User: "user", Time: time.Now()}
}

func (s *memSpace) mustBackup(cache string, o BackupOptions) BackupSummary {
	s.t.Helper()
	a := s.open(cache)
	a.now = later
	sum, err := a.Backup(background, o)
	if err != nil {
		s.t.Fatal(err)
	}
	return sum
}

// timesAbove tells when the directories above dir were changed.
func timesAbove(t *testing.T, dir string) (times string) {
	t.Helper()
	for dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		fi, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		times += fmt.Sprintln(dir, fi.ModTime().UnixNano())
	}
	return times
}

func TestBackupUnchanged(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir, cache := t.TempDir(), t.TempDir()
	files := map[string]string{}
	for i := range 300 {
		files[fmt.Sprintf("d%d/e%d/f%d", i%7, i%5, i)] = string(randomBytes(uint64(i), 3000+i))
	}
	writeTree(t, dir, files)
	above := timesAbove(t, dir)
	first := s.mustBackup(cache, s.options(l, dir))
	if first.Stats.Files != 300 || first.Changed != 300 || first.Stats.New < 900_000 || first.Stats.Dirs != 1+7+35 {
		t.Fatalf("first: %+v", first)
	}
	s.blocks = 0
	second := s.mustBackup(cache, s.options(l, dir))
	// The directories above are in the snapshot too, and whoever else makes
	// temporary files changes one of them.
	listings := uint64(0)
	if timesAbove(t, dir) != above {
		listings = 1000
	}
	if second.Changed != 0 || second.Blocks != 1 || second.Padding != 0 || second.Stats.New > listings {
		t.Errorf("unchanged: %+v", second)
	}
	if second.Snapshot.Parent != first.Snapshot.ID {
		t.Errorf("parent is %s, want %s", second.Snapshot.Parent, first.Snapshot.ID)
	}
	if s.blocks != 0 {
		t.Errorf("an unchanged backup with a cache fetched %d blocks", s.blocks)
	}
	if second.Stats.Files != first.Stats.Files || second.Stats.Bytes != first.Stats.Bytes || second.Stats.Dirs != first.Stats.Dirs {
		t.Errorf("counts differ: %+v, %+v", first.Stats, second.Stats)
	}
	// One file changes: only it is read.
	writeTree(t, dir, map[string]string{"d3/e1/f66": "new"})
	third := s.mustBackup(cache, s.options(l, dir))
	if third.Changed != 1 {
		t.Errorf("one file changed, %d read", third.Changed)
	}
	restoreAndCompare(t, s.open(""), *third.Snapshot, dir)
	// Without a cache everything is read and no file stored again.
	fourth := s.mustBackup("", s.options(l, dir))
	if fourth.Changed != 300 || fourth.Stats.New > 1000 || fourth.Blocks != 1 {
		t.Errorf("without a cache: %+v", fourth)
	}
}

// A file that was changed so shortly before the scan that a later change could
// leave it with the same times is read again.
func TestBackupRacy(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir, cache := t.TempDir(), t.TempDir()
	writeTree(t, dir, map[string]string{"a": "one", "b": "two"})
	a := s.open(cache)
	fi, err := os.Stat(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	a.now = func() time.Time { return fi.ModTime().Add(time.Second) } // however late it is now
	if _, err := a.Backup(background, s.options(l, dir)); err != nil {
		t.Fatal(err)
	}
	if sum := s.mustBackup(cache, s.options(l, dir)); sum.Changed != 2 {
		t.Errorf("%d files read again, want 2", sum.Changed)
	}
	if sum := s.mustBackup(cache, s.options(l, dir)); sum.Changed != 0 {
		t.Errorf("%d files read again, want 0", sum.Changed)
	}
}

// However many commits there are, a listing and an index come in few fetches,
// and all snapshots are there.
func TestManyCommits(t *testing.T) {
	n := 150
	if testing.Short() {
		n = 30
	}
	s := newMemSpace(t)
	l := s.newLog("log")
	dir, cache := t.TempDir(), t.TempDir()
	var ids []SnapshotID
	for i := range n {
		writeTree(t, dir, map[string]string{fmt.Sprintf("f%d", i%20): fmt.Sprintf("content %d", i)})
		if i%9 == 0 {
			l.envelope()
		}
		o := s.options(l, dir)
		o.Time = o.Time.Add(time.Duration(i) * time.Second)
		sum := s.mustBackup(cache, o)
		ids = append(ids, sum.Snapshot.ID)
		if sum.Snapshot.End != l.size || sum.Blocks > 3 {
			t.Fatalf("backup %d: %+v", i, sum)
		}
	}
	s.fetches, s.blocks = 0, 0
	a := s.open("")
	list, err := a.Snapshots(background)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != n {
		t.Fatalf("%d snapshots, want %d", len(list), n)
	}
	for i, snap := range list {
		if snap.ID != ids[i] {
			t.Fatalf("snapshot %d is %s, want %s", i, snap.ID, ids[i])
		}
		if data := l.blocks[snap.End-1]; data[0] != byte(merklelog.Data) {
			t.Fatalf("snapshot %d ends with an envelope", i)
		}
	}
	if s.fetches > 2 || s.blocks > 24 {
		t.Errorf("listing %d snapshots took %d fetches of %d blocks", n, s.fetches, s.blocks)
	}
	s.fetches, s.blocks = 0, 0
	if _, err := a.loadIndex(background); err != nil {
		t.Fatal(err)
	}
	if s.fetches > 1 || s.blocks > 24 {
		t.Errorf("loading the index took %d fetches of %d blocks", s.fetches, s.blocks)
	}
	f := a.logs[0].foot
	for _, refs := range [][]segmentRef{f.index, f.snapshots} {
		if len(refs) > 7*3 {
			t.Errorf("%d live segments", len(refs))
		}
	}
	// What each End says is right: the first End blocks hold the snapshot.
	for _, i := range []int{0, n / 2, n - 1} {
		c := Config{ChunkID: s.chunkID, Chunker: s.chunker, Blocks: s, Logs: []LogState{l.state(list[i].End)}}
		short, err := Open(background, c)
		if err != nil {
			t.Fatal(err)
		}
		got, err := short.Snapshots(background)
		if err != nil || len(got) != i+1 {
			t.Errorf("the first %d blocks hold %d snapshots, want %d (%v)", list[i].End, len(got), i+1, err)
		}
	}
	restoreAndCompare(t, a, list[n-1], dir)
}

// Two logs of one account, of two devices, are one archive.
func TestTwoLogs(t *testing.T) {
	s := newMemSpace(t)
	l1, l2 := s.newLog("log one"), s.newLog("log two")
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"big": string(randomBytes(1, 1<<20)), "small": "x"})
	one := s.mustBackup("", s.options(l1, dir))
	writeTree(t, dir, map[string]string{"more": string(randomBytes(2, 1<<18))})
	two := s.mustBackup("", s.options(l2, dir))
	if two.Stats.New > 1<<18+4096 {
		t.Errorf("the second device stored %d bytes again", two.Stats.New-1<<18)
	}
	a := s.open("")
	list, err := a.Snapshots(background)
	if err != nil || len(list) != 2 {
		t.Fatalf("%d snapshots, %v", len(list), err)
	}
	if one.Snapshot.Log != l1.id || two.Snapshot.Log != l2.id {
		t.Error("snapshots name the wrong logs")
	}
	restoreAndCompare(t, a, *two.Snapshot, dir)
}

// An interrupted backup goes on from its last commit: what was appended before
// is not appended again, with or without the cache.
func TestInvariant13Resume(t *testing.T) {
	for _, cached := range []bool{true, false} {
		t.Run(fmt.Sprintf("cache=%v", cached), func(t *testing.T) {
			s := newMemSpace(t)
			l := s.newLog("log")
			dir := t.TempDir()
			cache := ""
			if cached {
				cache = t.TempDir()
			}
			const files, size = 40, 200 << 10
			for i := range files {
				writeTree(t, dir, map[string]string{fmt.Sprintf("d%d/f%02d", i/10, i): string(randomBytes(uint64(i), size))})
			}
			ctx, cancel := context.WithCancel(background)
			l.before = func(i uint64) error {
				if i == l.envelopes[0].Index+60 {
					cancel()
				}
				return nil
			}
			sum, err := s.open(cache).Backup(ctx, s.options(l, dir))
			if !errors.Is(err, context.Canceled) || sum.Commits != 1 {
				t.Fatalf("%v, %+v", err, sum)
			}
			l.before = nil
			if list, err := s.open("").Snapshots(background); err != nil || len(list) != 0 {
				t.Fatalf("an interrupted backup is listed: %v %v", list, err)
			}
			again := s.mustBackup(cache, s.options(l, dir))
			const all = files * size / bodySize
			if total := sum.Blocks + again.Blocks; total > all+8 {
				t.Errorf("%d + %d blocks appended for %d of data", sum.Blocks, again.Blocks, all)
			}
			restoreAndCompare(t, s.open(""), *again.Snapshot, dir)
		})
	}
}

// Killed at any moment, a backup loses what it appended since its last commit
// on the way and nothing else, and directories that were finished before are
// not read again where there is a cache.
func TestInvariant13Killed(t *testing.T) {
	for _, cached := range []bool{true, false} {
		t.Run(fmt.Sprintf("cache=%v", cached), func(t *testing.T) {
			s := newMemSpace(t)
			l := s.newLog("log")
			dir := t.TempDir()
			cache := ""
			if cached {
				cache = t.TempDir()
			}
			const files, size, every = 60, 100 << 10, 20
			for i := range files {
				writeTree(t, dir, map[string]string{fmt.Sprintf("d%d/f%02d", i/5, i): string(randomBytes(uint64(i), size))})
			}
			const all = files * size / bodySize
			total, kills := uint64(0), 0
			for done := false; !done; {
				start := l.size
				a := s.open(cache)
				a.now, a.commitBlocks = later, every
				l.before = func(i uint64) error {
					if i >= start+35 {
						return errCut
					}
					return nil
				}
				sum, err := a.Backup(background, s.options(l, dir))
				total += l.size - start
				switch {
				case err == nil:
					done = true
					if cached && sum.Changed > files/2 {
						t.Errorf("%d of %d files were read again at the end", sum.Changed, files)
					}
					l.before = nil
					restoreAndCompare(t, s.open(""), *sum.Snapshot, dir)
				case !errors.Is(err, errCut):
					t.Fatal(err)
				default:
					kills++
					if l.committed < start+every {
						t.Fatalf("nothing was committed in %d blocks", l.size-start)
					}
					l.truncate()
				}
			}
			if list, err := s.open("").Snapshots(background); err != nil || len(list) != 1 {
				t.Errorf("%d snapshots, %v", len(list), err)
			}
			// A commit adds up to three blocks of its own, and each kill costs
			// what was appended since.
			if kills < 2 || total > all+uint64(kills+1)*(every+6) {
				t.Errorf("%d blocks appended for %d, with %d kills", total, all, kills)
			}
		})
	}
}

// Time passes, so a commit is made though little was stored.
func TestCommitByTime(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"a": string(randomBytes(1, 5<<20))})
	a := s.open("")
	a.commitEvery = time.Nanosecond
	sum, err := a.Backup(background, s.options(l, dir))
	if err != nil || sum.Commits < 4 {
		t.Fatalf("%v, %d commits", err, sum.Commits)
	}
	list, err := s.open("").Snapshots(background)
	if err != nil || len(list) != 1 {
		t.Errorf("%d snapshots listed, %v", len(list), err)
	}
	restoreAndCompare(t, s.open(""), *sum.Snapshot, dir)
}

// Chunks in blocks that are known to be lost are stored again, also where the
// scan cache says that nothing has changed.
func TestForgetLost(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir, cache := t.TempDir(), t.TempDir()
	for i := range 20 {
		writeTree(t, dir, map[string]string{fmt.Sprint("f", i): string(randomBytes(uint64(i), 100<<10))})
	}
	first := s.mustBackup(cache, s.options(l, dir))
	lost := l.envelopes[0].Index + uint64(l.envelopes[0].Blocks) + 5
	l.lost[lost], l.lost[lost+1] = true, true
	l.known = []merklelog.Range{{First: lost, Count: 2}}
	second := s.mustBackup(cache, s.options(l, dir))
	if second.Blocks < 2 || second.Blocks > 12 {
		t.Errorf("%d blocks appended in place of 2 lost", second.Blocks)
	}
	restoreAndCompare(t, s.open(""), *second.Snapshot, dir)
	// The old snapshot profits: its chunks are there again.
	restoreAndCompare(t, s.open(""), *first.Snapshot, dir)
	// A machine that does not know of the loss finds the copies too.
	l.known = nil
	restoreAndCompare(t, s.open(""), *second.Snapshot, dir)
}

func TestDryRun(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"a": "one", "b": "one", "c": string(randomBytes(1, 100_000))})
	o := s.options(l, dir)
	o.Log, o.Sealer, o.DryRun = nil, nil, true
	sum := s.mustBackup("", o)
	if sum.Snapshot != nil || sum.Stats.Files != 3 || sum.Stats.New < 100_003 || sum.Stats.New > 101_000 || l.size != uint64(len(l.blocks)) || sum.Blocks != 0 {
		t.Errorf("%+v", sum)
	}
	if l.commits != 0 {
		t.Error("a dry run committed")
	}
}

// What a backup found to be new and then did not store, another one of the same
// archive stores.
func TestBackupAfterOneThatStoredNothing(t *testing.T) {
	for name, first := range map[string]func(o *BackupOptions, l *memLog){
		"dry run":          func(o *BackupOptions, _ *memLog) { o.DryRun = true },
		"error of the log": func(_ *BackupOptions, l *memLog) { l.before = func(uint64) error { return errCut } },
	} {
		t.Run(name, func(t *testing.T) {
			s := newMemSpace(t)
			l := s.newLog("log")
			dir := t.TempDir()
			writeTree(t, dir, map[string]string{"a/b": "one", "a/c": string(randomBytes(1, 300_000)), "d": "two"})
			a := s.open(t.TempDir())
			o := s.options(l, dir)
			first(&o, l)
			if _, err := a.Backup(background, o); err != nil && !errors.Is(err, errCut) {
				t.Fatal(err)
			}
			if l.commits != 0 {
				t.Fatal("the first backup stored something")
			}
			l.before = nil
			sum, err := a.Backup(background, s.options(l, dir))
			if err != nil {
				t.Fatal(err)
			}
			restoreAndCompare(t, s.open(""), *sum.Snapshot, dir)
		})
	}
}

// Files that vanish, change or are replaced while the backup runs.
func TestFilesThatMove(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir := t.TempDir()
	// The first file fills blocks before the others are read.
	writeTree(t, dir, map[string]string{"a": string(randomBytes(1, 8<<20))})
	for i := range 40 {
		writeTree(t, dir, map[string]string{fmt.Sprintf("z%02d/f", i): "content"})
	}
	once := false
	l.before = func(uint64) error {
		if !once {
			once = true
			for i := range 40 {
				p := filepath.Join(dir, fmt.Sprintf("z%02d/f", i))
				os.Remove(p)
				if i%2 == 0 {
					os.Symlink("elsewhere", p)
				}
			}
			f, err := os.OpenFile(filepath.Join(dir, "a"), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Error(err)
				return nil
			}
			f.Write([]byte("more"))
			f.Close()
		}
		return nil
	}
	a := s.open("")
	a.workers = 1
	var told []*FileError
	o := s.options(l, dir)
	o.Hooks.Error = func(e *FileError) { told = append(told, e) }
	sum, err := a.Backup(background, o)
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for _, e := range told {
		switch e.Op {
		case OpVanished:
		case OpChanged:
			changed++
			if e.Path != filepath.Join(dir, "a") {
				t.Errorf("changed: %s", e.Path)
			}
		default:
			t.Errorf("%v", e)
		}
	}
	if changed != 1 || sum.Stats.Errors != 0 || len(sum.Errors) != len(told) {
		t.Errorf("%d changed; summary %+v", changed, sum)
	}
	target := t.TempDir()
	if r, err := s.open("").Restore(background, RestoreOptions{Snapshot: *sum.Snapshot, Target: target}); err != nil || r.Failed > 0 {
		t.Fatal(err, r)
	}
	got, err := os.ReadFile(filepath.Join(target, dir, "a"))
	if err != nil || !bytes.Equal(got, randomBytes(1, 8<<20)) {
		t.Errorf("the file that grew was not stored as it was opened (%d bytes, %v)", len(got), err)
	}
}

func TestUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root can read everything")
	}
	s := newMemSpace(t)
	l := s.newLog("log")
	dir, cache := t.TempDir(), t.TempDir()
	writeTree(t, dir, map[string]string{"a": "one", "b": "two"})
	os.Chmod(filepath.Join(dir, "b"), 0)
	for range 2 {
		sum := s.mustBackup(cache, s.options(l, dir))
		if sum.Stats.Errors != 1 || len(sum.Errors) != 1 || sum.Errors[0].Op != OpRead || !strings.HasSuffix(sum.Errors[0].Path, "/b") {
			t.Errorf("%+v", sum)
		}
	}
	os.Chmod(filepath.Join(dir, "b"), 0o644)
	sum := s.mustBackup(cache, s.options(l, dir))
	if sum.Stats.Errors != 0 {
		t.Errorf("%+v", sum)
	}
	restoreAndCompare(t, s.open(""), *sum.Snapshot, dir)
}

// The number of blocks of a backup is a Padmé number, with the padding in
// front of the footer.
func TestPadding(t *testing.T) {
	for n, want := range map[uint64]uint64{0: 0, 1: 1, 2: 2, 3: 3, 8: 8, 9: 10, 17: 18, 100: 104, 1000: 1024, 1025: 1088, 4097: 4352} {
		if got := padme(n); got != want {
			t.Errorf("padme(%d) = %d, want %d", n, got, want)
		}
	}
	s := newMemSpace(t)
	l := s.newLog("log")
	for i := range 6 {
		dir := t.TempDir()
		writeTree(t, dir, map[string]string{"a": string(randomBytes(uint64(i), i*i*200_000))})
		start := l.size
		sum := s.mustBackup("", s.options(l, dir))
		if n := l.size - start; n != padme(n) || n != sum.Blocks+sum.Padding {
			t.Errorf("%d blocks appended; %d + %d reported", n, sum.Blocks, sum.Padding)
		}
		restoreAndCompare(t, s.open(""), *sum.Snapshot, dir)
	}
}

// A file with very many chunks keeps its list of extents in chunks too.
func TestIndirect(t *testing.T) {
	if testing.Short() {
		t.Skip("needs 100 MB")
	}
	s := newMemSpace(t)
	l := s.newLog("log")
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "big"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1300 {
		f.WriteAt(randomBytes(uint64(i), 64<<10), int64(i)*(80<<10))
	}
	f.Close()
	sum := s.mustBackup("", s.options(l, dir))
	restoreAndCompare(t, s.open(""), *sum.Snapshot, dir)
	v, err := s.open("").Verify(background, []Snapshot{*sum.Snapshot}, Hooks{})
	if err != nil || v.Failed > 0 || v.Chunks < 1300 {
		t.Errorf("%+v %v", v, err)
	}
	// A small edit in it stores little.
	f, _ = os.OpenFile(f.Name(), os.O_RDWR, 0)
	f.WriteAt([]byte("edit"), 40<<20)
	f.Close()
	again := s.mustBackup("", s.options(l, dir))
	if again.Stats.New > 600<<10 {
		t.Errorf("an edit of 4 bytes stored %d", again.Stats.New)
	}
	restoreAndCompare(t, s.open(""), *again.Snapshot, dir)
}

// Holes that meet, because something was punched out of the file between two
// looks at it, are one hole: a list of extents with two in a row is refused.
func TestHolesThatMeet(t *testing.T) {
	var c contents
	for i := range indirectFrom / 2 {
		for range 2 {
			if err := c.add(fstree.Extent{Hole: true, Length: 4096}); err != nil {
				t.Fatal(err)
			}
		}
		if i == indirectFrom/2-1 {
			break
		}
		if err := c.add(fstree.Extent{ID: fstree.ChunkID{1}, Length: 10}); err != nil {
			t.Fatal(err)
		}
	}
	n := fstree.Node{Kind: fstree.File, Name: "f", Size: c.size, Content: c.extents}
	if err := n.Check(); err != nil || len(c.extents) != indirectFrom-1 || c.size != indirectFrom/2*8202-10 {
		t.Errorf("%d extents of %d bytes: %v", len(c.extents), c.size, err)
	}
}

// An error of the log ends the backup with that error.
func TestAppendFails(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"a": string(randomBytes(1, 5<<20))})
	l.before = func(i uint64) error {
		if i > 10 {
			return errCut
		}
		return nil
	}
	if _, err := s.open("").Backup(background, s.options(l, dir)); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
}

func TestChoose(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.ParseInLocation("2006-01-02T15:04:05", s, time.Local)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	all := []Snapshot{
		{ID: SnapshotID{0xab, 1}, Host: "a", Time: at("2026-01-01T10:00:00"), Tags: []string{"x"}, End: 1},
		{ID: SnapshotID{0xab, 2}, Host: "b", Time: at("2026-01-02T10:00:00"), Paths: []string{"/p"}, End: 2},
		{ID: SnapshotID{0xcd, 3}, Host: "a", Time: at("2026-01-03T10:00:00").Add(500 * time.Millisecond), End: 3},
		// A clock that was years ahead for one backup.
		{ID: SnapshotID{0xde, 4}, Host: "c", Time: at("2040-01-01T10:00:00"), Log: merklelog.LogID{1}, End: 1},
		{ID: SnapshotID{0xde, 5}, Host: "c", Time: at("2026-01-01T09:00:00"), Log: merklelog.LogID{1}, End: 2},
	}
	tests := []struct {
		sel  Selector
		want int // in all; -1 none, -2 ambiguous
	}{
		{Selector{}, 2},
		{Selector{ID: "latest", Host: "b"}, 1},
		{Selector{ID: "latest", Host: "c"}, 4},
		{Selector{ID: "AB01"}, 0},
		{Selector{ID: "ab"}, -2},
		{Selector{ID: "ab", Host: "b"}, 1},
		{Selector{ID: "ee"}, -1},
		{Selector{ID: "2026-01-02"}, 1},
		{Selector{ID: "2026-01-02T09:59"}, 0},
		{Selector{ID: "2026-01-02 10:00"}, 1},
		{Selector{ID: "2026-01-03T10:00:00"}, 2},
		{Selector{ID: "2025-12-31"}, -1},
		{Selector{ID: "2026-01-05T00:00:00Z", Tags: []string{"x"}}, 0},
		{Selector{Paths: []string{"/p"}}, 1},
		{Selector{ID: "yesterday"}, -1},
	}
	for _, tt := range tests {
		s, err := choose(all, tt.sel)
		switch {
		case tt.want >= 0 && (err != nil || s.ID != all[tt.want].ID),
			tt.want == -1 && !errors.Is(err, ErrNoSnapshot),
			tt.want == -2 && !errors.Is(err, ErrAmbiguous):
			t.Errorf("%+v: %v %v", tt.sel, s.ID, err)
		}
	}
}

func TestLs(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"a/b": "one", "a/c/d": "two", "e": "three"})
	sum := s.mustBackup("", s.options(l, dir))
	ls := func(at string, recursive bool) (names []string) {
		err := s.open("").Ls(background, *sum.Snapshot, at, recursive, func(e Entry) error {
			names = append(names, strings.TrimPrefix(e.Path, dir))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	if got := ls(dir, false); !slices.Equal(got, []string{"", "/a", "/e"}) {
		t.Errorf("%q", got)
	}
	if got := ls(dir+"/a", true); !slices.Equal(got, []string{"/a", "/a/b", "/a/c", "/a/c/d"}) {
		t.Errorf("%q", got)
	}
	for _, at := range []string{"/nothing", "/a/b/below a file"} {
		err := s.open("").Ls(background, *sum.Snapshot, dir+at, false, func(Entry) error { return nil })
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", at, err)
		}
	}
}
