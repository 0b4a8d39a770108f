package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cobox/image/bundle"
	"cobox/image/layout"
	"cobox/image/slot"
)

// bench is a directory with the files of a slot, and a set of keys.
type bench struct {
	t   *testing.T
	dir string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t, t.TempDir()}
	b.write("slot/cmdline.txt", []byte("rdinit=/init\n"))
	b.write("slot/overlays/README", []byte("overlays\n"))
	b.write("slot/empty", nil)
	b.write("slot/partial", bytes.Repeat([]byte{7}, 850)) // ends within a cluster
	noise := make([]byte, 300_000)
	rand.Read(noise)
	b.write("slot/kernel8.img", noise)
	b.write("slot/manifest.txt", []byte("of another release"))
	b.ok("keys", "--out", b.path("keys"))
	return b
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, filepath.FromSlash(name)) }

func (b *bench) write(name string, content []byte) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Dir(b.path(name)), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(b.path(name), content, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) read(name string) []byte {
	b.t.Helper()
	content, err := os.ReadFile(b.path(name))
	if err != nil {
		b.t.Fatal(err)
	}
	return content
}

// ok runs the program, which must succeed, and returns its output.
func (b *bench) ok(args ...string) string {
	b.t.Helper()
	var out, errs bytes.Buffer
	if code := run(args, nil, &out, &errs); code != exitDone {
		b.t.Fatalf("coboximg %s: code %d\n%s", strings.Join(args, " "), code, &errs)
	}
	return out.String()
}

// fails runs the program, which must fail with the code and say the words.
func (b *bench) fails(code int, words string, args ...string) {
	b.t.Helper()
	var out, errs bytes.Buffer
	if got := run(args, nil, &out, &errs); got != code || !strings.Contains(errs.String(), words) {
		b.t.Errorf("coboximg %s: code %d, want %d and %q\n%s", strings.Join(args, " "), got, code, words, &errs)
	}
}

// bundle returns the arguments that make out.cobox, with more of them.
func (b *bench) bundle(more ...string) []string {
	return append([]string{"bundle", "--slot", b.path("slot"), "--version", "1.4.0", "--number", "17",
		"--pub", b.path("keys/release.pub"), "--out", b.path("out.cobox")}, more...)
}

func (b *bench) key(n string) string { return b.path("keys/release-" + n + ".key") }

func TestBundle(t *testing.T) {
	b := newBench(t)
	out := b.ok(b.bundle("--floor", "15", "--key", b.key("1"), "--key", b.key("3"))...)
	if !strings.Contains(out, "version 1.4.0, number 17, floor 15, for rpi-arm64\n5 files with 300872 bytes\n") {
		t.Error(out)
	}
	var s bundleSummary
	line := b.ok("--json", "bundle", "--verify", b.path("out.cobox"), "--pub", b.path("keys/release.pub"))
	if err := json.Unmarshal([]byte(line), &s); err != nil || s.Number != 17 || s.Floor != 15 || s.Files != 5 || len(s.Signers) != 2 {
		t.Errorf("%v: %s", err, line)
	}
	m, err := bundle.ParseManifest(b.read("out.manifest.txt"))
	if err != nil || m.Files[3].Path != "overlays/README" {
		t.Errorf("manifest %+v, %v", m, err)
	}

	// The same release is the same file.
	first := b.read("out.cobox")
	b.ok(b.bundle("--floor", "15", "--key", b.key("1"), "--key", b.key("3"))...)
	if !bytes.Equal(first, b.read("out.cobox")) {
		t.Error("made again, the update differs")
	}
	// Without --floor nothing older can follow.
	if out := b.ok(b.bundle("--key", b.key("1"), "--key", b.key("3"))...); !strings.Contains(out, "floor 17") {
		t.Error(out)
	}

	b.write("damaged.cobox", append(first[:len(first)-1:len(first)-1], first[len(first)-1]^1))
	b.fails(exitFailed, "damaged", "bundle", "--verify", b.path("damaged.cobox"), "--pub", b.path("keys/release.pub"))
	b.fails(exitFailed, "(the release keys built into this coboximg; --image or --pub names others)", "bundle", "--verify", b.path("out.cobox"))
	b.fails(exitFailed, "not an update", "bundle", "--verify", b.path("slot/kernel8.img"))
	b.fails(exitFailed, "not an update", "bundle", "--verify", b.path("slot/empty"))
	b.fails(exitFailed, "open the update", "bundle", "--verify", b.path("none.cobox"))
}

func TestBundleRefuses(t *testing.T) {
	b := newBench(t)
	one, two := []string{"--key", b.key("1")}, []string{"--key", b.key("1"), "--key", b.key("2")}
	b.fails(exitUsage, "--floor 18 is above", b.bundle(append(two, "--floor", "18")...)...)
	b.fails(exitUsage, "one of --slot and --image", b.bundle(append(two, "--image", "x")...)...)
	b.fails(exitUsage, "no other flag", b.bundle("--verify", "x")...)
	b.fails(exitUsage, "--number", "bundle", "--slot", b.path("slot"), "--version", "1")
	b.fails(exitFailed, "1 of 3 have signed", b.bundle(one...)...)
	b.fails(exitFailed, "two signatures are of the same key", b.bundle(append(one, one...)...)...)
	b.fails(exitUsage, "--version \"a b\" is no version", b.bundle("--version", "a b")...)
	b.fails(exitFailed, "empty is empty; a signature", b.bundle("--signature", b.path("slot/empty"))...)
	b.fails(exitFailed, "empty is empty; public keys", b.bundle("--pub", b.path("slot/empty"))...)
	b.fails(exitFailed, "not a private key", b.bundle("--key", b.path("keys/release-1.pub"))...)
	if err := os.Symlink("kernel8.img", b.path("slot/link")); err == nil {
		b.fails(exitFailed, "neither a regular file", b.bundle(two...)...)
		os.Remove(b.path("slot/link"))
	}
	b.write("slot/with space", nil)
	b.fails(exitFailed, "no path for a slot", b.bundle(two...)...)

	// The manifest is left for those who have not signed yet.
	left, err := filepath.Glob(b.path("out.*"))
	if err != nil || len(left) != 1 || left[0] != b.path("out.manifest.txt") {
		t.Errorf("left behind: %v", left)
	}
}

