package disk

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"cobox/image/fat32"
	"cobox/image/layout"
)

// WriteBootsel puts one file into the boot selection's partition of an image,
// instead of the one of that name if there is one, and syncs it. The partition is
// made anew from its files: it holds a few hundred kilobytes, and what was
// deleted does not stay behind in free clusters.
//
// A crash in between leaves an image that is of no use; it is made again.
func WriteBootsel(name, file string, data []byte, made time.Time) error {
	if err := writeBootsel(name, file, data, made); err != nil {
		return fmt.Errorf("disk: writing %s into the image: %w", file, err)
	}
	return nil
}

func writeBootsel(name, file string, data []byte, made time.Time) (err error) {
	files, err := Partition(name, 1)
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(f fat32.File) bool { return f.Path == file })
	b, err := fat32.Make(layout.BootselSize, layout.BootselLabel, made, append(files, fat32.File{Path: file, Data: data}))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteAt(b, layout.BootselStart); err != nil {
		return err
	}
	return f.Sync()
}
