package datadir

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWaitingReadOnly opens what a box that waits sees: a directory that nobody
// can change.
func TestWaitingReadOnly(t *testing.T) {
	path := t.TempDir()
	d, err := Open(path, Options{Create: true, Holder: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Identity(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.WritePeers(&Peers{Name: "shelf"}), d.Close()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(path, movedName), AppendMoved(nil, [16]byte{1}), 0o600),
		os.WriteFile(filepath.Join(path, peersName+tmpSuffix), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, locked := range []bool{true, false} {
		if !locked {
			if err := os.Remove(filepath.Join(path, lockName)); err != nil {
				t.Fatal(err)
			}
		}
		seen := t.TempDir()
		if err := unix.Mount(path, seen, "", unix.MS_BIND, ""); errors.Is(err, unix.EPERM) {
			t.Skip("mounting needs root")
		} else if err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(seen, unix.MNT_DETACH)
		if err := unix.Mount("", seen, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		w, err := Open(seen, Options{Waiting: true, Holder: "test"})
		if err != nil {
			t.Fatalf("with a lock %v: %v", locked, err)
		}
		if _, _, err := w.Identity(); err != nil {
			t.Error(err)
		}
		if p, err := w.Peers(); err != nil || p.Name != "shelf" {
			t.Errorf("%+v %v", p, err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}
