package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cobox/storage/archive/fstree"
	"cobox/storage/merklelog"
)

// names lists the files below a directory.
func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			list = append(list, strings.TrimPrefix(p, dir+"/"))
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return list
}

func TestRestoreChoice(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"a/x.txt": "1", "a/y.jpg": "2", "a/b/x.txt": "3", "c/x.txt": "4", "c/z": "5", "top": "6"})
	sum := s.mustBackup("", s.options(l, dir))
	tests := []struct {
		name string
		o    RestoreOptions
		want []string
	}{
		{"all", RestoreOptions{}, []string{"a/b/x.txt", "a/x.txt", "a/y.jpg", "c/x.txt", "c/z", "top"}},
		{"path", RestoreOptions{Paths: []string{dir + "/a"}}, []string{"a/b/x.txt", "a/x.txt", "a/y.jpg"}},
		{"file", RestoreOptions{Paths: []string{dir + "/c/z", dir + "/top"}}, []string{"c/z", "top"}},
		{"no such path", RestoreOptions{Paths: []string{dir + "/no"}}, nil},
		{"prefix of a name is no path", RestoreOptions{Paths: []string{dir + "/to"}}, nil},
		{"include", RestoreOptions{Include: []string{"*.txt"}}, []string{"a/b/x.txt", "a/x.txt", "c/x.txt"}},
		{"include directory", RestoreOptions{Include: []string{"b/"}}, []string{"a/b/x.txt"}},
		{"exclude", RestoreOptions{Exclude: []string{"*.txt"}}, []string{"a/y.jpg", "c/z", "top"}},
		{"both", RestoreOptions{Include: []string{"a/"}, Exclude: []string{"b/"}, Paths: []string{dir}}, []string{"a/x.txt", "a/y.jpg"}},
		{"dry run", RestoreOptions{DryRun: true}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "target")
			tt.o.Snapshot, tt.o.Target = *sum.Snapshot, target
			r, err := s.open("").Restore(background, tt.o)
			if err != nil || r.Failed > 0 {
				t.Fatalf("%v %v", err, r.Errors)
			}
			if got := names(t, filepath.Join(target, dir)); !slices.Equal(got, tt.want) {
				t.Errorf("restored %q, want %q", got, tt.want)
			}
			if left := names(t, target); len(left) != len(tt.want) {
				t.Errorf("left behind: %q", left)
			}
			if !tt.o.DryRun && r.Files != uint64(len(tt.want)) {
				t.Errorf("%d files reported", r.Files)
			}
			if tt.o.DryRun && (r.Files != 6 || r.Bytes != 6) {
				t.Errorf("dry run: %+v", r)
			}
		})
	}
}

func TestRestoreOver(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"a/one": "1", "a/two": "22", "a/skip": "s", "b/three": "333"})
	sum := s.mustBackup("", s.options(l, dir))
	target := t.TempDir()
	o := RestoreOptions{Snapshot: *sum.Snapshot, Target: target}
	restore := func(o RestoreOptions) RestoreSummary {
		t.Helper()
		r, err := s.open("").Restore(background, o)
		if err != nil || r.Failed > 0 {
			t.Fatalf("%v %v", err, r.Errors)
		}
		return r
	}
	restore(o)
	if _, err := s.open("").Restore(background, o); !errors.Is(err, fstree.ErrNotEmpty) {
		t.Errorf("a target that is not empty: %v", err)
	}
	// Only what has changed is fetched and written.
	at := filepath.Join(target, dir)
	os.WriteFile(filepath.Join(at, "a/one"), []byte("changed"), 0o644)
	os.WriteFile(filepath.Join(at, "a/extra"), []byte("x"), 0o644)
	os.WriteFile(filepath.Join(at, "a/skip"), []byte("mine"), 0o644)
	o.Overwrite, o.Delete, o.Exclude = OverwriteIfChanged, true, []string{"skip"}
	r := restore(o)
	if r.Files != 1 || r.Unchanged != 2 || r.Deleted != 1 {
		t.Errorf("%+v", r.TargetStats)
	}
	if b, _ := os.ReadFile(filepath.Join(at, "a/skip")); string(b) != "mine" {
		t.Error("what was excluded was touched")
	}
	if _, err := os.Stat(filepath.Join(at, "a/extra")); err == nil {
		t.Error("what the snapshot does not have was not deleted")
	}
	// In place, where the directories above are not touched.
	os.WriteFile(filepath.Join(dir, "b/three"), []byte("broken"), 0o644)
	beside := filepath.Join(filepath.Dir(dir), "beside")
	os.WriteFile(beside, []byte("x"), 0o644)
	restore(RestoreOptions{Snapshot: *sum.Snapshot, InPlace: true, Overwrite: OverwriteIfChanged, Delete: true})
	if b, _ := os.ReadFile(filepath.Join(dir, "b/three")); string(b) != "333" {
		t.Errorf("in place: %q", b)
	}
	if _, err := os.Stat(beside); err != nil {
		t.Error("a restore in place deleted what lay beside")
	}
}

