package replica

import (
	"errors"
	"io"
	"io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// orderedFS makes what Pebble takes for granted: that names made in a directory
// reach the disk in the order in which they were made. Pebble points to a new
// manifest by creating a marker file, removes the old marker, and then syncs
// the directory once. On a file system that writes names in any order, a crash
// within could leave a marker that points to nothing, or none. Here the
// directory is synced before each of the two steps, which are rare.
type orderedFS struct{ vfs.FS }

const markerPrefix = "marker."

func (f orderedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.before(name); err != nil {
		return nil, err
	}
	return f.FS.Create(name, c)
}

func (f orderedFS) Remove(name string) error {
	if err := f.before(name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

func (f orderedFS) before(name string) error {
	if !strings.HasPrefix(f.PathBase(name), markerPrefix) {
		return nil
	}
	return syncDir(f.FS, f.PathDir(name))
}

func (f orderedFS) Unwrap() vfs.FS { return f.FS }

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
