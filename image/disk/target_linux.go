package disk

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// targetFlags open a target. O_EXCL makes the kernel refuse a block device that
// something uses, also where the checks before did not see it; without O_CREATE
// it means nothing for a file.
func targetFlags(force bool) int {
	if force {
		return os.O_WRONLY
	}
	return os.O_WRONLY | unix.O_EXCL
}

// sizeUnknown says that a size of 0 means nothing.
const sizeUnknown = false

// checkTarget refuses disks that are better left alone.
func checkTarget(device string, force bool) (*Target, error) {
	var st unix.Stat_t
	err := unix.Stat(device, &st)
	if err != nil {
		return nil, missing(device, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return &Target{Device: device, File: true}, nil
	case unix.S_IFBLK:
	default:
		return nil, &RefusedError{Device: device, Reason: "neither a disk nor a file"}
	}
	h := host{sys: "/sys", mounts: "/proc/self/mountinfo", swaps: "/proc/swaps"}
	return h.check(device, fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), force)
}

// host is where Linux tells about its disks.
type host struct{ sys, mounts, swaps string }

// check looks at the disk with a device number such as "8:16".
func (h host) check(device, number string, force bool) (*Target, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(h.sys, "dev/block", number))
	if err != nil {
		return nil, fmt.Errorf("disk: looking at %s: %w", device, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		return nil, &RefusedError{Device: device, Reason: "a partition; name the whole disk, /dev/" + filepath.Base(filepath.Dir(dir))}
	}
	t := &Target{Device: device, Model: model(dir)}
	if t.Used, err = h.usedBy(dir); err != nil {
		return nil, fmt.Errorf("disk: looking at %s: %w", device, err)
	}
	switch {
	case force:
	case t.Used != "":
		return nil, &RefusedError{Device: device, Reason: "in use: " + t.Used, Overridable: true}
	case !removable(dir):
		return nil, &RefusedError{Device: device, Reason: "no card and no USB disk: it is built into this computer", Overridable: true}
	}
	return t, nil
}

// model returns maker and model of a disk. Cards have a name instead.
func model(dir string) string {
	var words []string
	for _, name := range []string{"vendor", "model", "name"} {
		b, err := os.ReadFile(filepath.Join(dir, "device", name))
		if err != nil {
			continue
		}
		// It is the disk's own text.
		text := strings.Map(func(r rune) rune {
			if r == utf8.RuneError || !unicode.IsPrint(r) {
				return -1
			}
			return r
		}, string(b))
		if text = strings.TrimSpace(text); text != "" {
			words = append(words, text)
		}
	}
	return strings.Join(words, " ")
}

// usedBy says what uses a disk or a partition of it.
func (h host) usedBy(dir string) (string, error) {
	parts, err := filepath.Glob(filepath.Join(dir, "*", "partition"))
	if err != nil {
		return "", err
	}
	numbers, names := map[string]bool{}, map[string]bool{}
	for _, p := range append([]string{dir}, dirsOf(parts)...) {
		b, err := os.ReadFile(filepath.Join(p, "dev"))
		if err != nil {
			return "", err
		}
		numbers[strings.TrimSpace(string(b))] = true
		names["/dev/"+filepath.Base(p)] = true
		holders, err := os.ReadDir(filepath.Join(p, "holders"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if len(holders) > 0 {
			return filepath.Base(p) + " is part of " + holders[0].Name(), nil
		}
	}
	// Fields of mountinfo: id, parent, device number, root, mount point; and behind
	// "-": type, source.
	used, err := scan(h.mounts, func(f []string) string {
		if len(f) < 5 {
			return ""
		}
		source := ""
		for i := range f {
			if f[i] == "-" && i+2 < len(f) {
				source = f[i+2]
			}
		}
		if numbers[f[2]] || names[source] {
			return "mounted at " + f[4]
		}
		return ""
	})
	if err != nil {
		return "", err
	}
	swap, err := scan(h.swaps, func(f []string) string {
		if names[f[0]] {
			return "swap space"
		}
		return ""
	})
	return strings.Join(append(used, swap...), ", "), err
}

func dirsOf(names []string) []string {
	for i, n := range names {
		names[i] = filepath.Dir(n)
	}
	return names
}

// scan returns what find has to say to the lines of a file, each thing once.
func scan(name string, find func(fields []string) string) (all []string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 0 {
			if found := find(fields); found != "" && !slices.Contains(all, found) {
				all = append(all, found)
			}
		}
	}
	return all, lines.Err()
}

// removable tells whether a disk is one that people plug in. Card readers that
// are built in and USB disks say "removable 0", so where the disk hangs counts
// too.
func removable(dir string) bool {
	if b, err := os.ReadFile(filepath.Join(dir, "removable")); err == nil && strings.TrimSpace(string(b)) == "1" {
		return true
	}
	if b, err := os.ReadFile(filepath.Join(dir, "device", "type")); err == nil && strings.TrimSpace(string(b)) == "SD" {
		return true
	}
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(part, "usb") {
			return true
		}
	}
	return false
}

// forget drops what the kernel still holds of a disk in memory.
func forget(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeDevice != 0 {
		return unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
