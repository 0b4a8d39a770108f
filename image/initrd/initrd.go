// Package initrd packs and unpacks the root file system of a slot: a cpio
// archive in the format "newc", as one Zstandard frame with a checksum. Linux
// unpacks it faster than gzip, there is less to read from the card, and damage to
// it does not go unnoticed.
package initrd

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

const (
	// window is how far back the frame refers, in bytes: Linux needs as much
	// memory while it unpacks.
	window = 8 << 20
	// most is how large an archive may be, in bytes.
	most = 512 << 20
)

// Level says how hard to compress.
type Level int

const (
	Small Level = iota // for what is shipped
	Quick              // for what a test starts once
)

// Pack returns the records, and the trailer of an archive, compressed. The same
// records give the same bytes.
func Pack(records []cpio.Record, level Level) ([]byte, error) {
	encoder := zstd.SpeedBestCompression
	if level == Quick {
		encoder = zstd.SpeedFastest
	}
	var out bytes.Buffer
	// One thread: how the work is divided among several would be in the result.
	z, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(encoder), zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("initrd: pack: %w", err)
	}
	w := cpio.Newc.Writer(z)
	for _, r := range records {
		if err := w.WriteRecord(r); err != nil {
			return nil, fmt.Errorf("initrd: pack %s: %w", r.Name, err)
		}
	}
	if err := errors.Join(cpio.WriteTrailer(w), z.Close()); err != nil {
		return nil, fmt.Errorf("initrd: pack: %w", err)
	}
	return out.Bytes(), nil
}

// Unpack returns the records, without the trailer.
func Unpack(b []byte) ([]cpio.Record, error) {
	z, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return nil, fmt.Errorf("initrd: unpack: %w", err)
	}
	defer z.Close()
	archive, err := io.ReadAll(io.LimitReader(z, most+1))
	if err != nil {
		return nil, fmt.Errorf("initrd: unpack: %w", err)
	}
	if len(archive) > most {
		return nil, fmt.Errorf("initrd: unpack: it is larger than %d bytes", most)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(archive)))
	if err != nil {
		return nil, fmt.Errorf("initrd: unpack: %w", err)
	}
	end := 0
	if n := len(records); n > 0 {
		end = int(records[n-1].FilePos) + int(records[n-1].FileSize+3)&^3
	}
	var trailer bytes.Buffer
	if err := cpio.WriteTrailer(cpio.Newc.Writer(&trailer)); err != nil {
		return nil, fmt.Errorf("initrd: unpack: %w", err)
	}
	if end > len(archive) || !bytes.HasPrefix(archive[end:], trailer.Bytes()) {
		return nil, errors.New("initrd: unpack: it has no end")
	}
	// Linux would go on with an archive that follows.
	if rest := archive[end+trailer.Len():]; len(bytes.Trim(rest, "\x00")) > 0 {
		return nil, errors.New("initrd: unpack: something follows its end")
	}
	return records, nil
}

// Content returns the bytes of a record.
func Content(r cpio.Record) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(r.ReaderAt, 0, int64(r.FileSize)))
}
