//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"cobox/appliance/datadir"
	"cobox/appliance/machine"
	imagedisk "cobox/image/disk"
	"cobox/image/holds"
	"cobox/image/layout"
)

// plugged is a computer with disks: a tree like /sys/block, and one like /dev.
type plugged struct {
	t        testing.TB
	sys, dev string
	bus      string
}

func newPlugged(t testing.TB) *plugged {
	root := t.TempDir()
	p := &plugged{t: t, sys: filepath.Join(root, "sys/block"), dev: filepath.Join(root, "dev"), bus: filepath.Join(root, "sys/devices")}
	for _, dir := range []string{p.sys, p.dev, p.bus} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// plug adds a disk whose directory in /sys has these files.
func (p *plugged) plug(name, at string, size int64, files map[string]string) string {
	p.t.Helper()
	dir := filepath.Join(p.bus, at, "block", name)
	if files == nil {
		files = map[string]string{}
	}
	files["size"] = strconv.FormatInt(size/512, 10)
	for file, text := range files {
		path := filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text+"\n"), 0o644)); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := os.Symlink(dir, filepath.Join(p.sys, name)); err != nil {
		p.t.Fatal(err)
	}
	path := filepath.Join(p.dev, name)
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		p.t.Fatal(err)
	}
	return path
}

func (p *plugged) unplug(name string) {
	p.t.Helper()
	if err := errors.Join(os.Remove(filepath.Join(p.sys, name)), os.Remove(filepath.Join(p.dev, name))); err != nil {
		p.t.Fatal(err)
	}
}

