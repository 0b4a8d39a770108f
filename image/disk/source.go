package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"

	"cobox/image/layout"
)

// Why an image is not used.
var (
	// ErrNotImage says that a file does not begin as an image of CoBox does.
	ErrNotImage = errors.New("disk: not an image of CoBox")
	// ErrDamaged says that an image ends before its partition table says, or that
	// it cannot be unpacked.
	ErrDamaged = errors.New("disk: the image is damaged or was not downloaded whole; compare it with SHA256SUMS")
)

// zstdMagic is how a packed image begins, whatever its name is.
const zstdMagic = "\x28\xb5\x2f\xfd"

// Source is an image that is read from its beginning to its end, and unpacked on
// the way if it is packed. Read returns io.EOF only if all of the image was there
// and undamaged; an image that is not is an [ErrDamaged].
type Source struct {
	// Size is where the last partition ends. What a file has behind that, as a copy
	// of a whole card does, is not part of the image.
	Size int64
	// Packed says that the file is compressed.
	Packed bool

	table *layout.Table
	name  string
	file  *os.File
	zstd  *zstd.Decoder // nil if not Packed
	r     io.Reader     // unpacked
	left  int64
}

// OpenSource opens an image. It fails with [ErrNotImage] if the file does not begin
// with the partition table of CoBox.
func OpenSource(name string) (*Source, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("disk: opening the image: %w", err)
	}
	s := &Source{name: name, file: f, r: f}
	if err := s.begin(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Source) begin() error {
	info, err := s.file.Stat()
	if err != nil {
		return fmt.Errorf("disk: opening the image: %w", err)
	}
	if info.Size() == 0 && info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is empty", ErrNotImage, s.name)
	}
	if info.IsDir() {
		return fmt.Errorf("%w: %s is a directory", ErrNotImage, s.name)
	}
	magic := make([]byte, len(zstdMagic))
	n, err := io.ReadFull(s.file, magic)
	if err != nil && !ended(err) {
		return fmt.Errorf("disk: reading the image: %w", err)
	}
	s.r = io.MultiReader(bytes.NewReader(magic[:n]), s.file)
	if string(magic) == zstdMagic {
		s.Packed = true
		const maxWindow = 1 << 28
		if s.zstd, err = zstd.NewReader(s.r, zstd.WithDecoderMaxWindow(maxWindow)); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrDamaged, s.name, err)
		}
		s.r = s.zstd
	}
	sector := make([]byte, layout.SectorSize)
	if _, err := io.ReadFull(s.r, sector); err != nil {
		switch {
		case s.Packed:
			return fmt.Errorf("%w: %s ends before its first sector", ErrDamaged, s.name)
		case ended(err):
			return fmt.Errorf("%w: %s", ErrNotImage, s.name)
		}
		return fmt.Errorf("disk: reading the image: %w", err)
	}
	if s.table, err = layout.ParseMBR(sector); err != nil {
		return fmt.Errorf("%w: %s", ErrNotImage, s.name)
	}
	s.Size = int64(s.table.Data.End())
	s.left = s.Size
	if info.Mode().IsRegular() && !s.Packed && info.Size() < s.Size {
		return fmt.Errorf("%w: %s has %d bytes of %d", ErrDamaged, s.name, info.Size(), s.Size)
	}
	s.r = io.MultiReader(bytes.NewReader(sector), s.r)
	return nil
}

// Read reads on.
func (s *Source) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, s.end()
	}
	n, err := s.r.Read(b[:min(int64(len(b)), s.left)])
	s.left -= int64(n)
	if err != nil && (s.left > 0 || !errors.Is(err, io.EOF)) {
		return n, s.failed(err)
	}
	return n, nil
}

// end reads a packed image to its end: the last thing in it is a checksum.
func (s *Source) end() error {
	if s.Packed {
		if _, err := io.Copy(io.Discard, s.r); err != nil {
			return s.failed(err)
		}
	}
	return io.EOF
}

// failed says what an error means in the middle of an image.
func (s *Source) failed(err error) error {
	var path *os.PathError
	switch {
	case ended(err):
		return fmt.Errorf("%w: %s ends %d bytes too early", ErrDamaged, s.name, max(s.left, 1))
	case errors.As(err, &path): // of the disk that it lies on
		return fmt.Errorf("disk: reading the image: %w", err)
	case s.Packed:
		return fmt.Errorf("%w: %s: %w", ErrDamaged, s.name, err)
	}
	return fmt.Errorf("disk: reading the image: %w", err)
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// Close ends the reading.
func (s *Source) Close() error {
	if s.zstd != nil {
		s.zstd.Close()
	}
	return s.file.Close()
}
