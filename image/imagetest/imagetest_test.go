package imagetest_test

import (
	"bytes"
	"encoding/binary"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
	"cobox/image/disk"
	"cobox/image/fat32"
	"cobox/image/imagetest"
	"cobox/image/initrd"
	"cobox/image/layout"
	"cobox/image/slot"
)

// program returns an arm64 program as far as its header goes, which perhaps names
// an interpreter.
func program(interpreter bool) []byte {
	le := binary.LittleEndian
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)   // can be run
	le.PutUint16(b[18:], 183) // arm64
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[32:], 64) // program headers
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	le.PutUint16(b[58:], 64)
	le.PutUint32(b[64:], 1) // to load
	if interpreter {
		le.PutUint32(b[64:], 3)
	}
	return b
}

func goodRecords() []cpio.Record {
	return []cpio.Record{
		cpio.Directory("bin", 0o755),
		cpio.StaticFile("bin/coboxd", string(program(false)), 0o755),
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.Directory("etc", 0o755),
		cpio.StaticFile("etc/cobox-release", "1\n", 0o644),
		cpio.StaticFile("etc/cobox-release.pub", "of somebody\n", 0o644),
		cpio.Symlink("etc/resolv.conf", "/run/resolv.conf"),
		cpio.StaticFile("init", string(program(false)), 0o755),
		cpio.Directory("tmp", 0o1777),
	}
}

