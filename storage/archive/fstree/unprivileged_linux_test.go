package fstree_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cobox/storage/archive/fstree"
)

const nobody = 65534

// asNobody runs the calling test again in a process without privilege if this
// one is root, and reports whether that was done.
func asNobody(t *testing.T) bool {
	if os.Geteuid() != 0 {
		return false
	}
	if testing.Short() {
		t.Skip("starts a process")
	}
	// The binary lies where only its owner may look.
	dir, err := os.MkdirTemp("/tmp", "fstree")
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Mkdir(filepath.Join(dir, "tmp"), 0o777))
	must(t, os.Chmod(filepath.Join(dir, "tmp"), 0o777))
	exe, err := os.Open("/proc/self/exe")
	must(t, err)
	defer exe.Close()
	out, err := os.OpenFile(filepath.Join(dir, "test"), os.O_CREATE|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(out, exe)
	must(t, err)
	must(t, out.Close())
	cmd := exec.Command(filepath.Join(dir, "test"), "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(dir, "tmp"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	b, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(b), "--- PASS: "+t.Name()) {
		t.Errorf("without privilege: %v\n%s", err, b)
	}
	return true
}

func TestUnreadable(t *testing.T) {
	if asNobody(t) {
		return
	}
	root := t.TempDir()
	build(t, root, "no=1", "yes=1", "dir/x=1", "list only/x=1", "enter only/x=1")
	at := func(name string) string { return filepath.Join(root, name) }
	must(t, os.Chmod(at("no"), 0))
	must(t, os.Chmod(at("dir"), 0))
	must(t, os.Chmod(at("list only"), 0o400))
	must(t, os.Chmod(at("enter only"), 0o100))
	t.Cleanup(func() {
		for _, name := range []string{"dir", "list only", "enter only"} {
			os.Chmod(at(name), 0o700)
		}
	})
	incomplete := ""
	var errs []error
	err := fstree.Scan(context.Background(), []string{root}, fstree.ScanOptions{}, func(d *fstree.Dir) error {
		if d.Incomplete {
			incomplete += d.Name() + ","
		}
		errs = append(errs, d.Errors...)
		for i := range d.Entries {
			e := &d.Entries[i]
			if _, err := d.Node(e); err != nil {
				t.Errorf("%s: %v", e.Name, err)
			}
			if e.Kind != fstree.File {
				continue
			}
			f, err := d.Open(e)
			if e.Name == "yes" {
				if err != nil {
					t.Error(err)
				} else {
					f.Close()
				}
			} else if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), at(e.Name)) {
				t.Errorf("%s: %v", e.Name, err)
			}
		}
		return nil
	})
	must(t, err)
	if incomplete != "dir,enter only," || len(errs) != 3 {
		t.Errorf("incomplete: %s errors: %v", incomplete, errs)
	}
	for _, err := range errs {
		var p *fs.PathError
		if !errors.As(err, &p) || !errors.Is(err, fs.ErrPermission) || !strings.HasPrefix(p.Path, root+"/") {
			t.Error(err)
		}
	}
}

// TestUnprivilegedRestore restores what belongs to others, set-id files, and
// directories that shut their owner out.
func TestUnprivilegedRestore(t *testing.T) {
	if asNobody(t) {
		return
	}
	dst := filepath.Join(t.TempDir(), "dst")
	put := func(o fstree.TargetOptions, want fstree.TargetStats) {
		t.Helper()
		target := open(t, dst, o)
		root := target.Root()
		link := fstree.LinkID{Inode: 9}
		shut, ro := dir("shut"), dir("read-only")
		shut.Mode, ro.Mode = 0, 0o555
		s, err := root.Enter(shut)
		must(t, err)
		n, b := file("f", "content")
		n.Link = link
		must(t, s.WriteFile(n, b))
		must(t, s.Close())
		r, err := root.Enter(ro)
		must(t, err)
		write(t, r, "f", "content")
		n.Name = "link"
		must(t, r.WriteFile(n, b)) // shut is finished by now
		must(t, r.Close())

		n, b = file("of root, set-id", "content")
		n.UID, n.GID, n.Mode = 0, 0, 0o6755
		must(t, root.WriteFile(n, b))
		n, b = file("own, set-id", "content")
		n.Mode = 0o6755
		must(t, root.WriteFile(n, b))
		n, b = file("none may read", "content")
		n.Mode = 0
		n.Xattrs = []fstree.Xattr{{Name: "security.x", Value: []byte("y")}, {Name: "user.x", Value: []byte("y")}}
		must(t, root.WriteFile(n, b))
		must(t, root.Make(&fstree.Node{Kind: fstree.BlockDevice, Name: "dev", Device: fstree.Device{Major: 8}}))
		must(t, root.Close())
		st := finish(t, target)
		want.Bytes = st.Bytes
		if st != want {
			t.Errorf("got  %+v\nwant %+v", st, want)
		}
	}
	notes := 0
	o := fstree.TargetOptions{Note: func(n fstree.Note) {
		if notes++; n.Kind != fstree.NoteXattr && n.Kind != fstree.NoteSpecial {
			t.Errorf("%s: %v", n.Path, n.Err)
		}
	}}
	put(o, fstree.TargetStats{Files: 5, Links: 1, Dirs: 2, OwnersSkipped: 1, SetIDDropped: 1, XattrsSkipped: 1, SpecialsSkipped: 1})
	if notes != 2 {
		t.Errorf("%d notes", notes)
	}
	check := func() {
		t.Helper()
		for name, mode := range map[string]uint32{"shut": 0, "read-only": 0o555, "read-only/f": 0o644, "of root, set-id": 0o755, "own, set-id": 0o6755, "none may read": 0} {
			var st unix.Stat_t
			must(t, unix.Lstat(filepath.Join(dst, name), &st))
			if st.Mode&0o7777 != mode || st.Mtim.Sec != 1e9 || int(st.Uid) != os.Geteuid() {
				t.Errorf("%s: mode %04o, time %d, uid %d", name, st.Mode&0o7777, st.Mtim.Sec, st.Uid)
			}
		}
	}
	check()
	// The same over what is there, which shuts its owner out.
	o.Overwrite = fstree.OverwriteAlways
	put(o, fstree.TargetStats{Files: 5, Links: 1, OwnersSkipped: 1, SetIDDropped: 1, XattrsSkipped: 1, SpecialsSkipped: 1})
	check()
	o.Overwrite = fstree.OverwriteIfChanged
	put(o, fstree.TargetStats{Unchanged: 6, OwnersSkipped: 1, SetIDDropped: 1, XattrsSkipped: 1, SpecialsSkipped: 1})
	check()
	for _, name := range []string{"shut", "read-only"} {
		os.Chmod(filepath.Join(dst, name), 0o700)
	}
}
