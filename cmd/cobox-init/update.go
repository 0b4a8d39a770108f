//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cobox/appliance/machine"
	"cobox/image/bundle"
	"cobox/image/layout"
	"cobox/image/slot"
)

// keysFile has the public keys whose holders may release the system. They are
// part of the system, so an update can replace them.
const keysFile = "/etc/cobox-release.pub"

// bootDisk is what updates need of the disk that the box starts from.
type bootDisk interface {
	// slotDevice returns the partition of a slot.
	slotDevice(layout.Slot) string
	// mountSlot shows the files of a slot, which cannot be changed, until done is
	// called.
	mountSlot(layout.Slot) (files fs.FS, done func() error, err error)
	// autoboot finds the sector that chooses a slot.
	autoboot() (place, error)
}

// updates is what the box knows of its own system, and what replaces it. Its
// life is begin, load, and then whatever is asked.
type updates struct {
	log     *slog.Logger
	state   *state
	stop    func(ending)
	version string // of the system that runs, if its slot does not say it
	card    string // the directory for record and floor
	upload  string // the file that coboxd leaves a bundle in
	keys    string // the file of the release keys
	trial   time.Duration
	tried   func() bool   // whether the firmware calls this start a trial
	begun   chan struct{} // closed when the disk is found

	// changing is held by whoever writes a slot or has it tried: one at a time.
	changing sync.Mutex

	mu       sync.Mutex // held for moments only
	disk     bootDisk   // nil until begin
	running  layout.Slot
	chosen   layout.Slot // by autoboot.txt; 0: unknown, like running
	loaded   bool        // the card is mounted, and record and floor were read
	looked   bool        // the slots were read
	release  machine.Release
	other    *machine.Release
	newFloor uint32 // of the system that runs
	floor    uint32
	last     *record // nil: there was no update
	leaving  bool    // the box restarts in a moment
}

func newUpdates(log *slog.Logger, st *state, stop func(ending)) *updates {
	return &updates{
		log: log, state: st, stop: stop, trial: trialTime, tried: triedByFirmware,
		card: cardMount, upload: filepath.Join(dataDir, machine.UpdateFile), keys: keysFile,
		begun: make(chan struct{}),
	}
}

// begin takes the disk that the box started from, before anything of it is
// mounted, and finds out whether this start is a trial.
func (u *updates) begin(d bootDisk, running layout.Slot) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.disk != nil {
		return
	}
	u.disk, u.running = d, running
	at, err := d.autoboot()
	if err == nil {
		u.chosen, err = chosenSlot(at)
	}
	if err != nil {
		u.log.Error("the slot that starts is unknown, and no update can be taken", "error", err)
	}
	close(u.begun)
}

// onTrialLocked says whether this start is the one trial of a new system: the
// next one starts the other slot.
func (u *updates) onTrialLocked() bool {
	return u.running != 0 && u.chosen != 0 && u.running != u.chosen
}

func (u *updates) onTrial() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.onTrialLocked()
}

// load reads what is kept on the card, which is mounted now, and puts the record
// right.
func (u *updates) load() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.loaded = true
	var err error
	if u.floor, err = readFloor(u.card); err != nil {
		u.log.Error("the lowest number of an update is lost; that of the running system counts", "error", err)
	}
	if u.last, err = readRecord(u.card); err != nil {
		u.log.Error("what became of the last update is lost", "error", err)
	}
	if u.last == nil || u.running == 0 || u.chosen == 0 || !u.last.settle(u.running, u.chosen) {
		return
	}
	u.log.Info("the last update is settled", "version", u.last.Version, "result", u.last.Result, "reason", u.last.Reason)
	if err := writeRecord(u.card, u.last); err != nil {
		u.log.Error("what became of the update is not kept", "error", err)
	}
}

