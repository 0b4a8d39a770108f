package disk

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHost plays computers with a disk sdx with one partition, whose number is
// 8:16 and 8:17.
func TestHost(t *testing.T) {
	const usb, sata = "devices/pci0/usb1/1-1/block/sdx", "devices/pci0/ata1/block/sdx"
	for _, c := range []struct {
		what   string
		dir    string
		files  map[string]string
		mounts string
		swaps  string
		number string
		reason string // "" means that it is taken
		force  string // the same with Force
	}{
		{what: "a card", dir: sata, files: map[string]string{"removable": "1\n"}},
		{what: "a USB disk", dir: usb, files: map[string]string{"removable": "0\n"}},
		{what: "a card in a reader that is built in", dir: "devices/mmc0/block/mmcblk0", files: map[string]string{"removable": "0\n", "device/type": "SD\n"}},
		{what: "eMMC", dir: "devices/mmc0/block/mmcblk0", files: map[string]string{"removable": "0\n", "device/type": "MMC\n"}, reason: "built into"},
		{what: "the computer's disk", dir: sata, files: map[string]string{"removable": "0\n"}, reason: "built into"},
		{what: "a mounted partition", dir: usb, mounts: "30 1 8:17 / /media/x rw - vfat /dev/sdx1 rw\n", reason: "mounted at /media/x"},
		{what: "a mounted partition of a btrfs, which has a number of its own", dir: usb, mounts: "30 1 0:40 / /media/y rw shared:1 - btrfs /dev/sdx1 rw\n", reason: "mounted at /media/y"},
		{what: "mounted as a whole", dir: usb, mounts: "30 1 8:16 / /media/z rw - vfat /dev/sdx rw\n", reason: "mounted at /media/z"},
		{what: "mounted twice", dir: usb, mounts: "30 1 8:17 / /media/x rw - vfat /dev/sdx1 rw\n31 1 8:17 / /media/w rw - vfat /dev/sdx1 rw\n", reason: "mounted at /media/x, mounted at /media/w"},
		{what: "another disk is mounted", dir: usb, mounts: "30 1 8:1 / / rw - ext4 /dev/sda1 rw\n"},
		{what: "swap", dir: usb, swaps: "Filename Type Size Used Priority\n/dev/sdx1 partition 1 0 -2\n", reason: "swap"},
		{what: "encrypted", dir: usb, files: map[string]string{"sdx1/holders/dm-0": ""}, reason: "part of dm-0"},
		{what: "a partition", dir: usb, number: "8:17", reason: "whole disk, /dev/sdx", force: "whole disk, /dev/sdx"},
	} {
		t.Run(c.what, func(t *testing.T) {
			root, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			h := host{sys: filepath.Join(root, "sys"), mounts: filepath.Join(root, "mountinfo"), swaps: filepath.Join(root, "swaps")}
			disk := filepath.Join(h.sys, c.dir)
			put := func(name, text string) {
				t.Helper()
				if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			put(filepath.Join(disk, "dev"), "8:16\n")
			put(filepath.Join(disk, "sdx1/dev"), "8:17\n")
			put(filepath.Join(disk, "sdx1/partition"), "1\n")
			put(h.mounts, c.mounts)
			put(h.swaps, c.swaps)
			for name, text := range c.files {
				put(filepath.Join(disk, name), text)
			}
			put(filepath.Join(h.sys, "dev/block/README"), "")
			for number, to := range map[string]string{"8:16": disk, "8:17": filepath.Join(disk, "sdx1")} {
				if err := os.Symlink(to, filepath.Join(h.sys, "dev/block", number)); err != nil {
					t.Fatal(err)
				}
			}
			if c.number == "" {
				c.number = "8:16"
			}
			for force, want := range map[bool]string{false: c.reason, true: c.force} {
				_, err := h.check("/dev/sdx", c.number, force)
				var refused *RefusedError
				switch {
				case want == "" && err != nil:
					t.Errorf("force %v: %v", force, err)
				case want != "" && (!errors.As(err, &refused) || !strings.Contains(err.Error(), want)):
					t.Errorf("force %v: %v, want a refusal with %q", force, err, want)
				case want != "" && refused.Overridable != (c.force == ""):
					t.Errorf("overridable: %v", refused.Overridable)
				}
			}
		})
	}
}

func TestModel(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"Generic STORAGE DEVICE": {"vendor": "Generic \n", "model": "STORAGE DEVICE  \n"},
		"SL32G":                  {"name": "SL32G\n", "serial": "0x1\n"},
		"bad[2Jname":             {"model": "bad\x1b[2J\xffname\n"},
		"":                       nil,
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "device"), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, "device", name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := model(dir); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
