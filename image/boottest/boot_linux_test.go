// Package boottest boots the image that ships in an emulated computer and uses
// it as people do. There is nothing but tests in it:
//
//	go test ./image/boottest -image out/cobox.img
//
// Without -image they are skipped, for an image takes a minute to build and a
// boot some seconds. It needs qemu-system-aarch64. The kernel in the image is
// the one that boots here: it has what QEMU's boards need too.
package boottest

import (
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/backend/file"

	"cobox/image/layout"
)

var imageFlag = flag.String("image", "", "the image to boot")

// theImage returns the path of the image, or skips the test.
func theImage(t testing.TB) string {
	t.Helper()
	if *imageFlag == "" {
		t.Skip("no -image was given")
	}
	path, err := filepath.Abs(*imageFlag)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// slotFiles takes files out of a slot, as a firmware does, and returns their
// paths.
func slotFiles(t testing.TB, image string, slot layout.Slot, names ...string) []string {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := diskfs.OpenBackend(file.New(f, true), diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	fs, err := d.GetFilesystem(slot.Partition())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var paths []string
	for _, name := range names {
		in, err := fs.OpenFile("/"+name, os.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		b, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// card is a disk with the image on it, and how to boot from it.
func card(t testing.TB, size int64) computer {
	t.Helper()
	return cardOf(t, theImage(t), size)
}

// cardOf is a disk with some image on it.
func cardOf(t testing.TB, image string, size int64) computer {
	t.Helper()
	files := slotFiles(t, image, layout.SlotA, layout.KernelFile, layout.InitrdFile)
	return computer{disk: copySparse(t, image, size), kernel: files[0], initrd: files[1], cmdline: "cobox.slot=a" + verbose, memory: "512", port: freePort(t)}
}

// tree makes a folder with something in it.
func tree(t testing.TB, files, size int, seed uint64) string {
	t.Helper()
	dir := t.TempDir()
	rng := rand.New(rand.NewChaCha8([32]byte{byte(seed)}))
	for i := range files {
		b := make([]byte, size/2+rng.IntN(size))
		for j := range b {
			b[j] = byte(rng.Uint32())
		}
		path := filepath.Join(dir, strconv.Itoa(i%7), strconv.Itoa(i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// same compares a folder with what was restored of it.
func same(t testing.TB, src, target string) {
	t.Helper()
	if out, err := exec.Command("diff", "-r", src, filepath.Join(target, src)).CombinedOutput(); err != nil {
		t.Fatalf("what came back differs: %v\n%.2000s", err, out)
	}
}

// pairingCode finds the code on the console, but not while only a part of it has
// been written.
const pairingCode = `'(http://cobox-[a-z0-9]{4}\.local/#[A-Za-z0-9_-]{40,})'`

// TestBoot is the life of a box: a new card, the first boot, pairing by the
// code on the console, a backup, the power button, another boot, a restore.
func TestBoot(t *testing.T) {
	m := card(t, 64<<30)
	v := start(t, m)
	code := v.wait(pairingCode, 2*time.Minute)[1]
	me := &member{t: t, home: t.TempDir()}
	me.must("init", "--phrase-out", filepath.Join(me.home, "words"))
	took := me.pair(v, code, 2*time.Minute)
	t.Logf("power-on to a pairing, growing to 64 GB: %v", took.Round(10*time.Millisecond))
	src := tree(t, 60, 100_000, 1)
	me.must("backup", src)
	t.Logf("off %v after the button was pressed", v.powerButton(30*time.Second).Round(10*time.Millisecond))
	v.sound()

	v = start(t, m)
	target := filepath.Join(t.TempDir(), "back")
	me.await(v, 2*time.Minute)
	t.Logf("power-on to a link, second boot: %v", time.Since(v.started).Round(10*time.Millisecond))
	me.must("restore", "--target", target)
	same(t, src, target)
	v.powerButton(30 * time.Second)
	v.sound()
}

// TestPowerCuts cuts the power in the middle of backups. The member loses
// nothing, and needs no command to go on.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	times := 20
	if testing.Short() {
		times = 3
	}
	m := card(t, 4<<30)
	me := &member{t: t, home: t.TempDir()}
	me.must("init", "--phrase-out", filepath.Join(me.home, "words"))
	v := start(t, m)
	me.pair(v, v.wait(pairingCode, 2*time.Minute)[1], 2*time.Minute)
	const files, size = 20, 700_000
	src := tree(t, files, size, 2)
	first := me.backup(src)
	rng := rand.New(rand.NewPCG(1, 2))
	inMiddle := 0
	for i := range times {
		more := tree(t, files, size, uint64(3+i))
		cut := rng.Int64N(files * size * 3 / 4)
		said := me.interrupted(v, cardNode, cut, more)
		v.kill()
		_, code := me.end(said)
		v.sound()
		if code == 4 { // no box reachable
			inMiddle++
		}
		v = start(t, m)
		me.await(v, 2*time.Minute)
		t.Logf("cut %d after %d kB of about %d: the backup had ended with code %d", i+1, cut/1000, files*size/1000, code)
		me.must("box", "check")
		me.must("backup", more)
		me.restored("latest", more)
	}
	if inMiddle < times/2 {
		t.Errorf("%d of %d cuts came in the middle of a backup", inMiddle, times)
	}
	me.restored(first, src)
	v.powerButton(30 * time.Second)
	v.sound()
}
