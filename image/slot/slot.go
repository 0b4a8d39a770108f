// Package slot writes a whole system into one of the two slots of a box's disk,
// and checks one that is there.
//
// [Write] makes a new file system each time, whose every byte follows from the
// files: so it can be compared with what it should be after it was written, the
// same release gives the same slot on every box and in the image, and nothing of
// the system before is left in its directories. FORMAT.md says where everything
// lies.
//
// A slot without its first sector is no file system, and the firmware starts
// nothing from it. Write erases that sector first and writes it last, after all
// the rest was synced and read back. So whatever happens in between, a slot is
// the old system, the new one, or none; which slot starts is never decided here.
//
// [Read] and [System.Verify] look at the files of a slot through whatever has
// mounted it.
package slot

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"cobox/image/bundle"
	"cobox/image/layout"
)

// Device is the partition of a slot, layout.SlotSize bytes. A read after Sync
// has to come from the medium, not from a cache, or reading back proves nothing.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns when what was written before would survive a power cut.
	Sync() error
}

// Source is a system to write: a *bundle.Reader, or Files.
type Source interface {
	Manifest() *bundle.Manifest
	Signatures() []bundle.Signature
	// Next returns the files in the manifest's order, then io.EOF once it is sure
	// that all were right.
	Next() (bundle.File, io.Reader, error)
}

// ErrNoRoom says that the files do not fit a slot.
var ErrNoRoom = errors.New("slot: the files do not fit a slot")

// ErrMismatch says that a slot does not hold what it should.
var ErrMismatch = errors.New("slot: not as it should be")

const copySize = 1 << 20

// Write makes the slot the system that src is. It returns without an error only
// if everything is on the medium and was read back. With an error the slot holds
// no system; or still the old one, if its first sector could not be erased; or
// wholly the new one, if only the last sync failed.
func Write(dev Device, s layout.Slot, src Source) error {
	p, err := newPlan(s, src.Manifest(), src.Signatures())
	if err != nil {
		return err
	}
	if err := writeSector(dev, make([]byte, layout.SectorSize)); err != nil {
		return fmt.Errorf("slot: erase the old system: %w", err)
	}
	if _, err := dev.WriteAt(p.head[layout.SectorSize:], layout.SectorSize); err != nil {
		return fmt.Errorf("slot: write the directories: %w", err)
	}
	if err := writeFiles(dev, p, src); err != nil {
		return err
	}
	if err := dev.Sync(); err != nil {
		return fmt.Errorf("slot: sync: %w", err)
	}
	if err := p.check(dev, layout.SectorSize); err != nil {
		return fmt.Errorf("slot: read back: %w", err)
	}
	if err := writeSector(dev, p.head[:layout.SectorSize]); err != nil {
		return fmt.Errorf("slot: write the first sector: %w", err)
	}
	if err := compare(dev, 0, p.head[:layout.SectorSize]); err != nil {
		// Not even an untrue first sector stays if that can be helped.
		return errors.Join(fmt.Errorf("slot: read back: %w", err), writeSector(dev, make([]byte, layout.SectorSize)))
	}
	return nil
}

// Image returns the bytes of the slot that Write would make, layout.SlotSize of
// them, for a disk that is made on another computer.
func Image(s layout.Slot, src Source) ([]byte, error) {
	m := make(memory, layout.SlotSize)
	if err := Write(m, s, src); err != nil {
		return nil, err
	}
	return m, nil
}

// memory is a partition that is not on a disk yet.
type memory []byte

func (m memory) ReadAt(b []byte, at int64) (int, error) { return bytes.NewReader(m).ReadAt(b, at) }
func (m memory) WriteAt(b []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(b)) > int64(len(m)) {
		return 0, io.ErrShortWrite
	}
	return copy(m[at:], b), nil
}
func (m memory) Sync() error { return nil }

// writeSector writes the first sector and syncs it.
func writeSector(dev Device, b []byte) error {
	if _, err := dev.WriteAt(b, 0); err != nil {
		return err
	}
	return dev.Sync()
}

// writeFiles writes the contents of all files.
func writeFiles(dev Device, p *plan, src Source) error {
	buf := make([]byte, copySize)
	for _, e := range p.files {
		r := io.Reader(bytes.NewReader(e.content))
		if e.content == nil {
			f, content, err := src.Next()
			if err != nil {
				return fmt.Errorf("slot: take %s: %w", e.file.Path, cut(err))
			}
			if f != e.file {
				return fmt.Errorf("slot: the source gives %s where the manifest has %s", f.Path, e.file.Path)
			}
			r = content
		}
		if err := writeFile(dev, e, r, buf); err != nil {
			return err
		}
	}
	// Only now is it known that the source is complete.
	if _, _, err := src.Next(); err != io.EOF {
		if err == nil {
			err = errors.New("there are more files than the manifest has")
		}
		return fmt.Errorf("slot: at the end of the files: %w", err)
	}
	return nil
}

