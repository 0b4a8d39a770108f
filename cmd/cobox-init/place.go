//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cobox/appliance/datadir"
	"cobox/appliance/machine"
	"cobox/image/layout"
)

const (
	// diskMount is where a disk with the data is mounted.
	diskMount = "/disk"
	// placeEvery is how often it is looked whether the data is still, or again,
	// where it should be.
	placeEvery = time.Second
	// placeAgain is how often a disk is tried whose file system cannot be used.
	placeAgain = time.Minute
)

// boxKey returns the box's static key.
func boxKey() (key [32]byte, err error) {
	id := readIdentity(filepath.Join(cardMount, dataName))
	if id == nil {
		return key, errors.New("data: the card does not say which box this is")
	}
	return id.StaticPublic(), nil
}

// listDisks answers coboxd.
func (s *system) listDisks() (machine.Disks, error) {
	list, around, err := s.lookAround()
	if err != nil {
		return machine.Disks{}, err
	}
	return machine.Disks{Disks: describeDisks(list, around), Used: around.used}, nil
}

func (s *system) lookAround() ([]blockDisk, surroundings, error) {
	if s.card == nil {
		return nil, surroundings{}, machine.Errorf(machine.CodeBusy, "the box has not found its own card yet")
	}
	list, err := listDisks("/sys/block")
	if err != nil {
		return nil, surroundings{}, err
	}
	disk, device, missing := s.data.where()
	around := surroundings{card: s.card.name, inUse: device, look: lookAt("/dev")}
	if around.box, err = boxKey(); err != nil {
		return nil, around, err
	}
	if missing {
		around.missing = "disk " + disk
		if disk == "" {
			around.missing = "a disk that the card does not name any more"
		}
	} else {
		var st unix.Statfs_t
		if err := unix.Statfs(dataMount, &st); err != nil {
			return nil, around, fmt.Errorf("data: %w", err)
		}
		around.used = (st.Blocks - st.Bfree) * uint64(st.Bsize)
	}
	return list, around, nil
}

// chooseDisk finds the disk that is meant, if it can take the data.
func (s *system) chooseDisk(id string) (*blockDisk, error) {
	list, around, err := s.lookAround()
	if err != nil {
		return nil, err
	}
	for i, d := range describeDisks(list, around) {
		switch {
		case d.ID != id:
		case d.Unfit != "":
			found := ""
			if d.Found != "" {
				found = " (" + d.Found + ")"
			}
			return nil, machine.Errorf(machine.CodeRefused, "disk %s cannot take the data: %s%s", d.ID, d.Unfit, found)
		default:
			return &list[i], nil
		}
	}
	return nil, machine.Errorf(machine.CodeRefused, "there is no disk %.40q", id)
}

// serveData runs coboxd until ctx ends, on the data or, while that is not there,
// to say so. Each turn lasts until that changes.
func (s *system) serveData(ctx context.Context) {
	wait := diskTimeout
	for ctx.Err() == nil {
		at, err := s.openPlace(ctx, wait)
		wait = 0
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.log.Error("the box has no data and only says so", "error", err)
			s.round(ctx, cardMount, err.Error(), s.comesBack(err))
			continue
		}
		m := s.round(ctx, at, "", s.goesAway())
		if m != nil {
			s.moveRound(ctx, m, at)
		}
		s.closePlace(at)
	}
}

// round shows coboxd its data, or what is left of it on the card, runs it, and
// returns when ctx ends, when over says so, or with the move that is asked for.
func (s *system) round(ctx context.Context, at, waiting string, over func() bool) *move {
	if err := show(at, waiting != ""); err != nil {
		s.state.setDataProblem(err)
		s.log.Error("the box has no data and coboxd is not started", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(diskAgain):
		}
		return nil
	}
	defer s.hide()
	s.state.setWaiting(waiting)
	s.named()
	running, stop := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer stop()
	tasks.Go(func() { s.runDaemon(running, waiting) })
	if at == diskMount {
		tasks.Go(func() { s.keepRemainder(running) })
	}
	tick := time.NewTicker(placeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-s.data.moves:
			if waiting != "" || over() {
				s.endMove(m, errors.New("the data is not there any more"))
				return nil
			}
			select { // until coboxd has said so
			case <-ctx.Done():
			case <-time.After(moveDelay):
			}
			return m
		case <-tick.C:
			if over() {
				return nil
			}
		}
	}
}

// moveRound moves the data. Meanwhile a coboxd that waits says so.
func (s *system) moveRound(ctx context.Context, m *move, from string) {
	s.log.Info("the data moves", "disk", m.id(), "from", from)
	moving, stop := context.WithCancel(ctx)
	defer stop()
	err := errors.New("it was cut off")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err = s.runMove(moving, m, from)
	}()
	s.round(ctx, cardMount, fmt.Sprintf("its data is being moved to disk %s; nothing is lost, and the box goes on by itself when that is done", m.id()), func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
	stop()
	<-ended
	s.endMove(m, err)
}

func (s *system) endMove(m *move, err error) {
	defer m.end()
	if err == nil {
		s.data.setMove(nil)
		return
	}
	s.log.Error("the data was not moved; it is where it was", "disk", m.id(), "error", err)
	s.data.setMove(&machine.Move{Disk: m.id(), Failed: err.Error()})
}

// show lets coboxd see a file system at its place. It keeps the flags of the mount
// that it shows; where coboxd only waits, it can change nothing either.
func show(at string, readOnly bool) error {
	if err := os.MkdirAll(dataMount, 0o755); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	if err := bind(at, dataMount, readOnly); err != nil {
		return fmt.Errorf("data: showing %s at %s: %w", at, dataMount, err)
	}
	return nil
}

