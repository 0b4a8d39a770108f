//go:build linux

package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// writeDurably replaces a file as a whole. A crash leaves the old file or the
// new one, and at most path.tmp beside it, which the next write removes.
func writeDurably(path string, data []byte, mode os.FileMode, uid int) error {
	tmp := path + ".tmp"
	// The directory may belong to coboxd, whom nothing here trusts: what it may
	// have put under the name is removed and never followed.
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chown(uid, uid)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
