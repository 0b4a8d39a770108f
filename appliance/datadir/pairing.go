package datadir

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

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
// returns [ErrNoCode] when there is none.
func ReadPairing(path string) (text, picture string, err error) {
	b, err := os.ReadFile(filepath.Join(path, textName))
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("%w: %s", ErrNoCode, path)
	}
	if err != nil {
		return "", "", fmt.Errorf("datadir: reading the pairing code: %w", err)
	}
	return string(bytes.TrimSpace(b)), filepath.Join(path, pictureName), nil
}
