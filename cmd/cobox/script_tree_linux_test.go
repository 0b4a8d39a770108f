package main

import (
	"context"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"cobox/storage/archive/fstree"
)

func number(ts *testscript.TestScript, s string) int {
	n, err := strconv.Atoi(strings.ReplaceAll(s, "_", ""))
	ts.Check(err)
	return n
}

// tree DIR FILES SIZE [SEED]: makes so many files of up to SIZE random bytes,
// in folders, with modes and times of their own. The same numbers give the same
// tree.
func treeCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: tree DIR FILES SIZE [SEED]")
	}
	seed := 1
	if len(args) > 3 {
		seed = number(ts, args[3])
	}
	dir, files, size := ts.MkAbs(args[0]), number(ts, args[1]), number(ts, args[2])
	rnd := rand.New(rand.NewPCG(uint64(seed), uint64(files)))
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	ts.Check(os.MkdirAll(dir, 0o755))
	dirs := []string{dir}
	for i := range files {
		if rnd.IntN(8) == 0 {
			sub := filepath.Join(dirs[rnd.IntN(len(dirs))], fmt.Sprintf("folder %d", i))
			ts.Check(os.Mkdir(sub, 0o755))
			dirs = append(dirs, sub)
		}
		path := filepath.Join(dirs[rnd.IntN(len(dirs))], fmt.Sprintf("file-%d", i))
		b := make([]byte, rnd.IntN(size+1))
		src.Read(b)
		ts.Check(os.WriteFile(path, b, 0o600))
		ts.Check(os.Chmod(path, []fs.FileMode{0o644, 0o600, 0o755, 0o440}[rnd.IntN(4)]))
		at := time.Unix(rnd.Int64N(2_000_000_000), rnd.Int64N(1_000_000_000))
		ts.Check(os.Chtimes(path, at, at))
	}
}

// edit DIR SEED: changes, grows, renames, deletes and adds some files.
func editCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: edit DIR SEED")
	}
	dir, seed := ts.MkAbs(args[0]), number(ts, args[1])
	rnd := rand.New(rand.NewPCG(uint64(seed), 7))
	var paths []string
	ts.Check(filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			paths = append(paths, p)
		}
		return err
	}))
	for i, p := range paths {
		switch rnd.IntN(12) {
		case 0:
			ts.Check(os.Remove(p))
		case 1:
			ts.Check(os.Rename(p, fmt.Sprintf("%s renamed %d", p, seed)))
		case 2:
			ts.Check(os.WriteFile(filepath.Join(filepath.Dir(p), fmt.Sprintf("new %d-%d", seed, i)), []byte(p), 0o640))
		case 3, 4:
			ts.Check(os.Chmod(p, 0o600))
			f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
			ts.Check(err)
			_, err = fmt.Fprintf(f, "edited %d", seed)
			ts.Check(err)
			ts.Check(f.Close())
		}
	}
}

// same A B: the trees are the same in every byte, mode, owner, time and link.
func sameCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: same A B")
	}
	diffs, err := fstree.Diff(context.Background(), ts.MkAbs(args[0]), ts.MkAbs(args[1]), fstree.DiffOptions{Limit: 20})
	ts.Check(err)
	if neg == (len(diffs) > 0) {
		return
	}
	var b strings.Builder
	for _, d := range diffs {
		fmt.Fprintln(&b, d)
	}
	ts.Fatalf("%s and %s: %d differences\n%s", args[0], args[1], len(diffs), b.String())
}

