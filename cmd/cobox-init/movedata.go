//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"cobox/appliance/machine"
	"cobox/image/holds"
	"cobox/image/layout"
)

const (
	// newMount is where a disk is mounted while it is filled.
	newMount = "/new"
	// moveDelay is what coboxd gets to tell its administrator that the move begins.
	moveDelay = time.Second
	// partitionTimeout is how long the kernel may take to show a new partition.
	partitionTimeout = 10 * time.Second
)

// The steps of a move, as people read them.
const (
	stepPreparing = "preparing"
	stepCopying   = "copying"
	stepComparing = "comparing"
)

// move is a disk that is being made ready to take the data.
//
//  1. The disk's first sector says that it is this box's, and not filled.
//  2. The empty file system is written behind it, mounted and grown.
//  3. coboxd stops, and waits instead.
//  4. The data is copied and compared, the disk mounted anew in between.
//  5. The card says which disk has the data. From here on it has.
//  6. The disk's first sector says that it is filled.
//
// Whatever ends it before 5, the data is where it was, and the disk can be used
// again. A crash between 5 and 6 is made good when the disk is mounted.
type move struct {
	disk   blockDisk
	header *layout.DataDisk
	done   func() // lets others change the system again
	// held is the whole disk, open from before anything is written until the move
	// ends: as long as it is, the kernel gives its name to no other.
	held *os.File
}

// end gives up what the move holds.
func (m *move) end() {
	if m.held != nil {
		m.held.Close()
	}
	m.done()
}

// still fails unless the disk is there under its name, and is that of this move.
func (m *move) still() error { return stillThere(m.held, "/dev/"+m.disk.device, m.header) }

func stillThere(held *os.File, path string, header *layout.DataDisk) error {
	have, err := held.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("the disk is gone: %w", err)
	}
	if !os.SameFile(have, named) {
		return fmt.Errorf("the disk is gone, and %s is another", path)
	}
	sector := make([]byte, layout.SectorSize)
	if _, err := held.ReadAt(sector, 0); err != nil {
		return fmt.Errorf("reading the first sector: %w", err)
	}
	if !bytes.Equal(sector, header.Append(nil)) {
		return errors.New("the disk's first sector is not what was written")
	}
	return nil
}

// mountMove mounts the disk, if it is still that of this move.
func (s *system) mountMove(m *move) error {
	if err := m.still(); err != nil {
		return err
	}
	return s.mountData(m.partition(), newMount)
}

func (m *move) id() string        { return shortOf(m.header.ID) }
func (m *move) partition() string { return partitionOf(m.disk.device, 1) }

// writeHeader writes a data disk's first sector, in one piece.
func writeHeader(f *os.File, d *layout.DataDisk) error {
	if _, err := f.WriteAt(d.Append(nil), 0); err != nil {
		return fmt.Errorf("writing the first sector: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing the first sector: %w", err)
	}
	return nil
}

// newHeader makes the first sector of a disk. Its id begins with the name that
// people know the disk by.
func newHeader(b blockDisk, box [32]byte) (*layout.DataDisk, error) {
	var id layout.DataDiskID
	rand.Read(id[:])
	short := b.id()
	copy(id[:], short[:])
	return layout.NewDataDisk(b.bytes, id, box)
}

// prepareDisk does 1 and the writing of 2 on the disk that f is. What it was
// chosen for is looked at once more: a disk may have been exchanged meanwhile.
func prepareDisk(ctx context.Context, f *os.File, size int64, header *layout.DataDisk, template io.Reader, tell func(done, total uint64)) error {
	c, err := holds.Look(f, size)
	if err != nil {
		return err
	}
	if c.Kind != holds.Blank && (c.Kind != holds.Data || c.Disk.Filled || c.Disk.Box != header.Box) {
		return errors.New("the disk is not what it was a moment ago")
	}
	if err := writeHeader(f, header); err != nil {
		return err
	}
	// All is written, the zeros too: of a blank disk only a part was looked at, and
	// a copy that was begun has left something.
	z, err := zstd.NewReader(template, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(layout.TemplateWindow))
	if err != nil {
		return err
	}
	defer z.Close()
	buf := make([]byte, copyChunk)
	for off := int64(0); off < layout.TemplateSize; off += int64(len(buf)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.ReadFull(z, buf); err != nil {
			return fmt.Errorf("reading the empty file system: %w", err)
		}
		if _, err := f.WriteAt(buf, layout.DataDiskStart+off); err != nil {
			return fmt.Errorf("writing the empty file system: %w", err)
		}
		if off%(16<<20) == 0 {
			if err := f.Sync(); err != nil { // so that what is told is true
				return fmt.Errorf("writing the empty file system: %w", err)
			}
		}
		tell(uint64(off)+uint64(len(buf)), layout.TemplateSize)
	}
	if n, err := z.Read(buf[:1]); n != 0 || !errors.Is(err, io.EOF) {
		return errors.New("the empty file system is longer than it may be")
	}
	return f.Sync()
}

// openTemplate opens the empty file system in the slot that runs.
func (s *system) openTemplate() (io.Reader, func() error, error) {
	files, done, err := s.card.mountSlot(s.running)
	if err != nil {
		return nil, nil, err
	}
	f, err := files.Open(layout.TemplateFile)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("opening the empty file system: %w", err), done())
	}
	return f, func() error { return errors.Join(f.Close(), done()) }, nil
}

