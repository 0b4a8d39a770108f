package archive

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cobox/storage/archive/fstree"
)

// restoreAndCompare restores a snapshot and compares it with a directory.
func restoreAndCompare(t *testing.T, a *Archive, snap Snapshot, dir string) {
	t.Helper()
	target := t.TempDir()
	sum, err := a.Restore(context.Background(), RestoreOptions{Snapshot: snap, Target: target})
	if err != nil {
		t.Fatal(err)
	}
	if sum.Failed > 0 {
		t.Fatalf("restore: %d failed, first: %v", sum.Failed, sum.Errors[0])
	}
	compareTrees(t, dir, filepath.Join(target, dir))
}

func compareTrees(t *testing.T, want, got string) {
	t.Helper()
	diffs, err := fstree.Diff(context.Background(), want, got, fstree.DiffOptions{Limit: 5})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range diffs {
		t.Errorf("restored tree differs: %s", d)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// tree makes random changes to a directory.
type tree struct {
	r   *rand.Rand
	dir string
	bin *rand.ChaCha8
	max int // bytes of a file
}

func newTree(seed uint64, dir string, max int) *tree {
	var k [32]byte
	k[0], k[1] = byte(seed), byte(seed>>8)
	return &tree{rand.New(rand.NewPCG(seed, 99)), dir, rand.NewChaCha8(k), max}
}

func (t *tree) path() string {
	p := t.dir
	for range t.r.IntN(4) {
		p = filepath.Join(p, fmt.Sprintf("d%d", t.r.IntN(4)))
	}
	names := []string{"f%d", "g-%d.txt", "\xff\xfe%d", "name with blanks %d", "ü%d"}
	return filepath.Join(p, fmt.Sprintf(names[t.r.IntN(len(names))], t.r.IntN(6)))
}

func (t *tree) content() []byte {
	n := 0
	switch t.r.IntN(5) {
	case 0:
		n = t.r.IntN(20)
	case 1, 2:
		n = t.r.IntN(8000)
	default:
		n = t.r.IntN(t.max)
	}
	b := make([]byte, n)
	switch t.r.IntN(3) {
	case 0:
		t.bin.Read(b)
	case 1:
		copy(b, strings.Repeat(fmt.Sprintf("line %d of many\n", t.r.IntN(5)), n/16+1))
	default:
		for i := range b {
			b[i] = "etaoin shrdlu"[t.r.IntN(13)]
		}
	}
	return b
}

func (t *tree) step() {
	p := t.path()
	st, err := os.Lstat(p)
	exists := err == nil
	switch t.r.IntN(10) {
	case 0:
		if exists {
			os.RemoveAll(p)
		}
	case 1:
		if exists && st.Mode().IsRegular() {
			os.Chmod(p, os.FileMode(0o400|t.r.IntN(0o400)))
		}
	case 2:
		if !exists {
			os.MkdirAll(filepath.Dir(p), 0o755)
			os.Symlink(fmt.Sprintf("target %d", t.r.IntN(9)), p)
		}
	case 3:
		if exists && st.Mode().IsRegular() {
			os.Link(p, t.path())
		}
	case 4:
		if exists && st.Mode().IsRegular() && st.Size() > 0 {
			if f, err := os.OpenFile(p, os.O_RDWR, 0); err == nil {
				b := make([]byte, t.r.IntN(5000))
				t.bin.Read(b)
				f.WriteAt(b, t.r.Int64N(st.Size()))
				f.Close()
			}
		}
	case 5:
		if exists {
			os.Chtimes(p, time.Unix(int64(t.r.Uint32()), 123456789), time.Unix(t.r.Int64N(1<<33)-1<<32, t.r.Int64N(1e9)))
		}
	case 6:
		if exists {
			os.Rename(p, t.path())
		}
	case 7: // sparse
		if !exists {
			os.MkdirAll(filepath.Dir(p), 0o755)
			if f, err := os.Create(p); err == nil {
				f.WriteAt(t.content(), t.r.Int64N(1<<20))
				f.Truncate(1 << 21)
				f.Close()
			}
		}
	default:
		if !exists {
			os.MkdirAll(filepath.Dir(p), 0o755)
			os.WriteFile(p, t.content(), 0o644)
		}
	}
}

// Random trees and edits: what was backed up is restored, every snapshot, with
// and without caches, whatever happened between.
func TestPropertyBackupRestore(t *testing.T) {
	seeds := 12
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newMemSpace(t)
			s.reverse = seed%2 == 1
			l := s.newLog("log")
			base := t.TempDir()
			dir, cache := filepath.Join(base, "src"), filepath.Join(base, "cache")
			os.Mkdir(dir, 0o755)
			tr := newTree(uint64(seed), dir, 400<<10)
			type kept struct {
				snap Snapshot
				dir  string
			}
			var all []kept
			for round := range 12 {
				for range 5 + tr.r.IntN(40) {
					tr.step()
				}
				switch tr.r.IntN(6) {
				case 0:
					os.RemoveAll(cache)
				case 1:
					l.envelope()
				case 2:
					damageCache(t, tr.r, cache)
				}
				sum := s.backup(l, cache, dir)
				if len(sum.Errors) > 0 {
					t.Fatalf("round %d: %v", round, sum.Errors[0])
				}
				if round%4 == 0 {
					copyDir := filepath.Join(base, fmt.Sprintf("copy%d", round))
					a := s.open("")
					if _, err := a.Restore(context.Background(), RestoreOptions{Snapshot: *sum.Snapshot, Target: copyDir}); err != nil {
						t.Fatal(err)
					}
					compareTrees(t, dir, filepath.Join(copyDir, dir))
					all = append(all, kept{*sum.Snapshot, filepath.Join(copyDir, dir)})
				}
				restoreAndCompare(t, s.open(cache), *sum.Snapshot, dir)
			}
			a := s.open("")
			list, err := a.Snapshots(context.Background())
			if err != nil || len(list) != 12 {
				t.Fatalf("%d snapshots, %v", len(list), err)
			}
			for _, k := range all {
				found, err := a.Find(context.Background(), Selector{ID: k.snap.ID.String()})
				if err != nil {
					t.Fatal(err)
				}
				target := t.TempDir()
				if _, err := a.Restore(context.Background(), RestoreOptions{Snapshot: found, Target: target}); err != nil {
					t.Fatal(err)
				}
				compareTrees(t, k.dir, filepath.Join(target, dir))
			}
			v, err := a.Verify(context.Background(), list, Hooks{})
			if err != nil || v.Failed > 0 {
				t.Fatalf("verify: %+v %v", v, err)
			}
		})
	}
}

