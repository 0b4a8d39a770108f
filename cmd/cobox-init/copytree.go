//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cobox/appliance/machine"
)

// notCopied are files of coboxd's directory that mean nothing elsewhere.
var notCopied = []string{"LOCK", machine.UpdateFile}

// A tree is coboxd's directory, on whichever disk. It is read and written below
// its root only: what coboxd may have left there leads nowhere else.
type tree struct{ root *os.Root }

// entry is a file or directory of a tree.
type entry struct {
	name string // "." is the root
	info fs.FileInfo
	stat *syscall.Stat_t
}

// list lists a tree, directories before what is in them. What is neither a file
// nor a directory is not coboxd's and is left out.
func (t tree) list() ([]entry, error) {
	var all []entry
	var walk func(name string) error
	walk = func(name string) error {
		info, err := t.root.Lstat(name)
		if err != nil {
			return err
		}
		if !info.IsDir() && !info.Mode().IsRegular() || slices.Contains(notCopied, name) {
			return nil
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("%s: its owner is unknown", name)
		}
		all = append(all, entry{name, info, stat})
		if !info.IsDir() {
			return nil
		}
		dir, err := t.root.Open(name)
		if err != nil {
			return err
		}
		defer dir.Close()
		names, err := dir.Readdirnames(-1)
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, n := range names {
			if err := walk(path.Join(name, n)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk("."); err != nil {
		return nil, fmt.Errorf("reading the data: %w", err)
	}
	return all, nil
}

// open opens a file for reading. It waits for nothing that somebody has put in
// the file's place.
func (t tree) open(name string) (*os.File, error) {
	f, err := t.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is not a file any more", name), err, f.Close())
	}
	return f, nil
}

func sizeOf(all []entry) (total uint64) {
	for _, e := range all {
		if !e.info.IsDir() {
			total += uint64(e.info.Size())
		}
	}
	return total
}

// copyChunk is what is read and written at a time; copyHole is what is left out
// if it is zero.
const (
	copyChunk = 1 << 20
	copyHole  = 64 << 10
)

// copyTree copies a tree into an empty one, with owners, modes and times, and
// syncs every file. A crash or an error leaves a part of it.
func copyTree(ctx context.Context, from, to tree, tell func(done, total uint64)) error {
	all, err := from.list()
	if err != nil {
		return err
	}
	total, done := sizeOf(all), uint64(0)
	tell(0, total)
	buf := make([]byte, copyChunk)
	for _, e := range all {
		var err error
		if e.info.IsDir() {
			if e.name != "." {
				err = to.root.Mkdir(e.name, 0o700)
			}
		} else {
			err = copyFile(ctx, from, to, e, buf, func(n int) { done += uint64(n); tell(done, total) })
		}
		if err == nil {
			err = to.root.Lchown(e.name, int(e.stat.Uid), int(e.stat.Gid))
		}
		if err == nil {
			err = to.root.Chmod(e.name, e.info.Mode().Perm())
		}
		if err != nil {
			return fmt.Errorf("copying %s: %w", e.name, err)
		}
	}
	// A directory's time changes with what is made in it.
	for _, e := range slices.Backward(all) {
		if err := to.root.Chtimes(e.name, time.Time{}, e.info.ModTime()); err != nil {
			return fmt.Errorf("copying %s: %w", e.name, err)
		}
	}
	return to.sync()
}

func copyFile(ctx context.Context, from, to tree, e entry, buf []byte, tell func(int)) (err error) {
	in, err := from.open(e.name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := to.root.OpenFile(e.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Truncate(e.info.Size()); err != nil {
		return err
	}
	zero := make([]byte, copyHole)
	for off := int64(0); off < e.info.Size(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		chunk := buf[:min(int64(len(buf)), e.info.Size()-off)]
		if _, err := io.ReadFull(in, chunk); err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		for at := 0; at < len(chunk); at += copyHole {
			piece := chunk[at:min(at+copyHole, len(chunk))]
			if bytes.Equal(piece, zero[:len(piece)]) {
				continue
			}
			if _, err := out.WriteAt(piece, off+int64(at)); err != nil {
				return fmt.Errorf("writing: %w", err)
			}
		}
		off += int64(len(chunk))
		tell(len(chunk))
	}
	return out.Sync()
}

// sync waits until all of the tree's file system is on its disk, and tells of
// errors on the way there.
func (t tree) sync() error {
	dir, err := t.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("syncing the copy: %w", err)
	}
	return nil
}

// compareTrees reads both and fails unless they are the same, but for times. What
// was read before is forgotten first, so that it comes from the disk.
func compareTrees(ctx context.Context, from, to tree, tell func(done, total uint64)) error {
	want, err := from.list()
	if err != nil {
		return err
	}
	got, err := to.list()
	if err != nil {
		return err
	}
	if len(want) != len(got) {
		return fmt.Errorf("comparing: the copy has %d files and directories, not %d", len(got), len(want))
	}
	total, done := sizeOf(want), uint64(0)
	tell(0, total)
	a, b := make([]byte, copyChunk), make([]byte, copyChunk)
	for i, e := range want {
		c := got[i]
		switch {
		case e.name != c.name:
			return fmt.Errorf("comparing: the copy has %s where %s should be", c.name, e.name)
		case e.info.Mode() != c.info.Mode(), e.stat.Uid != c.stat.Uid, e.stat.Gid != c.stat.Gid,
			!e.info.IsDir() && e.info.Size() != c.info.Size():
			return fmt.Errorf("comparing: the copy of %s has another size, mode or owner", e.name)
		}
		if e.info.IsDir() {
			continue
		}
		if err := compareFile(ctx, from, to, e, a, b, func(n int) { done += uint64(n); tell(done, total) }); err != nil {
			return fmt.Errorf("comparing %s: %w", e.name, err)
		}
	}
	return nil
}

func compareFile(ctx context.Context, from, to tree, e entry, a, b []byte, tell func(int)) error {
	x, err := from.open(e.name)
	if err != nil {
		return err
	}
	defer x.Close()
	y, err := to.open(e.name)
	if err != nil {
		return err
	}
	defer y.Close()
	if err := unix.Fadvise(int(y.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	for left := e.info.Size(); left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(left, copyChunk)
		if _, err := io.ReadFull(x, a[:n]); err != nil {
			return fmt.Errorf("reading the data: %w", err)
		}
		if _, err := io.ReadFull(y, b[:n]); err != nil {
			return fmt.Errorf("reading the copy: %w", err)
		}
		if !bytes.Equal(a[:n], b[:n]) {
			return errors.New("the copy is not what was written; the disk is broken")
		}
		left -= n
		tell(int(n))
	}
	return nil
}
