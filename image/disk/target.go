package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"cobox/image/holds"
)

// A Target is what an image is written to, as people want to see it before all
// that is on it is lost.
type Target struct {
	Device string
	File   bool   // a file instead of a disk
	Size   int64  // in bytes; 0 if it is not known, or of a file that grows
	Model  string // maker and model, as far as the system knows them
	Used   string // such as "mounted at /media/x"; "" if it is not in use
	Holds  string // such as "partitions (MBR): a file system exFAT"; "" if it is blank
}

// Inspect makes the checks of [Flash] and says what would be overwritten. Nothing
// is changed.
func Inspect(c FlashConfig) (*Target, error) {
	t, err := checkTarget(c.Device, c.Force)
	if err != nil {
		return nil, err
	}
	image, err := OpenSource(c.Image)
	if err != nil {
		return nil, err
	}
	defer image.Close()
	if err := t.look(image); err != nil {
		return nil, err
	}
	return t, nil
}

// look reads what is there, and compares its size with that of the image.
func (t *Target) look(image *Source) error {
	f, err := os.Open(t.Device)
	if err != nil {
		return fmt.Errorf("disk: looking at %s: %w", t.Device, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("disk: looking at %s: %w", t.Device, err)
	}
	if own, err := image.file.Stat(); err == nil && os.SameFile(own, info) {
		return &RefusedError{Device: t.Device, Reason: "the image itself"}
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("disk: looking at %s: %w", t.Device, err)
	}
	found, err := holds.Look(f, size)
	switch {
	case t.File && err != nil:
		return fmt.Errorf("disk: looking at %s: %w", t.Device, err)
	case t.File && found.Kind != holds.Blank && found.Kind != holds.System:
		return &RefusedError{Device: t.Device, Reason: "a file that holds something else than an image of CoBox; name a disk, or an empty file"}
	case err != nil:
		t.Holds = "something that cannot be read"
	default:
		t.Holds = found.Found
	}
	if t.File {
		return nil
	}
	t.Size = size
	if size < image.Size && (size > 0 || !sizeUnknown) {
		reason := fmt.Sprintf("too small: it has %d MB, and the image needs %d", size/1e6, image.Size/1e6)
		if size == 0 {
			reason = "empty: there is no card in it"
		}
		return &RefusedError{Device: t.Device, Reason: reason}
	}
	return nil
}

// missing says that there is no such disk. One is never made: a name of a disk that
// was mistyped would become a file.
func missing(device string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrNoTarget, device)
	}
	return fmt.Errorf("disk: looking at %s: %w", device, err)
}

// ErrNoTarget says that a disk is not there.
var ErrNoTarget = errors.New("disk: there is no such disk")

// An UnfinishedError says that a disk was overwritten in part: what was on it is
// lost, and a box does not start from it.
type UnfinishedError struct {
	Device string
	Err    error
}

func (e *UnfinishedError) Error() string { return e.Err.Error() }

// Unwrap returns why.
func (e *UnfinishedError) Unwrap() error { return e.Err }
