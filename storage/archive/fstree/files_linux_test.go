package fstree_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cobox/storage/archive/fstree"
)

// chdirDeep changes to a chain of directories below dir whose path is longer
// than the system takes, made first if need be, and returns how to get back.
func chdirDeep(t *testing.T, dir string, levels int, mk bool) {
	t.Helper()
	t.Chdir(dir)
	for range levels {
		name := strings.Repeat("d", 250)
		if mk {
			must(t, os.Mkdir(name, 0o755))
		}
		must(t, os.Chdir(name))
	}
}

// TestEveryKindOfFile restores what is hard to keep.
func TestEveryKindOfFile(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	build(t, src, "empty=", "plain=text", "a/b/c=deep", "empty dir/", "dangling->nowhere", "loop->loop", "up->..",
		"not \xff\xfe UTF-8\x01\n=x", "link to \xff->\xff\xfe", strings.Repeat("n", 255)+"=long name")
	at := func(name string) string { return filepath.Join(src, name) }
	must(t, os.Link(at("plain"), at("a/second name")))
	must(t, os.Link(at("plain"), at("third name")))
	must(t, unix.Linkat(unix.AT_FDCWD, at("up"), unix.AT_FDCWD, at("up again"), 0))
	must(t, unix.Mkfifo(at("fifo"), 0o640))
	l, err := net.Listen("unix", at("sock"))
	must(t, err)
	defer l.Close()

	must(t, os.WriteFile(at("set-id"), []byte("#!"), 0o755))
	must(t, unix.Chmod(at("set-id"), 0o6755))
	must(t, unix.Chmod(at("a"), 0o3775))
	for name, value := range map[string]string{"user.empty": "", "user.bytes": "\x00\xff", "user.long": strings.Repeat("v", 2000)} {
		must(t, unix.Setxattr(at("plain"), name, []byte(value), 0))
		must(t, unix.Setxattr(at("a/b"), name, []byte(value), 0))
	}
	acl := []byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x39\x30\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff")
	if err := unix.Setxattr(at("empty"), "system.posix_acl_access", acl, 0); err != nil {
		t.Logf("no access lists here: %v", err)
	}
	if err := unix.Setxattr(at("a"), "system.posix_acl_default", acl, 0); err != nil {
		t.Logf("no access lists here: %v", err)
	}
	if os.Geteuid() == 0 {
		must(t, os.Lchown(at("empty"), 12345, 54321))
		must(t, os.Lchown(at("dangling"), 12345, 54321))
		must(t, os.Chown(at("set-id"), 12345, 54321))
		must(t, unix.Chmod(at("set-id"), 0o6711))
		must(t, os.Chown(at("empty dir"), 12345, 54321))
		for _, d := range []struct {
			name string
			mode uint32
		}{{"blk", unix.S_IFBLK}, {"chr", unix.S_IFCHR}} {
			if err := unix.Mknod(at(d.name), d.mode|0o620, int(unix.Mkdev(1, 3))); err != nil {
				t.Logf("no devices here: %v", err)
			}
		}
		if err := unix.Setxattr(at("set-id"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0); err != nil {
			t.Logf("no capabilities here: %v", err)
		}
	}
	for name, when := range map[string]time.Time{
		"a/b/c":      time.Date(1905, 1, 2, 3, 4, 5, 999999999, time.UTC),
		"a/b":        time.Unix(-1, 1),
		"a":          time.Unix(0, 0),
		"fifo":       time.Date(2038, 1, 19, 3, 14, 8, 1, time.UTC),
		"empty":      time.Date(2400, 12, 31, 23, 59, 59, 123456789, time.UTC),
		"loop":       time.Date(1969, 7, 20, 20, 17, 40, 0, time.UTC),
		"third name": time.Date(2001, 9, 9, 1, 46, 40, 7, time.UTC),
	} {
		ts, err := unix.TimeToTimespec(when)
		must(t, err)
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at(name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
	must(t, unix.Chmod(at("a/b"), 0o500))
	t.Cleanup(func() { os.Chmod(at("a/b"), 0o700) })

	s := save(t, []string{src}, fstree.ScanOptions{})
	dst := filepath.Join(t.TempDir(), "dst")
	var notes []fstree.Note
	st := restore(t, dst, s, fstree.TargetOptions{Note: func(n fstree.Note) { notes = append(notes, n) }})
	t.Cleanup(func() { os.Chmod(filepath.Join(dst, src, "a/b"), 0o700) })
	if len(notes) != 1 || notes[0].Kind != fstree.NoteSpecial || !strings.HasSuffix(notes[0].Path, "/sock") || st.SpecialsSkipped != 1 {
		t.Errorf("notes: %v", notes)
	}
	if st.Links != 3 {
		t.Errorf("links: %+v", st)
	}
	l.Close() // a socket is listed, but not restored
	os.Remove(at("sock"))
	must(t, restoreTime(src, s))
	same(t, src, filepath.Join(dst, src), fstree.DiffOptions{})
	nothingExtra(t, dst, src)

	// Once more over what is there now, into directories that are read-only.
	for _, o := range []fstree.Overwrite{fstree.OverwriteAlways, fstree.OverwriteIfChanged, fstree.OverwriteNever} {
		restore(t, dst, s, fstree.TargetOptions{Overwrite: o, Note: func(fstree.Note) {}})
		same(t, src, filepath.Join(dst, src), fstree.DiffOptions{})
	}
}

// restoreTime gives the directory at path the time that it had when s was
// saved.
func restoreTime(path string, s *saved) error {
	for range strings.Count(path, "/") {
		if len(s.dirs) != 1 {
			return errors.New("more than the way to the root")
		}
		s = s.dirs[0]
	}
	return os.Chtimes(path, time.Time{}, s.node.ModTime.Time())
}

// TestDeepPaths has paths of over 5,000 bytes on both sides.
func TestDeepPaths(t *testing.T) {
	const levels = 21
	src, dst := filepath.Join(t.TempDir(), "src"), filepath.Join(t.TempDir(), "dst")
	must(t, os.Mkdir(src, 0o755))
	t.Run("build", func(t *testing.T) {
		chdirDeep(t, src, levels, true)
		build(t, ".", "file=at the end", "link->file")
		must(t, unix.Setxattr("file", "user.x", []byte("y"), 0))
	})
	s := save(t, []string{src}, fstree.ScanOptions{})
	for _, limit := range []int{2, 256} {
		restore(t, dst, s, fstree.TargetOptions{Overwrite: fstree.OverwriteAlways, MaxOpen: limit, Delete: true})
		same(t, src, filepath.Join(dst, src), fstree.DiffOptions{})
	}
	t.Run("look", func(t *testing.T) {
		chdirDeep(t, filepath.Join(dst, src), levels, false)
		if b, err := os.ReadFile("file"); err != nil || string(b) != "at the end" {
			t.Errorf("%q, %v", b, err)
		}
		must(t, os.WriteFile("extra", nil, 0o600))
	})
	if st := restore(t, dst, s, fstree.TargetOptions{Overwrite: fstree.OverwriteIfChanged, Delete: true}); st.Deleted != 1 {
		t.Errorf("%+v", st)
	}
}

// TestSparseFile keeps 5 GiB of almost nothing, quickly.
func TestSparseFile(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	must(t, os.Mkdir(src, 0o755))
	const size, at = 5 << 30, 3<<30 + 12345
	f, err := os.Create(filepath.Join(src, "sparse"))
	must(t, err)
	must(t, f.Truncate(size))
	_, err = f.WriteAt([]byte("island"), at)
	must(t, err)
	must(t, f.Close())
	f, err = os.Create(filepath.Join(src, "all hole"))
	must(t, err)
	must(t, f.Truncate(1<<30))
	must(t, f.Close())

	begin := worked(t)
	s := save(t, []string{src}, fstree.ScanOptions{})
	if d := worked(t) - begin; d > time.Second {
		t.Errorf("took %v to read", d)
	}
	dst := t.TempDir()
	begin = worked(t)
	restore(t, dst, s, fstree.TargetOptions{})
	if d := worked(t) - begin; d > time.Second {
		t.Errorf("took %v to write", d)
	}
	same(t, src, filepath.Join(dst, src), fstree.DiffOptions{})
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(dst, src, "sparse"), &st))
	if st.Size != size || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes in %d blocks", st.Size, st.Blocks)
	}
	b := make([]byte, 6)
	f, err = os.Open(filepath.Join(dst, src, "sparse"))
	must(t, err)
	defer f.Close()
	if _, err := f.ReadAt(b, at); err != nil || string(b) != "island" {
		t.Errorf("%q, %v", b, err)
	}
}

