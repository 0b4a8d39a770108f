//go:build linux

package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cobox/image/layout"
)

func TestSlot(t *testing.T) {
	for _, c := range []struct {
		tree string
		want layout.Slot
	}{
		{"\x00\x00\x00\x02", layout.SlotA},
		{"\x00\x00\x00\x03", layout.SlotB},
		{"\x00\x00\x00\x01", 0},
		{"\x80\x00\x00\x02", 0},
		{"\x02\x00\x00\x00", 0},
		{"\x00\x02", 0},
		{"", 0},
	} {
		if got, err := slotOfTree([]byte(c.tree)); got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("device tree %x: %v, %v", c.tree, got, err)
		}
	}
	for _, c := range []struct {
		line string
		want layout.Slot
	}{
		{"console=ttyAMA0 cobox.slot=a panic=10\n", layout.SlotA},
		{"cobox.slot=b", layout.SlotB},
		{"cobox.slot=a cobox.slot=b", layout.SlotB},
		{"cobox.slot=c", 0},
		{"xcobox.slot=a cobox.slots=a", 0},
		{"", 0},
	} {
		if got, err := slotOfCmdline(c.line); got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%q: %v, %v", c.line, got, err)
		}
	}
}

// fakeDisk makes a disk as /sys and /dev show it.
func fakeDisk(t *testing.T, sys, dev, name string, sectors uint64, first []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(sys, name), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, b := range map[string][]byte{
		filepath.Join(sys, name, "size"): fmt.Appendf(nil, "%d\n", sectors),
		filepath.Join(dev, name):         first,
	} {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFindDisk(t *testing.T) {
	sys, dev := t.TempDir(), t.TempDir()
	ours, err := layout.NewTable(1 << 30)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := findDisk(sys, dev); err == nil {
		t.Error("a disk was found where there is none")
	}
	foreign := make([]byte, 512)
	copy(foreign[510:], "\x55\xaa")
	fakeDisk(t, sys, dev, "mmcblk0", 1<<22, foreign)
	fakeDisk(t, sys, dev, "sdb", 1<<20, nil)
	if _, err := findDisk(sys, dev); err == nil || !strings.Contains(err.Error(), "mmcblk0") {
		t.Errorf("somebody's disks: %v", err)
	}
	fakeDisk(t, sys, dev, "sda", 1<<21, ours.AppendMBR(nil))
	fakeDisk(t, sys, dev, "mmcblk0boot0", 1<<21, ours.AppendMBR(nil))
	fakeDisk(t, sys, dev, "loop0", 1<<21, ours.AppendMBR(nil))
	d, err := findDisk(sys, dev)
	if err != nil || d.name != "sda" || d.size != 1<<30 || *d.table != *ours {
		t.Fatalf("found %+v, %v", d, err)
	}
	fakeDisk(t, sys, dev, "mmcblk1", 1<<21, ours.AppendMBR(nil))
	if d, err := findDisk(sys, dev); err != nil || d.name != "mmcblk1" {
		t.Errorf("a card and a stick: %+v, %v", d, err)
	}
}

// TestPickDisk: of several CoBox disks the one counts that the firmware started from.
func TestPickDisk(t *testing.T) {
	for mode, kind := range map[string]string{
		"\x00\x00\x00\x01": "mmcblk", "\x00\x00\x00\x04": "sd", "\x00\x00\x00\x05": "sd", "\x00\x00\x00\x06": "nvme",
		"\x00\x00\x00\x02": "", "\x01\x00\x00\x00": "", "\x01": "", "": "",
	} {
		if got := kindOfMode([]byte(mode)); got != kind {
			t.Errorf("%q: %q", mode, got)
		}
	}
	for _, c := range []struct {
		all, kind, want string
		certain         bool
	}{
		{"mmcblk0", "", "mmcblk0", true},
		{"mmcblk0 sda", "", "mmcblk0", false},
		{"mmcblk0 sda", "sd", "sda", true},
		{"mmcblk0 sda", "mmcblk", "mmcblk0", true},
		{"mmcblk0 nvme0n1 sda sdb", "sd", "sda", false},
		{"mmcblk0 nvme0n1 sda", "nvme", "nvme0n1", true},
		{"mmcblk0", "sd", "mmcblk0", false},
		{"sda", "sd", "sda", true},
	} {
		var all []*disk
		for _, name := range strings.Fields(c.all) {
			all = append(all, &disk{name: name})
		}
		if d, certain := pickDisk(all, c.kind); d.name != c.want || certain != c.certain {
			t.Errorf("%+v: %s, %v", c, d.name, certain)
		}
	}
	sys, dev := t.TempDir(), t.TempDir()
	ours, err := layout.NewTable(1 << 30)
	if err != nil {
		t.Fatal(err)
	}
	fakeDisk(t, sys, dev, "sda", 1<<21, ours.AppendMBR(nil))
	fakeDisk(t, sys, dev, "mmcblk1", 1<<21, ours.AppendMBR(nil))
	if all, err := findDisks(sys, dev); err != nil || namesOf(all) != "mmcblk1, sda" {
		t.Errorf("%v, %v", all, err)
	}
}

func TestDiskNames(t *testing.T) {
	got := sortDisks([]string{"sdb", "ram0", "sda", "nvme0n1", "mmcblk0boot1", "vda", "mmcblk1", "mmcblk0", "mmcblk0rpmb", "loop3"})
	if want := []string{"mmcblk0", "mmcblk1", "vda", "nvme0n1", "sda", "sdb"}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	for name, want := range map[string]string{"mmcblk0": "mmcblk0p4", "nvme0n1": "nvme0n1p4", "sda": "sda4", "vda": "vda4"} {
		if got := (&disk{name: name}).partition(4); got != want {
			t.Errorf("partition 4 of %s is %s", name, got)
		}
	}
}

func TestKernelLine(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"plain", "<6>x: plain\n"},
		{"two\nlines\x1b[2J", "<6>x: two lines [2J\n"},
		{"in one \u009b2J\x7f", "<6>x: in one  2J \n"},
		{"bad \xff utf", "<6>x: bad ? utf\n"},
		{strings.Repeat("ä", 1000), "<6>x: " + strings.Repeat("ä", maxKernelLine/2) + "…\n"},
	} {
		if got := kernelLine(kernelInfo, "x", c.text); got != c.want {
			t.Errorf("%.40q: %q", c.text, got)
		}
	}
	var b strings.Builder
	k := newKernelLog()
	k.out = &b
	slog.New(k).With("a", 1).Error("it failed", "error", os.ErrNotExist)
	if got := b.String(); got != "<3>cobox-init: it failed a=1 error=\"file does not exist\"\n" {
		t.Errorf("%q", got)
	}
}

