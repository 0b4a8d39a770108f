//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"cobox/appliance/datadir"
	"cobox/appliance/machine"
	"cobox/image/layout"
)

func openTree(t *testing.T, dir string) tree {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return tree{root}
}

// boxDir makes a directory like coboxd's.
func boxDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "coboxd")
	random := bytes.Repeat([]byte("0123456789abcdef"), 3<<16)
	sparse := make([]byte, 5<<20)
	copy(sparse[4<<20+100:], "something behind a hole")
	for name, content := range map[string][]byte{
		"FORMAT": []byte("cobox-box 1\n"), "identity": []byte("keys"), "LOCK": []byte("pid"), machine.UpdateFile: random,
		"db/MANIFEST-1": []byte("m"), "db/000001.sst": random, "db/000002.log": sparse, "db/empty": nil,
		"db/bulk/deep/x": []byte("x"),
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(filepath.Join(dir, "FORMAT"), 0o644), os.Chmod(filepath.Join(dir, "db/bulk"), 0o750), os.Mkdir(filepath.Join(dir, "db/none"), 0o700)); err != nil {
		t.Fatal(err)
	}
	old := time.Date(2020, 1, 2, 3, 4, 5, 678, time.UTC)
	for _, name := range []string{"identity", "db/bulk", "db", "."} {
		if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func untold(uint64, uint64) {}

func TestCopyTree(t *testing.T) {
	src, dst := boxDir(t), t.TempDir()
	from, to := openTree(t, src), openTree(t, dst)
	var last, total uint64
	tell := func(done, of uint64) {
		if done < last || done > of {
			t.Errorf("told %d of %d after %d", done, of, last)
		}
		last, total = done, of
	}
	if err := copyTree(t.Context(), from, to, tell); err != nil {
		t.Fatal(err)
	}
	if last != total || total < 8<<20 {
		t.Errorf("at the end told %d of %d", last, total)
	}
	last = 0
	if err := compareTrees(t.Context(), from, to, tell); err != nil {
		t.Fatal(err)
	}
	for _, name := range notCopied {
		if _, err := os.Lstat(filepath.Join(dst, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was copied: %v", name, err)
		}
	}
	for _, name := range []string{"identity", "db/bulk", "db", ".", "FORMAT", "db/none"} {
		a, err := os.Stat(filepath.Join(src, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.Stat(filepath.Join(dst, name))
		if err != nil || a.Mode() != b.Mode() || !a.ModTime().Equal(b.ModTime()) {
			t.Errorf("%s: %v %v, was %v %v (%v)", name, b.Mode(), b.ModTime(), a.Mode(), a.ModTime(), err)
		}
	}
	info, err := os.Stat(filepath.Join(dst, "db/000002.log"))
	if err != nil {
		t.Fatal(err)
	}
	if blocks := info.Sys().(*syscall.Stat_t).Blocks * 512; blocks > 1<<20 {
		t.Errorf("a file of zeros takes %d bytes", blocks)
	}
	if err := copyTree(t.Context(), from, to, untold); err == nil {
		t.Error("a tree was copied over another")
	}
}

// TestCompareTrees changes one thing of the copy at a time.
func TestCompareTrees(t *testing.T) {
	src := boxDir(t)
	for what, change := range map[string]func(dir string) error{
		"a byte": func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, "db/000001.sst"), os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{'?'}, 1<<20+17)
			return errors.Join(err, f.Close())
		},
		"a length":    func(dir string) error { return os.Truncate(filepath.Join(dir, "db/000001.sst"), 7) },
		"a mode":      func(dir string) error { return os.Chmod(filepath.Join(dir, "db"), 0o755) },
		"a file less": func(dir string) error { return os.Remove(filepath.Join(dir, "db/empty")) },
		"a file more": func(dir string) error { return os.WriteFile(filepath.Join(dir, "db/x"), nil, 0o600) },
		"a name": func(dir string) error {
			return os.Rename(filepath.Join(dir, "db/empty"), filepath.Join(dir, "db/leer"))
		},
		"a directory": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "db/none")), os.WriteFile(filepath.Join(dir, "db/none"), nil, 0o700))
		},
		"a link to a file": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "db/empty")), os.Symlink("MANIFEST-1", filepath.Join(dir, "db/empty")))
		},
	} {
		dst := t.TempDir()
		from, to := openTree(t, src), openTree(t, dst)
		if err := copyTree(t.Context(), from, to, untold); err != nil {
			t.Fatal(err)
		}
		if err := change(dst); err != nil {
			t.Fatal(err)
		}
		if err := compareTrees(t.Context(), from, to, untold); err == nil {
			t.Errorf("%s of the copy differs, and nobody noticed", what)
		}
	}
}

