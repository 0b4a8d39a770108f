package datadir

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
)

// Names of what is left in a directory whose data was moved to a disk of its
// own. Whoever moves it writes them.
const (
	IdentityFile = identityName
	PeersFile    = peersName
	MovedFile    = movedName
	StoreDir     = storeName
)

// AppendMoved appends the content of MovedFile: the id of the disk in
// hexadecimal digits, and a newline.
func AppendMoved(b []byte, disk [16]byte) []byte {
	return append(hex.AppendEncode(b, disk[:]), '\n')
}

// ParseMoved reads what AppendMoved writes, and nothing else.
func ParseMoved(b []byte) (disk [16]byte, err error) {
	if n := hex.EncodedLen(len(disk)); len(b) == n+1 {
		_, err = hex.Decode(disk[:], b[:n])
	}
	if err != nil || string(AppendMoved(nil, disk)) != string(b) || disk == [16]byte{} {
		return [16]byte{}, errors.New("datadir: not the id of a disk")
	}
	return disk, nil
}

// moved returns a MovedError if the data was moved away. A mark that cannot be
// read is one all the same.
func (d *Dir) moved() error {
	if d.waiting {
		return nil
	}
	b, err := d.read(movedName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	e := &MovedError{Path: d.path}
	if err == nil {
		var disk [16]byte
		if disk, err = ParseMoved(b); err == nil {
			e.Disk = fmt.Sprintf("%x", disk)
		}
	}
	return e
}