func bind(from, to string, readOnly bool) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil || !readOnly {
		return err
	}
	// The flags of a bind mount are its own, and are set in a second step.
	if err := unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|dataFlags, ""); err != nil {
		return errors.Join(err, unix.Unmount(to, 0))
	}
	return nil
}

// hide ends what show began.
func (s *system) hide() { s.unmount(dataMount) }

// unmount takes a file system away. One that is still in use, by a process that
// cannot be killed because its disk has gone, is out of everybody's sight at least.
func (s *system) unmount(path string) {
	err := unix.Unmount(path, 0)
	if err == nil || errors.Is(err, unix.EINVAL) {
		return
	}
	s.log.Warn("a file system is still in use", "at", path, "error", err)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		s.log.Error("a file system is not unmounted", "at", path, "error", err)
	}
}

// openPlace finds out where the data is and mounts it. An error says, to people,
// why it is not there.
func (s *system) openPlace(ctx context.Context, wait time.Duration) (at string, err error) {
	id, named, err := readDataDisk(cardMount)
	switch {
	case !named && err == nil:
		s.data.found("", "")
		return cardMount, nil
	case err != nil:
		s.log.Error("the card does not say where the data is", "error", err)
		err = missingf("its card does not say any more on which disk its data lies; have the card looked at")
		s.data.lost("", err.Error())
		return "", err
	}
	if lostDataDisk(cardMount) {
		s.log.Warn("the card has lost the file that names the disk with the data; the mark in coboxd's directory names it", "disk", shortOf(id))
	}
	var device string
	var header *layout.DataDisk
	for end := time.Now().Add(wait); ; {
		device, header, err = findDataDisk("/sys/block", "/dev", s.card.name, id)
		if err == nil || !time.Now().Before(end) || ctx.Err() != nil {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	if err == nil {
		if err = s.openDataDisk(ctx, device, header); err != nil {
			s.log.Error("the disk with the data cannot be used", "disk", shortOf(id), "device", device, "error", err)
			err = &unusableError{device, missingf("its data lies on disk %s, which is there but cannot be used: %v", shortOf(id), err)}
		}
	}
	if err != nil {
		s.data.lost(shortOf(id), err.Error())
		return "", err
	}
	s.data.found(shortOf(id), device)
	return diskMount, nil
}

// unusableError is a disk that is there and of no use.
type unusableError struct {
	device string
	error
}

func (e *unusableError) Unwrap() error { return e.error }

// openDataDisk mounts the disk that the card names.
func (s *system) openDataDisk(ctx context.Context, device string, header *layout.DataDisk) error {
	key, err := boxKey()
	if err != nil {
		return err
	}
	if header.Box != key {
		return errors.New("it says that it is another box's")
	}
	if err := waitForPartition(ctx, partitionOf(device, 1)); err != nil {
		return err
	}
	if err := s.mountData(partitionOf(device, 1), diskMount); err != nil {
		return err
	}
	err = checkDataDir(filepath.Join(diskMount, dataName), filepath.Join(cardMount, dataName))
	if err == nil && !header.Filled {
		// The card names only a disk that has all. A crash came between; but not if
		// it is the mark that names it, which is written long after.
		if lostDataDisk(cardMount) {
			err = errors.New("it does not say that it has all of the data")
		} else {
			err = markFilled("/dev/"+device, header)
		}
	}
	if err != nil {
		s.unmount(diskMount)
	}
	return err
}

// markFilled says on the disk that it has all of the data. On one that can only be
// read that stays unsaid, and the card is not tidied.
func markFilled(path string, header *layout.DataDisk) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
		return nil
	}
	if err != nil {
		return err
	}
	filled := *header
	filled.Filled = true
	return errors.Join(writeHeader(f, &filled), f.Close())
}

// checkDataDir fails unless the directory on the disk is this box's and has a
// store: coboxd would make an empty one.
func checkDataDir(disk, card string) error {
	here, there := readIdentity(card), readIdentity(disk)
	if there == nil || here == nil || *here != *there {
		return errors.New("what is on it is not this box's data")
	}
	if info, err := os.Lstat(filepath.Join(disk, datadir.StoreDir)); err != nil || !info.IsDir() {
		return errors.New("the box's data is not on it")
	}
	return nil
}

// closePlace unmounts what openPlace has mounted.
func (s *system) closePlace(at string) {
	if at == diskMount {
		s.unmount(diskMount)
	}
}

// goesAway returns what notices that the disk in use is pulled out, which an idle
// coboxd does not for a long time. That the card is, watchDisk notices.
func (s *system) goesAway() func() bool {
	disk, device, _ := s.data.where()
	return func() bool {
		if device == "" {
			return false
		}
		if _, err := os.Stat("/sys/class/block/" + partitionOf(device, 1)); !errors.Is(err, os.ErrNotExist) {
			return false
		}
		s.log.Error("the disk with the data is gone", "disk", disk, "device", device)
		return true
	}
}

// comesBack returns what notices that it is worth trying again, or that there is
// something else to say.
func (s *system) comesBack(why error) func() bool {
	began := time.Now()
	var unusable *unusableError
	errors.As(why, &unusable)
	return func() bool {
		id, named, err := readDataDisk(cardMount)
		if err != nil || !named {
			return err == nil
		}
		device, _, err := findDataDisk("/sys/block", "/dev", s.card.name, id)
		if unusable != nil {
			return err != nil || device != unusable.device || time.Since(began) >= placeAgain
		}
		return err == nil || err.Error() != why.Error()
	}
}
