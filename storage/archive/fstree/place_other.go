//go:build !linux

package fstree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A place is a directory of a target: a path below an [os.Root], which never
// leaves it. That a directory is no link is looked at before it is entered;
// where another process changes it in between, writing stays below the target
// all the same. Names given to its methods are single components.
type place struct {
	top  *os.Root
	path string // below top, "." for itself
	owns bool   // closes top
}

func processOwner() (privileged bool, self owner) {
	uid, gid := os.Geteuid(), os.Getegid()
	if uid < 0 { // Windows
		return false, owner{}
	}
	return uid == 0, owner{uint32(uid), uint32(gid)}
}

// checkSystemName refuses names that this system takes for something else:
// with a separator, a volume or a stream in them, or of a device.
func checkSystemName(name string) error {
	if !filepath.IsLocal(name) || strings.ContainsRune(name, os.PathSeparator) || os.PathSeparator == '\\' && strings.ContainsAny(name, `:*?"<>|`) {
		return fs.ErrInvalid
	}
	return nil
}

func openPlace(path string) (place, error) {
	r, err := os.OpenRoot(path)
	return place{top: r, path: ".", owns: true}, err
}

func (p place) at(name string) string { return filepath.Join(p.path, name) }

// sub opens the directory name in p; a link only if follow, and then wherever
// it leads.
func (p place) sub(name string, follow bool) (place, error) {
	fi, err := p.top.Lstat(p.at(name))
	if err != nil {
		return place{}, err
	}
	if fi.Mode()&fs.ModeSymlink != 0 && follow {
		return openPlace(filepath.Join(p.top.Name(), p.at(name)))
	}
	if !fi.IsDir() {
		return place{}, ErrReplaced
	}
	return place{top: p.top, path: p.at(name)}, nil
}

func (p place) close() {
	if p.owns {
		p.top.Close()
	}
}

func (p place) hasDefaultACL() bool { return false }

func (p place) stat() (Stat, error) {
	fi, err := p.top.Lstat(p.path)
	if err != nil {
		return Stat{}, err
	}
	return statOf(fi), nil
}

// sync has nothing portable to ask for the whole file system.
func (p place) sync() error { return nil }

func (p place) lstat(name string) (Stat, error) {
	fi, err := p.top.Lstat(p.at(name))
	if err != nil {
		return Stat{}, err
	}
	return statOf(fi), nil
}

func (p place) readLink(name string) (string, error) {
	target, err := p.top.Readlink(p.at(name))
	return filepath.ToSlash(target), err
}

func (p place) unlink(name string) error {
	if fi, err := p.top.Lstat(p.at(name)); err == nil && fi.IsDir() {
		return &fs.PathError{Op: "unlink", Path: name, Err: fs.ErrInvalid}
	}
	return p.top.Remove(p.at(name))
}

func (p place) rmdir(name string) error             { return p.top.Remove(p.at(name)) }
func (p place) rename(from, to string) error        { return p.top.Rename(p.at(from), p.at(to)) }
func (p place) mkdir(name string) error             { return p.top.Mkdir(p.at(name), 0o700) }
func (p place) chmod(mode uint16) error             { return p.top.Chmod(p.path, fileMode(mode)) }
func (p place) removeAll(name string) error         { return p.top.RemoveAll(p.at(name)) }
func (p place) create(name string) (outFile, error) { return p.open(name, os.O_CREATE|os.O_EXCL) }
func (p place) reopen(name string) (outFile, error) { return p.open(name, 0) }

func (p place) open(name string, flags int) (outFile, error) {
	f, err := p.top.OpenFile(p.at(name), flags|os.O_RDWR, 0o600)
	return outFile{f, p, name}, err
}

