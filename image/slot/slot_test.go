package slot_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"

	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
	"cobox/image/layout"
	"cobox/image/slot"
)

// image is a slot in a file.
func image(t *testing.T) *slot.BlockDevice {
	t.Helper()
	name := filepath.Join(t.TempDir(), "slot.img")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, layout.SlotSize); err != nil {
		t.Fatal(err)
	}
	dev, err := slot.OpenBlockDevice(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

// TestOtherReaders: what others make of a slot is what was written.
func TestOtherReaders(t *testing.T) {
	f, m, sigs := system(7)
	dev := image(t)
	if err := slot.Write(dev, layout.SlotB, update(t, f, m, sigs, nil)); err != nil {
		t.Fatal(err)
	}
	want := maps.Clone(f)
	text, _ := m.Append(nil)
	want["manifest.txt"], want["manifest.sig"] = text, bundle.AppendSignatures(nil, sigs)

	t.Run("go-diskfs", func(t *testing.T) {
		fsys, err := fat32.Read(file.New(dev.File, true), layout.SlotSize, 0, layout.SectorSize)
		if err != nil {
			t.Fatal(err)
		}
		if label := strings.TrimSpace(fsys.Label()); label != "SLOT-B" {
			t.Errorf("label %q", label)
		}
		n := 0
		err = fs.WalkDir(fsys, ".", func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			n++
			if len(want[path]) == 0 {
				return nil // the library reads no empty files
			}
			r, err := fsys.Open(path)
			if err != nil {
				return err
			}
			// At once: the library reads too much where it goes on within a cluster.
			b := make([]byte, len(want[path])+1)
			if n, err := r.Read(b); err != io.EOF || !bytes.Equal(b[:n], want[path]) {
				t.Errorf("%s has other bytes, %v", path, err)
			}
			return nil
		})
		if err != nil || n != len(want) {
			t.Errorf("%d files, %v", n, err)
		}
	})
	t.Run("fsck", func(t *testing.T) {
		program := look(t, "fsck.vfat", "/usr/sbin/fsck.vfat")
		out, err := exec.Command(program, "-n", "-v", dev.Name()).CombinedOutput()
		if err != nil || strings.Contains(string(out), "Free cluster summary wrong") || !strings.Contains(string(out), "14 files") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("mtools", func(t *testing.T) {
		dir := copyOut(t, dev)
		for path, content := range want {
			b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(path)))
			if err != nil || !bytes.Equal(b, content) {
				t.Errorf("%s: %v", path, err)
			}
		}
	})
}

