package fat32_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cobox/image/fat32"
	"cobox/image/layout"
)

var made = time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)

// program runs a program that has to succeed, or skips the test.
func program(t *testing.T, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			t.Skipf("%s is not installed", name)
		}
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// someFiles are like those of a slot: long names, many in one directory, one of
// many megabytes, one that is empty, and sizes around a cluster.
func someFiles() []fat32.File {
	files := []fat32.File{
		{Path: "kernel8.img", Data: bytes.Repeat([]byte("kernel"), 3<<20)},
		{Path: "bcm2710-rpi-3-b-plus.dtb", Data: []byte("dtb")},
		{Path: "empty", Data: nil},
		{Path: "UPPER.TXT", Data: []byte("upper")},
		{Path: "Mixed.txt", Data: []byte("mixed")},
		{Path: "two.dots.txt", Data: []byte("dots")},
		{Path: "a/b/c/deep.txt", Data: []byte("deep")},
	}
	for _, n := range []int{1, 511, 512, 513, 1024} {
		files = append(files, fat32.File{Path: fmt.Sprintf("size-%d.txt", n), Data: bytes.Repeat([]byte{byte(n)}, n)})
	}
	for n := range 350 {
		files = append(files, fat32.File{Path: fmt.Sprintf("overlays/some-long-name-%03d.dtbo", n), Data: []byte(strings.Repeat("o", n))})
	}
	return files
}

func TestMake(t *testing.T) {
	for _, c := range []struct {
		size  int64
		label string
		files []fat32.File
	}{
		{layout.BootselSize, layout.BootselLabel, []fat32.File{{Path: "autoboot.txt", Data: layout.Autoboot{Slot: layout.SlotA}.Append(nil)}}},
		{layout.SlotSize, layout.SlotALabel, someFiles()},
	} {
		t.Run(c.label, func(t *testing.T) {
			b, err := fat32.Make(c.size, c.label, made, c.files)
			if err != nil {
				t.Fatal(err)
			}
			got, err := fat32.Read(bytes.NewReader(b), 0, c.size)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(c.files) {
				t.Errorf("%d files are there, want %d", len(got), len(c.files))
			}
			want := map[string][]byte{}
			for _, f := range c.files {
				want[f.Path] = f.Data
			}
			for _, f := range got {
				if !bytes.Equal(f.Data, want[f.Path]) {
					t.Errorf("%s has %d bytes that differ from the %d", f.Path, len(f.Data), len(want[f.Path]))
				}
			}
			// In another order and at another time it is the same.
			for i, j := 0, len(c.files)-1; i < j; i, j = i+1, j-1 {
				c.files[i], c.files[j] = c.files[j], c.files[i]
			}
			again, err := fat32.Make(c.size, c.label, made, c.files)
			if err != nil || !bytes.Equal(again, b) {
				t.Errorf("made again it differs (%v)", err)
			}
			if other, _ := fat32.Make(c.size, c.label, made.Add(time.Hour), c.files); bytes.Equal(other, b) {
				t.Error("the time is not in it")
			}
			name := filepath.Join(t.TempDir(), "fat")
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
			program(t, "fsck.vfat", "-n", name)
			// Others read what was written, too.
			dir := t.TempDir()
			program(t, "mcopy", "-s", "-i", name, "::/", dir)
			for path, data := range want {
				if b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(path))); err != nil || !bytes.Equal(b, data) {
					t.Errorf("mcopy makes of %s %d bytes, %v", path, len(b), err)
				}
			}
		})
	}
}

// TestRandom makes file systems of random trees and reads them again.
func TestRandom(t *testing.T) {
	fsck, _ := exec.LookPath("/usr/sbin/fsck.vfat")
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		size := []int64{layout.BootselSize, layout.SlotSize}[seed%2]
		want := map[string][]byte{}
		seen := map[string]bool{}
		var files []fat32.File
		for range r.IntN(400) {
			parts := make([]string, 1+r.IntN(3))
			for i := range parts[:len(parts)-1] {
				parts[i] = fmt.Sprintf("dir %d.d", r.IntN(5))
			}
			const letters = "abcXYZ019_-. ~+"
			name := make([]byte, 1+r.IntN(40))
			for i := range name {
				name[i] = letters[r.IntN(len(letters))]
			}
			parts[len(parts)-1] = "n" + string(name) + "e"
			path := strings.Join(parts, "/")
			if seen[strings.ToLower(path)] {
				continue
			}
			seen[strings.ToLower(path)] = true
			data := bytes.Repeat([]byte{byte(r.Uint32())}, r.IntN(5000))
			want[path] = data
			files = append(files, fat32.File{Path: path, Data: data})
		}
		b, err := fat32.Make(size, "RANDOM", made, files)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		got, err := fat32.Read(bytes.NewReader(b), 0, size)
		if err != nil || len(got) != len(want) {
			t.Fatalf("seed %d: %d files, want %d, %v", seed, len(got), len(want), err)
		}
		for _, f := range got {
			if w, ok := want[f.Path]; !ok || !bytes.Equal(f.Data, w) {
				t.Errorf("seed %d: %q differs", seed, f.Path)
			}
		}
		// What is behind the used part may be anything.
		used, err := fat32.Used(b)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for i := used; i < size; i++ {
			b[i] = 0xa5
		}
		if again, err := fat32.Read(bytes.NewReader(b), 0, size); err != nil || len(again) != len(want) {
			t.Errorf("seed %d: on a used card %d files, %v", seed, len(again), err)
		}
		if fsck == "" {
			continue
		}
		name := filepath.Join(t.TempDir(), "fat")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(fsck, "-n", name).CombinedOutput(); err != nil {
			t.Errorf("seed %d: fsck.vfat: %v\n%s", seed, err, out)
		}
	}
}

// FuzzUsed: whatever it is given, it says a number of bytes that are there.
func FuzzUsed(f *testing.F) {
	b, err := fat32.Make(layout.BootselSize, "X", made, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:1024])
	f.Add(b[:64<<10])
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := fat32.Used(b); err == nil && (n < 0 || n > int64(len(b))) {
			t.Errorf("%d of %d bytes", n, len(b))
		}
	})
}

func TestRefuses(t *testing.T) {
	for _, c := range []struct {
		why   string
		at    time.Time
		files []fat32.File
	}{
		{"a path upwards", made, []fat32.File{{Path: "../x"}}},
		{"a path from the root", made, []fat32.File{{Path: "/x"}}},
		{"a file that is a directory too", made, []fat32.File{{Path: "x"}, {Path: "x/y"}}},
		{"two names that differ in case", made, []fat32.File{{Path: "x"}, {Path: "X"}}},
		{"a name that is not ASCII", made, []fat32.File{{Path: "ä"}}},
		{"no path", made, []fat32.File{{Path: ""}}},
		{"more than fits", made, []fat32.File{{Path: "x", Data: make([]byte, layout.BootselSize)}}},
		{"a time before FAT", time.Unix(0, 0), nil},
	} {
		if _, err := fat32.Make(layout.BootselSize, "X", c.at, c.files); err == nil {
			t.Errorf("%s was taken", c.why)
		}
	}
}
