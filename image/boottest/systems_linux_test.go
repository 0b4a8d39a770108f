package boottest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"

	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
	"cobox/image/fat32"
	"cobox/image/layout"
	"cobox/image/slot"
)

// Where things are in a system's initramfs.
const (
	initProgram = "init"
	boxProgram  = "bin/coboxd"
	releaseFile = "etc/cobox-release"
	keysFile    = "etc/cobox-release.pub"
)

// system is the files of a slot, by path, without manifest and signatures.
type system struct{ bundletest.Files }

// release is what a manifest says of a system. The number is its floor too.
type release struct {
	version string
	number  uint32
}

// readSystem reads the system in a slot of a disk.
func readSystem(t testing.TB, disk string, s layout.Slot) system {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, _ := new(layout.Table).Partition(s.Partition())
	files, err := fat32.Read(f, int64(p.Start), int64(p.Size))
	if err != nil {
		t.Fatal(err)
	}
	sys := system{bundletest.Files{}}
	for _, f := range files {
		if f.Path != layout.ManifestFile && f.Path != layout.SignaturesFile {
			sys.Files[f.Path] = f.Data
		}
	}
	return sys
}

// change is a file of the initramfs that is different.
type change func(t testing.TB) cpio.Record

// text is a file with other contents.
func text(name, contents string) change {
	return func(testing.TB) cpio.Record { return cpio.StaticFile(name, contents, 0o644) }
}

// noProgram makes a program one that the kernel cannot run.
func noProgram(name string) change {
	return func(testing.TB) cpio.Record { return cpio.StaticFile(name, "This is not a program.\n", 0o755) }
}

// program makes a program one that does what main.go of testdata/misfit says.
func program(name, does string) change {
	return func(t testing.TB) cpio.Record {
		t.Helper()
		bin := filepath.Join(t.TempDir(), "misfit")
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w -X main.does="+does, "-o", bin, "./testdata/misfit")
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building a program that misbehaves: %v\n%s", err, out)
		}
		b, err := os.ReadFile(bin)
		if err != nil {
			t.Fatal(err)
		}
		return cpio.StaticFile(name, string(b), 0o755)
	}
}

// testKeys makes the keys of package bundletest those that the system trusts.
func testKeys(t testing.TB) cpio.Record {
	t.Helper()
	_, keys := bundletest.Keys()
	var b []byte
	for _, k := range keys.Public() {
		b = k.Append(b)
	}
	return cpio.StaticFile(keysFile, string(b), 0o644)
}

// with returns the system with other files in its initramfs.
func (s system) with(t testing.TB, changes ...change) system {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(s.Files[layout.InitrdFile]))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range changes {
		r := change(t)
		r.NLink = 1
		i := slices.IndexFunc(records, func(old cpio.Record) bool { return old.Name == r.Name })
		if i < 0 {
			i = len(records)
			r.Ino = uint64(i + 1)
			records = append(records, cpio.Record{})
		} else {
			r.Ino = records[i].Ino
		}
		records[i] = r
	}
	var out bytes.Buffer
	pack, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := cpio.Newc.Writer(pack)
	if err := cpio.WriteRecords(w, records); err != nil {
		t.Fatal(err)
	}
	if err := cpio.WriteTrailer(w); err != nil {
		t.Fatal(err)
	}
	if err := pack.Close(); err != nil {
		t.Fatal(err)
	}
	changed := system{maps.Clone(s.Files)}
	changed.Files[layout.InitrdFile] = out.Bytes()
	return changed
}

// manifest describes the system.
func (s system) manifest(r release) *bundle.Manifest {
	m := &bundle.Manifest{Version: r.version, Number: r.number, Floor: r.number, Board: bundle.BoardRPi}
	for _, path := range slices.Sorted(maps.Keys(s.Files)) {
		b := s.Files[path]
		m.Files = append(m.Files, bundle.File{Path: path, Size: int64(len(b)), SHA256: sha256.Sum256(b)})
	}
	return m
}

// partition is a slot of a disk, as package slot wants it.
type partition struct {
	*io.OffsetWriter
	*io.SectionReader
}

// Sync does nothing: no power is cut here.
func (p partition) Sync() error { return nil }

// install makes the system that of a slot of a disk, signed by two keys of
// package bundletest.
func (s system) install(t testing.TB, disk string, to layout.Slot, r release) {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	private, _ := bundletest.Keys()
	m := s.manifest(r)
	sigs, err := bundletest.Sign(m, private[0], private[1])
	if err != nil {
		t.Fatal(err)
	}
	p, _ := new(layout.Table).Partition(to.Partition())
	dev := partition{io.NewOffsetWriter(f, int64(p.Start)), io.NewSectionReader(f, int64(p.Start), int64(p.Size))}
	if err := slot.Write(dev, to, slot.NewFiles(m, sigs, s.Open)); err != nil {
		t.Fatal(err)
	}
}

// update writes the system as a bundle into a file.
func (s system) update(t testing.TB, m *bundle.Manifest, keys ...*bundletest.Key) string {
	t.Helper()
	sigs, err := bundletest.Sign(m, keys...)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "update.cobox")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := bundle.Write(f, m, sigs, s.Open); err != nil {
		t.Fatal(err)
	}
	return path
}