// copyOut copies all files of a slot into a directory.
func copyOut(t *testing.T, dev *slot.BlockDevice) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command(look(t, "mcopy", "/usr/bin/mcopy"), "-s", "-i", dev.Name(), "::/", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

func look(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skipf("%s is not installed", names[0])
	return ""
}

// TestManyFiles has every path that is hard for a FAT directory: as many names
// with one beginning as a slot has, names of 1 to 255 bytes, and more than one
// cluster of each directory.
func TestManyFiles(t *testing.T) {
	f := bundletest.Files{}
	for n := 1; n <= bundle.MaxPath; n++ {
		f[strings.Repeat("n", n)] = []byte{byte(n)}
	}
	for n := range 500 {
		f["d/overlay-with-number-"+string(rune('a'+n%26))+strings.Repeat("x", n/26)+".dtbo"] = []byte{byte(n), 1}
		f["D2.EXT/F"+strings.Repeat("0", n%7)+string(rune('A'+n%26))] = []byte{2, byte(n)}
	}
	m := manifest(f)
	dev := image(t)
	if err := slot.Write(dev, layout.SlotA, slot.NewFiles(m, nil, f.Open)); err != nil {
		t.Fatal(err)
	}
	if err := slot.Check(dev, layout.SlotA, m, nil); err != nil {
		t.Error(err)
	}
	out, err := exec.Command(look(t, "fsck.vfat", "/usr/sbin/fsck.vfat"), "-n", dev.Name()).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	files := os.DirFS(copyOut(t, dev))
	s, err := slot.Read(files)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(files); err != nil {
		t.Error(err)
	}
}

func TestSameBytes(t *testing.T) {
	f, m, sigs := system(7)
	fresh, used := newDisk(), newDisk()
	oldFiles, oldManifest, oldSigs := system(6)
	if err := slot.Write(used, layout.SlotA, slot.NewFiles(oldManifest, oldSigs, oldFiles.Open)); err != nil {
		t.Fatal(err)
	}
	if err := slot.Write(used, layout.SlotA, update(t, f, m, sigs, nil)); err != nil {
		t.Fatal(err)
	}
	if err := slot.Write(fresh, layout.SlotA, slot.NewFiles(m, sigs, f.Open)); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(fresh.durable, used.durable) {
		t.Error("a slot depends on how it was written")
	}
	if err := slot.Check(fresh, layout.SlotA, m, sigs); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"the other slot":     slot.Check(fresh, layout.SlotB, m, sigs),
		"another system":     slot.Check(fresh, layout.SlotA, oldManifest, oldSigs),
		"without signatures": slot.Check(fresh, layout.SlotA, m, nil),
		"an empty disk":      slot.Check(newDisk(), layout.SlotA, m, sigs),
	} {
		if !errors.Is(err, slot.ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPowerCuts cuts the power at each sector written and each sync, with part
// of what was not synced on the medium. The slot is the old system, the new one,
// or none.
func TestPowerCuts(t *testing.T) {
	oldFiles, oldManifest, oldSigs := system(6)
	f, m, sigs := system(7)
	before := newDisk()
	if err := slot.Write(before, layout.SlotA, slot.NewFiles(oldManifest, oldSigs, oldFiles.Open)); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 4))
	whole := before.restart(r, 1)
	if err := slot.Write(whole, layout.SlotA, slot.NewFiles(m, sigs, f.Open)); err != nil {
		t.Fatal(err)
	}
	last := whole.steps + 1
	stride := 7
	if testing.Short() {
		stride = 61
	}
	var old, none, now int
	for cut := 1; cut <= last; cut++ {
		// The steps in which something is decided are the first few and the last.
		if cut%stride != 0 && cut > 10 && cut < last-30 {
			continue
		}
		d := before.restart(r, 1)
		d.dieAt = cut
		err := slot.Write(d, layout.SlotA, slot.NewFiles(m, sigs, f.Open))
		if (err == nil) != (cut == last) || err != nil && !errors.Is(err, errPower) {
			t.Fatalf("cut at %d of %d: %v", cut, last, err)
		}
		for _, kept := range []float64{0, 0.5, 1} {
			after := d.restart(r, kept)
			switch {
			case !after.boots():
				none++
			case slot.Check(after, layout.SlotA, oldManifest, oldSigs) == nil:
				old++
			case slot.Check(after, layout.SlotA, m, sigs) == nil:
				now++
			default:
				t.Fatalf("cut at %d of %d, %.0f %% of the cache kept: neither the old system nor the new nor none", cut, last, kept*100)
			}
			// Whatever it was, the next attempt succeeds.
			if cut%77 == 0 {
				if err := slot.Write(after, layout.SlotA, slot.NewFiles(m, sigs, f.Open)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	t.Logf("%d steps: old %d, none %d, new %d", last, old, none, now)
	if old == 0 || none == 0 || now == 0 {
		t.Error("not every outcome was seen")
	}
}

// TestDiskErrors: a disk that fails at any step is no success.
func TestDiskErrors(t *testing.T) {
	oldFiles, oldManifest, oldSigs := system(6)
	f, m, sigs := system(7)
	before := newDisk()
	if err := slot.Write(before, layout.SlotA, slot.NewFiles(oldManifest, oldSigs, oldFiles.Open)); err != nil {
		t.Fatal(err)
	}
	steps := before.steps
	for _, at := range []int{1, 2, 3, 40, 900, steps - 20, steps - 3, steps - 2, steps - 1} {
		d := before.restart(rand.New(rand.NewPCG(1, 1)), 1)
		d.dieAt = at
		err := slot.Write(d, layout.SlotA, slot.NewFiles(m, sigs, f.Open))
		if !errors.Is(err, errPower) {
			t.Errorf("step %d of %d: %v", at, steps, err)
		}
	}
}

// TestLyingDisk: one bit of any sector is stored wrong, and it is noticed before
// the slot can start.
func TestLyingDisk(t *testing.T) {
	f, m, sigs := system(7)
	d := newDisk()
	if err := slot.Write(d, layout.SlotA, slot.NewFiles(m, sigs, f.Open)); err != nil {
		t.Fatal(err)
	}
	tried := 0
	for place, stored := range d.durable {
		if stored == (sector{}) {
			continue // nothing to store wrong
		}
		tried++
		bad := newDisk()
		bad.lie = func(at int64, s *sector) {
			if at == place && *s != (sector{}) {
				s[0] ^= 4
			}
		}
		err := slot.Write(bad, layout.SlotA, slot.NewFiles(m, sigs, f.Open))
		if !errors.Is(err, slot.ErrMismatch) {
			t.Errorf("sector %d: %v", place, err)
		}
		if bad.boots() {
			t.Errorf("sector %d: the slot can start", place)
		}
	}
	if tried < 20 {
		t.Errorf("only %d sectors", tried)
	}
}

// TestBadSources: what the bundle finds wrong at its very end keeps the slot
// from starting as much as a wrong file.
func TestBadSources(t *testing.T) {
	f, m, sigs := system(7)
	for name, src := range map[string]slot.Source{
		"checksum of the bundle": update(t, f, m, sigs, func(b []byte) []byte { b[len(b)-1] ^= 1; return b }),
		"bundle cut":             update(t, f, m, sigs, func(b []byte) []byte { return b[:len(b)-1] }),
		"bundle cut in a file":   update(t, f, m, sigs, func(b []byte) []byte { return b[:len(b)-3000] }),
		"a file is another": slot.NewFiles(m, sigs, func(path string) (io.ReadCloser, error) {
			if path == "initrd.gz" {
				return io.NopCloser(bytes.NewReader(make([]byte, 1025))), nil
			}
			return f.Open(path)
		}),
		"a file is longer": slot.NewFiles(m, sigs, func(path string) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(append(slices.Clone(f[path]), 0))), nil
		}),
		"a file is shorter": slot.NewFiles(m, sigs, func(path string) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(f[path][:len(f[path])/2])), nil
		}),
		"a file is missing": slot.NewFiles(m, sigs, func(path string) (io.ReadCloser, error) { return nil, errFile }),
	} {
		d := newDisk()
		err := slot.Write(d, layout.SlotA, src)
		if err == nil || d.boots() {
			t.Errorf("%s: %v; the slot can start: %v", name, err, d.boots())
		}
		if err == io.EOF || strings.HasPrefix(name, "bundle") && !errors.Is(err, bundle.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What does not fit is refused before the old system is touched.
	d := newDisk()
	large := manifest(bundletest.Files{"a": nil})
	large.Files[0].Size = layout.SlotSize
	if err := slot.Write(d, layout.SlotA, slot.NewFiles(large, nil, f.Open)); !errors.Is(err, slot.ErrNoRoom) || d.steps > 0 {
		t.Errorf("%d steps, %v", d.steps, err)
	}
}

func TestVerify(t *testing.T) {
	f, m, sigs := system(7)
	text, _ := m.Append(nil)
	mounted := func() fstest.MapFS {
		files := fstest.MapFS{
			"manifest.txt":                   {Data: text},
			"manifest.sig":                   {Data: bundle.AppendSignatures(nil, sigs)},
			"System Volume Information/x.db": {Data: []byte("of another system")},
		}
		for path, content := range f {
			files[path] = &fstest.MapFile{Data: content}
		}
		return files
	}
	s, err := slot.Read(mounted())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := public.Verify(s.Text, s.Signatures); err != nil {
		t.Error(err)
	}
	if err := s.Verify(mounted()); err != nil {
		t.Error(err)
	}
	for path := range f {
		for name, data := range map[string][]byte{
			"longer": append(slices.Clone(f[path]), 0), "other": bytes.Repeat([]byte{1}, len(f[path])),
		} {
			bad := mounted()
			bad[path] = &fstest.MapFile{Data: data}
			if err := s.Verify(bad); !errors.Is(err, slot.ErrMismatch) && !(name == "other" && len(data) == 0) {
				t.Errorf("%s is %s: %v", path, name, err)
			}
		}
		bad := mounted()
		delete(bad, path)
		if err := s.Verify(bad); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is missing: %v", path, err)
		}
	}

	unsigned := mounted()
	delete(unsigned, "manifest.sig")
	if s, err := slot.Read(unsigned); err != nil || len(s.Signatures) > 0 {
		t.Errorf("without signatures: %v", err)
	}
	for name, change := range map[string]func(fstest.MapFS){
		"no manifest":    func(files fstest.MapFS) { delete(files, "manifest.txt") },
		"bad manifest":   func(files fstest.MapFS) { files["manifest.txt"] = &fstest.MapFile{Data: text[1:]} },
		"long manifest":  func(files fstest.MapFS) { files["manifest.txt"] = &fstest.MapFile{Data: make([]byte, 2<<20)} },
		"bad signatures": func(files fstest.MapFS) { files["manifest.sig"] = &fstest.MapFile{Data: []byte("x")} },
	} {
		files := mounted()
		change(files)
		if _, err := slot.Read(files); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

// TestKnownAnswer holds the bytes of a slot: what is written here is compared
// with what other versions wrote.
func TestKnownAnswer(t *testing.T) {
	f, m, sigs := system(7)
	d := newDisk()
	if err := slot.Write(d, layout.SlotA, slot.NewFiles(m, sigs, f.Open)); err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	for _, at := range slices.Sorted(maps.Keys(d.durable)) {
		s := d.durable[at]
		fmt.Fprintf(h, "%d\n%x\n", at, s)
	}
	const want = "a50ed6165b3b914791db9194074d88ef2e7d18cba1f66805e0abb1d7824e2cc7"
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != want {
		t.Errorf("the slot's bytes have changed: %s", got)
	}
}