func (p place) names() ([]string, error) {
	f, err := p.top.Open(p.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// openRead opens a regular file.
func (p place) openRead(name string) (*os.File, error) {
	fi, err := p.top.Lstat(p.at(name))
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, ErrReplaced
	}
	return p.top.Open(p.at(name))
}

func (p place) link(name string, to place, at string) error {
	if p.top != to.top {
		return errors.ErrUnsupported
	}
	return p.top.Link(p.at(name), to.at(at))
}

// make makes a symbolic link; devices and fifos have no portable call.
func (p place) make(name string, n *Node) error {
	if n.Kind != Symlink {
		return fmt.Errorf("%w: %s", errSpecial, n.Kind)
	}
	return p.top.Symlink(filepath.FromSlash(n.Target), p.at(name))
}

// setMeta sets the metadata of p itself.
func (p place) setMeta(n *Node, w metaWant, mode bool) (metaSkipped, error) {
	return p.setPathMeta(p.path, n, w, mode)
}

// setEntryMeta sets the metadata of an entry of n's kind.
func (p place) setEntryMeta(name string, n *Node, w metaWant) (metaSkipped, error) {
	st, err := p.lstat(name)
	if err != nil || st.Kind != n.Kind {
		return metaSkipped{}, errors.Join(ErrReplaced, err)
	}
	return p.setPathMeta(p.at(name), n, w, n.Kind != Symlink)
}

// setPathMeta sets the owner, the mode if asked for, and the times, which a
// symbolic link keeps its own of: there is no portable call for them.
func (p place) setPathMeta(path string, n *Node, w metaWant, mode bool) (s metaSkipped, err error) {
	ownerSet := n.UID == w.owner.uid && n.GID == w.owner.gid && !w.inherits
	if !ownerSet && w.privileged {
		ownerSet = p.top.Lchown(path, int(n.UID), int(n.GID)) == nil
	}
	s.owner = !ownerSet && (n.UID != w.owner.uid || n.GID != w.owner.gid)
	if len(n.Xattrs) > 0 {
		s.xattrs = []error{fmt.Errorf("fstree: extended attributes: %w", errors.ErrUnsupported)}
	}
	s.mode, s.setID = effectiveMode(n, ownerSet, w)
	if mode {
		if err := p.top.Chmod(path, fileMode(s.mode)); err != nil {
			return s, err
		}
	}
	if n.Kind == Symlink {
		return s, nil
	}
	t := n.ModTime.Time()
	return s, p.top.Chtimes(path, t, t)
}

func fileMode(mode uint16) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	if mode&ModeSetUID != 0 {
		m |= fs.ModeSetuid
	}
	if mode&ModeSetGID != 0 {
		m |= fs.ModeSetgid
	}
	if mode&ModeSticky != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// An outFile is a file being written.
type outFile struct {
	f    *os.File
	in   place
	name string
}

func (o outFile) close() error                             { return o.f.Close() }
func (o outFile) truncate(size int64) error                { return o.f.Truncate(size) }
func (o outFile) writeAt(p []byte, off int64) (int, error) { return o.f.WriteAt(p, off) }

func (o outFile) stat() (Stat, error) {
	fi, err := o.f.Stat()
	if err != nil {
		return Stat{}, err
	}
	return statOf(fi), nil
}

func (o outFile) setMeta(n *Node, w metaWant, mode bool) (metaSkipped, error) {
	return o.in.setPathMeta(o.in.at(o.name), n, w, mode)
}

// A markerFile is the marker of a running restore. Here nothing keeps a second
// restore out.
type markerFile struct{ f *os.File }

func (p place) claim(name string, text []byte) (*markerFile, error) {
	if fi, err := p.top.Lstat(p.at(name)); err == nil && !fi.Mode().IsRegular() {
		return nil, ErrReplaced
	}
	f, err := p.top.OpenFile(p.at(name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	// One that says so already is left alone: killed in between, an interrupted
	// restore would not be known for one any more.
	there, err := io.ReadAll(io.LimitReader(f, int64(len(text))+1))
	if err == nil && !bytes.Equal(there, text) {
		if err = f.Truncate(0); err == nil {
			_, err = f.WriteAt(text, 0)
		}
	}
	if err == nil {
		err = f.Sync()
	}
	return &markerFile{f}, errors.Join(err, f.Close())
}

func (m *markerFile) close() {}
