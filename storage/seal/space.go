package seal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"

	"cobox/storage/merklelog"
)

// ChunkIDKey keys the hash that names a space's chunks, so that nobody without
// it can tell whether a space holds a known file.
type ChunkIDKey [32]byte

// ChunkerKey keys where a space's files are cut into chunks, so that the sizes
// of chunks say nothing about their contents.
type ChunkerKey [32]byte

// SpaceKeys is what is constant for a space: its tag, by which boxes know it,
// and what only its members know.
type SpaceKeys struct {
	hidden
	Tag     merklelog.Tag
	Name    string
	ChunkID ChunkIDKey
	Chunker ChunkerKey
}

// NewSpace makes a space with a random tag and random keys.
func NewSpace(name string) (SpaceKeys, error) {
	if err := checkName(name); err != nil {
		return SpaceKeys{}, fmt.Errorf("seal: making space: name: %w", err)
	}
	s := SpaceKeys{Name: name}
	for _, b := range [][]byte{s.Tag[:], s.ChunkID[:], s.Chunker[:]} {
		_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	}
	return s, nil
}

// MaxName is the length in bytes of the longest name of a space or device.
const MaxName = 255

// checkName holds that a name can be shown as it is: 1 to MaxName bytes of
// UTF-8 without control characters, which could drive another member's
// terminal.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("empty")
	case len(name) > MaxName:
		return fmt.Errorf("%d bytes, at most %d", len(name), MaxName)
	case !utf8.ValidString(name):
		return errors.New("not UTF-8")
	}
	for _, r := range name {
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			return fmt.Errorf("holds the control character %U", r)
		}
	}
	return nil
}
