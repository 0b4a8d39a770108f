package image_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"cobox/image"
	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
	"cobox/image/disk"
	"cobox/image/fat32"
	"cobox/image/imagetest"
	"cobox/image/initrd"
	"cobox/image/layout"
	"cobox/image/slot"
)

// released is what makes an image of a tiny program that two of the test keys have
// signed.
func released(t *testing.T) image.Config {
	t.Helper()
	c := image.Config{
		Source:      "..",
		Version:     "v1.2.3-test",
		Number:      3,
		Floor:       2,
		ReleaseKeys: imagetest.ReleaseKeys(),
		Time:        time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC),
		Init:        "./image/testdata/program",
		Box:         "./image/testdata/program",
		URL:         "https://example.org/cobox/",
	}
	s, err := image.NewSystem(t.Context(), c)
	if errors.Is(err, disk.ErrNoMke2fs) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	sigs, err := bundletest.Sign(s.Manifest, bundletest.NewKey(1), bundletest.NewKey(3))
	if err != nil {
		t.Fatal(err)
	}
	c.Signatures = bundle.AppendSignatures(nil, sigs)
	return c
}

func build(t *testing.T, c image.Config) *image.Result {
	t.Helper()
	c.Out = t.TempDir()
	r, err := image.Build(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestBuild makes an image twice and looks at everything in it.
func TestBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("compresses the kernel twice")
	}
	if raceEnabled {
		t.Skip("compressing is many times slower with the race detector; make test runs it without")
	}
	c := released(t)
	r, again := build(t, c), build(t, c)
	t.Run("the same bytes twice", func(t *testing.T) {
		a, err := os.ReadFile(r.Sums.Path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(again.Sums.Path)
		if err != nil || !bytes.Equal(a, b) {
			t.Errorf("%v\n%s\n%s", err, a, b)
		}
		lines := strings.Split(strings.TrimSpace(string(a)), "\n")
		if len(lines) != 6 {
			t.Errorf("%d sums", len(lines))
		}
		for _, line := range lines {
			sum, name, _ := strings.Cut(line, "  ")
			content, err := os.ReadFile(filepath.Join(filepath.Dir(r.Sums.Path), name))
			if h := sha256.Sum256(content); err != nil || hex.EncodeToString(h[:]) != sum {
				t.Errorf("the sum of %q is wrong (%v)", name, err)
			}
		}
	})
	t.Run("bootsel", func(t *testing.T) {
		files := partition(t, r, 1)
		if a, err := layout.ParseAutoboot(files[layout.AutobootFile]); err != nil || a.Slot != layout.SlotA {
			t.Errorf("autoboot.txt: %v %v", a, err)
		}
		if len(files) != 3 || len(files["bootcode.bin"]) == 0 || len(files[layout.ConfigFile]) == 0 {
			t.Errorf("there are %d files", len(files))
		}
	})
	a := partition(t, r, 2)
	t.Run("slots", func(t *testing.T) {
		b := partition(t, r, 3)
		if len(a) != len(b) {
			t.Errorf("%d and %d files", len(a), len(b))
		}
		for name := range a {
			if !bytes.Equal(a[name], b[name]) {
				t.Errorf("%s differs between the slots", name)
			}
		}
		for _, name := range []string{
			"start.elf", "fixup.dat", "start4.elf", "fixup4.dat",
			"bcm2710-rpi-3-b.dtb", "bcm2710-rpi-3-b-plus.dtb", "bcm2710-rpi-zero-2-w.dtb", "bcm2711-rpi-4-b.dtb", "bcm2712-rpi-5-b.dtb",
			"overlays/overlay_map.dtb", "overlays/bcm2712d0.dtbo",
		} {
			if len(a[name]) == 0 {
				t.Errorf("%s is missing", name)
			}
		}
		for _, want := range []string{"arm_64bit=1", "kernel=kernel8.img", "initramfs initrd.zst followkernel", "enable_uart=1", "hdmi_force_hotplug=1", "kernel_watchdog_timeout=15", "kernel_watchdog_partition=0"} {
			if !slices.Contains(strings.Split(string(a[layout.ConfigFile]), "\n"), want) {
				t.Errorf("config.txt lacks %q", want)
			}
		}
		for _, want := range []string{"rdinit=/init", "panic=10", "oops=panic", "watchdog.open_timeout=30"} {
			if !slices.Contains(strings.Fields(string(a[layout.CmdlineFile])), want) {
				t.Errorf("cmdline.txt lacks %q", want)
			}
		}
		if strings.Count(string(a[layout.CmdlineFile]), "\n") != 1 {
			t.Error("cmdline.txt is not one line")
		}
		// An arm64 kernel says so at byte 56.
		if kernel := unpack(t, a[layout.KernelFile]); string(kernel[56:60]) != "ARM\x64" {
			t.Errorf("kernel: %q", kernel[56:60])
		}
	})
	t.Run("manifest", func(t *testing.T) {
		text, err := os.ReadFile(r.Manifest.Path)
		if err != nil || !bytes.Equal(text, a[layout.ManifestFile]) {
			t.Errorf("the manifest beside the image is another (%v)", err)
		}
		m, err := bundle.ParseManifest(text)
		if err != nil {
			t.Fatal(err)
		}
		if m.Version != "v1.2.3-test" || m.Number != 3 || m.Floor != 2 || m.Board != bundle.BoardRPi || len(m.Files) != len(a)-2 {
			t.Errorf("%+v", m)
		}
		if !bytes.Equal(a[layout.SignaturesFile], c.Signatures) {
			t.Error("the signatures are others")
		}
	})
	t.Run("update", func(t *testing.T) { checkUpdate(t, r) })
	t.Run("template", func(t *testing.T) { checkTemplate(t, r, a[layout.TemplateFile]) })
	t.Run("nothing that must not be", func(t *testing.T) {
		if findings, err := imagetest.Audit(r.Image.Path); err != nil || len(findings) > 0 {
			t.Errorf("%q, %v", findings, err)
		}
	})
	t.Run("signatures of another system", func(t *testing.T) {
		c := c
		c.Number++
		if _, err := image.Build(t.Context(), c); !errors.Is(err, bundle.ErrSignature) {
			t.Error(err)
		}
	})
	t.Run("file systems", func(t *testing.T) {
		fsck, err := exec.LookPath("/usr/sbin/fsck.vfat")
		if err != nil {
			t.Skip("fsck.vfat is not installed")
		}
		for n := 1; n <= 3; n++ {
			name := filepath.Join(t.TempDir(), "fat")
			if err := os.WriteFile(name, bytesOf(t, r, n), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(fsck, "-n", name).CombinedOutput(); err != nil {
				t.Errorf("partition %d: %v\n%s", n, err, out)
			}
		}
	})
	t.Run("initramfs", func(t *testing.T) { checkInitramfs(t, a[layout.InitrdFile]) })
	t.Run("packed", func(t *testing.T) {
		f, err := os.Open(r.Packed.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := zstd.NewReader(f, zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		h := sha256.New()
		if n, err := io.Copy(h, z); err != nil || n != layout.ImageSize || hex.EncodeToString(h.Sum(nil)) != r.Image.SHA256 {
			t.Errorf("%d bytes, %v", n, err)
		}
		if r.Packed.Size > 36e6 {
			t.Errorf("%d bytes are too many without the programs; 40 MB is the limit with them", r.Packed.Size)
		}
	})
	t.Run("map", func(t *testing.T) { checkMap(t, r) })
	t.Run("bill", func(t *testing.T) {
		var bill struct {
			BOMFormat  string
			Metadata   struct{ Component struct{ Version string } }
			Components []struct{ Name, Version, Purl string }
		}
		decode(t, r.Bill.Path, &bill)
		var names []string
		for _, c := range bill.Components {
			names = append(names, c.Name)
			if c.Version == "" || c.Purl != "pkg:golang/"+c.Name+"@"+c.Version {
				t.Errorf("component %+v", c)
			}
		}
		if want := []string{"github.com/gokrazy/firmware", "github.com/gokrazy/kernel.rpi", "std"}; bill.BOMFormat != "CycloneDX" || bill.Metadata.Component.Version != "v1.2.3-test" || !slices.Equal(names, want) {
			t.Errorf("%+v, want %v", bill, want)
		}
	})
	t.Run("imager", func(t *testing.T) {
		var list struct {
			OSList []map[string]any `json:"os_list"`
		}
		decode(t, r.Imager.Path, &list)
		if len(list.OSList) != 1 {
			t.Fatal(list)
		}
		for key, want := range map[string]any{
			"url": "https://example.org/cobox/cobox.img.zst", "extract_size": float64(layout.ImageSize), "extract_sha256": r.Image.SHA256,
			"image_download_size": float64(r.Packed.Size), "image_download_sha256": r.Packed.SHA256, "release_date": "2026-03-04", "init_format": "none",
		} {
			if got := list.OSList[0][key]; got != want {
				t.Errorf("%s is %v, want %v", key, got, want)
			}
		}
	})
}

// bytesOf returns the bytes of a partition.
func bytesOf(t *testing.T, r *image.Result, n int) []byte {
	t.Helper()
	f, err := os.Open(r.Image.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := disk.Table(f)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := table.Partition(n)
	b := make([]byte, p.Size)
	if _, err := f.ReadAt(b, int64(p.Start)); err != nil {
		t.Fatal(err)
	}
	return b
}

// checkUpdate: a box that takes the update of this system writes the same slots,
// byte for byte, as the image has.
func checkUpdate(t *testing.T, r *image.Result) {
	s, err := disk.ReadSlot(r.Image.Path, layout.SlotA)
	if err != nil {
		t.Fatal(err)
	}
	update, err := imagetest.Bundle(s)
	if err != nil {
		t.Fatal(err)
	}
	_, keys := bundletest.Keys()
	for _, to := range []layout.Slot{layout.SlotA, layout.SlotB} {
		in, err := bundle.Open(bytes.NewReader(update), keys, bundle.State{Board: bundle.BoardRPi, Floor: 3})
		if err != nil {
			t.Fatal(err)
		}
		b, err := slot.Image(to, in)
		in.Close()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, bytesOf(t, r, to.Partition())) {
			t.Errorf("slot %s of the image differs from what a box writes", to)
		}
	}
}

// checkTemplate: a disk of its own gets the file system that the card has.
func checkTemplate(t *testing.T, r *image.Result, packed []byte) {
	z, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderMaxWindow(layout.TemplateWindow), zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	b, err := io.ReadAll(z)
	if err != nil || !bytes.Equal(b, bytesOf(t, r, 4)) {
		t.Errorf("%d bytes that are not those of the data partition, %v", len(b), err)
	}
	var h zstd.Header
	if err := h.Decode(packed); err != nil || h.FrameContentSize != layout.TemplateSize || h.WindowSize > layout.TemplateWindow || !h.HasCheckSum {
		t.Errorf("%+v, %v", h, err)
	}
	if len(packed) > 64<<10 {
		t.Errorf("%d bytes", len(packed))
	}
}

func partition(t *testing.T, r *image.Result, n int) map[string][]byte {
	t.Helper()
	list, err := disk.Partition(r.Image.Path, n)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, f := range list {
		files[f.Path] = f.Data
	}
	return files
}

func unpack(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("gzip tells a time or a name: %+v", z.Header)
	}
	out, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func decode(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// checkInitramfs: what is not here cannot run on a box.
func checkInitramfs(t *testing.T, b []byte) {
	records, err := initrd.Unpack(b)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range records {
		if r.UID != 0 || r.GID != 0 {
			t.Errorf("%s belongs to %d:%d", r.Name, r.UID, r.GID)
		}
		if r.Mode&(cpio.S_ISUID|cpio.S_ISGID) != 0 {
			t.Errorf("%s is set-uid", r.Name)
		}
		got[r.Name] = fmt.Sprintf("%o", r.Mode)
	}
	want := map[string]string{
		"init": "100755", "bin/coboxd": "100755",
		"etc/passwd": "100644", "etc/group": "100644", "etc/cobox-release": "100644", "etc/cobox-release.pub": "100644", "etc/resolv.conf": "120777",
		"dev/console": "20600", "tmp": "41777",
	}
	for _, dir := range []string{"bin", "boot", "card", "data", "dev", "etc", "proc", "run", "slot", "sys"} {
		want[dir] = "40755"
	}
	for name, mode := range want {
		if got[name] != mode {
			t.Errorf("%s has mode %q, want %q", name, got[name], mode)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("these are there too: %v", got)
	}
	for name, text := range map[string]string{"etc/cobox-release": "v1.2.3-test\n", "etc/resolv.conf": "/run/resolv.conf", "etc/cobox-release.pub": string(imagetest.ReleaseKeys())} {
		i := slices.IndexFunc(records, func(r cpio.Record) bool { return r.Name == name })
		b, err := io.ReadAll(io.NewSectionReader(records[i].ReaderAt, 0, 1<<20))
		if err != nil || string(b) != text {
			t.Errorf("%s holds %q, %v", name, b, err)
		}
	}
}

// checkMap copies by the map onto a card that is full of other bytes: every
// partition must be as in the image, but for free clusters.
func checkMap(t *testing.T, r *image.Result) {
	text, err := os.ReadFile(r.Map.Path)
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Version           string `xml:"version,attr"`
		ImageSize         string
		BlockSize         string
		MappedBlocksCount string
		BmapFileChecksum  string
		Ranges            []struct {
			Chksum string `xml:"chksum,attr"`
			Text   string `xml:",chardata"`
		} `xml:"BlockMap>Range"`
	}
	if err := xml.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	sum := strings.TrimSpace(m.BmapFileChecksum)
	own := sha256.Sum256(bytes.Replace(text, []byte(sum), []byte(strings.Repeat("0", 64)), 1))
	if hex.EncodeToString(own[:]) != sum {
		t.Error("the map's own checksum is wrong")
	}
	img, err := os.ReadFile(r.Image.Path)
	if err != nil {
		t.Fatal(err)
	}
	card := bytes.Repeat([]byte("old data"), len(img)/8)
	mapped := 0
	for _, g := range m.Ranges {
		var first, last int
		if n, _ := fmt.Sscanf(strings.TrimSpace(g.Text), "%d-%d", &first, &last); n == 1 {
			last = first
		}
		part := img[first*4096 : (last+1)*4096]
		if h := sha256.Sum256(part); hex.EncodeToString(h[:]) != g.Chksum {
			t.Errorf("the checksum of blocks %s is wrong", g.Text)
		}
		copy(card[first*4096:], part)
		mapped += last - first + 1
	}
	if strings.TrimSpace(m.MappedBlocksCount) != fmt.Sprint(mapped) || m.Version != "2.0" {
		t.Errorf("version %s, %s blocks; there are %d", m.Version, m.MappedBlocksCount, mapped)
	}
	if !bytes.Equal(card[layout.DataStart:], img[layout.DataStart:]) || !bytes.Equal(card[:512], img[:512]) {
		t.Error("the data partition or the partition table differs")
	}
	name := filepath.Join(t.TempDir(), "card.img")
	if err := os.WriteFile(name, card, 0o600); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		got, err := disk.Partition(name, n)
		want, _ := disk.Partition(r.Image.Path, n)
		if err != nil || !slices.EqualFunc(got, want, func(a, b fat32.File) bool { return a.Path == b.Path && bytes.Equal(a.Data, b.Data) }) {
			t.Errorf("partition %d differs (%v)", n, err)
		}
	}
	bmaptool, err := exec.LookPath("bmaptool")
	if err != nil {
		t.Skip("bmaptool is not installed")
	}
	target := filepath.Join(t.TempDir(), "by-bmaptool")
	if out, err := exec.Command(bmaptool, "copy", "--bmap", r.Map.Path, r.Image.Path, target).CombinedOutput(); err != nil {
		t.Errorf("bmaptool: %v\n%s", err, out)
	}
	if b, err := os.ReadFile(target); err != nil || !bytes.Equal(b, img) {
		t.Errorf("what bmaptool copied differs (%v)", err)
	}
}

func TestConfig(t *testing.T) {
	good := image.Config{Version: "1", Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Source: "..", Init: "./no/such/package", Out: t.TempDir()}
	for field, change := range map[string]func(*image.Config){
		"Version":           func(c *image.Config) { c.Version = "" },
		"Version ":          func(c *image.Config) { c.Version = "1\n2" },
		"Name":              func(c *image.Config) { c.Name = "../x" },
		"Time":              func(c *image.Config) { c.Time = time.Time{} },
		"Floor":             func(c *image.Config) { c.Number, c.Floor = 2, 3 },
		"Floor ":            func(c *image.Config) { c.Floor = 2 },
		"ReleaseKeys":       func(c *image.Config) { c.ReleaseKeys = []byte("no key") },
		"ReleaseKeys:":      func(c *image.Config) { k := bundletest.NewKey(1).Public(); c.ReleaseKeys = k.Append(nil) },
		"Signatures":        func(c *image.Config) { c.Signatures = []byte("no signature") },
		"./no/such/package": func(*image.Config) {},
	} {
		c := good
		change(&c)
		if _, err := image.Build(t.Context(), c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
