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
	files  fs.FS
	closer io.Closer
}

// slotDirectory takes the files of a directory.
func slotDirectory(dir string) (*slotFiles, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the slot's directory: %w", err)
	}
	return &slotFiles{root.FS(), root}, nil
}

// slotImage takes the files of slot A of an image.
func slotImage(name string) (*slotFiles, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open the image: %w", err)
	}
	files, err := openSlotA(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &slotFiles{files, f}, nil
}

func openSlotA(disk *os.File) (fs.FS, error) {
	sector := make([]byte, layout.SectorSize)
	if _, err := disk.ReadAt(sector, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the first sector: %w", err)
	}
	table, err := layout.ParseMBR(sector)
	if err != nil {
		return nil, err
	}
	p, _ := table.Partition(layout.SlotA.Partition())
	fsys, err := fat32.Read(file.New(disk, true), int64(p.Size), int64(p.Start), layout.SectorSize)
	if err != nil {
		return nil, fmt.Errorf("read the file system of slot A: %w", err)
	}
	return fsys, nil
}

func (s *slotFiles) close() error { return s.closer.Close() }

// open returns a file, which is read as a whole: a FAT file that is read piece
// by piece is walked through anew for each.
func (s *slotFiles) open(path string) (io.ReadCloser, error) {
	b, err := fs.ReadFile(s.files, path)
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
		b, err := fs.ReadFile(s.files, path)
		if err != nil {
			return err
		}
		files = append(files, bundle.File{Path: path, Size: int64(len(b)), SHA256: sha256.Sum256(b)})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the slot's files: %w", err)
	}
	return files, nil
}