// What coboxd may have left in its directory leads nowhere, and holds nothing up.
func TestCopyTreeFollowsNothing(t *testing.T) {
	src, dst, secret := boxDir(t), t.TempDir(), filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(
		os.WriteFile(secret, []byte("root's"), 0o600),
		os.Symlink(secret, filepath.Join(src, "db/link")),
		os.Symlink("/", filepath.Join(src, "db/top")),
		unix.Mkfifo(filepath.Join(src, "db/fifo"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	from, to := openTree(t, src), openTree(t, dst)
	if err := copyTree(t.Context(), from, to, untold); err != nil {
		t.Fatal(err)
	}
	if err := compareTrees(t.Context(), from, to, untold); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"link", "top", "fifo"} {
		if _, err := os.Lstat(filepath.Join(dst, "db", name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was copied: %v", name, err)
		}
	}
	// A file that becomes something else after it was listed.
	for _, name := range []string{"db/fifo", "db/link", "db/top"} {
		if f, err := from.open(name); err == nil {
			f.Close()
			t.Errorf("%s was opened", name)
		}
	}
}

// TestCopyTreeTooLarge writes nothing where not all has room, and reads no hole
// without an end.
func TestCopyTreeTooLarge(t *testing.T) {
	src, dst := boxDir(t), t.TempDir()
	f, err := os.Create(filepath.Join(src, "db/hole"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(dst, &st); err != nil {
		t.Fatal(err)
	}
	// Not as much as is left now: others may free some until it is asked for.
	if err := f.Truncate(int64(st.Blocks)*st.Bsize + 1); err != nil {
		t.Skip("no file can be that large here")
	}
	if err := copyTree(t.Context(), openTree(t, src), openTree(t, dst), untold); err == nil || !strings.Contains(err.Error(), "has room for") {
		t.Errorf("it was copied: %v", err)
	}
	if entries, err := os.ReadDir(dst); err != nil || len(entries) != 0 {
		t.Errorf("something was written: %v %v", entries, err)
	}
}

func TestCopyTreeEndsWithContext(t *testing.T) {
	from, to := openTree(t, boxDir(t)), openTree(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	err := copyTree(ctx, from, to, func(done, _ uint64) {
		if done > 0 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cut off: %v", err)
	}
}

func TestTidyCard(t *testing.T) {
	card, id := boxDir(t), layout.DataDiskID{0xab, 15: 1}
	if err := os.WriteFile(filepath.Join(card, datadir.PeersFile), []byte("peers"), 0o600); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(os.WriteFile(secret, nil, 0o600), os.Symlink(filepath.Dir(secret), filepath.Join(card, "db/link"))); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		t.Skip("giving a file to coboxd needs root")
	}
	// Cut off before anything is removed, the mark is there.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tidyCard(ctx, card, id); err == nil {
		t.Error("nothing was removed, and that is no error")
	}
	mark, err := os.ReadFile(filepath.Join(card, datadir.MovedFile))
	if got, parsed := datadir.ParseMoved(mark); err != nil || parsed != nil || got != id {
		t.Errorf("the mark: %q %v %v", mark, err, parsed)
	}
	for range 2 { // the second time there is nothing to do
		if err := tidyCard(t.Context(), card, id); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(card)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if want := []string{"FORMAT", "LOCK", "identity", "moved", "peers"}; !slices.Equal(names, want) {
			t.Errorf("left is %v, want %v", names, want)
		}
	}
	if _, err := os.Stat(secret); err != nil {
		t.Errorf("what a link leads to was removed: %v", err)
	}
}

func TestCopyRemainder(t *testing.T) {
	disk, card := t.TempDir(), t.TempDir()
	identity := datadir.NewIdentity()
	peers := &datadir.Peers{Name: "shelf"}
	put := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(disk, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copied := map[string]fileStamp{}
	if err := copyRemainder(disk, card, copied); err == nil {
		t.Error("nothing is there, and that is no error")
	}
	put(datadir.IdentityFile, datadir.AppendIdentity(nil, identity))
	put(datadir.PeersFile, datadir.AppendPeers(nil, peers))
	same := func() {
		t.Helper()
		for name := range remainder {
			a, err := os.ReadFile(filepath.Join(disk, name))
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(filepath.Join(card, name))
			if err != nil || !bytes.Equal(a, b) {
				t.Errorf("%s on the card is another: %v", name, err)
			}
		}
	}
	if err := copyAs(t, disk, card, copied); err != nil {
		t.Fatal(err)
	}
	same()
	before, err := os.Stat(filepath.Join(card, datadir.PeersFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := copyAs(t, disk, card, map[string]fileStamp{}); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(filepath.Join(card, datadir.PeersFile)); err != nil || !os.SameFile(before, after) {
		t.Errorf("what is there already was written again: %v", err)
	}
	peers.Name = "attic"
	put(datadir.PeersFile, datadir.AppendPeers(nil, peers))
	if err := copyAs(t, disk, card, copied); err != nil {
		t.Fatal(err)
	}
	same()
	// The card's identity stays, whatever the disk says.
	put(datadir.IdentityFile, datadir.AppendIdentity(nil, datadir.NewIdentity()))
	if err := copyAs(t, disk, card, map[string]fileStamp{}); err == nil || !strings.Contains(err.Error(), "another box") {
		t.Errorf("another identity was taken: %v", err)
	}
	if id := readIdentity(card); id == nil || *id != *identity {
		t.Error("the card has another identity")
	}
	put(datadir.IdentityFile, datadir.AppendIdentity(nil, identity))
	// One that is damaged or only provisioned is made good.
	for name, b := range map[string][]byte{datadir.IdentityFile: []byte("damaged"), provisionCopy: datadir.AppendProvision(nil, &datadir.Provision{Identity: identity})} {
		if err := errors.Join(os.Remove(filepath.Join(card, datadir.IdentityFile)), os.WriteFile(filepath.Join(card, name), b, 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := copyAs(t, disk, card, map[string]fileStamp{}); err != nil {
			t.Fatal(err)
		}
		same()
	}
	// What coboxd should not have made of it is not taken.
	if err := errors.Join(os.Remove(filepath.Join(disk, datadir.PeersFile)), os.Symlink("/etc/passwd", filepath.Join(disk, datadir.PeersFile))); err != nil {
		t.Fatal(err)
	}
	if err := copyAs(t, disk, card, copied); err == nil {
		t.Error("a link was followed")
	}
	if err := os.Remove(filepath.Join(disk, datadir.PeersFile)); err != nil {
		t.Fatal(err)
	}
	put(datadir.PeersFile, []byte("nonsense"))
	if err := copyAs(t, disk, card, copied); err == nil || !strings.Contains(err.Error(), "peers") {
		t.Errorf("nonsense was taken: %v", err)
	}
	b, err := os.ReadFile(filepath.Join(card, datadir.PeersFile))
	if got, parsed := datadir.ParsePeers(b); err != nil || parsed != nil || got.Name != "attic" {
		t.Errorf("the card has %v %v", err, parsed)
	}
}

// copyAs is copyRemainder, for which one must be root to give files to coboxd.
func copyAs(t *testing.T, disk, card string, copied map[string]fileStamp) error {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("giving a file to coboxd needs root")
	}
	return copyRemainder(disk, card, copied)
}

func TestCheckDataDir(t *testing.T) {
	disk, card := t.TempDir(), t.TempDir()
	identity := datadir.AppendIdentity(nil, datadir.NewIdentity())
	write := func(dir string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, datadir.IdentityFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bad := func(what string) {
		t.Helper()
		if err := checkDataDir(disk, card); err == nil {
			t.Errorf("%s, and the disk is taken", what)
		}
	}
	bad("nothing is anywhere")
	write(card, identity)
	bad("the disk is empty")
	write(disk, datadir.AppendIdentity(nil, datadir.NewIdentity()))
	if err := os.Mkdir(filepath.Join(disk, datadir.StoreDir), 0o700); err != nil {
		t.Fatal(err)
	}
	bad("the data is another box's")
	write(disk, identity)
	if err := checkDataDir(disk, card); err != nil {
		t.Error(err)
	}
	if err := errors.Join(os.Remove(filepath.Join(disk, datadir.StoreDir)), os.Symlink("/", filepath.Join(disk, datadir.StoreDir))); err != nil {
		t.Fatal(err)
	}
	bad("the store is a link")
	if err := os.Remove(filepath.Join(disk, datadir.StoreDir)); err != nil {
		t.Fatal(err)
	}
	bad("there is no store")
}

func TestDataState(t *testing.T) { synctest.Test(t, testDataState) }

func testDataState(t *testing.T) {
	d := newDataState()
	if s := d.status(); s != (machine.Data{}) {
		t.Errorf("at first %+v", s)
	}
	d.lost("abcdef01", "it is not plugged in")
	since := d.since
	d.lost("abcdef01", "two of them are plugged in")
	if s := d.status(); s.Disk != "abcdef01" || s.Problem != "two of them are plugged in" || s.Away != 0 || d.since != since {
		t.Errorf("missing: %+v", s)
	}
	if disk, device, missing := d.where(); disk != "abcdef01" || device != "" || !missing {
		t.Errorf("missing: %q %q %v", disk, device, missing)
	}
	time.Sleep(90 * time.Second)
	d.found("abcdef01", "sda")
	if s := d.status(); s.Disk != "abcdef01" || s.Problem != "" || s.Away != 90 {
		t.Errorf("back: %+v", s)
	}
	d.setMove(&machine.Move{Disk: "01020304", CopyProgress: machine.CopyProgress{Step: stepCopying, Done: 1, Total: 2}})
	if s := d.status(); s.Move == nil || s.Move.Done != 1 {
		t.Errorf("moving: %+v", s)
	}
	d.setMove(nil)
	d.found("", "")
	if s := d.status(); s != (machine.Data{}) {
		t.Errorf("on the card: %+v", s)
	}
}
