package replica

import (
	"io"
	"io/fs"
	"os"
	"sync"
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
	ended   atomic.Bool // the process has ended: nothing happens any more

	mu    sync.Mutex
	files []*faultFile
}

// fault decides about an operation: whether it happens and what it returns.
func (f *faultFS) fault(write bool) (skip bool, err error) {
	if f.ended.Load() {
		select {}
	}
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
	ff := &faultFile{f: f}
	ff.file.Store(&file)
	f.mu.Lock()
	f.files = append(f.files, ff)
	f.mu.Unlock()
	return ff, nil
}

// end makes all further operations wait for ever, as nothing happens any more
// when a process has ended, and lets go of all files: the store is never closed
// and would keep them.
func (f *faultFS) end() {
	f.ended.Store(true)
	f.FS.RemoveAll("box")
	if d, err := f.FS.OpenDir(""); err == nil {
		d.Sync() // what was synced before is remembered until then
		d.Close()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ff := range f.files {
		ff.file.Store(nil)
	}
	f.files = nil
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
	f    *faultFS
	file atomic.Pointer[vfs.File] // nil once the process has ended
}

func (f *faultFile) get() vfs.File {
	file := f.file.Load()
	if file == nil {
		select {}
	}
	return *file
}

func (f *faultFile) Preallocate(at, n int64) error    { return f.get().Preallocate(at, n) }
func (f *faultFile) SyncTo(n int64) (bool, error)     { return f.get().SyncTo(n) }
func (f *faultFile) Prefetch(at int64, n int64) error { return f.get().Prefetch(at, n) }
func (f *faultFile) Fd() uintptr                      { return f.get().Fd() }

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
	return f.io(false, func() (int, error) { return f.get().Read(p) })
}

func (f *faultFile) ReadAt(p []byte, at int64) (int, error) {
	return f.io(false, func() (int, error) { return f.get().ReadAt(p, at) })
}

func (f *faultFile) Write(p []byte) (int, error) {
	return f.io(true, func() (int, error) { return f.get().Write(p) })
}

func (f *faultFile) WriteAt(p []byte, at int64) (int, error) {
	return f.io(true, func() (int, error) { return f.get().WriteAt(p, at) })
}

func (f *faultFile) Sync() error     { return f.f.do(true, f.get().Sync) }
func (f *faultFile) SyncData() error { return f.f.do(true, f.get().SyncData) }

func (f *faultFile) Close() error {
	// A file is closed whatever close says.
	_, err := f.f.fault(true)
	if e := f.get().Close(); e != nil {
		return e
	}
	return err
}

func (f *faultFile) Stat() (i vfs.FileInfo, err error) {
	err = f.f.do(false, func() (err error) {
		i, err = f.get().Stat()
		return err
	})
	return i, err
}
