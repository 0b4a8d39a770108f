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
	dataMount = "/data"
	dataDir   = "/data/coboxd"
	bootMount = "/boot"

	diskTimeout = 15 * time.Second
	diskAgain   = 5 * time.Second
)

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
	s.state.setDataProblem(nil)
	s.clock.useFile(filepath.Join(dataMount, clockFile))
	if err := unix.Sethostname([]byte(hostName())); err != nil {
		s.log.Warn("the host name is not set", "error", err)
	}
	close(s.net.named)
	s.runDaemon(ctx)
}

// openData finds the disk, grows and mounts the data partition, and takes a
// provisioning file.
func (s *system) openData(ctx context.Context, timeout time.Duration) error {
	d, err := waitForDisk(ctx, timeout)
	if err != nil {
		return err
	}
	start := time.Now()
	grown, err := d.growPartition()
	if err != nil {
		// What is there can be used all the same.
		s.log.Error("the data partition stays as large as it was", "error", err)
	}
	device := d.partition(4)
	if err := os.MkdirAll(dataMount, 0o755); err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME
	err = unix.Mount("/dev/"+device, dataMount, "ext4", flags, "errors=remount-ro")
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
		// A card that has worn out turns read-only. What is on it can still be
		// restored from.
		s.log.Error("the data partition can only be read", "device", device, "error", err)
		err = unix.Mount("/dev/"+device, dataMount, "ext4", flags|unix.MS_RDONLY, "")
	}
	if err != nil {
		return fmt.Errorf("data: mounting %s: %w", device, err)
	}
	s.state.change(func(f *facts) { f.dataDevice = device })
	if size, err := sysSize("/sys/class/block/" + device + "/size"); err != nil {
		s.log.Error("the file system stays as large as it was", "error", err)
	} else if err := growFileSystem(dataMount, size); err != nil {
		s.log.Error("the file system stays as large as it was", "error", err)
	} else if grown {
		s.log.Info("the data partition has grown", "device", device, "MiB", size>>20, "took", time.Since(start).Round(time.Millisecond))
	}
	s.log.Info("the data is mounted", "device", device, "took", time.Since(start).Round(time.Millisecond))
	if err := makeDataDir(dataDir, daemonUID); err != nil {
		// On a read-only card the directory is there already, or nothing is.
		if _, stat := os.Stat(dataDir); stat != nil {
			return errors.Join(err, unix.Unmount(dataMount, 0))
		}
		s.log.Error("the data directory could not be prepared", "error", err)
	}
	if err := os.MkdirAll(bootMount, 0o700); err != nil {
		s.log.Error("no place to mount the boot partition", "error", err)
	}
	taken, err := takeProvision("/dev/"+d.partition(1), bootMount, dataDir, daemonUID)
	if taken {
		s.log.Info("the identity that came with the image is taken")
	}
	if err != nil {
		s.log.Error("the boot partition's provisioning file was not moved", "error", err)
	}
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
