package disk_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"cobox/image/bundle"
	"cobox/image/disk"
	"cobox/image/fat32"
	"cobox/image/initrd"
	"cobox/image/layout"
)

var made = time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)

func check(t *testing.T, program string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed", program)
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", program, err, out)
	}
}

func TestData(t *testing.T) {
	b, err := disk.Data(t.Context(), made)
	if errors.Is(err, disk.ErrNoMke2fs) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	again, err := disk.Data(t.Context(), made)
	if err != nil || !bytes.Equal(b, again) {
		t.Errorf("made again it differs (%v)", err)
	}
	name := filepath.Join(t.TempDir(), "ext4")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, "e2fsck", "-fn", name)
	const superblock, backup = 1024, 32768 * 4096
	const labelOffset = superblock + 120
	if got := string(bytes.TrimRight(b[labelOffset:labelOffset+16], "\x00")); got != layout.DataLabel {
		t.Errorf("label %q", got)
	}
	// A box gives it a UUID of its own. Nothing but the superblocks knows the old one.
	check(t, "tune2fs", "-U", "c0b0c0b0-1111-4222-8333-444444444444", name)
	check(t, "e2fsck", "-fn", name)
	changed, err := os.ReadFile(name)
	if err != nil || bytes.Equal(b, changed) {
		t.Fatal("the UUID is the old one", err)
	}
	for i := range b {
		if b[i] != changed[i] && i/1024 != superblock/1024 && i/1024 != backup/1024 {
			t.Fatalf("byte %d depends on the UUID", i)
		}
	}
}

func TestNoMke2fs(t *testing.T) {
	if _, err := exec.LookPath("/usr/sbin/mke2fs"); err == nil {
		t.Skip("mke2fs is where it is always looked for")
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := disk.Data(t.Context(), made); !errors.Is(err, disk.ErrNoMke2fs) {
		t.Error(err)
	}
}

// image makes a small, valid image without ext4.
func image(t *testing.T) (string, *disk.Contents) {
	t.Helper()
	var c disk.Contents
	var err error
	if c.Bootsel, err = fat32.Make(layout.BootselSize, layout.BootselLabel, made, []fat32.File{{Path: "autoboot.txt", Data: layout.Autoboot{Slot: layout.SlotA}.Append(nil)}}); err != nil {
		t.Fatal(err)
	}
	if c.SlotA, err = fat32.Make(layout.SlotSize, layout.SlotALabel, made, []fat32.File{{Path: "kernel8.img", Data: []byte("a")}}); err != nil {
		t.Fatal(err)
	}
	if c.SlotB, err = fat32.Make(layout.SlotSize, layout.SlotBLabel, made, []fat32.File{{Path: "kernel8.img", Data: []byte("b")}}); err != nil {
		t.Fatal(err)
	}
	c.Data = make([]byte, layout.TemplateSize)
	copy(c.Data[layout.TemplateSize-4:], "last")
	name := filepath.Join(t.TempDir(), "x.img")
	if err := disk.Write(name, 0o600, &c); err != nil {
		t.Fatal(err)
	}
	return name, &c
}

func TestWrite(t *testing.T) {
	name, c := image(t)
	b, err := os.ReadFile(name)
	if err != nil || len(b) != layout.ImageSize {
		t.Fatal(len(b), err)
	}
	table, err := layout.ParseMBR(b[:layout.SectorSize])
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]byte{c.Bootsel, c.SlotA, c.SlotB, c.Data} {
		p, _ := table.Partition(i + 1)
		if !bytes.Equal(b[p.Start:p.End()], want) {
			t.Errorf("partition %d differs", i+1)
		}
	}
	for n, want := range map[int]string{2: "a", 3: "b"} {
		files, err := disk.Partition(name, n)
		if err != nil || len(files) != 1 || string(files[0].Data) != want {
			t.Errorf("partition %d: %v %v", n, files, err)
		}
	}
	if _, err := disk.Partition(name, 4); err == nil {
		t.Error("the data partition was read as FAT32")
	}
	c.SlotB = c.SlotB[1:]
	if err := disk.Write(name, 0o600, c); err == nil {
		t.Error("a partition of the wrong size was taken")
	}
}

