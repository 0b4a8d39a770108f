package fstree

import (
	"errors"
	"io"
	"io/fs"
)

// ErrReplaced means that what a name stood for when it was scanned is gone and
// something else has the name now.
var ErrReplaced = errors.New("fstree: replaced while reading")

// A Run is a part of a file that is either all data or all hole.
type Run struct {
	Offset, Length uint64
	Hole           bool
}

// An OpenFile is a regular file opened for backup. It is not safe for
// concurrent use.
//
// Call NextRun until it returns io.EOF; after a run that is no hole, Read
// returns its bytes. The runs cover the length that the file had when it was
// opened: what is appended meanwhile is left for the next time, and a run of a
// file that has become shorter ends early.
type OpenFile struct {
	file   fileHandle
	name   string
	owners *ownerNames
	stat   Stat

	pos  uint64 // end of the runs handed out
	read uint64 // offset of the next Read
}

// Stat returns the file's state when it was opened, which may be newer than
// that of the scan. The change time counts from here.
func (f *OpenFile) Stat() Stat { return f.stat }

// Node returns the metadata of the open file, as Dir.Node does.
func (f *OpenFile) Node() (Node, error) {
	n := newNode(f.name, &f.stat, f.owners)
	var err error
	n.Xattrs, err = f.file.xattrs()
	return n, err
}

// NextRun moves on to the next run, whether or not the one before was read,
// and returns io.EOF after the last. No run is empty.
func (f *OpenFile) NextRun() (Run, error) {
	size := f.stat.Size
	if f.pos >= size {
		return Run{}, io.EOF
	}
	r := Run{Offset: f.pos, Length: size - f.pos}
	if f.stat.Blocks < (size+511)/512 {
		data, err := f.file.nextData(f.pos, size)
		if err != nil {
			return Run{}, &fs.PathError{Op: "seek", Path: f.name, Err: err}
		}
		if data > f.pos {
			r.Hole, r.Length = true, data-f.pos
		} else {
			hole, err := f.file.nextHole(f.pos, size)
			if err != nil {
				return Run{}, &fs.PathError{Op: "seek", Path: f.name, Err: err}
			}
			r.Length = hole - f.pos
		}
	}
	f.read = f.pos
	if r.Hole {
		f.read = r.Offset + r.Length
	}
	f.pos = r.Offset + r.Length
	return r, nil
}

// Read reads from the current run and returns io.EOF at its end, or where the
// file ends now.
func (f *OpenFile) Read(p []byte) (int, error) {
	if f.read >= f.pos {
		return 0, io.EOF
	}
	if left := f.pos - f.read; uint64(len(p)) > left {
		p = p[:left]
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.file.readAt(p, f.read)
	f.read += uint64(n)
	if err != nil {
		return n, &fs.PathError{Op: "read", Path: f.name, Err: err}
	}
	if n == 0 {
		f.read = f.pos
		return 0, io.EOF
	}
	return n, nil
}

// Changed reports whether the file's size, times or links are no longer those
// that it was opened with, so that what was read may be a mixture.
func (f *OpenFile) Changed() (bool, error) {
	st, err := f.file.stat()
	if err != nil {
		return true, &fs.PathError{Op: "stat", Path: f.name, Err: err}
	}
	return !st.SameContent(&f.stat), nil
}

// Close releases the file.
func (f *OpenFile) Close() error { return f.file.close() }
