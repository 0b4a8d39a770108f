package boottest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"cobox/image/layout"
)

// usbDisk is a USB disk in a file. It stays the same disk wherever it is plugged
// in.
type usbDisk struct {
	t      testing.TB
	node   string // of QEMU
	path   string
	serial string
}

func newUSBDisk(t testing.TB, node string, size int64) *usbDisk {
	t.Helper()
	d := &usbDisk{t: t, node: node, path: filepath.Join(t.TempDir(), node+".img"), serial: "COBOX-" + node}
	f, err := os.Create(d.path)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// withUSB gives a machine a USB controller, and the disks that can be plugged in.
func withUSB(m computer, disks ...*usbDisk) computer {
	m.args = append(m.args, "-device", "qemu-xhci,id=x")
	for _, d := range disks {
		m.args = append(m.args, "-blockdev", fmt.Sprintf("driver=raw,node-name=%s,file.driver=file,file.filename=%s,cache.direct=off", d.node, d.path))
	}
	return m
}

// plug plugs a disk into a running machine.
func (v *vm) plug(d *usbDisk) {
	v.t.Helper()
	v.qmp("device_add", map[string]any{"driver": "usb-storage", "bus": "x.0", "drive": d.node, "id": "usb-" + d.node, "serial": d.serial})
}

// pull pulls it out, whatever it does at that moment.
func (v *vm) pull(d *usbDisk) {
	v.t.Helper()
	v.qmp("device_del", map[string]any{"id": "usb-" + d.node})
}

// plugged is the argument with which a disk is there from the beginning.
func plugged(m computer, d *usbDisk) computer {
	m.args = append(m.args[:len(m.args):len(m.args)], "-device", fmt.Sprintf("usb-storage,bus=x.0,drive=%s,id=usb-%s,serial=%s", d.node, d.node, d.serial))
	return m
}

func (d *usbDisk) sum() string {
	d.t.Helper()
	f, err := os.Open(d.path)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		d.t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// boxDisk is a line of "box disk list --json".
type boxDisk struct {
	ID     string
	Bytes  int64
	Holds  string
	Found  string
	Usable bool
	Unfit  string
}

// disks lists what the box sees.
func (m *member) disks() (list []boxDisk) {
	m.t.Helper()
	for line := range strings.Lines(m.must("box", "disk", "list", "--json")) {
		var d struct {
			Type string
			boxDisk
		}
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			m.t.Fatalf("%s: %v", line, err)
		}
		if d.Type == "disk" {
			list = append(list, d.boxDisk)
		}
	}
	return list
}

// disk waits until the box sees the disk of a size.
func (m *member) disk(size int64) boxDisk {
	m.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		list := m.disks()
		for _, d := range list {
			if d.Bytes == size {
				return d
			}
		}
		if time.Now().After(end) {
			m.t.Fatalf("the box sees no disk of %d bytes, but %+v", size, list)
		}
	}
}

// says waits until "box status" says what matches.
func (m *member) says(pattern string, atMost time.Duration) {
	m.t.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(atMost); ; time.Sleep(500 * time.Millisecond) {
		out, _ := m.run("box", "status")
		if re.MatchString(out) {
			return
		}
		if time.Now().After(end) {
			m.t.Fatalf("the box does not say %q within %v, but\n%s", pattern, atMost, out)
		}
	}
}

// owned boots a new box, and pairs it with somebody who has backed something up.
func owned(t *testing.T, m computer) (v *vm, me *member, src string) {
	t.Helper()
	v = start(t, m)
	me = &member{t: t, home: t.TempDir()}
	me.must("init", "--phrase-out", filepath.Join(me.home, "words"))
	me.pair(v, v.wait(pairingCode, 2*time.Minute)[1], 2*time.Minute)
	src = tree(t, 40, 200_000, 11)
	me.must("backup", src)
	return v, me, src
}

func (m *member) restores(src string) {
	m.t.Helper()
	target := filepath.Join(m.t.TempDir(), "back")
	m.must("restore", "--target", target, "--snapshot", "latest")
	same(m.t, src, target)
}

// debugfs looks into the ext4 of a disk that no machine uses.
func debugfs(t *testing.T, image string, offset uint64, command string) string {
	t.Helper()
	out, err := exec.Command("/usr/sbin/debugfs", "-R", command, fmt.Sprintf("%s?offset=%d", image, offset)).Output()
	if err != nil {
		t.Fatalf("debugfs: %v", err)
	}
	return string(out)
}

