package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"

	"cobox/image/layout"
)

// A RefusedError says why a disk is not written to.
type RefusedError struct {
	Device string
	Reason string
	// Overridable says that Force would write to it all the same.
	Overridable bool
}

func (e *RefusedError) Error() string { return fmt.Sprintf("disk: %s is %s", e.Device, e.Reason) }

// ErrReadBack says that a disk does not hold what was written to it: it is
// broken, or smaller than it says.
var ErrReadBack = errors.New("disk: what was read back is not what was written")

// Stages of Flash.
const (
	StageWrite  = "write"
	StageVerify = "verify"
)

// FlashConfig says what to write and where to.
type FlashConfig struct {
	Image  string // the image; one that ends in ".zst" is unpacked on the way
	Device string // a whole disk such as /dev/sdx, or a file
	// Force writes to a disk that is mounted or does not look removable.
	Force bool
	// Progress, if it is there, is told how many bytes of a stage are done. The
	// total of an image that is packed is 0 while it is written.
	Progress func(stage string, done, total int64)
}

// flashUnit is how much is written at once.
const flashUnit = 4 << 20

// Flash writes an image to a disk and reads it back. It returns a *[RefusedError]
// before anything is changed, and [ErrReadBack] if the disk does not keep what it
// was given. A card that was cut off in the middle does not start; it is written
// again.
func Flash(ctx context.Context, c FlashConfig) (written int64, err error) {
	if err := checkTarget(c.Device, c.Force); err != nil {
		return 0, err
	}
	if c.Progress == nil {
		c.Progress = func(string, int64, int64) {}
	}
	image, total, err := openImage(c.Image)
	if err != nil {
		return 0, fmt.Errorf("disk: opening the image: %w", err)
	}
	defer image.Close()
	sum, n, err := writeImage(ctx, c, image, total)
	if err != nil {
		return n, fmt.Errorf("disk: writing to %s: %w", c.Device, err)
	}
	again, err := readBack(ctx, c, n)
	if err != nil {
		return n, fmt.Errorf("disk: reading back %s: %w", c.Device, err)
	}
	if !bytes.Equal(sum, again) {
		return n, fmt.Errorf("%w: %s", ErrReadBack, c.Device)
	}
	return n, nil
}

// openImage opens an image for reading, unpacked.
func openImage(name string) (r io.ReadCloser, total int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	if !strings.HasSuffix(name, ".zst") {
		info, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, 0, err
		}
		return f, info.Size(), nil
	}
	z, err := zstd.NewReader(f, zstd.WithDecoderMaxWindow(1<<28))
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return &packed{z, f}, 0, nil
}

// packed is an image that is unpacked as it is read.
type packed struct {
	*zstd.Decoder
	file *os.File
}

func (p *packed) Close() error {
	p.Decoder.Close()
	return p.file.Close()
}

func writeImage(ctx context.Context, c FlashConfig, image io.Reader, total int64) (sum []byte, n int64, err error) {
	out, err := os.OpenFile(c.Device, targetFlags(c.Force), 0)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := checkRoom(out, total); err != nil {
		return nil, 0, err
	}
	h := sha256.New()
	b := make([]byte, flashUnit)
	for {
		if err := ctx.Err(); err != nil {
			return nil, n, err
		}
		got, err := io.ReadFull(image, b)
		if got > 0 {
			h.Write(b[:got])
			if _, err := out.Write(b[:got]); err != nil {
				return nil, n, err
			}
			n += int64(got)
			c.Progress(StageWrite, n, total)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, n, fmt.Errorf("reading the image: %w", err)
		}
	}
	if n == 0 {
		return nil, 0, errors.New("the image is empty")
	}
	if err := out.Sync(); err != nil {
		return nil, n, err
	}
	return h.Sum(nil), n, nil
}

// checkRoom tells before anything is changed that a disk is too small, where that
// can be known.
func checkRoom(out *os.File, total int64) error {
	info, err := out.Stat()
	if err != nil || info.Mode().IsRegular() {
		return err // a file grows
	}
	size, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if size < max(total, layout.ImageSize) {
		return fmt.Errorf("it holds %d MB, and the image needs %d", size/1e6, max(total, layout.ImageSize)/1e6)
	}
	_, err = out.Seek(0, io.SeekStart)
	return err
}

// readBack returns the hash of the first n bytes, from the disk rather than from
// the memory where they were before.
func readBack(ctx context.Context, c FlashConfig, n int64) ([]byte, error) {
	in, err := os.Open(c.Device)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if err := forget(in); err != nil {
		return nil, err
	}
	h := sha256.New()
	for done := int64(0); done < n; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		got, err := io.CopyN(h, in, min(flashUnit, n-done))
		done += got
		if err != nil {
			return nil, err
		}
		c.Progress(StageVerify, done, n)
	}
	return h.Sum(nil), nil
}