func TestListDisks(t *testing.T) {
	p := newPlugged(t)
	usb := filepath.Join(p.bus, "pci/usb1/1-1")
	if err := os.MkdirAll(usb, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"idVendor": "0781", "idProduct": "5583", "serial": "4C53"} {
		if err := os.WriteFile(filepath.Join(usb, name), []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p.plug("sda", "pci/usb1/1-1/1-1:1.0/host0", 8<<30, map[string]string{"device/vendor": "SanDisk ", "device/model": "Ultra  Fit\x1b[31m", "ro": "0", "queue/logical_block_size": "512"})
	p.plug("sdb", "pci/ata1", 16<<30, map[string]string{"device/wwid": "naa.5000c500a1b2c3d4", "device/model": "ST1000", "ro": "1", "queue/logical_block_size": "4096"})
	p.plug("mmcblk0", "mmc0", 32<<30, map[string]string{"device/name": "SD32G", "device/cid": "0353445344333247"})
	p.plug("nvme0n1", "pci/nvme0", 64<<30, map[string]string{"wwid": "eui.0025385b", "device/model": "Samsung SSD"})
	p.plug("vda", "virtio0", 1<<30, map[string]string{"serial": "abc", "device/vendor": "0x1af4"})
	p.plug("vdb", "virtio1", 1<<30, nil)
	for _, name := range []string{"loop0", "ram0", "zram0", "sr0", "dm-0", "md0", "mmcblk0boot0", "mmcblk0rpmb"} {
		p.plug(name, "other/"+name, 1<<30, nil)
	}
	p.plug("sdc", "reader", 0, nil) // without a card in it
	list, err := listDisks(p.sys)
	if err != nil {
		t.Fatal(err)
	}
	want := []blockDisk{
		{"mmcblk0", "SD32G", 32 << 30, 512, false, "0353445344333247"},
		{"nvme0n1", "Samsung SSD", 64 << 30, 512, false, "eui.0025385b"},
		{"sda", "SanDisk Ultra Fit[31m", 8 << 30, 512, false, "usb 0781:5583 4C53"},
		{"sdb", "ST1000", 16 << 30, 4096, true, "naa.5000c500a1b2c3d4"},
		{"vda", "disk without a name", 1 << 30, 512, false, "abc"},
		{"vdb", "disk without a name", 1 << 30, 512, false, filepath.Join(p.bus, "virtio1/block/vdb")},
	}
	if len(list) != len(want) {
		t.Fatalf("%d disks: %+v", len(list), list)
	}
	ids := map[[4]byte]string{}
	for i, d := range list {
		if d != want[i] {
			t.Errorf("got %+v, want %+v", d, want[i])
		}
		if other, twice := ids[d.id()]; twice {
			t.Errorf("%s and %s have one ID", d.device, other)
		}
		ids[d.id()] = d.device
	}
	// The same disk elsewhere is the same; of another size it is another.
	if again := (&blockDisk{device: "sdz", key: "abc", bytes: 1 << 30}); again.id() != want[4].id() {
		t.Error("a disk has another ID at another place")
	}
	if other := (&blockDisk{key: "abc", bytes: 1<<30 + 512}); other.id() == want[4].id() {
		t.Error("a disk of another size has the same ID")
	}
}

var thisBox, otherBox = [32]byte{1}, [32]byte{2}

func TestDescribeDisks(t *testing.T) {
	const size = 1 << 30
	data := func(box [32]byte, filled bool) *holds.Contents {
		d, err := layout.NewDataDisk(size, layout.DataDiskID{0xab, 0xcd, 0xef, 1, 15: 9}, box)
		if err != nil {
			t.Fatal(err)
		}
		d.Filled = filled
		return &holds.Contents{Kind: holds.Data, Found: "data", Disk: d}
	}
	blank := &holds.Contents{Kind: holds.Blank}
	sda := blockDisk{device: "sda", name: "Disk", bytes: size, sector: 512, key: "k"}
	with := func(change func(*blockDisk, *surroundings)) (blockDisk, surroundings) {
		b, s := sda, surroundings{card: "mmcblk0", box: thisBox, used: 100 << 20}
		change(&b, &s)
		return b, s
	}
	for _, c := range []struct {
		what   string
		change func(*blockDisk, *surroundings)
		found  *holds.Contents
		err    error
		holds  machine.Holds
		unfit  string // a part of it; "": none
		id     string
	}{
		{what: "blank", found: blank, holds: machine.HoldsNothing},
		{what: "the card", change: func(b *blockDisk, _ *surroundings) { b.device = "mmcblk0" }, holds: machine.HoldsSystem, unfit: "starts from it"},
		{what: "unreadable", err: errors.New("injected"), holds: machine.HoldsForeign, unfit: "injected"},
		{what: "foreign", found: &holds.Contents{Found: "a file system ext4 named \"PHOTOS\""}, holds: machine.HoldsForeign, unfit: "not blank"},
		{what: "another system", found: &holds.Contents{Kind: holds.System, Found: "a CoBox"}, holds: machine.HoldsOther, unfit: "starts from it"},
		{what: "another box's data", found: data(otherBox, true), holds: machine.HoldsOther, unfit: "somebody's data", id: "abcdef01"},
		{what: "another box's data, not all of it", found: data(otherBox, false), holds: machine.HoldsOther, unfit: "somebody's data", id: "abcdef01"},
		{what: "this box's of former times", found: data(thisBox, true), holds: machine.HoldsOther, unfit: "newer cannot be told", id: "abcdef01"},
		{what: "a copy that was not ended", found: data(thisBox, false), holds: machine.HoldsOther, id: "abcdef01"},
		{what: "in use", change: func(_ *blockDisk, s *surroundings) { s.inUse = "sda" }, found: data(thisBox, true), holds: machine.HoldsData, unfit: "in use", id: "abcdef01"},
		{what: "the data is missing", change: func(_ *blockDisk, s *surroundings) { s.missing = "disk 01020304" }, found: blank, holds: machine.HoldsNothing, unfit: "disk 01020304, which is missing"},
		{what: "read-only", change: func(b *blockDisk, _ *surroundings) { b.readOnly = true }, found: blank, holds: machine.HoldsNothing, unfit: "cannot be written"},
		{what: "large sectors", change: func(b *blockDisk, _ *surroundings) { b.sector = 4096 }, found: blank, holds: machine.HoldsNothing, unfit: "sectors have 4096"},
		{what: "too small for the data", change: func(_ *blockDisk, s *surroundings) { s.used = 900 << 20 }, found: blank, holds: machine.HoldsNothing, unfit: "too small: the box's data needs 1201 MiB"},
		{what: "too small for anything", change: func(b *blockDisk, s *surroundings) { b.bytes = 8 << 20 }, found: blank, holds: machine.HoldsNothing, unfit: "too small: the box's data needs 361 MiB"},
	} {
		if c.change == nil {
			c.change = func(*blockDisk, *surroundings) {}
		}
		b, s := with(c.change)
		s.look = func(blockDisk) (*holds.Contents, error) { return c.found, c.err }
		d := describeDisks([]blockDisk{b}, s)[0]
		if c.id == "" {
			c.id = shortID(b.id())
		}
		if d.Holds != c.holds || (d.Unfit == "") != (c.unfit == "") || !strings.Contains(d.Unfit, c.unfit) || d.ID != c.id || d.Bytes != b.bytes || d.Name != "Disk" || d.Device != b.device {
			t.Errorf("%s: %+v", c.what, d)
		}
	}
	// Two that nothing tells apart.
	twin := sda
	twin.device = "sdb"
	_, s := with(func(*blockDisk, *surroundings) {})
	s.look = func(blockDisk) (*holds.Contents, error) { return blank, nil }
	for _, d := range describeDisks([]blockDisk{sda, twin}, s) {
		if !strings.Contains(d.Unfit, "same ID") {
			t.Errorf("a twin: %+v", d)
		}
	}
}

func TestFindDataDisk(t *testing.T) {
	const size = 300 << 20
	p := newPlugged(t)
	id := layout.DataDiskID{0xab, 0xcd, 0xef, 1, 15: 9}
	put := func(name string, id layout.DataDiskID, of uint64) {
		d, err := layout.NewDataDisk(of, id, thisBox)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(filepath.Join(p.dev, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(writeHeader(f, d), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	missing := func(what, part string) {
		t.Helper()
		device, _, err := findDataDisk(p.sys, p.dev, "mmcblk0", id)
		var m *missingError
		if !errors.As(err, &m) || !strings.Contains(m.text, part) {
			t.Errorf("%s: %q, %v", what, device, err)
		}
	}
	p.plug("mmcblk0", "mmc0", size, nil)
	put("mmcblk0", id, size) // a card that lies is no data disk
	p.plug("sda", "usb1", size, nil)
	missing("a blank disk", "disk abcdef01, which is not plugged in")
	put("sda", layout.DataDiskID{0xab, 0xcd, 0xef, 1, 15: 8}, size)
	missing("another data disk that begins alike", "not plugged in")
	p.plug("sdb", "usb2", size, nil)
	put("sdb", id, size)
	device, d, err := findDataDisk(p.sys, p.dev, "mmcblk0", id)
	if err != nil || device != "sdb" || d.ID != id || d.Box != thisBox {
		t.Errorf("%q %+v %v", device, d, err)
	}
	p.plug("sdc", "usb3", size, nil)
	put("sdc", id, size)
	missing("a clone", "two disks are plugged in")
	p.unplug("sdb")
	if device, _, err := findDataDisk(p.sys, p.dev, "mmcblk0", id); err != nil || device != "sdc" {
		t.Errorf("after one of the two was unplugged: %q %v", device, err)
	}
	put("sdc", id, 2*size)
	missing("a disk that shows half of itself", "only a part of itself")
}

func TestDataDiskFile(t *testing.T) {
	card := t.TempDir()
	if _, named, err := readDataDisk(card); named || err != nil {
		t.Errorf("no file: %v %v", named, err)
	}
	id := layout.DataDiskID{0xab, 15: 1}
	if err := writeDurably(filepath.Join(card, dataDiskFile), []byte("ab00000000000000000000000000001\n"), 0o600, os.Getuid()); err != nil {
		t.Fatal(err)
	}
	// Whatever is in it: the data is not on the card.
	if _, named, err := readDataDisk(card); !named || err == nil {
		t.Errorf("a damaged file: %v %v", named, err)
	}
	if err := writeDurably(filepath.Join(card, dataDiskFile), []byte("ab000000000000000000000000000001\n"), 0o600, os.Getuid()); err != nil {
		t.Fatal(err)
	}
	if got, named, err := readDataDisk(card); !named || err != nil || got != id {
		t.Errorf("%v %v %v", got, named, err)
	}
}

// template is the empty file system, as a slot has it.
func template(t *testing.T) (plain, packed []byte) {
	t.Helper()
	plain, err := imagedisk.Data(t.Context(), time.Unix(1_700_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil, zstd.WithWindowSize(layout.TemplateWindow))
	if err != nil {
		t.Fatal(err)
	}
	return plain, z.EncodeAll(plain, nil)
}

func TestPrepareDisk(t *testing.T) {
	const size = 300<<20 + 12345*512
	plain, packed := template(t)
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	b := blockDisk{device: "sda", bytes: size, key: "k"}
	header, err := newHeader(b, thisBox)
	if err != nil {
		t.Fatal(err)
	}
	if shortOf(header.ID) != shortID(b.id()) {
		t.Errorf("the disk was %s and is %s now", shortID(b.id()), shortOf(header.ID))
	}
	tell := func(done, total uint64) {
		if done == 0 || done > total || total != layout.TemplateSize {
			t.Errorf("told %d of %d", done, total)
		}
	}
	check := func(what string) {
		t.Helper()
		c, err := holds.Look(f, size)
		if err != nil || c.Kind != holds.Data || *c.Disk != *header || c.Disk.Filled {
			t.Errorf("%s: the disk is %+v, %v", what, c, err)
		}
		got := make([]byte, layout.TemplateSize)
		if _, err := f.ReadAt(got, layout.DataDiskStart); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: the file system is not the template: %v", what, err)
		}
	}
	// Cut off in the middle, the disk is ours, not filled, and can be used again.
	ctx, cancel := context.WithCancel(t.Context())
	err = prepareDisk(ctx, f, size, header, bytes.NewReader(packed), func(done, total uint64) {
		tell(done, total)
		if done > total/2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("cut off: %v", err)
	}
	if c, err := holds.Look(f, size); err != nil || c.Kind != holds.Data || c.Disk.Filled {
		t.Fatalf("cut off: the disk is %+v, %v", c, err)
	}
	// What the first attempt has left, and more, must not show.
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xee}, 5<<20), layout.DataDiskStart+100<<20); err != nil {
		t.Fatal(err)
	}
	if err := prepareDisk(t.Context(), f, size, header, bytes.NewReader(packed), tell); err != nil {
		t.Fatal(err)
	}
	check("the second time")

	// Templates that are not what they should be.
	for what, bad := range map[string][]byte{"short": packed[:len(packed)/2], "none": nil, "no zstd": plain[:1000]} {
		if err := prepareDisk(t.Context(), f, size, header, bytes.NewReader(bad), tell); err == nil {
			t.Errorf("a template that is %s was written", what)
		}
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	long := z.EncodeAll(append(plain[:len(plain):len(plain)], 0), nil)
	if err := prepareDisk(t.Context(), f, size, header, bytes.NewReader(long), func(uint64, uint64) {}); err == nil {
		t.Error("a template that is too long was written")
	}

	// A disk that is something else by now is not touched.
	filled := *header
	filled.Filled = true
	other := *header
	other.Box = otherBox
	for what, sector := range map[string][]byte{"filled": filled.Append(nil), "another box's": other.Append(nil), "foreign": []byte("XFSB")} {
		if _, err := f.WriteAt(make([]byte, layout.SectorSize), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(sector, 0); err != nil {
			t.Fatal(err)
		}
		before := hashOf(t, path)
		if err := prepareDisk(t.Context(), f, size, header, bytes.NewReader(packed), tell); err == nil {
			t.Errorf("a disk that is %s was overwritten", what)
		}
		if hashOf(t, path) != before {
			t.Errorf("a disk that is %s was changed", what)
		}
	}
}

func TestMarkFilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<30)); err != nil {
		t.Fatal(err)
	}
	d, err := layout.NewDataDisk(1<<30, layout.DataDiskID{1}, thisBox)
	if err != nil {
		t.Fatal(err)
	}
	if err := markFilled(path, d); err != nil {
		t.Fatal(err)
	}
	if got, err := readHeader(path); err != nil || !got.Filled || got.ID != d.ID || d.Filled {
		t.Errorf("%+v %v", got, err)
	}
}

func hashOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return string(h.Sum(nil))
}

// TestUseDiskBusy: no data is moved while the system changes, and the system does
// not change while data is moved.
func TestUseDiskBusy(t *testing.T) {
	for says, change := range map[string]func(u *updates){
		"on trial":         func(u *updates) { u.chosen = layout.SlotB },
		"about to restart": func(u *updates) { u.leaving = true },
		"found its disk":   func(u *updates) { u.loaded = false },
		"with an update":   func(u *updates) { u.changing.Lock() },
	} {
		s := newFakeCard(t, layout.SlotA).start(t, layout.SlotA)
		change(s.updates)
		_, err := s.answer(t.Context(), &machine.Question{Method: machine.MethodUseDisk})
		if code(t, err) != machine.CodeBusy || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
		if s.updates.changing.TryLock() == (says == "with an update") {
			t.Errorf("%s: the lock", says)
		}
	}
	s := newFakeCard(t, layout.SlotA).start(t, layout.SlotA)
	s.updates.changing.Lock() // as a move does until it ends
	if _, err := s.updates.install(t.Context(), nil); code(t, err) != machine.CodeBusy {
		t.Errorf("install: %v", err)
	}
	if err := s.updates.try(t.Context()); code(t, err) != machine.CodeBusy {
		t.Errorf("try: %v", err)
	}
}

// TestLostDataDisk: the mark counts when the file that names the disk is lost.
func TestLostDataDisk(t *testing.T) {
	card := t.TempDir()
	dir := filepath.Join(card, dataName)
	mark := filepath.Join(dir, datadir.MovedFile)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	is := func(want layout.DataDiskID, named, lost bool) {
		t.Helper()
		if id, ok, err := readDataDisk(card); id != want || ok != named || err != nil || lostDataDisk(card) != lost {
			t.Errorf("%x %v %v", id, ok, err)
		}
	}
	a, b := layout.DataDiskID{1}, layout.DataDiskID{2}
	is(layout.DataDiskID{}, false, true)
	if err := renewMark(dir, a); err != nil {
		t.Fatal(err)
	}
	is(layout.DataDiskID{}, false, true) // there was no mark
	if err := os.WriteFile(mark, datadir.AppendMoved(nil, a), 0o600); err != nil {
		t.Fatal(err)
	}
	is(a, true, true)
	if err := os.WriteFile(filepath.Join(card, dataDiskFile), datadir.AppendMoved(nil, b), 0o600); err != nil {
		t.Fatal(err)
	}
	is(b, true, false)
	if os.Getuid() == 0 {
		if err := errors.Join(renewMark(dir, b), os.Remove(filepath.Join(card, dataDiskFile))); err != nil {
			t.Fatal(err)
		}
		is(b, true, true)
	}
	os.Remove(filepath.Join(card, dataDiskFile))
	if err := os.WriteFile(mark, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := readDataDisk(card); !ok || err == nil {
		t.Errorf("a damaged mark: %v, %v", ok, err)
	}
}
