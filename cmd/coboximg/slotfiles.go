package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"

	"cobox/image/bundle"
	"cobox/image/layout"
)

// slotFiles is the files of a slot, in a directory or in an image. It may hold
// nothing but directories and regular files.
type slotFiles struct {
	files fs.FS
	read  func(path string) ([]byte, error)
	close func() error
}

// slotDirectory takes the files of a directory.
func slotDirectory(dir string) (*slotFiles, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the slot's directory: %w", err)
	}
	return &slotFiles{root.FS(), root.ReadFile, root.Close}, nil
}

// slotImage takes the files of slot A of an image.
func slotImage(name string) (*slotFiles, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open the image: %w", err)
	}
	defer f.Close()
	sector := make([]byte, layout.SectorSize)
	if _, err := io.ReadFull(f, sector); err != nil {
		return nil, fmt.Errorf("read the first sector of the image: %w", err)
	}
	table, err := layout.ParseMBR(sector)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	// All of the slot, because the library takes no notice of a failed read.
	p, _ := table.Partition(layout.SlotA.Partition())
	b := make([]byte, p.Size)
	if _, err := f.ReadAt(b, int64(p.Start)); err != nil {
		return nil, fmt.Errorf("read slot A of the image: %w", err)
	}
	files, err := fat32.Read(file.New(memory{bytes.NewReader(b)}, true), layout.SlotSize, 0, layout.SectorSize)
	if err != nil {
		return nil, fmt.Errorf("read the file system of slot A: %w", err)
	}
	read := func(path string) ([]byte, error) { return readFAT(files, path) }
	return &slotFiles{files, read, func() error { return nil }}, nil
}

// readFAT reads a file with one call: the library gives too much at the end of a
// file to whoever goes on within a cluster. And it fails at files without bytes.
func readFAT(files fs.FS, path string) ([]byte, error) {
	f, err := files.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return nil, err
	}
	if info.Size() > layout.SlotSize {
		return nil, fmt.Errorf("%d bytes are more than a slot", info.Size())
	}
	b := make([]byte, info.Size())
	n, err := f.Read(b)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if n != len(b) {
		return nil, io.ErrUnexpectedEOF
	}
	return b, nil
}

// memory is a disk in memory.
type memory struct{ *bytes.Reader }

// Stat is not needed to read.
func (memory) Stat() (fs.FileInfo, error) { return nil, errors.ErrUnsupported }

// Close does nothing.
func (memory) Close() error { return nil }

// open returns a file.
func (s *slotFiles) open(path string) (io.ReadCloser, error) {
	b, err := s.read(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// describe returns what a manifest says of the files: all but the manifest that
// may be there and its signatures.
func (s *slotFiles) describe() ([]bundle.File, error) {
	var files []bundle.File
	err := fs.WalkDir(s.files, ".", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir(), strings.EqualFold(path, layout.ManifestFile), strings.EqualFold(path, layout.SignaturesFile):
			return nil
		case !e.Type().IsRegular():
			return fmt.Errorf("%s is neither a regular file nor a directory", path)
		}
		b, err := s.read(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		files = append(files, bundle.File{Path: path, Size: int64(len(b)), SHA256: sha256.Sum256(b)})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the slot's files: %w", err)
	}
	return files, nil
}
