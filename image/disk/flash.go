package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
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
	Image  string // the image; a packed one is unpacked on the way
	Device string // a whole disk such as /dev/sdx, or a file
	// Force writes to a disk that is mounted or does not look removable.
	Force bool
	// Progress, if it is there, is told how many bytes of a stage are done.
	Progress func(stage string, done, total int64)
}

// flashUnit is how much is written at once.
const flashUnit = 4 << 20

// syncUnit is how much may wait in memory.
const syncUnit = 16 * flashUnit

// Flash writes an image to a disk and reads it back. It returns a *[RefusedError],
// an [ErrNoTarget] or an [ErrNotImage] before anything is changed, and [ErrReadBack]
// if the disk does not keep what it was given. A disk that is left half written is
// an *[UnfinishedError]: it does not start, and is written again.
//
// A file is written to only if it holds nothing but zeros or an image of CoBox.
func Flash(ctx context.Context, c FlashConfig) (written int64, err error) {
	t, err := checkTarget(c.Device, c.Force)
	if err != nil {
		return 0, err
	}
	image, err := OpenSource(c.Image)
	if err != nil {
		return 0, err
	}
	defer image.Close()
	if err := t.look(image); err != nil {
		return 0, err
	}
	if err := whole(ctx, c.Image); err != nil {
		return 0, err
	}
	if c.Progress == nil {
		c.Progress = func(string, int64, int64) {}
	}
	sum, n, err := writeImage(ctx, c, image)
	switch {
	case err == nil:
	case n > 0:
		return n, &UnfinishedError{c.Device, fmt.Errorf("disk: writing to %s: %w", c.Device, err)}
	default:
		return n, fmt.Errorf("disk: writing to %s: %w", c.Device, err)
	}
	again, err := readBack(ctx, c, n)
	if err != nil {
		return n, &UnfinishedError{c.Device, fmt.Errorf("disk: reading back %s: %w", c.Device, err)}
	}
	if !bytes.Equal(sum, again) {
		return n, fmt.Errorf("%w: %s", ErrReadBack, c.Device)
	}
	return n, nil
}

// whole unpacks a packed image once before it is written, so that one that is
// damaged does not cost what is on the disk. Others were measured when they were
// opened.
func whole(ctx context.Context, name string) error {
	image, err := OpenSource(name)
	if err != nil {
		return err
	}
	defer image.Close()
	b := make([]byte, 1<<20)
	for image.Packed {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := image.Read(b); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

func writeImage(ctx context.Context, c FlashConfig, image *Source) (sum []byte, n int64, err error) {
	out, err := os.OpenFile(c.Device, targetFlags(c.Force), 0)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	h := sha256.New()
	b := make([]byte, flashUnit)
	for n < image.Size {
		if err := ctx.Err(); err != nil {
			return nil, n, err
		}
		part := b[:min(flashUnit, image.Size-n)]
		if _, err := io.ReadFull(image, part); err != nil {
			return nil, n, err
		}
		h.Write(part)
		wrote, err := out.Write(part)
		n += int64(wrote)
		if err != nil {
			return nil, n, err
		}
		// What waits in memory to be written can be minutes of a slow card: then
		// nothing would be told, and nobody could interrupt.
		if n%syncUnit == 0 {
			if err := out.Sync(); err != nil {
				return nil, n, err
			}
		}
		c.Progress(StageWrite, n, image.Size)
	}
	// Only the end says that the image was whole.
	if _, err := image.Read(b); !errors.Is(err, io.EOF) {
		return nil, n, err
	}
	if err := out.Sync(); err != nil {
		return nil, n, err
	}
	return h.Sum(nil), n, nil
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
