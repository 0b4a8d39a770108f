package main

import (
	"fmt"
	"io/fs"
	"os"
	"strings"

	"cobox/image/bundle"
	"cobox/image/layout"
)

// slotDirectory takes the files of a slot from a directory: all but the manifest
// that may be there and its signatures. There may be nothing but directories and
// regular files.
func slotDirectory(dir string) (bundle.Contents, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the slot's directory: %w", err)
	}
	defer root.Close()
	files, left := bundle.Contents{}, int64(layout.SlotSize)
	err = fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir(), strings.EqualFold(path, layout.ManifestFile), strings.EqualFold(path, layout.SignaturesFile):
			return nil
		case !e.Type().IsRegular():
			return fmt.Errorf("%s is neither a regular file nor a directory", path)
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if left -= info.Size(); left < 0 {
			return fmt.Errorf("up to %s the files have more than the %d bytes of a slot", path, layout.SlotSize)
		}
		files[path], err = root.ReadFile(path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the slot's files: %w", err)
	}
	return files, nil
}
