package fstree

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSegment is how long a path is handed to the kernel, whose limit is 4,096
// bytes with the NUL. Longer ones are walked in pieces.
const maxSegment = 4000

// A base is a handle on a directory from which everything below is reached
// without passing a symbolic link.
type base struct {
	fd int
	// stepwise means that the kernel lacks openat2 (before 5.6, or filtered)
	// and each component is opened by itself.
	stepwise bool
}

// openBase opens the directory at path, which may contain links. A base that
// could not be opened is returned too, and fails at every use.
func openBase(path string) (*base, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return &base{fd: -1}, err
	}
	return newBase(fd), nil
}

func newBase(fd int) *base {
	b := &base{fd: fd}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	probe, err := unix.Openat2(fd, ".", &how)
	if err != nil {
		b.stepwise = true
	} else {
		unix.Close(probe)
	}
	return b
}

func (b *base) close() {
	if b.fd >= 0 {
		unix.Close(b.fd)
		b.fd = -1
	}
}

// open opens rel below b without following any link, the last component
// included.
func (b *base) open(rel string, flags int) (int, error) {
	if rel == "" {
		rel = "."
	}
	at := b.fd
	for {
		part, rest := rel, ""
		if b.stepwise {
			part, rest, _ = strings.Cut(rel, "/")
		} else if len(rel) > maxSegment {
			cut := strings.LastIndexByte(rel[:maxSegment], '/')
			if cut < 0 {
				cut = strings.IndexByte(rel, '/')
			}
			if cut > 0 {
				part, rest = rel[:cut], rel[cut+1:]
			}
		}
		fl := flags
		if rest != "" {
			fl = unix.O_PATH | unix.O_DIRECTORY
		}
		fl |= unix.O_NOFOLLOW | unix.O_CLOEXEC
		fd, err := retry(func() (int, error) {
			if b.stepwise {
				return unix.Openat(at, part, fl, 0)
			}
			return unix.Openat2(at, part, &unix.OpenHow{Flags: uint64(fl), Resolve: unix.RESOLVE_NO_SYMLINKS})
		})
		if at != b.fd {
			unix.Close(at)
		}
		if err != nil || rest == "" {
			return fd, err
		}
		at, rel = fd, rest
	}
}

// openQuietly opens for reading without leaving a new access time, where the
// owner of the file allows that.
func (b *base) openQuietly(rel string, flags int) (int, error) {
	fd, err := b.open(rel, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOATIME|flags)
	if err == unix.EPERM {
		fd, err = b.open(rel, unix.O_RDONLY|unix.O_NONBLOCK|flags)
	}
	return fd, err
}

type nameError struct {
	name string
	err  error
}

// readDir returns the entries of the directory at rel in order of their names,
// and what could not be looked at. A name that vanishes while it is read was
// not there.
func (b *base) readDir(rel string, expect *Stat) ([]Entry, []nameError, error) {
	fd, err := b.openQuietly(rel, unix.O_DIRECTORY)
	if err != nil {
		return nil, nil, replaced(err)
	}
	defer unix.Close(fd)
	if st, err := fstat(fd); err != nil {
		return nil, nil, err
	} else if !st.SameFile(expect) {
		return nil, nil, ErrReplaced
	}
	names, readErr := readNames(fd)
	slices.Sort(names)
	list := make([]Entry, 0, len(names))
	var errs []nameError
	for _, name := range names {
		st, err := lstatAt(fd, name)
		switch {
		case err == nil:
			list = append(list, Entry{Name: name, Stat: st})
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, nameError{name, err})
		}
	}
	return list, errs, readErr
}

// readNames reads all names but "." and "..", in the order of the file system.
func readNames(fd int) ([]string, error) {
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(fd, buf) })
		if err != nil || n <= 0 {
			return names, err
		}
		// struct linux_dirent64: inode u64, offset u64, record length u16,
		// type u8, name up to a NUL.
		text := string(buf[:n])
		for at := 0; at+19 < n; {
			size := int(binary.NativeEndian.Uint16(buf[at+16:]))
			if size < 20 || at+size > n {
				return names, unix.EIO
			}
			name, _, _ := strings.Cut(text[at+19:at+size], "\x00")
			if name != "." && name != ".." {
				names = append(names, name)
			}
			at += size
		}
	}
}