// special DIR: makes one of every file that is hard to keep.
func specialCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: special DIR")
	}
	dir := ts.MkAbs(args[0])
	at := func(name string) string { return filepath.Join(dir, name) }
	ts.Check(os.MkdirAll(at("empty folder"), 0o700))
	ts.Check(os.WriteFile(at("not utf-8 \xff\xfe"), []byte("bytes are bytes\n"), 0o604))
	ts.Check(os.WriteFile(at("line\nbreak\x1b[31m"), []byte("x"), 0o600))
	ts.Check(os.WriteFile(at(strings.Repeat("n", 255)), []byte("long"), 0o600))
	ts.Check(os.WriteFile(at("empty"), nil, 0o600))
	ts.Check(os.Symlink("/does/not/exist\xff", at("dangling")))
	ts.Check(os.Symlink("loop", at("loop")))
	ts.Check(os.WriteFile(at("one"), []byte("of two names"), 0o644))
	ts.Check(os.Link(at("one"), at("other")))
	ts.Check(unix.Mkfifo(at("fifo"), 0o640))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at("socket"), Net: "unix"})
	ts.Check(err)
	l.SetUnlinkOnClose(false)
	ts.Check(l.Close())
	ts.Check(os.WriteFile(at("program"), []byte("#!/bin/sh\n"), 0o755))
	ts.Check(unix.Chmod(at("program"), 0o6755))
	ts.Check(os.Mkdir(at("shared"), 0o755))
	ts.Check(unix.Chmod(at("shared"), 0o1777))
	sparse, err := os.Create(at("sparse.img"))
	ts.Check(err)
	for _, off := range []int64{1 << 20, 1 << 30} {
		_, err = sparse.WriteAt([]byte("an island"), off)
		ts.Check(err)
	}
	ts.Check(sparse.Truncate(5 << 30))
	ts.Check(sparse.Close())
	if err := unix.Setxattr(at("one"), "user.note", []byte("\x00\xff"), 0); err != nil {
		ts.Logf("no extended attributes here: %v", err)
	}
	deep := dir
	for range 30 {
		deep = filepath.Join(deep, strings.Repeat("d", 100))
	}
	ts.Check(os.MkdirAll(deep, 0o755))
	ts.Check(os.WriteFile(filepath.Join(deep, "bottom"), []byte("deep"), 0o600))
	for name, at2 := range map[string]time.Time{
		"one": time.Date(1931, 2, 3, 4, 5, 6, 789, time.UTC), "empty": time.Date(2040, 1, 2, 3, 4, 5, 6, time.UTC),
	} {
		ts.Check(os.Chtimes(at(name), at2, at2))
	}
}

// names DIR [NAME...]: the folder has exactly these entries.
func namesCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: names DIR [NAME...]")
	}
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	want := slices.Sorted(slices.Values(args[1:]))
	if !slices.Equal(got, want) {
		ts.Fatalf("%s has %q, want %q", args[0], got, want)
	}
}

// mode MODE FILE...: compares permissions, in octal with set-id bits.
func modeCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: mode MODE FILE...")
	}
	for _, name := range args[1:] {
		var st syscall.Stat_t
		ts.Check(syscall.Lstat(ts.MkAbs(name), &st))
		if got := fmt.Sprintf("%04o", st.Mode&0o7777); got != args[0] {
			ts.Fatalf("%s has mode %s, want %s", name, got, args[0])
		}
	}
}

// chtime FILE TIME: sets the time of the last change, in RFC 3339.
func chtimeCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: chtime FILE TIME")
	}
	at, err := time.Parse(time.RFC3339Nano, args[1])
	ts.Check(err)
	ts.Check(os.Chtimes(ts.MkAbs(args[0]), at, at))
}

// alloc FILE MAX: the file occupies at most MAX bytes of the disk.
func allocCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: alloc FILE MAX")
	}
	var st syscall.Stat_t
	ts.Check(syscall.Stat(ts.MkAbs(args[0]), &st))
	if got := st.Blocks * 512; got > int64(number(ts, args[1])) {
		ts.Fatalf("%s occupies %d bytes, want at most %s", args[0], got, args[1])
	}
}

// photo PICTURE PHOTO: makes a dim JPEG with noise of a picture in PNG, as of a
// code on a screen.
func photoCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: photo PICTURE PHOTO")
	}
	in, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer in.Close()
	code, err := png.Decode(in)
	ts.Check(err)
	rnd := rand.New(rand.NewPCG(3, 4))
	b := code.Bounds()
	img := image.NewGray(image.Rect(0, 0, 2*b.Dx()+200, 2*b.Dy()+300))
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			light := 110
			if at := image.Pt(b.Min.X+(x-90)/2, b.Min.Y+(y-120)/2); x >= 90 && y >= 120 && at.In(b) {
				light = int(color.GrayModel.Convert(code.At(at.X, at.Y)).(color.Gray).Y)*2/3 + 30
			}
			img.SetGray(x, y, color.Gray{uint8(light + rnd.IntN(25))})
		}
	}
	out, err := os.Create(ts.MkAbs(args[1]))
	ts.Check(err)
	ts.Check(jpeg.Encode(out, img, &jpeg.Options{Quality: 50}))
	ts.Check(out.Close())
}

// picture FILE: makes a picture without a QR code in it.
func pictureCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: picture FILE")
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	img := image.NewGray(image.Rect(0, 0, 640, 480))
	for y := range 480 {
		for x := range 640 {
			img.SetGray(x, y, color.Gray{uint8((x + y*2 + rnd.IntN(40)) / 8)})
		}
	}
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(png.Encode(f, img))
	ts.Check(f.Close())
}
