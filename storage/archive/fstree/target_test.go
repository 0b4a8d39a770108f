package fstree_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cobox/storage/archive/fstree"
)

func file(name, content string) (*fstree.Node, []byte) {
	n := &fstree.Node{Kind: fstree.File, Name: name, Mode: 0o644, ModTime: fstree.Time{Sec: 1e9}, Size: uint64(len(content)), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	if n.Size > 0 {
		n.Content = []fstree.Extent{{ID: id(1), Length: n.Size}}
	}
	return n, []byte(content)
}

func dir(name string) *fstree.Node {
	return &fstree.Node{Kind: fstree.Directory, Name: name, Mode: 0o755, ModTime: fstree.Time{Sec: 1e9}, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
}

func write(t *testing.T, d *fstree.TargetDir, name, content string) {
	t.Helper()
	n, b := file(name, content)
	if err := d.WriteFile(n, b); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string, o fstree.TargetOptions) *fstree.Target {
	t.Helper()
	if o.Note == nil {
		o.Note = func(n fstree.Note) {
			if n.Kind != fstree.NoteDeleted {
				t.Errorf("note: %s: %v", n.Path, n.Err)
			}
		}
	}
	target, err := fstree.OpenTarget(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { target.Close() })
	return target
}

func enter(t *testing.T, d *fstree.TargetDir, name string) *fstree.TargetDir {
	t.Helper()
	sub, err := d.Enter(dir(name))
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

func finish(t *testing.T, target *fstree.Target) fstree.TargetStats {
	t.Helper()
	st, err := target.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if err := target.Close(); err != nil {
		t.Fatal(err)
	}
	return st
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func names(t *testing.T, path string) string {
	t.Helper()
	list, err := os.ReadDir(path)
	if err != nil {
		t.Error(err)
	}
	var all []string
	for _, e := range list {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func TestTargetNotEmpty(t *testing.T) {
	root := t.TempDir()
	build(t, root, "full/f=mine", "empty/")
	if _, err := fstree.OpenTarget(filepath.Join(root, "full"), fstree.TargetOptions{}); !errors.Is(err, fstree.ErrNotEmpty) {
		t.Error("full:", err)
	}
	if got := names(t, filepath.Join(root, "full")); got != "f" {
		t.Error("left behind:", got)
	}
	if _, err := fstree.OpenTarget(filepath.Join(root, "full/f"), fstree.TargetOptions{}); err == nil {
		t.Error("a file is taken for a target")
	}
	if _, err := fstree.OpenTarget(root, fstree.TargetOptions{InPlace: true}); !errors.Is(err, fstree.ErrNotEmpty) {
		t.Error("in place without a policy:", err)
	}
	for _, name := range []string{"empty", "new/er"} {
		target := open(t, filepath.Join(root, name), fstree.TargetOptions{})
		write(t, target.Root(), "f", "x")
		must(t, target.Root().Close())
		finish(t, target)
		if got := names(t, filepath.Join(root, name)); got != "f" {
			t.Error(name, "holds", got)
		}
	}
}

// TestInterruptedRestore continues a restore of the same snapshot, and only of
// that, and sweeps up what the interruption left.
func TestInterruptedRestore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t")
	snap := fstree.TargetOptions{Snapshot: [32]byte{1}}
	first := open(t, path, snap)
	d := enter(t, first.Root(), "d")
	write(t, d, "done", "12345")
	n, _ := file("half", "1234567890")
	f, err := d.Create(n)
	must(t, err)
	if _, err := f.WriteAt([]byte("12345"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := fstree.OpenTarget(path, snap); !errors.Is(err, fstree.ErrTargetBusy) {
		t.Error("a second restore at once:", err)
	}
	must(t, first.Close()) // as if killed: nothing is cleaned up
	if got := names(t, filepath.Join(path, "d")); !strings.Contains(got, ".cobox-") {
		t.Fatalf("no temporary file to sweep: %s", got)
	}
	if _, err := fstree.OpenTarget(path, fstree.TargetOptions{Snapshot: [32]byte{2}}); !errors.Is(err, fstree.ErrNotEmpty) {
		t.Error("another snapshot:", err)
	}
	must(t, os.WriteFile(filepath.Join(path, "d", "half"), []byte("damaged"), 0o600))
	marker := filepath.Join(path, fstree.MarkerName)
	long := time.Unix(1e9, 0)
	must(t, os.Chtimes(marker, long, long))

	second := open(t, path, snap)
	// Written again, it would say nothing for a moment.
	if st, err := os.Stat(marker); err != nil || !st.ModTime().Equal(long) {
		t.Errorf("the marker was written again: %v, %v", st.ModTime(), err)
	}
	if !second.Resumed() {
		t.Error("not resumed")
	}
	d = enter(t, second.Root(), "d")
	write(t, d, "done", "12345")
	f, err = d.Create(n)
	must(t, err)
	if _, err := f.WriteAt([]byte("1234567890"), 0); err != nil {
		t.Fatal(err)
	}
	must(t, d.Close())
	must(t, second.Root().Close())
	if _, err := second.Finish(); err == nil {
		t.Error("finished with a file still open")
	}
	must(t, f.Commit())
	st := finish(t, second)
	if st.Unchanged != 1 || st.Files != 1 || content(t, filepath.Join(path, "d/half")) != "1234567890" {
		t.Errorf("%+v", st)
	}
	if got := names(t, path) + ": " + names(t, filepath.Join(path, "d")); got != "d: done half" {
		t.Error(got)
	}
	// A marker alone, from a restore that ended at once, is an empty target.
	must(t, os.RemoveAll(filepath.Join(path, "d")))
	must(t, os.WriteFile(filepath.Join(path, fstree.MarkerName), nil, 0o600))
	third := open(t, path, snap)
	must(t, third.Root().Close())
	finish(t, third)
	if got := names(t, path); got != "" {
		t.Error(got)
	}
}

func TestOverwrite(t *testing.T) {
	for _, c := range []struct {
		policy fstree.Overwrite
		want   string // changed, same, newer of the same size, kind differs
		st     fstree.TargetStats
	}{
		{fstree.OverwriteAlways, "new new new new", fstree.TargetStats{Files: 4, Bytes: 12}},
		{fstree.OverwriteIfChanged, "new old new new", fstree.TargetStats{Files: 3, Bytes: 9, Unchanged: 1}},
		{fstree.OverwriteNever, "older old old ", fstree.TargetStats{Kept: 4}},
	} {
		root := t.TempDir()
		build(t, root, "changed=older", "same=old", "time=old", "kind->nowhere", "other=1")
		must(t, os.Chtimes(filepath.Join(root, "same"), time.Time{}, time.Unix(1e9, 0)))
		for _, dry := range []bool{true, false} {
			before := names(t, root)
			target := open(t, root, fstree.TargetOptions{Overwrite: c.policy, DryRun: dry, Delete: true})
			for _, name := range []string{"changed", "same", "time", "kind"} {
				write(t, target.Root(), name, "new")
			}
			must(t, target.Root().Close())
			if st := finish(t, target); st != c.st {
				t.Errorf("policy %d, dry %v: %+v", c.policy, dry, st)
			}
			if got := names(t, root); got != before {
				t.Errorf("policy %d, dry %v: holds %s", c.policy, dry, got)
			}
			if dry && content(t, filepath.Join(root, "changed")) != "older" {
				t.Errorf("policy %d: a dry run wrote", c.policy)
			}
		}
		var got []string
		for _, name := range []string{"changed", "same", "time", "kind"} {
			b, _ := os.ReadFile(filepath.Join(root, name))
			got = append(got, string(b))
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("policy %d: %q", c.policy, g)
		}
	}
}

func TestDelete(t *testing.T) {
	for _, dry := range []bool{true, false} {
		root := t.TempDir()
		build(t, root, "stays=1", "d/in=1", "d/extra=1", "d/extra dir/deep/f=1", "d/link->..", "d/kept=1", "partial/extra=1", "p2/extra=1", "fresh/../other/f=1")
		must(t, os.Chmod(filepath.Join(root, "d/extra dir/deep"), 0o500))
		var deleted []string
		target := open(t, root, fstree.TargetOptions{Overwrite: fstree.OverwriteIfChanged, Delete: true, DryRun: dry, Note: func(n fstree.Note) {
			if n.Kind != fstree.NoteDeleted {
				t.Errorf("%s: %v", n.Path, n.Err)
			}
			deleted = append(deleted, n.Path)
		}})
		d := enter(t, target.Root(), "d")
		write(t, d, "in", "22")
		d.Keep("kept")
		must(t, d.Close())
		n := dir("partial")
		n.Partial = true
		p, err := target.Root().Enter(n)
		must(t, err)
		must(t, p.Close())
		p = enter(t, target.Root(), "p2")
		p.Partial()
		must(t, p.Close())
		must(t, target.Root().Close())
		st := finish(t, target)
		slices.Sort(deleted)
		if got := strings.Join(deleted, " "); got != "d/extra d/extra dir d/link" || st.Deleted != 3 {
			t.Errorf("dry %v: deleted %s, %+v", dry, got, st)
		}
		want := map[bool]string{true: "extra extra dir in kept link", false: "in kept"}[dry]
		if got := names(t, filepath.Join(root, "d")); got != want {
			t.Errorf("dry %v: holds %s", dry, got)
		}
		if got := names(t, root) + names(t, filepath.Join(root, "partial")) + names(t, filepath.Join(root, "p2")); got != "d other p2 partial staysextraextra" {
			t.Errorf("dry %v: holds %s", dry, got)
		}
	}
}

// TestInTheWay has entries of other kinds where something belongs.
func TestInTheWay(t *testing.T) {
	for _, del := range []bool{false, true} {
		root := t.TempDir()
		build(t, root, "full/f=1", "empty/", "file=1", "link->full")
		target := open(t, root, fstree.TargetOptions{Overwrite: fstree.OverwriteAlways, Delete: del})
		n, b := file("full", "x")
		err := target.Root().WriteFile(n, b)
		if del != (err == nil) || err != nil && !errors.Is(err, fstree.ErrInTheWay) {
			t.Errorf("delete %v: file where a full directory is: %v", del, err)
		}
		write(t, target.Root(), "empty", "x")
		for _, name := range []string{"file", "link"} {
			d := enter(t, target.Root(), name)
			write(t, d, "new", "x")
			must(t, d.Close())
		}
		must(t, target.Root().Close())
		finish(t, target)
		for _, name := range []string{"file", "link"} {
			if fi, err := os.Lstat(filepath.Join(root, name)); err != nil || !fi.IsDir() {
				t.Errorf("%s: %v, %v", name, fi, err)
			}
		}
		if got := names(t, root); got != "empty file full link" {
			t.Error("holds", got)
		}
	}
	root := t.TempDir()
	build(t, root, "file=1")
	target := open(t, root, fstree.TargetOptions{Overwrite: fstree.OverwriteNever})
	if _, err := target.Root().Enter(dir("file")); !errors.Is(err, fstree.ErrInTheWay) {
		t.Error(err)
	}
}

// TestHostileNodes gives a target names and paths that lead out of it.
func TestHostileNodes(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	build(t, root, "t/link->"+outside, "t/up->..")
	target := open(t, filepath.Join(root, "t"), fstree.TargetOptions{Overwrite: fstree.OverwriteAlways})
	for _, name := range []string{"", ".", "..", "/", "../x", "/etc", "a/b", "a\x00", "link/x", "up/x", fstree.MarkerName} {
		n, b := file(name, "x")
		if err := target.Root().WriteFile(n, b); err == nil {
			t.Errorf("file %q was made", name)
		}
		if _, err := target.Root().Create(n); err == nil {
			t.Errorf("file %q was begun", name)
		}
		if _, err := target.Root().Enter(dir(name)); err == nil {
			t.Errorf("directory %q was entered", name)
		}
		if err := target.Root().Make(&fstree.Node{Kind: fstree.Symlink, Name: name, Target: "x"}); err == nil {
			t.Errorf("link %q was made", name)
		}
	}
	// A listing may hold a link, but not then something behind it.
	for _, name := range []string{"link", "up"} {
		d := enter(t, target.Root(), name)
		write(t, d, "f", "x")
		must(t, d.Close())
	}
	must(t, target.Root().Make(&fstree.Node{Kind: fstree.Symlink, Name: "new", Target: outside}))
	n, b := file("new", "x")
	must(t, target.Root().WriteFile(n, b))
	must(t, target.Root().Close())
	finish(t, target)
	if got := names(t, outside) + names(t, root); got != "t" {
		t.Error("outside:", got)
	}
	if got := content(t, filepath.Join(root, "t/new")); got != "x" {
		t.Error(got)
	}
}

// TestLinkPlantedWhileRestoring has another process put links where the restore
// has just made directories and files.
func TestLinkPlantedWhileRestoring(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	build(t, outside, "f=precious", "sub/f=precious")
	target := open(t, filepath.Join(root, "t"), fstree.TargetOptions{MaxOpen: 1, Note: func(fstree.Note) {}})
	plant := func(name string) {
		t.Helper()
		p := filepath.Join(root, "t", name)
		must(t, os.RemoveAll(p))
		must(t, os.Symlink(outside, p))
	}
	d := enter(t, target.Root(), "d")
	n, _ := file("late", "1234567890")
	f, err := d.Create(n)
	must(t, err)
	_, err = f.WriteAt([]byte("12345"), 0)
	must(t, err)
	deep := enter(t, d, "sub")
	// Another directory takes the only handle, so that d's is closed.
	e := enter(t, target.Root(), "e")
	write(t, e, "x", "x")
	plant("d")
	fn, b := file("f", "overwritten")
	for what, err := range map[string]error{
		"file":      d.WriteFile(fn, b),
		"deep file": deep.WriteFile(fn, b),
		"link":      d.Make(&fstree.Node{Kind: fstree.Symlink, Name: "f", Target: "x"}),
	} {
		if !errors.Is(err, fstree.ErrReplaced) {
			t.Errorf("%s through a planted link: %v", what, err)
		}
	}
	if _, err := d.Enter(dir("sub")); !errors.Is(err, fstree.ErrReplaced) {
		t.Error("entered through a planted link:", err)
	}
	if err := f.Commit(); err == nil {
		t.Error("committed through a planted link")
	}
	// A link where a file is to go is replaced itself, not followed.
	must(t, os.Symlink(filepath.Join(outside, "f"), filepath.Join(root, "t/e/f")))
	must(t, e.WriteFile(fn, b))
	must(t, deep.Close())
	must(t, d.Close())
	must(t, e.Close())
	must(t, target.Root().Close())
	target.Finish()
	if got := content(t, filepath.Join(outside, "f")) + content(t, filepath.Join(outside, "sub/f")) + names(t, outside); got != "preciouspreciousf sub" {
		t.Error("outside:", got)
	}
	if got := content(t, filepath.Join(root, "t/e/f")); got != "overwritten" {
		t.Error(got)
	}
}

func TestInPlace(t *testing.T) {
	root := t.TempDir()
	build(t, root, "real/docs/f=old", "real/docs/mine=1", "real/other=1", "home->real", "real/docs/trap->../other dir", "real/other dir/f=1")
	must(t, os.Chtimes(filepath.Join(root, "real"), time.Time{}, time.Unix(5e8, 0)))
	target := open(t, root, fstree.TargetOptions{InPlace: true, Overwrite: fstree.OverwriteIfChanged, Delete: true})
	home := dir("home")
	home.Partial, home.Mode = true, 0o700
	h, err := target.Root().Enter(home)
	must(t, err)
	docs := enter(t, h, "docs")
	write(t, docs, "f", "new")
	trap := enter(t, docs, "trap") // whole: what is there is replaced
	write(t, trap, "g", "x")
	must(t, trap.Close())
	must(t, docs.Close())
	must(t, h.Close())
	must(t, target.Root().Close())
	finish(t, target)
	if got := names(t, filepath.Join(root, "real/docs")) + "; " + names(t, root) + "; " + names(t, filepath.Join(root, "real/other dir")); got != "f trap; home real; f" {
		t.Error(got)
	}
	if content(t, filepath.Join(root, "real/docs/f")) != "new" || content(t, filepath.Join(root, "real/docs/trap/g")) != "x" {
		t.Error("not restored through the link above")
	}
	if fi, err := os.Stat(filepath.Join(root, "real")); err != nil || fi.Mode().Perm() != 0o755 || fi.ModTime().Unix() != 5e8 {
		t.Errorf("a directory above was changed: %v %v, %v", fi.Mode(), fi.ModTime(), err)
	}
}

func TestHardLinksInAnyOrder(t *testing.T) {
	root := t.TempDir()
	target := open(t, root, fstree.TargetOptions{MaxOpen: 1})
	link := fstree.LinkID{Device: 1, Inode: 1}
	a, b := enter(t, target.Root(), "a"), enter(t, target.Root(), "b")
	n, _ := file("1", "content")
	n.Link = link
	f, err := a.Create(n)
	must(t, err)
	for _, at := range []struct {
		d    *fstree.TargetDir
		name string
	}{{a, "2"}, {b, "3"}} {
		m := *n
		m.Name = at.name
		if g, err := at.d.Create(&m); g != nil || err != nil {
			t.Fatal(g, err)
		}
		must(t, at.d.Close()) // before what waits in it is made
	}
	_, err = f.WriteAt([]byte("content"), 0)
	must(t, err)
	must(t, f.Commit())
	c := enter(t, target.Root(), "c")
	m := *n
	m.Name = "4"
	must(t, c.WriteFile(&m, []byte("content")))
	must(t, c.Close())
	must(t, target.Root().Close())
	if st := finish(t, target); st.Files != 1 || st.Links != 3 {
		t.Errorf("%+v", st)
	}
	first, err := os.Stat(filepath.Join(root, "a/1"))
	must(t, err)
	for _, name := range []string{"a/2", "b/3", "c/4"} {
		if fi, err := os.Stat(filepath.Join(root, name)); err != nil || !os.SameFile(fi, first) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		if fi, err := os.Stat(filepath.Join(root, name)); err != nil || fi.ModTime().Unix() != 1e9 {
			t.Errorf("%s: %v, %v", name, fi.ModTime(), err)
		}
	}

	// The names of a file that failed fail with it, and are told.
	var failed []string
	root = t.TempDir()
	target = open(t, root, fstree.TargetOptions{Note: func(n fstree.Note) { failed = append(failed, n.Path) }})
	f, err = target.Root().Create(n)
	must(t, err)
	m.Name = "2"
	if _, err := target.Root().Create(&m); err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("con"), 0)
	must(t, err)
	f.Abort(errors.New("lost"))
	must(t, target.Root().Close())
	if st := finish(t, target); st.Failed != 1 || len(failed) != 1 || failed[0] != "2" || names(t, root) != "" {
		t.Errorf("%+v, %v, %s", st, failed, names(t, root))
	}
}

// TestLinksWhileALeaderFails has another name lead, and be complete, while those
// that waited for one that failed are told.
func TestLinksWhileALeaderFails(t *testing.T) {
	root, other := t.TempDir(), filepath.Join(t.TempDir(), "other")
	n, data := file("1", "content")
	n.Link = fstree.LinkID{Device: 1, Inode: 1}
	var failed []string
	telling := make(chan struct{})
	target := open(t, root, fstree.TargetOptions{Note: func(note fstree.Note) {
		if failed = append(failed, note.Path); len(failed) == 1 {
			close(telling)
		}
		for range 1000 { // until another name has the content
			if _, err := os.Stat(other); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}})
	create := func(name string) *fstree.TargetFile {
		m := *n
		m.Name = name
		f, err := target.Root().Create(&m)
		must(t, err)
		return f
	}
	f := create("1")
	if create("2") != nil || create("3") != nil {
		t.Fatal("two names lead")
	}
	var wg sync.WaitGroup
	wg.Go(func() { f.Abort(errors.New("lost")) })
	<-telling
	g := create("4")
	_, err := g.WriteAt(data, 0)
	must(t, err)
	must(t, g.Commit())
	must(t, os.WriteFile(other, nil, 0o600))
	wg.Wait()
	must(t, target.Root().Close())
	if st := finish(t, target); !slices.Equal(failed, []string{"2"}) || st.Failed != 1 || st.Links != 1 || names(t, root) != "3 4" {
		t.Errorf("told of %q: %+v, %s", failed, st, names(t, root))
	}
}

// TestDryRunIntoNothing counts what would be made where there is no target yet.
func TestDryRunIntoNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new")
	target := open(t, path, fstree.TargetOptions{DryRun: true, Delete: true})
	d := enter(t, enter(t, target.Root(), "a"), "b")
	n, b := file("f", "12345")
	n.Link.Inode = 1
	must(t, d.WriteFile(n, b))
	n.Name = "g"
	if f, err := d.Create(n); f != nil || err != nil {
		t.Error(f, err)
	}
	must(t, d.Make(&fstree.Node{Kind: fstree.Symlink, Name: "l", Target: "x"}))
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("something was made:", err)
	}
	if st := target.Stats(); st != (fstree.TargetStats{Files: 1, Bytes: 5, Links: 1, Others: 1, Dirs: 2}) {
		t.Errorf("%+v", st)
	}
}

func TestWriteOutside(t *testing.T) {
	root := t.TempDir()
	target := open(t, root, fstree.TargetOptions{})
	n, _ := file("f", "12345")
	f, err := target.Root().Create(n)
	must(t, err)
	for _, off := range []int64{-1, 3, 5, 1 << 62} {
		if _, err := f.WriteAt([]byte("123"), off); err == nil {
			t.Errorf("wrote at %d", off)
		}
	}
	must(t, f.Commit()) // nothing written: one hole
	if err := target.Root().WriteFile(n, []byte("1234")); err == nil {
		t.Error("wrote four bytes for five")
	}
	if err := f.Commit(); err == nil {
		t.Error("committed twice")
	}
	must(t, target.Root().Close())
	if err := target.Root().Close(); err == nil {
		t.Error("closed twice")
	}
	finish(t, target)
	if got := content(t, filepath.Join(root, "f")); got != "\x00\x00\x00\x00\x00" {
		t.Errorf("%q", got)
	}
}

func BenchmarkRestore(b *testing.B) {
	const files, size = 5000, 16 << 10
	n, data := file("", strings.Repeat("x", size))
	for _, way := range []string{"whole", "pieces"} {
		b.Run(way, func(b *testing.B) {
			b.SetBytes(files * size)
			for b.Loop() {
				b.StopTimer()
				path := b.TempDir()
				b.StartTimer()
				target, err := fstree.OpenTarget(path, fstree.TargetOptions{})
				if err != nil {
					b.Fatal(err)
				}
				var d *fstree.TargetDir
				for i := range files {
					if i%32 == 0 {
						if d != nil {
							d.Close()
						}
						if d, err = target.Root().Enter(dir(fmt.Sprint(i))); err != nil {
							b.Fatal(err)
						}
					}
					n.Name = fmt.Sprint(i)
					if way == "whole" {
						err = d.WriteFile(n, data)
					} else {
						var f *fstree.TargetFile
						if f, err = d.Create(n); err == nil {
							f.WriteAt(data[size/2:], size/2)
							f.WriteAt(data[:size/2], 0)
							err = f.Commit()
						}
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				d.Close()
				target.Root().Close()
				b.StopTimer() // what the disk takes is not ours
				if _, err := target.Finish(); err != nil {
					b.Fatal(err)
				}
				target.Close()
				b.StartTimer()
			}
		})
	}
}
