package bundle

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"slices"
)

// Contents are the files of a slot in memory, by path: all but the manifest and
// its signatures.
type Contents map[string][]byte

// Open gives a file to Write.
func (c Contents) Open(path string) (io.ReadCloser, error) {
	b, ok := c[path]
	if !ok {
		return nil, fmt.Errorf("bundle: %s: %w", path, fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// Describe returns what a manifest says of the files, in its order.
func (c Contents) Describe() []File {
	files := make([]File, 0, len(c))
	for path, b := range c {
		files = append(files, File{Path: path, Size: int64(len(b)), SHA256: sha256.Sum256(b)})
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return files
}
