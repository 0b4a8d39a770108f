package datadir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// maxCode bounds the text of a pairing code.
const maxCode = 1024

// ErrNoCode is returned by ReadPairing when the directory holds no pairing
// code: the box is claimed, or has never run.
var ErrNoCode = errors.New("datadir: there is no pairing code here")

// WritePairing puts the pairing code of an unclaimed box into the directory,
// as a picture and as one line of text. The text comes last, so where it is the
// picture is too. It returns the path of the picture.
func (d *Dir) WritePairing(picture []byte, text string) (path string, err error) {
	if err := d.write(pictureName, picture, 0o600); err != nil {
		return "", err
	}
	return filepath.Join(d.path, pictureName), d.write(textName, []byte(text+"\n"), 0o600)
}

// RemovePairing deletes the code; that it is not there is no error.
func (d *Dir) RemovePairing() error {
	return errors.Join(d.remove(textName), d.remove(pictureName))
}

// ReadPairing returns the text of the pairing code in the data directory at
// path, which another process may have open, and the path of its picture. It
// returns [ErrNoCode] when there is none. The reader may have more rights than
// whoever writes the directory: no link is followed, no FIFO waited for, and no
// more read than a code has.
func ReadPairing(path string) (text, picture string, err error) {
	b, err := readCode(filepath.Join(path, textName))
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("%w: %s", ErrNoCode, path)
	}
	if err != nil {
		return "", "", fmt.Errorf("datadir: reading the pairing code: %w", err)
	}
	return string(bytes.TrimSpace(b)), filepath.Join(path, pictureName), nil
}

func readCode(path string) ([]byte, error) {
	b, err := ReadFile(path, maxCode+1)
	if err == nil && len(b) > maxCode {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxCode)
	}
	return b, err
}

// ReadFile reads the first limit bytes of a file whose directory belongs to
// somebody who is not trusted: it follows no link, and waits for no FIFO that
// somebody has put in the file's place.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}