// damageCache flips a byte in one file of the cache.
func damageCache(t *testing.T, r *rand.Rand, dir string) {
	list, _ := os.ReadDir(dir)
	if len(list) == 0 {
		return
	}
	p := filepath.Join(dir, list[r.IntN(len(list))].Name())
	b, err := os.ReadFile(p)
	if err != nil || len(b) == 0 {
		return
	}
	b[r.IntN(len(b))] ^= 1 << r.IntN(8)
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

var errCut = errors.New("the power is gone")

// Random interruptions: a backup that is cut off at any append, or canceled,
// goes on when it is started again, and appends at most about one commit more
// than one that was not interrupted.
func TestPropertyInterrupted(t *testing.T) {
	seeds := 10
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newMemSpace(t)
			l := s.newLog("log")
			base := t.TempDir()
			dir, cache := filepath.Join(base, "src"), filepath.Join(base, "cache")
			os.Mkdir(dir, 0o755)
			tr := newTree(uint64(1000+seed), dir, 300<<10)
			var last uint64
			for round := range 6 {
				for range 60 {
					tr.step()
				}
				for attempt := 0; ; attempt++ {
					left := tr.r.IntN(12)
					ctx, cancel := context.WithCancel(context.Background())
					canceled := tr.r.IntN(2) == 0
					if attempt < 3 {
						l.before = func(uint64) error {
							if left--; left < 0 {
								if canceled {
									cancel()
									return nil
								}
								return errCut
							}
							return nil
						}
					} else {
						l.before = nil
					}
					if tr.r.IntN(4) == 0 {
						os.RemoveAll(cache)
					}
					sum, err := s.open(cache).Backup(ctx, BackupOptions{Log: l, Sealer: l.sealer(), Paths: []string{dir}})
					cancel()
					if err == nil {
						l.before = nil
						restoreAndCompare(t, s.open(""), *sum.Snapshot, dir)
						break
					}
					if !errors.Is(err, errCut) && !errors.Is(err, context.Canceled) {
						t.Fatal(err)
					}
					if errors.Is(err, errCut) {
						// What was spooled after the checkpoint is gone, or not.
						if tr.r.IntN(2) == 0 {
							l.truncate()
						}
					}
				}
				if l.size < last {
					t.Fatalf("round %d: the log shrank", round)
				}
				last = l.committed
			}
		})
	}
}

// truncate forgets what was appended after the last commit, as a crash does.
func (l *memLog) truncate() {
	l.blocks = l.blocks[:l.committed]
	l.size = l.committed
}