// worked returns how long this process has worked so far. A restore ends with a
// sync of the whole file system, which may wait long for what others write.
func worked(t *testing.T) time.Duration {
	var u unix.Rusage
	must(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestFilesThatDoNotHoldStill changes files between the scan and the end of
// reading.
func TestFilesThatDoNotHoldStill(t *testing.T) {
	root := t.TempDir()
	build(t, root, "vanish=1", "to link=1", "to dir=1", "to fifo=1", "to other=1", "grow=12345", "shrink=12345", "touch=12345", "still=12345", "other=secret", "d/")
	at := func(name string) string { return filepath.Join(root, name) }
	var dir *fstree.Dir
	err := fstree.Scan(context.Background(), []string{root}, fstree.ScanOptions{}, func(d *fstree.Dir) error {
		if d.Path() != root {
			return nil
		}
		dir = d
		must(t, os.Remove(at("vanish")))
		for _, name := range []string{"to link", "to dir", "to fifo", "to other"} {
			must(t, os.Remove(at(name)))
		}
		must(t, os.Symlink("other", at("to link")))
		must(t, os.Mkdir(at("to dir"), 0o755))
		must(t, unix.Mkfifo(at("to fifo"), 0o600))
		must(t, os.Rename(at("other"), at("to other")))
		must(t, os.Remove(at("d")))
		must(t, os.Symlink(".", at("d")))

		for i := range d.Entries {
			e := &d.Entries[i]
			if e.Kind == fstree.Directory {
				if _, err := d.Node(e); !errors.Is(err, fstree.ErrReplaced) {
					t.Errorf("%s: %v", e.Name, err)
				}
				continue
			}
			f, err := d.Open(e)
			switch {
			case e.Name == "vanish" || e.Name == "other":
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v", e.Name, err)
				}
				continue
			case strings.HasPrefix(e.Name, "to "):
				if !errors.Is(err, fstree.ErrReplaced) {
					t.Errorf("%s: %v", e.Name, err)
				}
				if _, err := d.Node(e); !errors.Is(err, fstree.ErrReplaced) {
					t.Errorf("%s: %v", e.Name, err)
				}
				continue
			case err != nil:
				t.Fatal(err)
			}
			if _, err := f.NextRun(); err != nil {
				t.Fatal(err)
			}
			var got []byte
			got = append(got, make([]byte, 2)...)
			if n, err := f.Read(got); n != 2 || err != nil {
				t.Fatal(n, err)
			}
			want := "12345"
			switch e.Name {
			case "grow":
				must(t, os.WriteFile(at(e.Name), []byte("123456789"), 0o644))
			case "shrink":
				must(t, os.Truncate(at(e.Name), 3))
				want = "123"
			case "touch":
				must(t, os.Chtimes(at(e.Name), time.Time{}, time.Unix(1, 0)))
			}
			rest, err := io.ReadAll(f)
			if got = append(got, rest...); err != nil || string(got) != want {
				t.Errorf("%s: read %q, %v", e.Name, got, err)
			}
			if _, err := f.NextRun(); err != io.EOF {
				t.Errorf("%s: after the last run: %v", e.Name, err)
			}
			changed, err := f.Changed()
			if changed != (e.Name != "still") || err != nil {
				t.Errorf("%s: changed %v, %v", e.Name, changed, err)
			}
			must(t, f.Close())
		}
		return nil
	})
	if err != nil || dir == nil {
		t.Fatal(err)
	}
}

// TestDirectoryReplacedByLink has a directory turned into a link to another
// between being met and being read.
func TestDirectoryReplacedByLink(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	build(t, outside, "secret=1", "sub/secret=1")
	build(t, root, "a/x=1", "b/sub/x=1")
	swapped := false
	err := fstree.Scan(context.Background(), []string{root + "/a", root + "/b"}, fstree.ScanOptions{Workers: 1}, func(d *fstree.Dir) error {
		if !swapped {
			swapped = true
			must(t, os.Rename(root+"/b", root+"/c"))
			must(t, os.Symlink(outside, root+"/b"))
		}
		for i := range d.Entries {
			e := &d.Entries[i]
			if e.Kind != fstree.File {
				continue
			}
			if e.Name == "secret" {
				t.Errorf("went through the link: %s", d.Path())
			}
			if f, err := d.Open(e); err == nil {
				b, err := io.ReadAll(f)
				if _, runErr := f.NextRun(); runErr == nil && err == nil {
					b, _ = io.ReadAll(f)
				}
				if bytes.Contains(b, []byte("secret")) {
					t.Error("read through the link")
				}
				f.Close()
			} else if strings.HasPrefix(d.Path(), root+"/b") && !errors.Is(err, fstree.ErrReplaced) {
				t.Errorf("%s: %v", d.Path(), err)
			}
		}
		return nil
	})
	must(t, err)
}

func TestFingerprint(t *testing.T) {
	root := t.TempDir()
	build(t, root, "a=1", "b=1", "d/x=1", "l->a")
	print := func() (f [32]byte) {
		t.Helper()
		must(t, fstree.Scan(context.Background(), []string{root}, fstree.ScanOptions{}, func(d *fstree.Dir) error {
			if d.Path() == root {
				f = d.Fingerprint()
			}
			return nil
		}))
		return f
	}
	seen := map[[32]byte]string{}
	old := print()
	if print() != old {
		t.Fatal("differs without a change")
	}
	seen[old] = "the beginning"
	at := func(name string) string { return filepath.Join(root, name) }
	for _, c := range []struct {
		what string
		do   func() error
	}{
		{"content", func() error { return os.WriteFile(at("a"), []byte("22"), 0o644) }},
		{"mode", func() error { return os.Chmod(at("a"), 0o600) }},
		{"time", func() error { return os.Chtimes(at("b"), time.Time{}, time.Unix(1, 1)) }},
		{"name", func() error { return os.Rename(at("b"), at("c")) }},
		{"another file of the name", func() error { os.Rename(at("c"), at("b")); return os.WriteFile(at("c"), nil, 0o644) }},
		{"further name", func() error { return os.Link(at("a"), at("d/a")) }},
		{"attribute", func() error { return unix.Setxattr(at("a"), "user.x", []byte("y"), 0) }},
		{"directory made", func() error { return os.Mkdir(at("e"), 0o755) }},
		{"removed", func() error { return os.Remove(at("l")) }},
	} {
		must(t, c.do())
		f := print()
		if s, ok := seen[f]; ok {
			t.Errorf("%s: as %s", c.what, s)
		}
		seen[f] = "after " + c.what
	}
}

func TestRacyTimes(t *testing.T) {
	root := t.TempDir()
	build(t, root, "f=1")
	must(t, os.Chtimes(filepath.Join(root, "f"), time.Time{}, time.Unix(1, 0)))
	must(t, fstree.Scan(context.Background(), []string{root}, fstree.ScanOptions{}, func(d *fstree.Dir) error {
		for i := range d.Entries {
			if e := &d.Entries[i]; e.Name == "f" {
				now := e.ChangeTime.Time()
				for after, racy := range map[time.Duration]bool{
					-48 * time.Hour: false, -time.Hour: true, 0: true, time.Second: true, 3 * time.Second: false, time.Hour: false,
				} {
					if e.RacyAt(now.Add(after)) != racy {
						t.Errorf("%v after the change: racy is %v", after, !racy)
					}
				}
			}
		}
		return nil
	}))
}

func TestOneFileSystem(t *testing.T) {
	// /proc and /dev are file systems of their own wherever tests run.
	seen := false
	err := fstree.Scan(context.Background(), []string{"/"}, fstree.ScanOptions{OneFileSystem: true, Skip: []string{"/work", "/usr", "/root", "/home", "/var", "/tmp", "/lib", "/opt"}}, func(d *fstree.Dir) error {
		if d.Path() == "/proc" {
			seen = true
			if len(d.Entries) > 0 {
				return fmt.Errorf("descended into %s", d.Path())
			}
		}
		if d.Path() == "/" && d.Partial {
			return errors.New("the root is whole, but marked partial")
		}
		return nil
	})
	if err != nil || !seen {
		t.Error(err, seen)
	}
}