// Two people at two places sign with the tool that they know.
func TestSignedElsewhere(t *testing.T) {
	minisign, err := exec.LookPath("minisign")
	if err != nil {
		t.Skip("minisign is not installed")
	}
	b := newBench(t)
	b.fails(exitFailed, "--signature", b.bundle()...)
	var args []string
	for _, n := range []string{"1", "2"} {
		sig := b.path("sig" + n)
		cmd := exec.Command(minisign, "-S", "-W", "-s", b.key(n), "-m", b.path("out.manifest.txt"), "-x", sig)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		args = append(args, "--signature", sig)
	}
	b.ok(b.bundle(args...)...)
	b.ok(b.bundle(append(args[2:], "--key", b.key("3"))...)...)
	for n, pub := range map[string]string{"1": "2", "2": "3"} {
		cmd := exec.Command(minisign, "-V", "-m", b.path("out.manifest.txt"),
			"-x", b.path("out.manifest.txt."+n+".minisig"), "-p", b.path("keys/release-"+pub+".pub"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// The slot of an image gives what its directory gives, and a box that takes the
// update has the slot of the image.
func TestBundleOfImage(t *testing.T) {
	b := newBench(t)
	two := []string{"--key", b.key("1"), "--key", b.key("2")}
	b.ok(b.bundle(append(two, "--floor", "15")...)...)
	want := b.read("out.cobox")
	ofImage := func(more ...string) []string {
		return append([]string{"bundle", "--image", b.path("disk.img"), "--pub", b.path("keys/release.pub"), "--out", b.path("image.cobox")}, more...)
	}
	table, err := layout.NewTable(layout.ImageSize)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := table.Partition(layout.SlotA.Partition())
	open := func() *bundle.Reader {
		keys, err := (&bundleOptions{public: []string{b.path("keys/release.pub")}}).publicKeys()
		if err != nil {
			t.Fatal(err)
		}
		r, err := bundle.Inspect(bytes.NewReader(want), keys.Keys)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r
	}
	r := open()
	makeImage := func(src slot.Source) []byte {
		t.Helper()
		system, err := slot.Image(layout.SlotA, src)
		if err != nil {
			t.Fatal(err)
		}
		b.write("disk.img", append(table.AppendMBR(nil), make([]byte, p.Start-layout.SectorSize)...))
		f, err := os.OpenFile(b.path("disk.img"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(layout.ImageSize); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(system, int64(p.Start)); err != nil {
			t.Fatal(err)
		}
		return system
	}

	// Version, number and floor are the image's, unless others are given.
	read := func(path string) (io.ReadCloser, error) { return os.Open(b.path("slot/" + path)) }
	makeImage(slot.NewFiles(r.Manifest(), nil, read))
	b.ok(ofImage(two...)...)
	if !bytes.Equal(want, b.read("image.cobox")) {
		t.Error("the update made from the image is another")
	}
	if out := b.ok(ofImage(append(two, "--version", "1.4.1", "--number", "18")...)...); !strings.Contains(out, "version 1.4.1, number 18, floor 18,") {
		t.Error(out)
	}
	if out := b.ok(ofImage(append(two, "--floor", "3")...)...); !strings.Contains(out, "version 1.4.0, number 17, floor 3,") {
		t.Error(out)
	}
	b.fails(exitFailed, "the floor 18 is above the number 17", ofImage("--floor", "18")...)
	b.fails(exitFailed, "0 of 3 have signed", ofImage()...)
	b.fails(exitFailed, "name public keys with --pub", "bundle", "--image", b.path("disk.img"), "--out", b.path("x.cobox"))

	// An image that is signed needs no keys, as long as its manifest is the one.
	system := makeImage(slot.NewFiles(r.Manifest(), r.Signatures(), read))
	b.ok(ofImage()...)
	if !bytes.Equal(want, b.read("image.cobox")) {
		t.Error("the update made from the signed image is another")
	}
	installed, err := slot.Image(layout.SlotA, open())
	if err != nil || !bytes.Equal(installed, system) {
		t.Errorf("a box writes another slot than the image has (%v)", err)
	}
	b.fails(exitFailed, "0 of 3 have signed", ofImage("--number", "18")...)

	// What is damaged is not signed.
	img := b.read("disk.img")
	at := bytes.Index(img, b.read("slot/kernel8.img"))
	img[at+100] ^= 1
	b.write("disk.img", img)
	b.fails(exitFailed, "kernel8.img is not the file of the manifest", ofImage(two...)...)
	b.write("disk.img", append(table.AppendMBR(nil), make([]byte, layout.ImageSize-layout.SectorSize)...))
	b.fails(exitFailed, "not a FAT32", ofImage(two...)...)
	b.fails(exitFailed, "not an image of CoBox", append([]string{"bundle", "--image", b.path("slot/kernel8.img"), "--version", "1",
		"--number", "1", "--out", b.path("x.cobox")}, two...)...)
}
