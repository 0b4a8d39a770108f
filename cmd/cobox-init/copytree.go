//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"cobox/appliance/machine"
)

// notCopied are files of coboxd's directory that mean nothing elsewhere.
var notCopied = []string{"LOCK", machine.UpdateFile}

// A tree is coboxd's directory, on whichever disk. It is read and written below
// its root only: what coboxd may have left there leads nowhere else.
type tree struct{ root *os.Root }

// list lists a tree, directories before what is in them. What is neither a file
// nor a directory is not coboxd's and is left out.
func (t tree) list() ([]entry, error) {
	w := newWalker(t.root, func(name string, mode os.FileMode) bool {
		return !mode.IsDir() && !mode.IsRegular() || slices.Contains(notCopied, name)
	})
	if err := w.walk(".", 0); err != nil {
		return nil, fmt.Errorf("reading the data: %w", err)
	}
	return w.all, nil
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
		if !e.mode.IsDir() {
			total += uint64(e.size)
		}
	}
	return total
}

// copyChunk is what is read and written at a time; copyHole is what is left out
// if it is zero; copyBlock is what a file or directory may take beside its bytes.
const (
	copyChunk = 1 << 20
	copyHole  = 64 << 10
	copyBlock = 4 << 10
)

// copyTree copies a tree into an empty one, with owners, modes and times, and
// syncs every file. A crash or an error leaves a part of it.
func copyTree(ctx context.Context, from, to tree, tell func(done, total uint64)) error {
	all, err := from.list()
	if err != nil {
		return err
	}
	total, done := sizeOf(all), uint64(0)
	// Holes count too: somebody may have made one that takes years to read.
	room, err := to.room()
	if err != nil {
		return err
	}
	if need := total + uint64(len(all))*copyBlock; need > room {
		return fmt.Errorf("the data needs %d MiB, and the disk has room for %d", need>>20, room>>20)
	}
	tell(0, total)
	buf := make([]byte, copyChunk)
	for _, e := range all {
		var err error
		if e.mode.IsDir() {
			if e.name != "." {
				err = to.root.Mkdir(e.name, 0o700)
			}
		} else {
			err = copyFile(ctx, from, to, e, buf, func(n int) { done += uint64(n); tell(done, total) })
		}
		if err == nil {
			err = to.root.Lchown(e.name, int(e.uid), int(e.gid))
		}
		if err == nil {
			err = to.root.Chmod(e.name, e.mode.Perm())
		}
		if err != nil {
			return fmt.Errorf("copying %s: %w", e.name, err)
		}
	}
	// A directory's time changes with what is made in it.
	for _, e := range slices.Backward(all) {
		if err := to.root.Chtimes(e.name, time.Time{}, e.modified); err != nil {
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
	if err := out.Truncate(e.size); err != nil {
		return err
	}
	zero := make([]byte, copyHole)
	for off := int64(0); off < e.size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		chunk := buf[:min(int64(len(buf)), e.size-off)]
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

// room returns how many bytes the tree's file system has left.
func (t tree) room() (uint64, error) {
	dir, err := t.root.OpenFile(".", os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return 0, fmt.Errorf("asking for the room on the disk: %w", err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// sync waits until all of the tree's file system is on its disk, and tells of
// errors on the way there.
func (t tree) sync() error {
	dir, err := t.root.OpenFile(".", os.O_RDONLY|unix.O_DIRECTORY, 0)
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
		case e.mode != c.mode, e.uid != c.uid, e.gid != c.gid,
			!e.mode.IsDir() && e.size != c.size:
			return fmt.Errorf("comparing: the copy of %s has another size, mode or owner", e.name)
		}
		if e.mode.IsDir() {
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
	for left := e.size; left > 0; {
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
