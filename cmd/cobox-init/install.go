//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cobox/appliance/machine"
	"cobox/image/bundle"
	"cobox/image/layout"
	"cobox/image/slot"
)

// errChanging says that a slot is being changed already, or the data is moved,
// which needs the system as it is and may not be cut off by a restart.
var errChanging = machine.Errorf(machine.CodeBusy, "the box is busy already with an update or with moving its data; ask again when that is done")

// install verifies the bundle that coboxd has left and writes it to the slot
// that does not run. If it ends in between, that slot holds no system and the
// box starts from the one that runs, as it would have anyway.
func (u *updates) install(ctx context.Context, progress func(machine.InstallProgress)) (*machine.Release, error) {
	if !u.changing.TryLock() {
		return nil, errChanging
	}
	defer u.changing.Unlock()
	target, state, err := u.target()
	if err != nil {
		return nil, err
	}
	keys, err := releaseKeys(u.keys)
	if err != nil {
		return nil, err
	}
	f, size, err := openUpload(u.upload)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	from := &meter{ctx: ctx, r: f, total: size, tell: progress}
	r, err := bundle.Open(bufio.NewReaderSize(from, 64<<10), keys, state)
	if err != nil {
		return nil, refusal(err)
	}
	defer r.Close()
	release := releaseOf(r.Manifest())
	u.log.Info("an update is written", "version", release.Version, "number", release.Number, "slot", target)
	start := time.Now()
	if err := u.forgetOther(target); err != nil {
		return nil, err
	}
	if err := writeSlot(ctx, u.disk.slotDevice(target), target, r); err != nil {
		u.log.Error("the update was not written", "error", err)
		return nil, refusal(err)
	}
	done := &record{Update: machine.Update{Release: release, Result: machine.ResultWritten}, slot: target}
	u.mu.Lock()
	u.other = &release
	u.mu.Unlock()
	if err := u.keep(done); err != nil {
		return nil, err
	}
	u.log.Info("the update is written", "took", time.Since(start).Round(time.Millisecond))
	return &release, nil
}

// forgetOther says before a slot is erased that nothing is there any more.
func (u *updates) forgetOther(target layout.Slot) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.other = nil
	if u.last == nil || u.last.slot != target || u.last.Result != machine.ResultWritten {
		return nil
	}
	if err := os.Remove(filepath.Join(u.card, recordFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("update: forgetting the one before: %w", err)
	}
	u.last = nil
	return syncDir(u.card)
}

// releaseKeys reads the keys that this system knows.
func releaseKeys(path string) (*bundle.Keys, error) {
	text, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, machine.Errorf(machine.CodeRefused, "this system was made without release keys, so it takes no update; write a card with a newer image")
	}
	if err != nil {
		return nil, fmt.Errorf("update: reading the release keys: %w", err)
	}
	keys, err := bundle.ParsePublicKeys(text)
	if err != nil {
		return nil, fmt.Errorf("update: reading the release keys: %w", err)
	}
	return bundle.NewKeys(bundle.ReleaseThreshold, keys...)
}

// openUpload opens what coboxd has left, which may be anything: no link is
// followed and no FIFO waited for. It is read once and only once, so that what
// was verified is what was written, even if coboxd changes it meanwhile; package
// bundle bounds how much is read.
func openUpload(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, machine.Errorf(machine.CodeInvalid, "there is no update to install; send one first")
	}
	if err != nil {
		return nil, 0, fmt.Errorf("update: %w", err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = machine.Errorf(machine.CodeInvalid, "what is to be installed is not a file")
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

// refusal tells what is wrong with an update from what went wrong with it.
func refusal(err error) error {
	for _, is := range []error{
		bundle.ErrNotBundle, bundle.ErrNewer, bundle.ErrSignature, bundle.ErrBoard, bundle.ErrTooOld, bundle.ErrDamaged, slot.ErrNoRoom,
	} {
		if errors.Is(err, is) {
			return machine.Errorf(machine.CodeRefused, "the update is refused, and the box stays as it is: %s",
				strings.ReplaceAll(err.Error(), "bundle: ", ""))
		}
	}
	return err
}

// writeSlot writes a system into a partition, which nothing has mounted.
func writeSlot(ctx context.Context, device string, target layout.Slot, src slot.Source) (err error) {
	dev, err := slot.OpenBlockDevice(device)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	return slot.Write(&paced{BlockDevice: dev, ctx: ctx}, target, src)
}

// meter counts what is read of a bundle, and ends when its context does.
type meter struct {
	ctx         context.Context
	r           io.Reader
	done, total int64
	tell        func(machine.InstallProgress)
}

func (m *meter) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.r.Read(p)
	m.done += int64(n)
	if n > 0 && m.tell != nil {
		m.tell(machine.InstallProgress{Done: m.done, Total: m.total})
	}
	return n, err
}

// paceEvery is how much is written between two syncs.
const paceEvery = 4 << 20

// paced is a partition of which never much is on its way: memory is small, and
// on a slow card one sync at the end would hold up everything else for minutes.
// It fails when its context ends.
type paced struct {
	*slot.BlockDevice
	ctx      context.Context
	unsynced int
}

// WriteAt implements [io.WriterAt].
func (p *paced) WriteAt(b []byte, offset int64) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.BlockDevice.WriteAt(b, offset)
	if p.unsynced += n; err == nil && p.unsynced >= paceEvery {
		err = p.Sync()
	}
	return n, err
}

// ReadAt implements [io.ReaderAt].
func (p *paced) ReadAt(b []byte, offset int64) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.BlockDevice.ReadAt(b, offset)
}

// Sync implements [slot.Device].
func (p *paced) Sync() error {
	p.unsynced = 0
	return p.BlockDevice.Sync()
}
