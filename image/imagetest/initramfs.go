package imagetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/klauspost/compress/gzip"
	"github.com/u-root/u-root/pkg/cpio"
)

// Repack returns an initramfs in which files have other contents: their paths
// have no slash in front. All else stays, and each file must be there already as
// a regular one, or a misspelt path would change nothing. The result is less
// compressed, to be quick.
func Repack(initrd []byte, replace map[string][]byte) ([]byte, error) {
	records, err := unpack(initrd)
	if err != nil {
		return nil, fmt.Errorf("imagetest: unpack an initramfs: %w", err)
	}
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	left := maps.Clone(replace)
	w := cpio.Newc.Writer(z)
	for _, r := range records {
		if b, ok := replace[r.Name]; ok && r.Mode&cpio.S_IFMT == cpio.S_IFREG {
			r.ReaderAt, r.FileSize = bytes.NewReader(b), uint64(len(b))
			delete(left, r.Name)
		}
		if err := w.WriteRecord(r); err != nil {
			return nil, fmt.Errorf("imagetest: pack an initramfs: %w", err)
		}
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("imagetest: no files of the initramfs: %q", slices.Sorted(maps.Keys(left)))
	}
	if err := errors.Join(cpio.WriteTrailer(w), z.Close()); err != nil {
		return nil, fmt.Errorf("imagetest: pack an initramfs: %w", err)
	}
	return out.Bytes(), nil
}

// unpack returns what is in an initramfs.
func unpack(initrd []byte) ([]cpio.Record, error) {
	z, err := gzip.NewReader(bytes.NewReader(initrd))
	if err != nil {
		return nil, err
	}
	archive, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	return cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(archive)))
}

// content returns the bytes of a record.
func content(r cpio.Record) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(r.ReaderAt, 0, int64(r.FileSize)))
}
