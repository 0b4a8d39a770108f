//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// cardMount is where the data partition of the disk that the box starts from
	// is always mounted. What init keeps for itself lies there.
	cardMount = "/card"
	// dataMount is where coboxd's directory is, wherever the data lies.
	dataMount = "/data"
	dataDir   = "/data/coboxd"
	bootMount = "/boot"

	diskTimeout = 15 * time.Second
	diskAgain   = 5 * time.Second
)

// dataName is coboxd's directory on the file system that holds it.
const dataName = "coboxd"

// runData makes the data partition ready and then runs coboxd until ctx ends.
// While the disk is missing coboxd is not started: the box says what is wrong,
// and goes on looking.
func (s *system) runData(ctx context.Context) {
	slot, err := runningSlot()
	if err != nil {
		s.log.Warn("the slot that the box runs from is unknown", "error", err)
	} else {
		s.log.Info("the slot is known", "slot", slot)
	}
	s.running = slot
	timeout, told := diskTimeout, ""
	for {
		err := s.openData(ctx, timeout)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			break
		}
		s.state.setDataProblem(err)
		if text := err.Error(); text != told {
			s.log.Error("the box has no data and coboxd is not started", "error", err)
			told = text
		}
		timeout = 0
		select {
		case <-ctx.Done():
			return
		case <-time.After(diskAgain):
		}
	}
	s.serveData(ctx)
}

// named lets others know the box's name, which lies where the data is shown.
func (s *system) named() {
	s.shown.Do(func() {
		if err := unix.Sethostname([]byte(hostName())); err != nil {
			s.log.Warn("the host name is not set", "error", err)
		}
		close(s.net.named)
	})
}

// openData mounts the card, makes coboxd's directory there, and takes a
// provisioning file. What it has done already it does not do again.
func (s *system) openData(ctx context.Context, timeout time.Duration) error {
	if s.card == nil {
		d, err := s.openCard(ctx, timeout)
		if err != nil {
			return err
		}
		s.card = d
		s.clock.useFile(filepath.Join(cardMount, clockFile))
		s.updates.load()
	}
	dir := filepath.Join(cardMount, dataName)
	if err := makeDataDir(dir, daemonUID); err != nil {
		// On a read-only card the directory is there already, or nothing is.
		if _, stat := os.Stat(dir); stat != nil {
			return err
		}
		s.log.Error("the data directory could not be prepared", "error", err)
	}
	taken, err := takeProvision("/dev/"+s.card.partition(1), bootMount, dir, daemonUID)
	if taken {
		s.log.Info("the identity that came with the image is taken")
	}
	if err != nil {
		s.log.Error("the boot partition's provisioning file was not moved", "error", err)
	}
	return nil
}

// openCard finds the disk that the box starts from, and grows and mounts its
// data partition.
func (s *system) openCard(ctx context.Context, timeout time.Duration) (*disk, error) {
	kind := startedKind()
	all, err := waitForDisk(ctx, timeout, kind)
	if err != nil {
		return nil, err
	}
	d, certain := pickDisk(all, kind)
	if !certain {
		s.log.Warn("which CoBox disk the box started from is not certain; unplug all others", "takes", d.name, "of", namesOf(all), "the firmware tells", kind)
	}
	if err := os.MkdirAll(bootMount, 0o700); err != nil {
		s.log.Error("no place to mount the boot partition", "error", err)
	}
	s.updates.begin(d, s.running)
	start := time.Now()
	grown, err := d.growPartition()
	if err != nil {
		// What is there can be used all the same.
		s.log.Error("the data partition stays as large as it was", "error", err)
	}
	device := d.partition(4)
	if err := s.mountData(device, cardMount); err != nil {
		return nil, err
	}
	s.state.change(func(f *facts) { f.dataDevice = device })
	if grown {
		s.log.Info("the data partition has grown", "device", device, "took", time.Since(start).Round(time.Millisecond))
	}
	return d, nil
}

// dataFlags are those that data is mounted with: it holds files, and nothing that
// does or is something else. Most of it is coboxd's, whom nothing here trusts.
const dataFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NOSYMFOLLOW

// mountData mounts a partition with data, and grows its file system to it.
func (s *system) mountData(device, on string) error {
	start := time.Now()
	if err := os.MkdirAll(on, 0o755); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	err := unix.Mount("/dev/"+device, on, "ext4", dataFlags, "errors=remount-ro")
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
		// One that has worn out turns read-only. What is on it can still be restored
		// from.
		s.log.Error("the data partition can only be read", "device", device, "error", err)
		err = unix.Mount("/dev/"+device, on, "ext4", dataFlags|unix.MS_RDONLY, "")
		if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
			// The power was cut, and the journal cannot be written back. Without it the
			// files are those of up to a minute before; coboxd verifies what it gives out.
			s.log.Error("its journal cannot be read back: the last minute before the power cut may be missing", "device", device, "error", err)
			err = unix.Mount("/dev/"+device, on, "ext4", dataFlags|unix.MS_RDONLY, "noload")
		}
	}
	if err != nil {
		return fmt.Errorf("data: mounting %s: %w", device, err)
	}
	size, err := sysSize("/sys/class/block/" + device + "/size")
	if err == nil {
		err = growFileSystem(on, size)
	}
	if err != nil {
		s.log.Error("the file system stays as large as it was", "error", err)
	}
	s.log.Info("the data is mounted", "device", device, "on", on, "MiB", size>>20, "took", time.Since(start).Round(time.Millisecond))
	return nil
}

// errDiskGone says that the disk was pulled out.
var errDiskGone = errors.New("data: the disk was pulled out while the box was running")

// watchDisk notices that the disk of f has gone, which an idle coboxd does not
// for a long time. Its file system stays broken even if the disk comes back, so
// the box then starts anew.
func (s *system) watchDisk(f facts) {
	if f.dataProblem == nil {
		if _, err := os.Stat("/sys/class/block/" + f.dataDevice); errors.Is(err, os.ErrNotExist) {
			s.log.Error("the disk is gone; the box waits for it", "device", f.dataDevice)
			s.state.setDataLost(errDiskGone)
		}
		return
	}
	if d, err := findDisk("/sys/block", "/dev"); err == nil {
		s.log.Info("a disk is back and the box starts anew", "disk", d.name)
		s.askToStop(restart)
	}
}

// makeDataDir makes the directory that is coboxd's own.
func makeDataDir(path string, uid int) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("data: %w", err)
	}
	if err := os.Chown(path, uid, uid); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	return syncDir(filepath.Dir(path))
}
