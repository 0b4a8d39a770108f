//go:build !linux

package fstree

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A base is a directory that is read by path. Where the system gives no
// lookups that refuse links, a file is compared with what was expected after
// it is open; extended attributes and holes are not read here.
type base struct{ path string }

func openBase(path string) (*base, error) {
	st, err := statPath(path, true)
	if err == nil && st.Kind != Directory {
		err = errNotDirectory
	}
	return &base{path: path}, err
}

func (b *base) close() {}

func (b *base) at(rel string) string {
	if rel == "" {
		return b.path
	}
	return joinOS(b.path, filepath.FromSlash(rel))
}

type nameError struct {
	name string
	err  error
}

func (b *base) readDir(rel string, expect *Stat) ([]Entry, []nameError, error) {
	f, err := os.Open(b.at(rel))
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return nil, nil, err
	} else if st := statOf(fi); !st.SameFile(expect) {
		return nil, nil, ErrReplaced
	}
	names, readErr := f.ReadDir(-1)
	var list []Entry
	var errs []nameError
	for _, n := range names {
		fi, err := n.Info()
		switch {
		case err == nil:
			list = append(list, Entry{Name: n.Name(), Stat: statOf(fi)})
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, nameError{n.Name(), err})
		}
	}
	sortEntries(list)
	return list, errs, readErr
}

func (b *base) hasCacheTag(rel string) bool {
	p := b.at(rel)
	if fi, err := os.Lstat(p); err != nil || !fi.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(p)
	if err != nil {
		return false
	}
	defer f.Close()
	buf := make([]byte, len(cacheSignature))
	n, _ := io.ReadFull(f, buf)
	return string(buf[:n]) == cacheSignature
}

func (b *base) openFile(rel string, expect *Stat) (*OpenFile, error) {
	p := b.at(rel)
	before, err := os.Lstat(p)
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, ErrReplaced
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !os.SameFile(before, fi) {
		err = ErrReplaced
	}
	st := Stat{}
	if err == nil {
		if st = statOf(fi); !st.SameFile(expect) {
			err = ErrReplaced
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &OpenFile{file: fileHandle{f}, stat: st}, nil
}

func (b *base) node(rel, name string, st *Stat, o *ownerNames) (Node, error) {
	n := newNode(name, st, o)
	if st.Kind == Symlink {
		target, err := os.Readlink(b.at(rel))
		if err != nil {
			return Node{}, err
		}
		n.Target = filepath.ToSlash(target)
	}
	if err := n.Check(); err != nil {
		return Node{}, err
	}
	return n, nil
}

func statPath(path string, follow bool) (Stat, error) {
	stat := os.Lstat
	if follow {
		stat = os.Stat
	}
	fi, err := stat(path)
	if err != nil {
		return Stat{}, err
	}
	return statOf(fi), nil
}

func statOf(fi fs.FileInfo) Stat {
	m := fi.Mode()
	s := Stat{Mode: uint16(m.Perm()), ModTime: TimeOf(fi.ModTime()), Links: 1}
	for _, b := range []struct {
		from fs.FileMode
		to   uint16
	}{{fs.ModeSetuid, ModeSetUID}, {fs.ModeSetgid, ModeSetGID}, {fs.ModeSticky, ModeSticky}} {
		if m&b.from != 0 {
			s.Mode |= b.to
		}
	}
	switch {
	case m.IsRegular():
		s.Kind = File
	case m.IsDir():
		s.Kind = Directory
	case m&fs.ModeSymlink != 0:
		s.Kind = Symlink
	case m&fs.ModeNamedPipe != 0:
		s.Kind = FIFO
	case m&fs.ModeSocket != 0:
		s.Kind = Socket
	case m&fs.ModeCharDevice != 0:
		s.Kind = CharDevice
	case m&fs.ModeDevice != 0:
		s.Kind = BlockDevice
	default: // a reparse point and the like: known to be there, no more
		s.Kind = Socket
	}
	if s.Kind == File || s.Kind == Directory {
		s.Size = uint64(max(fi.Size(), 0))
	}
	s.Blocks = (s.Size + 511) / 512
	s.ChangeTime = s.ModTime
	statSys(&s, fi)
	return s
}

// A fileHandle is an open regular file.
type fileHandle struct{ f *os.File }

func (f fileHandle) stat() (Stat, error) {
	fi, err := f.f.Stat()
	if err != nil {
		return Stat{}, err
	}
	return statOf(fi), nil
}

func (f fileHandle) close() error             { return f.f.Close() }
func (f fileHandle) xattrs() ([]Xattr, error) { return nil, nil }

func (f fileHandle) readAt(p []byte, off uint64) (int, error) {
	n, err := f.f.ReadAt(p, int64(off))
	if err == io.EOF {
		err = nil
	}
	return n, err
}

func (f fileHandle) nextData(pos, size uint64) (uint64, error) { return pos, nil }
func (f fileHandle) nextHole(pos, size uint64) (uint64, error) { return size, nil }

func sortEntries(list []Entry) {

	slices.SortFunc(list, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
}