// stopping ends a restore after some blocks.
type stopping struct {
	Blocks
	left   atomic.Int64
	cancel func()
}

func (s *stopping) Fetch(ctx context.Context, log merklelog.LogID, indexes []uint64, fn func(uint64, []byte) error) error {
	return s.Blocks.Fetch(ctx, log, indexes, func(i uint64, b []byte) error {
		if s.left.Add(-1) < 0 {
			s.cancel()
		}
		return fn(i, b)
	})
}

// A restore that was cut off goes on where it was, but not from a file that a power
// cut has left with the right size and time and without its contents.
func TestRestoreResumes(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir := t.TempDir()
	for i := range 200 {
		writeTree(t, dir, map[string]string{fmt.Sprintf("d%d/f%d", i/50, i): string(randomBytes(uint64(i), 100_000))})
	}
	sum := s.mustBackup("", s.options(l, dir))
	target := t.TempDir()
	ctx, cancel := context.WithCancel(background)
	a := s.open("")
	stop := &stopping{Blocks: s, cancel: cancel}
	stop.left.Store(220)
	a.cfg.Blocks = stop
	if _, err := a.Restore(ctx, RestoreOptions{Snapshot: *sum.Snapshot, Target: target}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	emptied := 0
	for i := range 200 {
		name := fmt.Sprintf("d%d/f%d", i/50, i)
		st, err := os.Stat(filepath.Join(target, dir, name))
		if err != nil || i%3 > 0 {
			continue
		}
		emptied++
		writeTree(t, filepath.Join(target, dir), map[string]string{name: string(make([]byte, st.Size()))})
		if err := os.Chtimes(filepath.Join(target, dir, name), time.Time{}, st.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	if emptied == 0 {
		t.Fatal("nothing was restored")
	}
	r, err := s.open("").Restore(background, RestoreOptions{Snapshot: *sum.Snapshot, Target: target})
	if err != nil || !r.Resumed || r.Unchanged < 20 || r.Files+r.Unchanged != 200 {
		t.Errorf("%v %+v", err, r)
	}
	compareTrees(t, dir, filepath.Join(target, dir))
	if n := len(names(t, target)); n != 200 {
		t.Errorf("%d files in the target", n)
	}
}

func TestHooks(t *testing.T) {
	s := newMemSpace(t)
	l := s.newLog("log")
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"a": string(randomBytes(1, 1<<20)), "b": "x"})
	var last Progress
	o := s.options(l, dir)
	o.Hooks.Progress = func(p Progress) { last = p }
	sum := s.mustBackup("", o)
	if last.Files != 2 || last.TotalFiles != 2 || !last.TotalKnown || last.Bytes != 1<<20+1 || last.TotalBytes != last.Bytes || last.New < 1<<20 || last.Blocks < 16 {
		t.Errorf("backup: %+v", last)
	}
	_, err := s.open("").Restore(background, RestoreOptions{Snapshot: *sum.Snapshot, Target: t.TempDir(), Hooks: Hooks{Progress: func(p Progress) { last = p }}})
	if err != nil || last.Files != 2 || last.Bytes != 1<<20+1 || last.Blocks < 16 {
		t.Errorf("restore: %+v %v", last, err)
	}
	_, err = s.open("").Verify(background, []Snapshot{*sum.Snapshot}, Hooks{Progress: func(p Progress) { last = p }})
	if err != nil || last.Files != 2 || last.Bytes < 1<<20+1 || last.TotalBytes != last.Bytes {
		t.Errorf("verify: %+v %v", last, err)
	}
}
