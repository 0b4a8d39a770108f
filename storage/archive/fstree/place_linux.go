package fstree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// A place is an open directory of a target. Names given to its methods are
// single components.
type place struct {
	fd int
	// pathOnly: opened without read permission, enough to reach entries.
	pathOnly bool
}

func processOwner() (privileged bool, self owner) {
	return unix.Geteuid() == 0, owner{uint32(unix.Geteuid()), uint32(unix.Getegid())}
}

// checkSystemName refuses names that this system takes for something else.
func checkSystemName(string) error { return nil }

func openPlace(path string) (place, error) { return openPlaceAt(unix.AT_FDCWD, path, 0) }

func openPlaceAt(dirfd int, name string, flags int) (place, error) {
	flags |= unix.O_DIRECTORY | unix.O_CLOEXEC
	fd, err := retry(func() (int, error) { return unix.Openat(dirfd, name, flags|unix.O_RDONLY, 0) })
	if err == unix.EACCES {
		fd, err = retry(func() (int, error) { return unix.Openat(dirfd, name, flags|unix.O_PATH, 0) })
		return place{fd, true}, err
	}
	return place{fd, false}, err
}

// sub opens the directory name in p; a link only if follow.
func (p place) sub(name string, follow bool) (place, error) {
	flags := unix.O_NOFOLLOW
	if follow {
		flags = 0
	}
	s, err := openPlaceAt(p.fd, name, flags)
	return s, replaced(err)
}

func (p place) close()              { unix.Close(p.fd) }
func (p place) stat() (Stat, error) { return fstat(p.fd) }
func (p place) sync() error {
	fd, err := unix.Openat(p.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		if err == unix.EACCES {
			unix.Sync()
			return nil
		}
		return err
	}
	defer unix.Close(fd)
	return unix.Syncfs(fd)
}
func (p place) lstat(name string) (Stat, error)      { return lstatAt(p.fd, name) }
func (p place) readLink(name string) (string, error) { return readLink(p.fd, name) }
func (p place) unlink(name string) error             { return unix.Unlinkat(p.fd, name, 0) }
func (p place) rmdir(name string) error              { return unix.Unlinkat(p.fd, name, unix.AT_REMOVEDIR) }
func (p place) rename(from, to string) error         { return unix.Renameat(p.fd, from, p.fd, to) }

// mkdir makes a directory that only its owner can enter until its own mode is
// set.
func (p place) mkdir(name string) error { return unix.Mkdirat(p.fd, name, 0o700) }

func (p place) chmod(mode uint16) error {
	if p.pathOnly {
		return unix.Chmod(procPath(p.fd), uint32(mode))
	}
	return unix.Fchmod(p.fd, uint32(mode))
}

