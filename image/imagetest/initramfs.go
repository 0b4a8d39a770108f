package imagetest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/u-root/u-root/pkg/cpio"

	"cobox/image/initrd"
)

// Repack returns an initramfs in which files have other contents: their paths
// have no slash in front. All else stays, and each file must be there already as
// a regular one, or a misspelt path would change nothing. The result is less
// compressed, to be quick.
func Repack(initramfs []byte, replace map[string][]byte) ([]byte, error) {
	records, err := initrd.Unpack(initramfs)
	if err != nil {
		return nil, fmt.Errorf("imagetest: %w", err)
	}
	left := maps.Clone(replace)
	for i := range records {
		r := &records[i]
		if b, ok := replace[r.Name]; ok && r.Mode&cpio.S_IFMT == cpio.S_IFREG {
			r.ReaderAt, r.FileSize = bytes.NewReader(b), uint64(len(b))
			delete(left, r.Name)
		}
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("imagetest: no files of the initramfs: %q", slices.Sorted(maps.Keys(left)))
	}
	b, err := initrd.Pack(records, initrd.Quick)
	if err != nil {
		return nil, fmt.Errorf("imagetest: %w", err)
	}
	return b, nil
}
