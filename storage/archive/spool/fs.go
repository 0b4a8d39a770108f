package spool

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// FS is what the spool asks of the file system: the files of one directory, by
// name. Tests put faults behind it; everybody else uses the directory itself.
type FS interface {
	// Open opens a file for reading and writing, and creates it first if create
	// is set.
	Open(name string, create bool) (File, error)
	Rename(from, to string) error
	// Remove removes a file; it is no error if there is none.
	Remove(name string) error
	// List returns the names of all files.
	List() ([]string, error)
	// SyncDir makes creations, renames and removals so far durable.
	SyncDir() error
	Close() error
}

// File is an open file of an [FS].
type File interface {
	io.ReaderAt
	io.WriterAt
	Size() (int64, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// dirFS is a directory of the operating system. All names are resolved below
// its handle, so nothing outside is ever touched.
type dirFS struct{ root *os.Root }

// openDir opens a directory, and creates it first if create is set.
func openDir(dir string, create bool) (FS, error) {
	if create {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		// The entry of a new directory is durable before anything in it counts.
		parent, err := os.OpenRoot(filepath.Dir(dir))
		if err != nil {
			return nil, err
		}
		defer parent.Close()
		if err := (&dirFS{parent}).SyncDir(); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &dirFS{root}, nil
}

func (d *dirFS) Open(name string, create bool) (File, error) {
	flag := os.O_RDWR
	if create {
		flag |= os.O_CREATE
	}
	f, err := d.root.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d *dirFS) Rename(from, to string) error { return d.root.Rename(from, to) }

func (d *dirFS) Remove(name string) error {
	if err := d.root.Remove(name); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

func (d *dirFS) List() ([]string, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// SyncDir syncs the directory's entries. Windows has no such call: there NTFS's
// journal keeps them in order.
func (d *dirFS) SyncDir() error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func (d *dirFS) Close() error { return d.root.Close() }

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

const tempSuffix = ".tmp"

// replaceFile puts data under a name, whole or not at all: it writes a
// temporary file, syncs it, renames it and syncs the directory. A crash before
// the rename leaves the old file and a temporary one, which the next Open
// removes; a crash after it leaves the new file. When replaceFile returns, the
// new file is durable, and so is every file created in the directory before.
//
// With durable unset nothing is synced: the new file survives the end of the
// process, but a power cut may leave the old file, the new one or a torn one.
func replaceFile(fs FS, name string, data []byte, durable bool) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("replace %s: %w", name, err)
		}
	}()
	temp := name + tempSuffix
	f, err := fs.Open(temp, true)
	if err != nil {
		return err
	}
	err = f.Truncate(0) // left over from an attempt that failed
	if err == nil {
		_, err = f.WriteAt(data, 0)
	}
	if err == nil && durable {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fs.Rename(temp, name)
	}
	if err == nil && durable {
		err = fs.SyncDir()
	}
	return err
}

// readFile returns the whole of a file of at most limit bytes.
func readFile(fs FS, name string, limit int64) ([]byte, error) {
	f, err := fs.Open(name, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(size, limit+1)) // parsers refuse what is too long
	if err := readFull(f, b, 0); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// readFull fills b from an offset; a file that ends before is an error.
func readFull(f File, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF || err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}
