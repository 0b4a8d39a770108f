// Package bulkfile writes files that are written once, from front to back, and
// not read again soon, around the page cache. A box's tables are such files:
// going through the cache costs a copy and the upkeep of its pages, a quarter
// of the CPU time of taking blocks in, and on a machine with little memory it
// drives out what is worth keeping.
//
// Start with [New]. What has been written is on the disk only after Finish.
package bulkfile

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"unsafe"
)

const (
	// bufferSize is how much goes to the disk at a time. Two buffers are in use:
	// one fills up while the other is written.
	bufferSize = 1 << 20
	// alignment is what direct writes ask of memory, offset and length: the
	// largest block that a disk's driver may have.
	alignment = 4096
)

// ErrFinished says that Write was called after Finish or Abort.
var ErrFinished = errors.New("bulkfile: the file is finished")

// File is what a Writer needs of a file that has just been created and is
// empty. An *os.File is one.
type File interface {
	io.Writer
	Sync() error
	Close() error
	Fd() uintptr
}

// Writer writes a file directly. Its methods, which are those of Pebble's
// objstorage.Writable, belong to one goroutine; another one writes the buffers.
type Writer struct {
	f    File
	cur  []byte      // being filled
	free chan []byte // empty buffers
	full chan []byte // filled buffers, for the writer; nil once it was told to end
	done chan struct{}

	direct bool                  // owned by the writer until done is closed
	failed atomic.Pointer[error] // what went wrong first
}

// New returns a Writer, which owns the file from now on, or ok = false and does
// nothing if the file cannot be written directly.
func New(f File) (w *Writer, ok bool) {
	if setDirect(f.Fd(), true) != nil {
		return nil, false
	}
	w = &Writer{
		f:      f,
		cur:    alignedBuffer(),
		free:   make(chan []byte, 1),
		full:   make(chan []byte),
		done:   make(chan struct{}),
		direct: true,
	}
	w.free <- alignedBuffer()
	go w.write(w.full)
	return w, true
}

// alignedBuffer returns an empty buffer whose memory suits direct writes.
func alignedBuffer() []byte {
	b := make([]byte, bufferSize+alignment)
	skip := -uintptr(unsafe.Pointer(&b[0])) % alignment
	return b[skip : skip : skip+bufferSize]
}

// Write takes in a copy of p. It may return before the disk has anything; an
// error is then returned by a later Write or by Finish.
func (w *Writer) Write(p []byte) error {
	if w.full == nil {
		return ErrFinished
	}
	for len(p) > 0 {
		if err := w.failed.Load(); err != nil {
			return *err
		}
		n := copy(w.cur[len(w.cur):cap(w.cur)], p)
		w.cur = w.cur[:len(w.cur)+n]
		p = p[n:]
		if len(w.cur) == cap(w.cur) {
			w.full <- w.cur
			w.cur = <-w.free
		}
	}
	return nil
}

// Finish writes what is left, which need not suit direct writes, syncs the file
// and closes it. If it fails, nobody knows what is in the file.
func (w *Writer) Finish() error {
	w.end()
	return errors.Join(w.finish(), w.f.Close())
}

func (w *Writer) finish() error {
	if err := w.failed.Load(); err != nil {
		return *err
	}
	if len(w.cur) > 0 {
		if w.direct {
			if err := w.buffered(); err != nil {
				return err
			}
		}
		if _, err := w.f.Write(w.cur); err != nil {
			return err
		}
	}
	return w.f.Sync()
}

// Abort closes the file as it is.
func (w *Writer) Abort() {
	w.end()
	w.f.Close()
}

// end waits for the writer to write what it was given, and ends it.
func (w *Writer) end() {
	if w.full != nil {
		close(w.full)
		w.full = nil
	}
	<-w.done
}

// write writes full buffers in turn. After an error it only empties the
// channel, so that nobody waits for it.
func (w *Writer) write(full <-chan []byte) {
	defer close(w.done)
	for buf := range full {
		if w.failed.Load() == nil {
			if err := w.writeOut(buf); err != nil {
				w.failed.Store(&err)
			}
		}
		w.free <- buf[:0]
	}
}

func (w *Writer) writeOut(buf []byte) error {
	_, err := w.f.Write(buf)
	if w.direct && errors.Is(err, syscall.EINVAL) {
		// Some file systems take the flag and refuse the write.
		if err := w.buffered(); err != nil {
			return err
		}
		_, err = w.f.Write(buf)
	}
	return err
}

// buffered makes the file's writes go through the page cache again.
func (w *Writer) buffered() error {
	w.direct = false
	if err := setDirect(w.f.Fd(), false); err != nil {
		return fmt.Errorf("bulkfile: ending direct writes: %w", err)
	}
	return nil
}
