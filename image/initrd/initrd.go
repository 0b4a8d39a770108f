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
	"strconv"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

const (
	// window is how far back the frame refers, in bytes: Linux needs as much
	// memory while it unpacks.
	window = 8 << 20
	// most is how large an archive may be, in bytes.
	most = 512 << 20
	// maxName is how long a name may be, with the zero behind it, in bytes: as long
	// as Linux takes one.
	maxName = 4096
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
	end, err := length(archive)
	if err != nil {
		return nil, fmt.Errorf("initrd: unpack: %w", err)
	}
	// Linux would go on with an archive that follows.
	if len(bytes.Trim(archive[end:], "\x00")) > 0 {
		return nil, errors.New("initrd: unpack: something follows its end")
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(archive[:end])))
	if err != nil {
		return nil, fmt.Errorf("initrd: unpack: %w", err)
	}
	return records, nil
}

// length finds the end of an archive, behind its trailer, from the sizes that its
// headers tell: the reader of archives believes those.
func length(archive []byte) (end int, err error) {
	const (
		header   = 110 // bytes: a magic of 6 and 13 numbers of 8 hexadecimal digits
		fileSize = 6 + 6*8
		nameSize = 6 + 11*8
	)
	for at := 0; ; {
		if len(archive)-at < header {
			return 0, errors.New("it has no end")
		}
		number := func(offset int) (n uint64) {
			if err == nil {
				n, err = strconv.ParseUint(string(archive[at+offset:at+offset+8]), 16, 32)
			}
			return n
		}
		file, name := number(fileSize), number(nameSize)
		if err != nil {
			return 0, fmt.Errorf("the header at %d: %w", at, err)
		}
		if name == 0 || name > maxName {
			return 0, fmt.Errorf("the header at %d: a name of %d bytes", at, name)
		}
		content := round4(at + header + int(name))
		next := round4(content + int(file))
		if next > len(archive) {
			return 0, errors.New("it has no end")
		}
		if string(archive[at+header:at+header+int(name)-1]) == cpio.Trailer {
			return next, nil
		}
		at = next
	}
}

// round4 is where a part of an archive begins if the one before ends at n.
func round4(n int) int { return (n + 3) &^ 3 }

// Content returns the bytes of a record.
func Content(r cpio.Record) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(r.ReaderAt, 0, int64(r.FileSize)))
}
