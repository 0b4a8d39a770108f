package fat32

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/diskfs/go-diskfs/backend"
	diskfs "github.com/diskfs/go-diskfs/filesystem/fat32"
)

// sectorSize is the only one that the Raspberry Pi's firmware is known to read.
const sectorSize = 512

// Read returns the files of the file system in a part of r, sorted by path. It is
// for images that were made here: the library below takes a broken one on trust.
func Read(r io.ReaderAt, start, size int64) ([]File, error) {
	b := make([]byte, size)
	if _, err := r.ReadAt(b, start); err != nil {
		return nil, fmt.Errorf("fat32: reading: %w", err)
	}
	f, err := diskfs.Read(&memory{b: b}, size, 0, sectorSize)
	if err != nil {
		return nil, fmt.Errorf("fat32: reading: %w", err)
	}
	files, err := readDir(f, ".")
	if err != nil {
		return nil, fmt.Errorf("fat32: reading: %w", err)
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

func readDir(f *diskfs.FileSystem, dir string) ([]File, error) {
	entries, err := f.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", dir, err)
	}
	var files []File
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if e.Name() == "." || e.Name() == ".." {
			continue
		}
		if e.IsDir() {
			below, err := readDir(f, name)
			if err != nil {
				return nil, err
			}
			files = append(files, below...)
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("file %s: %w", name, err)
		}
		data, err := readFile(f, name, info.Size())
		if err != nil {
			return nil, fmt.Errorf("file %s: %w", name, err)
		}
		files = append(files, File{name, data})
	}
	return files, nil
}

// readFile reads a file at once: the library reads beyond the end when it goes on
// in the middle of a cluster, and not at all where there is none.
func readFile(f *diskfs.FileSystem, name string, size int64) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	r, err := f.OpenFile(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, size)
	_, err = io.ReadFull(r, b)
	return b, err
}

// memory is a disk in memory, as the library wants it.
type memory struct {
	b   []byte
	pos int64
}

var _ backend.WritableFile = (*memory)(nil)
var _ backend.Storage = (*memory)(nil)

func (m *memory) Stat() (fs.FileInfo, error)              { return nil, backend.ErrNotSuitable }
func (m *memory) Sys() (*os.File, error)                  { return nil, backend.ErrNotSuitable }
func (m *memory) Writable() (backend.WritableFile, error) { return m, nil }
func (m *memory) Path() string                            { return "" }
func (m *memory) Close() error                            { return nil }
func (m *memory) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += m.pos
	case io.SeekEnd:
		off += int64(len(m.b))
	}
	if off < 0 {
		return 0, errors.New("seeking before the beginning")
	}
	m.pos = off
	return off, nil
}

func (m *memory) Read(p []byte) (int, error) {
	n, err := m.ReadAt(p, m.pos)
	m.pos += int64(n)
	return n, err
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m.b)) {
		return 0, io.ErrShortWrite
	}
	return copy(m.b[off:], p), nil
}