// lookLocked reads what the slots hold, once: they change only by install.
func (u *updates) lookLocked() {
	if u.looked || !u.loaded {
		return
	}
	u.looked = true
	u.release = machine.Release{Version: u.version}
	if u.running == 0 {
		return
	}
	if m, err := u.manifest(u.running); err == nil {
		u.release, u.newFloor = releaseOf(m), m.Floor
	} else if !errors.Is(err, fs.ErrNotExist) {
		u.log.Error("the running slot does not say what it is", "error", err)
	}
	m, err := u.manifest(u.running.Other())
	switch {
	case err == nil:
		r := releaseOf(m)
		u.other = &r
	case errors.Is(err, fs.ErrNotExist):
		u.other = &machine.Release{Version: "unknown"} // of an image without a manifest
	default:
		u.log.Warn("the other slot holds no system", "error", err)
	}
	if u.running == u.chosen {
		u.raiseFloorLocked()
	}
}

func releaseOf(m *bundle.Manifest) machine.Release {
	return machine.Release{Version: m.Version, Number: m.Number}
}

// manifest reads the manifest of a slot.
func (u *updates) manifest(s layout.Slot) (m *bundle.Manifest, err error) {
	files, done, err := u.disk.mountSlot(s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	system, err := slot.Read(files)
	if err != nil {
		return nil, err
	}
	return system.Manifest, nil
}

// raiseFloorLocked makes the floor of the running system, which has proved
// itself, that of the box. It never sinks, and counts even if it cannot be
// written.
func (u *updates) raiseFloorLocked() {
	if u.newFloor <= u.floor {
		return
	}
	u.floor = u.newFloor
	if err := writeFloor(u.card, u.floor); err != nil {
		u.log.Error("the lowest number of an update is not kept", "error", err)
	}
}

// status says how things are.
func (u *updates) status() machine.State {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lookLocked()
	s := machine.State{Trying: u.onTrialLocked(), Release: u.release, Board: bundle.BoardRPi, Floor: u.floor}
	if u.running != 0 {
		s.Slot = u.running.String()
	}
	if u.other != nil {
		r := *u.other
		s.Other = &r
	}
	if u.last != nil {
		last := u.last.Update
		s.Update = &last
	}
	return s
}

// settled returns an *machine.Error unless the system that runs is the one that
// goes on running: no data is moved by one that may be given up, or is about to
// restart.
func (u *updates) settled() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lookLocked() // now: while a slot is mounted for long, whoever asks would wait
	switch {
	case !u.loaded:
		return machine.Errorf(machine.CodeBusy, "the box has not found its disk yet")
	case u.leaving:
		return errLeaving
	case u.onTrialLocked():
		return machine.Errorf(machine.CodeBusy, "the running system is on trial; ask again when it has proved itself, which takes some minutes")
	}
	return nil
}

// errLeaving says that a restart is under way.
var errLeaving = machine.Errorf(machine.CodeBusy, "the box is about to restart; ask again when it is back")

// target returns the slot that may be changed, and what its new system must
// satisfy; or an *machine.Error that says why none may.
func (u *updates) target() (layout.Slot, bundle.State, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lookLocked()
	refuse := func(code machine.Code, why string) (layout.Slot, bundle.State, error) {
		return 0, bundle.State{}, machine.Errorf(code, "%s", why)
	}
	switch {
	case !u.loaded:
		return refuse(machine.CodeBusy, "the box has not found its disk yet")
	case u.running == 0 || u.chosen == 0:
		return refuse(machine.CodeRefused, "the box cannot tell which of its two systems runs, so it overwrites neither; write its card anew")
	case u.leaving:
		return 0, bundle.State{}, errLeaving
	case u.onTrialLocked():
		return refuse(machine.CodeRefused, "the running system is on trial itself; ask again when it has proved itself, which takes some minutes")
	}
	if err := writable(u.card); err != nil {
		return refuse(machine.CodeRefused, "the card cannot be written any more, so it cannot take an update; replace it soon")
	}
	return u.running.Other(), bundle.State{Board: bundle.BoardRPi, Floor: u.floor}, nil
}

// writable says whether a mounted file system can be written.
func writable(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return fmt.Errorf("update: %s: %w", path, unix.EROFS)
	}
	return nil
}

// keep writes a record durably, and only then lets it count.
func (u *updates) keep(r *record) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := writeRecord(u.card, r); err != nil {
		return err
	}
	u.last = r
	return nil
}