func pack(t *testing.T, records []cpio.Record) []byte {
	t.Helper()
	b, err := initrd.Pack(records, initrd.Quick)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// files returns those of an initramfs, each with its mode and contents.
func files(t *testing.T, initramfs []byte) map[string]string {
	t.Helper()
	records, err := initrd.Unpack(initramfs)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, r := range records {
		b, err := initrd.Content(r)
		if err != nil {
			t.Fatal(err)
		}
		found[r.Info.String()[:strings.Index(r.Info.String(), ":")]+" "+r.Name] = string(b)
		found[r.Name] = string(b)
	}
	return found
}

func system(t *testing.T, records []cpio.Record) *disk.Slot {
	t.Helper()
	f := bundle.Contents{layout.InitrdFile: pack(t, records), "kernel8.img": []byte("kernel"), "overlays/x.dtbo": nil}
	m := &bundle.Manifest{Version: "1", Number: 1, Floor: 1, Board: bundle.BoardRPi, Files: f.Describe()}
	return &disk.Slot{Manifest: m, Files: f}
}

// image makes an image with a system in both slots.
func image(t *testing.T, s *disk.Slot) string {
	t.Helper()
	bootsel, err := fat32.Make(layout.BootselSize, layout.BootselLabel, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		[]fat32.File{{Path: layout.AutobootFile, Data: layout.Autoboot{Slot: layout.SlotA}.Append(nil)}})
	if err != nil {
		t.Fatal(err)
	}
	c := &disk.Contents{Bootsel: bootsel, Data: make([]byte, layout.TemplateSize)}
	for to, b := range map[layout.Slot]*[]byte{layout.SlotA: &c.SlotA, layout.SlotB: &c.SlotB} {
		if *b, err = slot.Image(to, slot.NewFiles(s.Manifest, s.Signatures, s.Files.Open)); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(t.TempDir(), "x.img")
	if err := disk.Write(name, 0o600, c); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestRepack(t *testing.T) {
	before := pack(t, goodRecords())
	after, err := imagetest.Repack(before, map[string][]byte{"init": []byte("longer than it was, or shorter"), "etc/cobox-release": nil})
	if err != nil {
		t.Fatal(err)
	}
	want := files(t, before)
	for name := range want {
		if name == "init" || strings.HasSuffix(name, " init") {
			want[name] = "longer than it was, or shorter"
		}
		if strings.HasSuffix(name, "etc/cobox-release") {
			want[name] = ""
		}
	}
	if got := files(t, after); !maps.Equal(got, want) {
		t.Errorf("%v\n%v", got, want)
	}
	for _, name := range []string{"/init", "no/such", "bin", "etc/resolv.conf", "dev/console"} {
		if _, err := imagetest.Repack(before, map[string][]byte{name: nil}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := imagetest.Repack([]byte("no archive"), nil); err == nil {
		t.Error("something that is no initramfs was taken")
	}
}

// TestVariant: a variant that is installed as an update and one that is put into
// an image have the same bytes, and a box with the test keys takes it.
func TestVariant(t *testing.T) {
	name := image(t, system(t, goodRecords()))
	first, err := disk.ReadSlot(name, layout.SlotA)
	if err != nil {
		t.Fatal(err)
	}
	v := &imagetest.Variant{Version: "2", Number: 7, Floor: 3, Initramfs: map[string][]byte{"init": []byte("broken")},
		Slot: map[string][]byte{"cmdline.txt": []byte("more\n"), "kernel8.img": []byte("another")}}
	s, err := v.Of(first)
	if err != nil {
		t.Fatal(err)
	}
	if m := s.Manifest; m.Version != "2" || m.Number != 7 || m.Floor != 3 || m.Board != bundle.BoardRPi || len(m.Files) != 4 {
		t.Errorf("%+v", m)
	}
	if m := first.Manifest; m.Version != "1" || string(first.Files["kernel8.img"]) != "kernel" {
		t.Errorf("the system that it was made of has changed: %+v", m)
	}
	in := files(t, s.Files[layout.InitrdFile])
	keys, err := bundle.ParsePublicKeys([]byte(in["etc/cobox-release.pub"]))
	if err != nil || in["init"] != "broken" || in["etc/cobox-release"] != "2\n" {
		t.Errorf("%v %v", in, err)
	}
	set, err := bundle.NewKeys(bundle.ReleaseThreshold, keys...)
	if err != nil {
		t.Fatal(err)
	}
	b, err := imagetest.Bundle(s)
	if err != nil {
		t.Fatal(err)
	}
	r, err := bundle.Open(bytes.NewReader(b), set, bundle.State{Board: bundle.BoardRPi, Floor: 7})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	updated, err := slot.Image(layout.SlotB, r)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := imagetest.Install(name, layout.SlotB, s); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	table, err := layout.ParseMBR(after[:layout.SectorSize])
	if err != nil {
		t.Fatal(err)
	}
	p, _ := table.Partition(layout.SlotB.Partition())
	if !bytes.Equal(after[p.Start:p.End()], updated) {
		t.Error("the slot differs from that of an update")
	}
	if !bytes.Equal(before[:p.Start], after[:p.Start]) || !bytes.Equal(before[p.End():], after[p.End():]) {
		t.Error("something else has changed")
	}
	again, err := disk.ReadSlot(name, layout.SlotB)
	if err != nil || again.Manifest.Number != 7 || len(again.Signatures) != 2 {
		t.Errorf("%+v, %v", again, err)
	}

	// Who signs, and what for, can be wrong.
	for want, v := range map[error]*imagetest.Variant{
		bundle.ErrSignature: {Signers: []int{3}},
		bundle.ErrBoard:     {Board: "amd64"},
		bundle.ErrTooOld:    {Number: 2},
	} {
		s, err := v.Of(s)
		if err != nil {
			t.Fatal(err)
		}
		b, err := imagetest.Bundle(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bundle.Open(bytes.NewReader(b), set, bundle.State{Board: bundle.BoardRPi, Floor: 3}); err == nil || !strings.Contains(err.Error(), want.Error()) {
			t.Errorf("%v, want %v", err, want)
		}
	}
}

// TestAudit plants all that must not be, and it is found.
func TestAudit(t *testing.T) {
	name := image(t, system(t, goodRecords()))
	if findings, err := imagetest.Audit(name); err != nil || len(findings) > 0 {
		t.Errorf("an image that is good: %q, %v", findings, err)
	}

	key := string(pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: make([]byte, 100)}))
	records := goodRecords()
	set := func(name string, change func(*cpio.Record)) {
		i := slices.IndexFunc(records, func(r cpio.Record) bool { return r.Name == name })
		change(&records[i])
	}
	set("etc", func(r *cpio.Record) { r.UID = 1000 })
	set("init", func(r *cpio.Record) { r.Mode |= cpio.S_ISUID })
	set("bin/coboxd", func(r *cpio.Record) { r.Mode |= 0o022 })
	set("tmp", func(r *cpio.Record) { r.Mode = cpio.S_IFDIR | 0o777 })
	records = append(records,
		cpio.StaticFile("bin/BusyBox", string(program(true)), 0o755),
		cpio.StaticFile("bin/data", "no program", 0o755),
		cpio.StaticFile("etc/hidden", string(program(false)), 0o644),
		cpio.StaticFile("etc/rc", "#!/bin/x\n", 0o644),
		cpio.CharDev("dev/mem", 0o600, 1, 1),
		cpio.StaticFile("etc/key", "text before\n"+key, 0o600),
		cpio.StaticFile("etc/seed", "x"+string(bundletest.NewKey(2).Private.Seed()), 0o600),
		cpio.StaticFile("etc/words", "-----BEGIN RSA PRIVATE KEY-----\nis what a program looks for", 0o644),
		cpio.StaticFile("etc/minisign.key", "untrusted comment: x\nRWQAAEIy"+strings.Repeat("Ab0+", 40), 0o600),
	)
	bad := system(t, records)
	bad.Files["overlays/sh"] = []byte("a shell by its name")
	bad.Manifest.Files = bad.Files.Describe()
	if err := imagetest.Install(name, layout.SlotA, bad); err != nil {
		t.Fatal(err)
	}
	if err := disk.WriteBootsel(name, layout.ProvisionFile, []byte("identity"), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// In what is free, across the border of what is read at once.
	if _, err := f.WriteAt([]byte(key), layout.DataStart+199<<20+4096-40); err != nil {
		t.Fatal(err)
	}
	got, err := imagetest.Audit(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"boot selection: provision is an identity",
		"slot a, initramfs: etc belongs to 1000:0",
		"slot a, initramfs: init is set-uid or set-gid",
		"slot a, initramfs: bin/coboxd can be written by others than root",
		"slot a, initramfs: tmp can be changed by others than root",
		"slot a, initramfs: bin/BusyBox needs libraries",
		"slot a, initramfs: bin/BusyBox has the name of a shell",
		"slot a, initramfs: bin/data can be run, and is no program",
		"slot a, initramfs: etc/hidden is a program that is not marked as one",
		"slot a, initramfs: etc/rc is a script",
		"slot a, initramfs: dev/mem is a device",
		`slot a, initramfs: etc/key has a private key, "-----BEGIN OPENSSH PRIVA"`,
		"slot a, initramfs: etc/seed has the test key 2",
		`slot a, initramfs: etc/minisign.key has a private key, "RWQAAEIyAb0+`,
		`slot a, initramfs: the programs are ["bin/BusyBox" "bin/coboxd" "bin/data" "init"]`,
		"slot a: overlays/sh has the name of a shell",
		"image: the part at 428 MiB has a private key",
	} {
		i := slices.IndexFunc(got, func(s string) bool { return strings.HasPrefix(s, want) })
		if i < 0 {
			t.Errorf("not found: %s", want)
			continue
		}
		got = slices.Delete(got, i, i+1)
	}
	if len(got) > 0 {
		t.Errorf("found as well: %q", got)
	}
	if _, err := imagetest.Audit(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("an image that is not there is good")
	}
}