// writeFile writes a file and fills its last cluster with zeros.
func writeFile(dev Device, e extent, r io.Reader, buf []byte) error {
	hash := sha256.New()
	var done int64
	for done < e.file.Size {
		piece := buf[:min(int64(len(buf)), e.file.Size-done)]
		if _, err := io.ReadFull(r, piece); err != nil {
			return fmt.Errorf("slot: read %s: %w", e.file.Path, cut(err))
		}
		hash.Write(piece)
		// len(buf) is a multiple of the cluster's size, so only the last piece grows.
		padded := buf[:(len(piece)+clusterSize-1)/clusterSize*clusterSize]
		clear(padded[len(piece):])
		if _, err := dev.WriteAt(padded, e.offset+done); err != nil {
			return fmt.Errorf("slot: write %s: %w", e.file.Path, err)
		}
		done += int64(len(piece))
	}
	if n, err := r.Read(buf[:1]); n > 0 || err != nil && err != io.EOF {
		return fmt.Errorf("slot: %s does not end where it should: %w", e.file.Path, errors.Join(ErrMismatch, err))
	}
	if [32]byte(hash.Sum(nil)) != e.file.SHA256 {
		return fmt.Errorf("%w: %s is not the file of the manifest", ErrMismatch, e.file.Path)
	}
	return nil
}

// Check says whether a slot is, byte for byte, what Write makes of a manifest
// and its signatures. A slot that other systems have mounted for writing may
// differ and still be sound: see System.Verify.
func Check(dev io.ReaderAt, s layout.Slot, m *bundle.Manifest, sigs []bundle.Signature) error {
	p, err := newPlan(s, m, sigs)
	if err != nil {
		return err
	}
	return p.check(dev, 0)
}

// check compares a device with the plan from an offset on.
func (p *plan) check(dev io.ReaderAt, from int64) error {
	if err := compare(dev, from, p.head[from:]); err != nil {
		return err
	}
	buf := make([]byte, copySize)
	for _, e := range p.files {
		hash := sha256.New()
		if _, err := io.CopyBuffer(hash, onlyReader{io.NewSectionReader(dev, e.offset, e.file.Size)}, buf); err != nil {
			return fmt.Errorf("read %s: %w", e.file.Path, err)
		}
		if [32]byte(hash.Sum(nil)) != e.file.SHA256 {
			return fmt.Errorf("%w: %s has other bytes", ErrMismatch, e.file.Path)
		}
	}
	return nil
}

// onlyReader hides what would keep io.CopyBuffer from using its buffer.
type onlyReader struct{ io.Reader }

// compare compares what lies at an offset with what should.
func compare(dev io.ReaderAt, offset int64, want []byte) error {
	buf := make([]byte, min(copySize, len(want)))
	for len(want) > 0 {
		got := buf[:min(len(buf), len(want))]
		if _, err := dev.ReadAt(got, offset); err != nil {
			return fmt.Errorf("read at %d: %w", offset, cut(err))
		}
		if !bytes.Equal(got, want[:len(got)]) {
			return fmt.Errorf("%w: other bytes within %d of %d", ErrMismatch, len(got), offset)
		}
		offset, want = offset+int64(len(got)), want[len(got):]
	}
	return nil
}

// cut keeps an end where more is needed from looking like the end of everything.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Files is a Source of files that need no bundle around them: the first system
// of an image.
type Files struct {
	manifest *bundle.Manifest
	sigs     []bundle.Signature
	open     func(path string) (io.ReadCloser, error)
	next     int
	file     io.Closer
}

// NewFiles returns the files of a manifest, each of which comes from open.
func NewFiles(m *bundle.Manifest, sigs []bundle.Signature, open func(path string) (io.ReadCloser, error)) *Files {
	return &Files{manifest: m, sigs: slices.Clone(sigs), open: open}
}

// Manifest returns the manifest.
func (f *Files) Manifest() *bundle.Manifest { return f.manifest }

// Signatures returns the signatures of the manifest.
func (f *Files) Signatures() []bundle.Signature { return f.sigs }

// Next opens the next file and closes the one before.
func (f *Files) Next() (bundle.File, io.Reader, error) {
	if f.file != nil {
		err := f.file.Close()
		if f.file = nil; err != nil {
			return bundle.File{}, nil, fmt.Errorf("slot: close a file: %w", err)
		}
	}
	if f.next == len(f.manifest.Files) {
		return bundle.File{}, nil, io.EOF
	}
	file := f.manifest.Files[f.next]
	r, err := f.open(file.Path)
	if err != nil {
		return bundle.File{}, nil, err
	}
	f.file, f.next = r, f.next+1
	return file, r, nil
}