// fsck checks the file system of a disk that no machine uses.
func fsck(t *testing.T, image string, offset uint64) {
	t.Helper()
	if out, err := exec.Command("/usr/sbin/e2fsck", "-f", "-n", fmt.Sprintf("%s?offset=%d", image, offset)).CombinedOutput(); err != nil {
		t.Errorf("e2fsck of %s: %v\n%s", filepath.Base(image), err, out)
	}
}

// templateUUID is what every new file system begins with.
const templateUUID = "c0b0c0b0-0000-4000-8000-000000000001"

// TestDataDisk lets a blank disk take the data, and then the box do without it.
func TestDataDisk(t *testing.T) {
	const size = 8 << 30
	usb := newUSBDisk(t, "u1", size)
	m := withUSB(card(t, 4<<30), usb)
	m.cmdline += " cobox.tidy=5"
	v, me, src := owned(t, plugged(m, usb))
	d := me.disk(size)
	if !d.Usable || d.Holds != "nothing" {
		t.Fatalf("a blank disk is %+v", d)
	}
	if out, code := me.run("box", "disk", "use", d.ID); code != 2 {
		t.Errorf("without --yes: code %d\n%s", code, out)
	}
	if out, code := me.run("box", "disk", "use", "00000000", "--yes"); code != 1 || !strings.Contains(out, d.ID) {
		t.Errorf("an unknown disk: code %d\n%s", code, out)
	}
	began := time.Now()
	out := me.must("box", "disk", "use", d.ID, "--yes")
	t.Logf("moved in %v\n%s", time.Since(began).Round(time.Second), out)
	me.says("Data on +disk "+d.ID, time.Minute)
	me.restores(src)
	me.must("box", "check")
	more := tree(t, 40, 200_000, 12)
	me.must("backup", more)
	if d := me.disk(size); d.Usable || d.Holds != "data" {
		t.Errorf("the disk in use is %+v", d)
	}
	if out, code := me.run("box", "disk", "use", d.ID, "--yes"); code != 1 || !strings.Contains(out, "already") {
		t.Errorf("the disk in use, once more: code %d\n%s", code, out)
	}
	log := me.must("box", "log")
	for _, want := range []string{"the data moves to disk " + d.ID, "to disk " + d.ID} {
		if !strings.Contains(log, want) {
			t.Errorf("the box's log does not say %q:\n%s", want, log)
		}
	}
	v.wait("the card has none of the data any more", time.Minute)
	v.powerButton(30 * time.Second)
	v.sound()

	left := debugfs(t, m.disk, layout.DataStart, "ls -l /coboxd")
	for _, name := range []string{"identity", "peers", "moved"} {
		if !regexp.MustCompile(`\b` + name + `\b`).MatchString(left) {
			t.Errorf("the card has no %s:\n%s", name, left)
		}
	}
	if regexp.MustCompile(`\bdb\b`).MatchString(left) {
		t.Errorf("the card has the data still:\n%s", left)
	}
	fsck(t, m.disk, layout.DataStart)
	fsck(t, usb.path, layout.DataDiskStart)
	if header := debugfs(t, usb.path, layout.DataDiskStart, "stats"); strings.Contains(header, templateUUID) || !strings.Contains(header, "Filesystem UUID") {
		t.Errorf("the disk has no UUID of its own:\n%.500s", header)
	}
	sector := make([]byte, layout.SectorSize)
	f, err := os.Open(usb.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.ReadFull(f, sector); err != nil {
		t.Fatal(err)
	}
	if h, err := layout.ParseDataDisk(sector); err != nil || !h.Filled {
		t.Errorf("the disk's first sector: %+v %v", h, err)
	}

	// The disk is there at the next start.
	v = start(t, plugged(m, usb))
	me.await(v, 2*time.Minute)
	me.restores(more)
	v.powerButton(30 * time.Second)
	v.sound()

	// It is missing, and the box says so and keeps nothing.
	v = start(t, m)
	me.says("State +waits: its data lies on disk "+d.ID+", which is not plugged in", 2*time.Minute)
	again := tree(t, 20, 100_000, 13)
	out, code := me.run("backup", again)
	if code != 4 || !strings.Contains(out, "its data lies on disk "+d.ID) || !strings.Contains(out, "kept on this computer") {
		t.Errorf("a backup to a box without its data: code %d\n%s", code, out)
	}
	if out, code := me.run("box", "members"); code != 4 {
		t.Errorf("members of a box without its data: code %d\n%s", code, out)
	}
	// Another blank disk does not make it start empty.
	v.plug(usb)
	me.says("Data on +disk "+d.ID+`\n`, 2*time.Minute)
	me.must("backup", again)
	me.restores(again)
	me.must("box", "check")
	if log := me.must("box", "log"); !strings.Contains(log, "was missing for") {
		t.Errorf("the box's log does not say that its data was missing:\n%s", log)
	}
	v.powerButton(30 * time.Second)
	v.sound()
	fsck(t, usb.path, layout.DataDiskStart)
}

// TestForeignDisks: what is on a disk is told, and never touched.
func TestForeignDisks(t *testing.T) {
	const gib = 1 << 30
	ext4, fat, clone := newUSBDisk(t, "u1", gib), newUSBDisk(t, "u2", gib+layout.SectorSize*2048), newUSBDisk(t, "u3", 2*gib)
	photos := t.TempDir()
	if err := os.WriteFile(filepath.Join(photos, "wedding.jpg"), bytes.Repeat([]byte("photo"), 100_000), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		{"/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-L", "PHOTOS", "-d", photos, ext4.path},
		{"/usr/sbin/mkfs.vfat", "-F", "32", "-n", "CAMERA", fat.path},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}
	// Another box's data, all of it.
	other, err := layout.NewDataDisk(2*gib, layout.DataDiskID{0xab, 0xcd, 0xef, 1}, [32]byte{7})
	if err != nil {
		t.Fatal(err)
	}
	other.Filled = true
	f, err := os.OpenFile(clone.path, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt(other.Append(nil), 0)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	all := []*usbDisk{ext4, fat, clone}
	before := map[string]string{}
	m := withUSB(card(t, 4<<30), all...) // none of them is as large as the card
	for _, d := range all {
		before[d.path] = d.sum()
		m = plugged(m, d)
	}
	v, me, src := owned(t, m)
	for _, c := range []struct {
		size         int64
		holds, found string
		refusal      string
	}{
		{gib, "foreign", `a file system ext4 named "PHOTOS"`, "never erases"},
		{gib + layout.SectorSize*2048, "foreign", `a file system FAT32 named "CAMERA"`, "never erases"},
		{2 * gib, "cobox", "the data of another CoBox", "somebody's data"},
	} {
		d := me.disk(c.size)
		if d.Holds != c.holds || d.Found != c.found || d.Usable {
			t.Errorf("%+v, want %+v", d, c)
		}
		out, code := me.run("box", "disk", "use", d.ID, "--yes")
		if code != 1 || !strings.Contains(out, c.refusal) || c.holds == "foreign" && !strings.Contains(out, c.found) {
			t.Errorf("taking it into use: code %d\n%s", code, out)
		}
	}
	t.Log(me.must("box", "disk", "list"))
	me.restores(src)
	v.powerButton(30 * time.Second)
	v.sound()
	for _, d := range all {
		if d.sum() != before[d.path] {
			t.Errorf("disk %s was changed", d.node)
		}
	}
}

// TestDataDiskPulledOut pulls the disk out while a backup is written to it.
func TestDataDiskPulledOut(t *testing.T) {
	t.Parallel() // it waits for most of its time
	const size = 4 << 30
	usb := newUSBDisk(t, "u1", size)
	m := withUSB(card(t, 2<<30), usb)
	v, me, _ := owned(t, plugged(m, usb))
	d := me.disk(size)
	me.must("box", "disk", "use", d.ID, "--yes")
	const files, each = 60, 700_000
	for i := range 2 {
		src := tree(t, files, each, uint64(21+i))
		said := me.interrupted(v, usb.node, files*each/3, src)
		v.pull(usb)
		out, code := me.end(said)
		if code != 4 {
			t.Errorf("a backup while the disk is pulled out: code %d\n%s", code, out)
		}
		me.says("State +waits: its data lies on disk "+d.ID+", which is not plugged in", 2*time.Minute)
		v.plug(usb)
		me.says("Data on +disk "+d.ID+`\n`, 2*time.Minute)
		me.must("box", "check")
		me.must("backup", src)
		me.restores(src)
		me.must("verify", "--all-data")
	}
	v.powerButton(30 * time.Second)
	fsck(t, usb.path, layout.DataDiskStart)
}
