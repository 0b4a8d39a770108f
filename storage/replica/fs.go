package replica

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// guardFS is between Pebble and the disk, for two things.
//
// It makes what Pebble takes for granted: that names made in a directory reach
// the disk in the order in which they were made. Pebble points to a new
// manifest by creating a marker file, removes the old marker, and then syncs
// the directory once. On a file system that writes names in any order, a crash
// within could leave a marker that points to nothing, or none. Here the
// directory is synced before each of the two steps, which are rare.
//
// And it ends the process, with a clear message, where Pebble would panic with
// its locks in disorder: when a directory cannot be synced, and when a
// write-ahead log cannot be begun, written or synced.
type guardFS struct {
	vfs.FS
	fatal func(error)
	// dirs is set before Pebble opens the database; logs after, for while it
	// opens, Pebble returns what goes wrong with a write-ahead log.
	dirs, logs atomic.Bool
}

const (
	markerPrefix = "marker."
	walSuffix    = ".log"
)

// check ends the process over an error that cannot be survived.
func (f *guardFS) check(strict *atomic.Bool, doing, name string, err error) {
	if err != nil && strict.Load() {
		f.fatal(fmt.Errorf("%s %s: %w", doing, name, err))
	}
}

// before syncs the directory of a marker.
func (f *guardFS) before(name string) error {
	if !strings.HasPrefix(f.PathBase(name), markerPrefix) {
		return nil
	}
	return syncDir(f, f.PathDir(name))
}

func (f *guardFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.before(name); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name, c)
	return f.guard(name, file, err)
}

func (f *guardFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(from, to, c)
	return f.guard(to, file, err)
}

func (f *guardFS) Remove(name string) error {
	if err := f.before(name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

func (f *guardFS) OpenDir(name string) (vfs.File, error) {
	d, err := f.FS.OpenDir(name)
	if err != nil {
		return d, err
	}
	return &guardFile{d, f, &f.dirs, name}, nil
}

func (f *guardFS) Unwrap() vfs.FS { return f.FS }

// guard watches over a file that was created, if it is a write-ahead log.
func (f *guardFS) guard(name string, file vfs.File, err error) (vfs.File, error) {
	if !strings.HasSuffix(name, walSuffix) {
		return file, err
	}
	f.check(&f.logs, "creating", name, err)
	if err != nil {
		return nil, err
	}
	return &guardFile{file, f, &f.logs, name}, nil
}

type guardFile struct {
	vfs.File
	fs     *guardFS
	strict *atomic.Bool
	name   string
}

func (f *guardFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.fs.check(f.strict, "writing", f.name, err)
	return n, err
}

func (f *guardFile) Stat() (vfs.FileInfo, error) {
	i, err := f.File.Stat()
	f.fs.check(f.strict, "asking for the size of", f.name, err)
	return i, err
}

func (f *guardFile) Sync() error {
	err := f.File.Sync()
	f.fs.check(f.strict, "syncing", f.name, err)
	return err
}

func (f *guardFile) SyncData() error {
	err := f.File.SyncData()
	f.fs.check(f.strict, "syncing", f.name, err)
	return err
}

func (f *guardFile) Close() error {
	err := f.File.Close()
	f.fs.check(f.strict, "closing", f.name, err)
	return err
}

// readOnlyFS locks where it can and goes on without where no file can be made:
// then nobody else writes either.
type readOnlyFS struct{ vfs.FS }

func (f readOnlyFS) Lock(name string) (io.Closer, error) {
	c, err := f.FS.Lock(name)
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return io.NopCloser(nil), nil
	}
	return c, err
}

func (f readOnlyFS) Unwrap() vfs.FS { return f.FS }

// mkdirSync makes a directory whose entry survives a crash.
func mkdirSync(fsys vfs.FS, dir string) error {
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(fsys, fsys.PathDir(dir))
}

func syncDir(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