// TestReadSlot: a slot is read if every file of its manifest is there as it was
// described, whatever else is there.
func TestReadSlot(t *testing.T) {
	files := bundle.Contents{"kernel8.img": []byte("kernel"), "overlays/empty": nil}
	m := &bundle.Manifest{Version: "1", Number: 3, Floor: 2, Board: bundle.BoardRPi, Files: files.Describe()}
	text, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	name, _ := image(t)
	put := func(change func(map[string]string)) {
		t.Helper()
		all := map[string]string{
			layout.ManifestFile: string(text), "kernel8.img": "kernel", "overlays/empty": "", "System Volume Information/x": "of another system",
		}
		change(all)
		var list []fat32.File
		for path, data := range all {
			list = append(list, fat32.File{Path: path, Data: []byte(data)})
		}
		b, err := fat32.Make(layout.SlotSize, layout.SlotBLabel, made, list)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(b, layout.BootselStart+layout.BootselSize+layout.SlotSize); err != nil {
			t.Fatal(err)
		}
	}
	put(func(map[string]string) {})
	s, err := disk.ReadSlot(name, layout.SlotB)
	if err != nil {
		t.Fatal(err)
	}
	if s.Manifest.Number != 3 || len(s.Signatures) != 0 || len(s.Files) != 2 || string(s.Files["kernel8.img"]) != "kernel" {
		t.Errorf("%+v", s)
	}
	for says, change := range map[string]func(map[string]string){
		"there is no manifest.txt":                    func(all map[string]string) { delete(all, layout.ManifestFile) },
		"bundle: manifest":                            func(all map[string]string) { all[layout.ManifestFile] = "x" },
		"bundle: signature":                           func(all map[string]string) { all[layout.SignaturesFile] = "x" },
		"overlays/empty is missing":                   func(all map[string]string) { delete(all, "overlays/empty") },
		"kernel8.img is not the file of the manifest": func(all map[string]string) { all["kernel8.img"] = "Kernel" },
	} {
		put(change)
		if _, err := disk.ReadSlot(name, layout.SlotB); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", says, err)
		}
	}
}

func TestWriteBootsel(t *testing.T) {
	name, c := image(t)
	for _, secret := range []string{"first secret", "second"} {
		if err := disk.WriteBootsel(name, layout.ProvisionFile, []byte(secret), made); err != nil {
			t.Fatal(err)
		}
		files, err := disk.Partition(name, 1)
		if err != nil || len(files) != 2 || files[1].Path != layout.ProvisionFile || string(files[1].Data) != secret {
			t.Fatalf("%v %v", files, err)
		}
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("first secret")) {
		t.Error("the secret that was replaced is still in the image")
	}
	if !bytes.Equal(b[layout.BootselStart+layout.BootselSize:][:layout.SlotSize], c.SlotA) {
		t.Error("another partition has changed")
	}
	foreign := filepath.Join(t.TempDir(), "foreign")
	if err := os.WriteFile(foreign, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := disk.WriteBootsel(foreign, "x", nil, made); !errors.Is(err, disk.ErrNotImage) {
		t.Error("a disk that is not ours:", err)
	}
}

func TestCopy(t *testing.T) {
	name, _ := image(t)
	to := filepath.Join(t.TempDir(), "copy.img")
	if err := disk.Copy(to, 0o600, name); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(name)
	b, err := os.ReadFile(to)
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("the copy differs (%v)", err)
	}
	if info, _ := os.Stat(to); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if err := disk.Copy(to, 0o600, name); !errors.Is(err, os.ErrExist) {
		t.Error("a file that is there was overwritten:", err)
	}
}

// TestReleaseKeys: they are read where the system has them.
func TestReleaseKeys(t *testing.T) {
	archive := func(records ...cpio.Record) []byte {
		t.Helper()
		b, err := initrd.Pack(records, initrd.Quick)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	other, keys := cpio.StaticFile("init", "x", 0o755), cpio.StaticFile("etc/cobox-release.pub", "the keys", 0o644)
	slot := disk.Slot{Files: bundle.Contents{layout.InitrdFile: archive(other, keys)}}
	if got, err := slot.ReleaseKeys(); err != nil || string(got) != "the keys" {
		t.Errorf("%q, %v", got, err)
	}
	for what, b := range map[string][]byte{"no keys": archive(other), "no initramfs": nil, "cut": archive(other, keys)[:100]} {
		slot.Files[layout.InitrdFile] = b
		if got, err := slot.ReleaseKeys(); err == nil {
			t.Errorf("%s: %q", what, got)
		}
	}
}

// TestPackedPartition: a packed image has the files of the image, and a copy of it
// has its bytes.
func TestPackedPartition(t *testing.T) {
	plain, zst, b := packed(t)
	if err := disk.WriteBootsel(plain, "x", nil, made); err == nil {
		t.Error("a partition of noise was read")
	}
	files, err := disk.Partition(zst, 3)
	if err != nil || len(files) != 1 || string(files[0].Data) != "b" {
		t.Errorf("%v, %v", files, err)
	}
	to := filepath.Join(t.TempDir(), "copy")
	if err := disk.Copy(to, 0o600, zst); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, want) {
		t.Error("the copy differs", err)
	}
	for _, b := range [][]byte{b[:len(b)-1], b[:1<<20], nil} {
		if err := disk.Copy(filepath.Join(t.TempDir(), "copy"), 0o600, put(t, b)); err == nil {
			t.Errorf("%d bytes were taken for an image", len(b))
		}
	}
}