func TestCopyLines(t *testing.T) {
	copied := func(text string, now func() time.Time) (lines []string, left int) {
		copyLines(strings.NewReader(text), 16, now, func(l string) { lines = append(lines, l) }, func(n int) { left += n })
		return lines, left
	}
	still := func() time.Time { return time.Time{} }
	lines, left := copied("one\r\n\n"+strings.Repeat("x", 100)+"\nexactly 16 byte\nlast", still)
	if want := []string{"one", "xxxxxxxxxxxxxxxx", "exactly 16 byte", "last"}; !slices.Equal(lines, want) || left != 0 {
		t.Errorf("got %q, %d left out", lines, left)
	}
	lines, left = copied(strings.Repeat("again\n", 1000), still)
	if len(lines) != lineBurst || left != 1000-lineBurst {
		t.Errorf("%d lines, %d left out", len(lines), left)
	}
	at := time.Time{}
	lines, left = copied(strings.Repeat("again\n", 1000), func() time.Time { at = at.Add(50 * time.Millisecond); return at })
	if n := len(lines); n < lineBurst+450 || n > lineBurst+550 || n+left != 1000 {
		t.Errorf("%d lines in 50 s, %d left out", n, left)
	}
}

func TestDaemonLevel(t *testing.T) {
	for line, want := range map[string]slog.Level{
		`time=2026-11-26T12:00:00Z level=INFO msg="box is running"`: slog.LevelInfo,
		`time=2026-11-26T12:00:00Z level=ERROR msg=x`:               slog.LevelError,
		`time=x level=NONSENSE msg=x`:                               slog.LevelWarn,
		`panic: runtime error`:                                      slog.LevelWarn,
	} {
		if got := daemonLevel(line); got != want {
			t.Errorf("%q is %v", line, got)
		}
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{first: time.Second, limit: time.Minute}
	for round := range 2 {
		for i, want := range []int{1, 2, 4, 8, 16, 32, 60, 60} {
			if got := b.wait(); got != time.Duration(want)*time.Second {
				t.Errorf("round %d, wait %d: %v", round, i, got)
			}
		}
		b.reset()
	}
}