// useDisk answers coboxd: it does 1 and 2, and asks runData for the rest.
func (s *system) useDisk(ctx context.Context, q *machine.Question) (any, error) {
	var p machine.UseDisk
	if err := q.Params(&p); err != nil {
		return nil, err
	}
	if !s.updates.changing.TryLock() {
		return nil, errChanging
	}
	if err := s.updates.settled(); err != nil {
		s.updates.changing.Unlock()
		return nil, err
	}
	m := &move{done: s.updates.changing.Unlock}
	err := s.prepareMove(ctx, m, p.ID, func(done, total uint64) {
		q.Progress(machine.CopyProgress{Step: stepPreparing, Done: done, Total: total})
	})
	if err != nil {
		m.end()
		return nil, err
	}
	s.data.setMove(&machine.Move{Disk: m.id(), CopyProgress: machine.CopyProgress{Step: stepPreparing}})
	s.data.moves <- m // has room: there is one at a time
	return machine.Empty{}, nil
}

func (s *system) prepareMove(ctx context.Context, m *move, id string, tell func(done, total uint64)) error {
	b, err := s.chooseDisk(id)
	if err != nil {
		return err
	}
	if err := writable(cardMount); err != nil {
		return machine.Errorf(machine.CodeRefused, "the card cannot be written any more, and it has to say where the data is; replace it")
	}
	m.disk = *b
	key, err := boxKey()
	if err != nil {
		return err
	}
	if m.header, err = newHeader(m.disk, key); err != nil {
		return err
	}
	s.log.Info("a disk is made ready to take the data", "disk", m.id(), "device", m.disk.device, "name", m.disk.name)
	template, done, err := s.openTemplate()
	if err != nil {
		return err
	}
	err = s.writeDisk(ctx, m, template, tell)
	if err = errors.Join(err, done()); err != nil {
		s.log.Error("the disk was not made ready", "disk", m.id(), "error", err)
		return fmt.Errorf("the disk was not made ready: %w", err)
	}
	return nil
}

// writeDisk prepares the disk, and mounts and grows its file system once, to see
// that it can be.
func (s *system) writeDisk(ctx context.Context, m *move, template io.Reader, tell func(done, total uint64)) (err error) {
	if m.held, err = os.Open("/dev/" + m.disk.device); err != nil {
		return err
	}
	// The kernel refuses it while anything on the disk is mounted, and would refuse
	// to mount it as long as it is open so.
	f, err := os.OpenFile("/dev/"+m.disk.device, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return err
	}
	err = prepareDisk(ctx, f, int64(m.disk.bytes), m.header, template, tell)
	if err == nil {
		err = rereadPartitions(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := waitForPartition(ctx, m.partition()); err != nil {
		return err
	}
	if err := s.mountMove(m); err != nil {
		return err
	}
	return unix.Unmount(newMount, 0)
}

// rereadPartitions lets the kernel take a new partition table.
func rereadPartitions(f *os.File) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKRRPART, 0); errno != 0 {
		return fmt.Errorf("telling the kernel of the partition: %w", errno)
	}
	return nil
}

func waitForPartition(ctx context.Context, name string) error {
	for end := time.Now().Add(partitionTimeout); ; {
		if _, err := os.Stat("/dev/" + name); err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the kernel shows no partition %s", name)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// runMove does 3 to 6. The data lies below from; a coboxd that waits is the
// caller's.
func (s *system) runMove(ctx context.Context, m *move, from string) error {
	start := time.Now()
	step := func(name string) func(done, total uint64) {
		return func(done, total uint64) {
			s.data.setMove(&machine.Move{Disk: m.id(), CopyProgress: machine.CopyProgress{Step: name, Done: done, Total: total}})
		}
	}
	for _, pass := range []struct {
		name string
		do   func(context.Context, tree, tree, func(done, total uint64)) error
	}{{stepCopying, copyTree}, {stepComparing, compareTrees}} {
		if err := s.withTrees(m, from, pass.name == stepCopying, func(a, b tree) error {
			return pass.do(ctx, a, b, step(pass.name))
		}); err != nil {
			return err
		}
	}
	if err := m.still(); err != nil {
		return err
	}
	if err := writeDataDisk(cardMount, m.header.ID); err != nil {
		// Whether the card names the disk now is looked at by the next round.
		return fmt.Errorf("writing to the card which disk has the data: %w", err)
	}
	s.log.Info("the data was moved", "disk", m.id(), "device", m.disk.device, "took", time.Since(start).Round(time.Second))
	return nil
}

// withTrees mounts the disk, which is unmounted again in any case: it is read
// from the medium the next time.
func (s *system) withTrees(m *move, from string, fresh bool, do func(from, to tree) error) (err error) {
	if err := s.mountMove(m); err != nil {
		return err
	}
	defer func() {
		if unmount := unix.Unmount(newMount, 0); unmount != nil {
			err = errors.Join(err, unmount, unix.Unmount(newMount, unix.MNT_DETACH))
		}
	}()
	to := filepath.Join(newMount, dataName)
	if fresh {
		if err := setUUID(newMount, m.header.ID); err != nil {
			s.log.Warn("the disk has the UUID that all new ones have", "error", err)
		}
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
	}
	a, err := os.OpenRoot(filepath.Join(from, dataName))
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer b.Close()
	return do(tree{a}, tree{b})
}