// names lists p from its beginning, through a handle with a position of its
// own.
func (p place) names() ([]string, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(p.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return readNames(fd)
}

// openRead opens a regular file.
func (p place) openRead(name string) (*os.File, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(p.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, replaced(err)
	}
	if st, err := fstat(fd); err != nil || st.Kind != File {
		unix.Close(fd)
		return nil, errors.Join(ErrReplaced, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// link makes at in to another name of the entry name in p, itself if it is a
// symbolic link.
func (p place) link(name string, to place, at string) error {
	return unix.Linkat(p.fd, name, to.fd, at, 0)
}

// make makes a symbolic link, device or fifo with a mode that shuts others out.
func (p place) make(name string, n *Node) error {
	var err error
	switch n.Kind {
	case Symlink:
		err = unix.Symlinkat(n.Target, p.fd, name)
	case FIFO:
		err = unix.Mknodat(p.fd, name, unix.S_IFIFO|0o600, 0)
	case BlockDevice, CharDevice:
		mode := uint32(unix.S_IFBLK | 0o600)
		if n.Kind == CharDevice {
			mode = unix.S_IFCHR | 0o600
		}
		err = unix.Mknodat(p.fd, name, mode, int(unix.Mkdev(n.Device.Major, n.Device.Minor)))
	}
	if err == unix.EPERM || err == unix.ENOTSUP || err == unix.ENOSYS {
		return fmt.Errorf("%w: %w", errSpecial, err)
	}
	return err
}

// setMeta sets the metadata of p itself.
func (p place) setMeta(n *Node, w metaWant, mode bool) (metaSkipped, error) {
	return setMeta(p.fd, p.pathOnly, n, w, mode)
}

// setEntryMeta sets the metadata of an entry of n's kind.
func (p place) setEntryMeta(name string, n *Node, w metaWant) (metaSkipped, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(p.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return metaSkipped{}, err
	}
	defer unix.Close(fd)
	if st, err := fstat(fd); err != nil || st.Kind != n.Kind {
		return metaSkipped{}, errors.Join(ErrReplaced, err)
	}
	return setMeta(fd, true, n, w, n.Kind != Symlink)
}

// setMeta sets what a node says of the entry open as fd: owner first, because
// giving a file away takes its set-id bits and capabilities, then attributes,
// then the mode, if asked for, and the times last.
func setMeta(fd int, pathOnly bool, n *Node, w metaWant, mode bool) (s metaSkipped, err error) {
	ownerSet := n.UID == w.owner.uid && n.GID == w.owner.gid && !w.inherits
	if !ownerSet && w.privileged {
		switch err := unix.Fchownat(fd, "", int(n.UID), int(n.GID), unix.AT_EMPTY_PATH); err {
		case nil:
			ownerSet = true
		case unix.EPERM, unix.EINVAL, unix.ENOTSUP:
		default:
			return s, &fs.PathError{Op: "chown", Path: n.Name, Err: err}
		}
	}
	s.owner = !ownerSet && (n.UID != w.owner.uid || n.GID != w.owner.gid)
	if len(n.Xattrs) > 0 || w.clean {
		calls := fdAttrs(fd)
		if pathOnly {
			calls = pathAttrs(fd)
		}
		if mode && !w.privileged && w.clean && n.Mode&0o600 != 0o600 {
			// Attributes can be set only on what its owner may write.
			_ = (place{fd, pathOnly}).chmod(0o600)
		}
		if w.clean {
			s.xattrs = removeXattrs(calls, n.Xattrs)
		}
		for _, x := range n.Xattrs {
			if err := calls.set(x.Name, x.Value); err != nil {
				s.xattrs = append(s.xattrs, fmt.Errorf("fstree: extended attribute %q: %w", x.Name, err))
			}
		}
	}
	s.mode, s.setID = effectiveMode(n, ownerSet, w)
	if mode {
		if err := (place{fd, pathOnly}).chmod(s.mode); err != nil {
			return s, &fs.PathError{Op: "chmod", Path: n.Name, Err: err}
		}
	}
	if err := setTime(fd, n.ModTime); err != nil {
		return s, &fs.PathError{Op: "set time", Path: n.Name, Err: err}
	}
	return s, nil
}

// setTime sets the modification time; the access time stays. File systems that
// cannot hold the time keep the nearest that they can.
func setTime(fd int, t Time) error {
	ts, err := unix.TimeToTimespec(t.Time())
	if err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, ts}
	err = unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
	if err == unix.EINVAL || err == unix.ENOENT { // a kernel before 5.8
		err = unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), times, 0)
	}
	return err
}

// removeAll removes name and, if it is a directory, what is in it. No link is
// followed.
func (p place) removeAll(name string) error {
	err := p.unlink(name)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	if err := p.rmdir(name); err == nil || err == unix.ENOENT {
		return nil
	}
	sub, err := p.sub(name, false)
	if err != nil {
		return err
	}
	if st, err := sub.stat(); err == nil && st.Mode&0o700 != 0o700 {
		_ = sub.chmod(st.Mode | 0o700)
	}
	names, err := sub.names()
	for _, n := range names {
		if rmErr := sub.removeAll(n); err == nil {
			err = rmErr
		}
	}
	sub.close()
	if err != nil {
		return err
	}
	return p.rmdir(name)
}

// An outFile is a file being written.
type outFile struct{ fd int }

func (p place) create(name string) (outFile, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(p.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	return outFile{fd}, err
}

func (p place) reopen(name string) (outFile, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(p.fd, name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	return outFile{fd}, err
}

func (f outFile) close() error              { return unix.Close(f.fd) }
func (f outFile) stat() (Stat, error)       { return fstat(f.fd) }
func (f outFile) truncate(size int64) error { return unix.Ftruncate(f.fd, size) }

func (f outFile) writeAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := retry(func() (int, error) { return unix.Pwrite(f.fd, p[done:], off+int64(done)) })
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.ErrShortWrite
		}
		done += n
	}
	return done, nil
}

func (f outFile) setMeta(n *Node, w metaWant, mode bool) (metaSkipped, error) {
	return setMeta(f.fd, false, n, w, mode)
}

// A markerFile is the marker of a running restore, locked while it is open.
type markerFile struct{ fd int }

func (p place) claim(name string, text []byte) (*markerFile, error) {
	fd, err := unix.Openat(p.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	m := &markerFile{fd}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		m.close()
		if err == unix.EWOULDBLOCK {
			return nil, ErrTargetBusy
		}
		return nil, err
	}
	// One that says so already is left alone: killed in between, an interrupted
	// restore would not be known for one any more.
	there := make([]byte, len(text)+1)
	if n, _ := unix.Pread(fd, there, 0); n != len(text) || !bytes.Equal(there[:n], text) {
		if err = unix.Ftruncate(fd, 0); err == nil {
			_, err = outFile{fd}.writeAt(text, 0)
		}
	}
	if err == nil {
		err = unix.Fdatasync(fd)
	}
	if err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *markerFile) close() { unix.Close(m.fd) }
