//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cobox/appliance/datadir"
	"cobox/image/layout"
)

// Names in the box's data directory that coboxd's FORMAT.md describes.
const (
	identityFile  = "identity"
	provisionCopy = "provision"
)

// provisionedMark, beside the data directory, says that the boot partition has
// nothing more to give. It is then never mounted again.
const provisionedMark = "provisioned"

// maxProvision bounds what is read of the file; a right one is much smaller.
const maxProvision = 4096

// takeProvision moves an identity that was made together with the image from
// the boot partition at device to the data directory, and erases it there,
// because a card that is thrown away or copied must not give away the pairing
// secret.
//
//  1. The copy is written to the data directory durably.
//  2. The original is overwritten with zeros and removed.
//  3. The mark is written.
//
// A crash after 1 finds the original again at the next start. coboxd may have
// taken the copy by then: with an identity there nothing is copied, only erased.
// Were it copied twice, coboxd would take the same file twice without harm. A
// crash within 2 leaves zeros under the name, which are removed without being
// read as an identity. A crash after 2 finds nothing and writes the mark.
func takeProvision(device, mountPoint, data string, uid int) (taken bool, err error) {
	if _, err := os.Lstat(filepath.Join(filepath.Dir(data), provisionedMark)); err == nil {
		return false, nil
	}
	const locked = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount(device, mountPoint, "vfat", locked|unix.MS_RDONLY, "umask=0077"); err != nil {
		return false, fmt.Errorf("provision: mounting the boot partition: %w", err)
	}
	taken, err = moveProvision(filepath.Join(mountPoint, layout.ProvisionFile), data, uid, func() error {
		return unix.Mount("", mountPoint, "", unix.MS_REMOUNT|locked, "umask=0077")
	})
	if err := errors.Join(err, unix.Unmount(mountPoint, 0)); err != nil {
		return taken, err
	}
	return taken, writeDurably(filepath.Join(filepath.Dir(data), provisionedMark), nil, 0o600, 0)
}

// moveProvision does 1 and 2. writable is called before the original is
// changed.
func moveProvision(original, data string, uid int, writable func() error) (taken bool, err error) {
	b, err := readSmall(original)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("provision: %w", err)
	}
	if !allZero(b) {
		if taken, err = copyProvision(b, data, uid); err != nil {
			return false, err
		}
	}
	if err := writable(); err != nil {
		return taken, fmt.Errorf("provision: making the boot partition writable: %w", err)
	}
	if err := erase(original, len(b)); err != nil {
		return taken, fmt.Errorf("provision: erasing it on the boot partition: %w", err)
	}
	return taken, nil
}

// copyProvision writes the copy unless the box has that identity already. One
// with another identity is an error, and the original stays: somebody meant
// something else.
func copyProvision(b []byte, data string, uid int) (taken bool, err error) {
	p, err := datadir.ParseProvision(b)
	if err != nil {
		return false, fmt.Errorf("provision: %w", err)
	}
	have, err := readSmall(filepath.Join(data, identityFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := writeDurably(filepath.Join(data, provisionCopy), b, 0o600, uid); err != nil {
			return false, fmt.Errorf("provision: writing it to the data partition: %w", err)
		}
		return true, nil
	case err != nil:
		return false, fmt.Errorf("provision: %w", err)
	case !bytes.Equal(have, datadir.AppendIdentity(nil, p.Identity)):
		return false, errors.New("provision: the boot partition holds the identity of another box; this one keeps its own")
	}
	return false, nil
}

// erase overwrites the bytes of a file where they lie and removes it.
func erase(path string, size int) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, size), 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// readSmall reads a small file that may lie in coboxd's own directory.
func readSmall(path string) ([]byte, error) { return datadir.ReadFile(path, maxProvision) }

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
