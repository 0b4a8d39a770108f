package replica

import (
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// faultFS fails one of its operations with EIO. A failing write either did not
// happen or, if persist is set, happened all the same: nobody can tell.
type faultFS struct {
	vfs.FS
	at      int64 // the operation that fails, from 1 on
	persist bool
	ops     atomic.Int64
	hit     atomic.Bool
	same    atomic.Bool // persist makes no difference: the operation reads
}

// fault decides about an operation: whether it happens and what it returns.
func (f *faultFS) fault(write bool) (skip bool, err error) {
	if f.ops.Add(1) != f.at {
		return false, nil
	}
	f.hit.Store(true)
	if f.persist && !write {
		f.same.Store(true)
		return false, nil
	}
	return !f.persist, &fs.PathError{Op: "injected", Path: "fault", Err: syscall.EIO}
}

// do runs an operation that returns only an error.
func (f *faultFS) do(write bool, op func() error) error {
	skip, err := f.fault(write)
	if !skip {
		if e := op(); e != nil {
			return e
		}
	}
	return err
}

func (f *faultFS) file(write bool, open func() (vfs.File, error)) (vfs.File, error) {
	skip, err := f.fault(write)
	if skip {
		return nil, err
	}
	file, e := open()
	if e != nil {
		return nil, e
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return &faultFile{file, f}, nil
}

func (f *faultFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file(true, func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f *faultFS) Open(name string, o ...vfs.OpenOption) (vfs.File, error) {
	return f.file(false, func() (vfs.File, error) { return f.FS.Open(name, o...) })
}

func (f *faultFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return f.file(true, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, o...) })
}

func (f *faultFS) OpenDir(name string) (vfs.File, error) {
	return f.file(false, func() (vfs.File, error) { return f.FS.OpenDir(name) })
}

func (f *faultFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file(true, func() (vfs.File, error) { return f.FS.ReuseForWrite(from, to, c) })
}

func (f *faultFS) Link(from, to string) error {
	return f.do(true, func() error { return f.FS.Link(from, to) })
}

func (f *faultFS) Rename(from, to string) error {
	return f.do(true, func() error { return f.FS.Rename(from, to) })
}

func (f *faultFS) Remove(name string) error {
	return f.do(true, func() error { return f.FS.Remove(name) })
}

func (f *faultFS) RemoveAll(name string) error {
	return f.do(true, func() error { return f.FS.RemoveAll(name) })
}

func (f *faultFS) MkdirAll(name string, perm os.FileMode) error {
	return f.do(true, func() error { return f.FS.MkdirAll(name, perm) })
}

func (f *faultFS) Lock(name string) (io.Closer, error) {
	skip, err := f.fault(false)
	if skip {
		return nil, err
	}
	return f.FS.Lock(name)
}

func (f *faultFS) List(name string) (names []string, err error) {
	err = f.do(false, func() (err error) {
		names, err = f.FS.List(name)
		return err
	})
	return names, err
}

func (f *faultFS) Stat(name string) (i vfs.FileInfo, err error) {
	err = f.do(false, func() (err error) {
		i, err = f.FS.Stat(name)
		return err
	})
	return i, err
}

func (f *faultFS) Unwrap() vfs.FS { return f.FS }

type faultFile struct {
	vfs.File
	f *faultFS
}

// io runs an operation on n bytes.
func (f *faultFile) io(write bool, op func() (int, error)) (n int, err error) {
	skip, err := f.f.fault(write)
	if skip {
		return 0, err
	}
	n, e := op()
	if e != nil {
		return n, e
	}
	return n, err
}

func (f *faultFile) Read(p []byte) (int, error) {
	return f.io(false, func() (int, error) { return f.File.Read(p) })
}

func (f *faultFile) ReadAt(p []byte, at int64) (int, error) {
	return f.io(false, func() (int, error) { return f.File.ReadAt(p, at) })
}

func (f *faultFile) Write(p []byte) (int, error) {
	return f.io(true, func() (int, error) { return f.File.Write(p) })
}

func (f *faultFile) WriteAt(p []byte, at int64) (int, error) {
	return f.io(true, func() (int, error) { return f.File.WriteAt(p, at) })
}

func (f *faultFile) Sync() error     { return f.f.do(true, f.File.Sync) }
func (f *faultFile) SyncData() error { return f.f.do(true, f.File.SyncData) }

func (f *faultFile) Close() error {
	// A file is closed whatever close says.
	_, err := f.f.fault(true)
	if e := f.File.Close(); e != nil {
		return e
	}
	return err
}

func (f *faultFile) Stat() (i vfs.FileInfo, err error) {
	err = f.f.do(false, func() (err error) {
		i, err = f.File.Stat()
		return err
	})
	return i, err
}
