//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"cobox/appliance/datadir"
	"cobox/image/layout"
)

// tidyTime is how long all must have been well on the disk before the card's copy
// of the data is removed: nothing needs its room at once, and until then it is the
// only other one. The kernel's argument cobox.tidy= changes it.
const tidyTime = time.Hour

// tidyOfCmdline reads cobox.tidy=SECONDS from the kernel's arguments.
func tidyOfCmdline(line string) (time.Duration, error) {
	return secondsOfCmdline(line, "cobox.tidy", tidyTime)
}

// settled tells whether coboxd runs and does all that it is there for.
func (f facts) settled(now time.Time) bool {
	return f.daemonUp && f.answering(now) && f.dataProblem == nil && f.waiting == "" && !f.readOnly && !f.waits
}

// tidying finds the moment at which the card may be tidied.
type tidying struct {
	after time.Duration
	sound func() error // whether the disk has the data and can be written
	since time.Time    // when all was well first; zero while it is not
	run   int          // of coboxd, that since is of
	done  bool
}

// due tells whether now is that moment. Whatever was not well begins the time anew.
func (t *tidying) due(now time.Time, f facts) (bool, error) {
	// One that has ended is up again sooner than it is looked at, and its last
	// answer counts for a while.
	if f.daemonRuns != t.run {
		t.run, t.since = f.daemonRuns, time.Time{}
	}
	switch {
	case t.done:
		return false, nil
	case !f.settled(now):
		t.since = time.Time{}
		return false, nil
	case !t.since.IsZero() && now.Sub(t.since) < t.after:
		return false, nil
	}
	begins := t.since.IsZero()
	t.since = now // also if what comes next fails
	if err := t.sound(); err != nil {
		return false, fmt.Errorf("data: the card keeps its copy of the data: %w", err)
	}
	return !begins, nil
}

// soundDisk fails unless a disk's first sector, as it is on the medium, says that
// the disk has all of the data, and its file system can be written.
func soundDisk(path, mount string, id layout.DataDiskID) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	sector := make([]byte, layout.SectorSize)
	if _, err := io.ReadFull(f, sector); err != nil {
		return err
	}
	header, err := layout.ParseDataDisk(sector)
	if err != nil {
		return err
	}
	if header.ID != id || !header.Filled {
		return errors.New("the disk does not say that it has all of the data")
	}
	return writable(mount)
}

// markMoved marks the card's directory as one whose data is on a disk.
func markMoved(card string, id layout.DataDiskID) error {
	mark, want := filepath.Join(card, datadir.MovedFile), datadir.AppendMoved(nil, id)
	if have, err := readSmall(mark); err == nil && bytes.Equal(have, want) {
		return nil
	}
	if err := writeDurably(mark, want, 0o600, daemonUID); err != nil {
		return fmt.Errorf("data: marking what was moved: %w", err)
	}
	return nil
}

// renewMark lets a mark that is there name the disk that has the data now: it may
// have moved from one disk to another.
func renewMark(card string, id layout.DataDiskID) error {
	if _, err := os.Lstat(filepath.Join(card, datadir.MovedFile)); err != nil {
		return nil
	}
	return markMoved(card, id)
}

// stays are the files of coboxd's directory that a card keeps when the data has
// been moved.
var stays = []string{"FORMAT", "LOCK", "coboxd.toml", datadir.IdentityFile, datadir.PeersFile, datadir.MovedFile}

// tidyCard marks the card's directory as one whose data was moved, and then
// removes the data there. What a crash leaves is removed the next time.
func tidyCard(ctx context.Context, card string, id layout.DataDiskID) error {
	if err := markMoved(card, id); err != nil {
		return err
	}
	root, err := os.OpenRoot(card)
	if err != nil {
		return fmt.Errorf("data: removing what was moved: %w", err)
	}
	defer root.Close()
	// All is listed before anything is removed: of a tree that is no box's nothing is.
	w := newWalker(root, func(name string, _ os.FileMode) bool { return slices.Contains(stays, name) })
	if err := w.walk(".", 0); err != nil {
		return fmt.Errorf("data: removing what was moved: %w", err)
	}
	for _, e := range slices.Backward(w.all[1:]) {
		// There may be much.
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("data: removing what was moved: %w", err)
		}
		if err := root.Remove(e.name); err != nil {
			return fmt.Errorf("data: removing what was moved: %w", err)
		}
	}
	return syncDir(card)
}