func (b *base) hasCacheTag(rel string) bool {
	fd, err := b.openQuietly(rel, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if st, err := fstat(fd); err != nil || st.Kind != File {
		return false
	}
	buf := make([]byte, len(cacheSignature))
	n, _ := unix.Pread(fd, buf, 0)
	return string(buf[:max(n, 0)]) == cacheSignature
}

func (b *base) openFile(rel string, expect *Stat) (*OpenFile, error) {
	fd, err := b.openQuietly(rel, 0)
	if err != nil {
		return nil, replaced(err)
	}
	st, err := fstat(fd)
	if err == nil && !st.SameFile(expect) {
		err = ErrReplaced
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &OpenFile{file: fileHandle{fd}, stat: st}, nil
}

// replaced tells the errors of an open that met something of another kind.
func replaced(err error) error {
	if err == unix.ELOOP || err == unix.ENOTDIR || err == unix.ENXIO {
		return ErrReplaced
	}
	return err
}

// node reads what stat data does not tell: attributes and link target.
func (b *base) node(rel, name string, st *Stat, o *ownerNames) (Node, error) {
	fd, err := b.open(rel, unix.O_PATH)
	if err != nil {
		return Node{}, &fs.PathError{Op: "open", Path: name, Err: replaced(err)}
	}
	defer unix.Close(fd)
	if now, err := fstat(fd); err != nil {
		return Node{}, &fs.PathError{Op: "stat", Path: name, Err: err}
	} else if !now.SameFile(st) {
		return Node{}, &fs.PathError{Op: "stat", Path: name, Err: ErrReplaced}
	}
	n := newNode(name, st, o)
	if st.Kind == Symlink {
		if n.Target, err = readLink(fd, ""); err != nil {
			return Node{}, &fs.PathError{Op: "readlink", Path: name, Err: err}
		}
	}
	if err := n.Check(); err != nil {
		return Node{}, err
	}
	n.Xattrs, err = pathXattrs(fd)
	return n, err
}

func readLink(dirfd int, name string) (string, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := retry(func() (int, error) { return unix.Readlinkat(dirfd, name, buf) })
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// statPath looks at a path that may contain links.
func statPath(path string, follow bool) (Stat, error) {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if follow {
		flags = 0
	}
	var st unix.Stat_t
	if err := unix.Fstatat(unix.AT_FDCWD, path, &st, flags|unix.AT_NO_AUTOMOUNT); err != nil {
		return Stat{}, err
	}
	return statOf(&st), nil
}

func lstatAt(dirfd int, name string) (Stat, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT); err != nil {
		return Stat{}, err
	}
	return statOf(&st), nil
}

func fstat(fd int) (Stat, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Stat{}, err
	}
	return statOf(&st), nil
}

func statOf(st *unix.Stat_t) Stat {
	msec, mnsec := st.Mtim.Unix()
	csec, cnsec := st.Ctim.Unix()
	s := Stat{
		Mode: uint16(st.Mode & ModeMask), UID: st.Uid, GID: st.Gid,
		Size: uint64(st.Size), Blocks: uint64(st.Blocks),
		ModTime: newTime(msec, mnsec), ChangeTime: newTime(csec, cnsec),
		Device: uint64(st.Dev), Inode: st.Ino, Links: uint64(st.Nlink),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		s.Kind = File
	case unix.S_IFDIR:
		s.Kind = Directory
	case unix.S_IFLNK:
		s.Kind = Symlink
	case unix.S_IFBLK:
		s.Kind = BlockDevice
	case unix.S_IFCHR:
		s.Kind = CharDevice
	case unix.S_IFIFO:
		s.Kind = FIFO
	case unix.S_IFSOCK:
		s.Kind = Socket
	}
	if s.Kind == BlockDevice || s.Kind == CharDevice {
		s.Rdev = Device{unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))}
	}
	return s
}

// newTime carries nanoseconds beyond a second, which a damaged or foreign file
// system may give, into the seconds.
func newTime(sec, nsec int64) Time {
	sec += nsec / nanosPerSecond
	if nsec %= nanosPerSecond; nsec < 0 {
		sec, nsec = sec-1, nsec+nanosPerSecond
	}
	return Time{sec, uint32(nsec)}
}

// retry repeats a call that a signal interrupted.
func retry[T any](f func() (T, error)) (T, error) {
	for {
		v, err := f()
		if err != unix.EINTR {
			return v, err
		}
	}
}

// procPath names what fd refers to, in a form that calls without a variant for
// O_PATH handles take.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// A fileHandle is an open regular file.
type fileHandle struct{ fd int }

func (f fileHandle) stat() (Stat, error)      { return fstat(f.fd) }
func (f fileHandle) close() error             { return unix.Close(f.fd) }
func (f fileHandle) xattrs() ([]Xattr, error) { return readXattrs(fdAttrs(f.fd)) }

func (f fileHandle) readAt(p []byte, off uint64) (int, error) {
	n, err := retry(func() (int, error) { return unix.Pread(f.fd, p, int64(off)) })
	return max(n, 0), err
}

// nextData returns where the next data at or after pos begins, or size.
func (f fileHandle) nextData(pos, size uint64) (uint64, error) {
	at, err := unix.Seek(f.fd, int64(pos), unix.SEEK_DATA)
	switch err {
	case nil:
		return min(uint64(at), size), nil
	case unix.ENXIO:
		return size, nil
	case unix.EINVAL: // the file system does not tell
		return pos, nil
	}
	return 0, err
}

// nextHole returns where the data at pos ends.
func (f fileHandle) nextHole(pos, size uint64) (uint64, error) {
	at, err := unix.Seek(f.fd, int64(pos), unix.SEEK_HOLE)
	switch {
	case err == nil && uint64(at) > pos:
		return min(uint64(at), size), nil
	case err == nil || err == unix.EINVAL || err == unix.ENXIO:
		return size, nil
	}
	return 0, err
}
