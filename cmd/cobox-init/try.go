//go:build linux

package main

import (
	"context"
	"errors"
	"time"

	"cobox/appliance/machine"
	"cobox/image/bundle"
	"cobox/image/layout"
	"cobox/image/slot"
)

// tryDelay is how long the answer has before the box restarts.
const tryDelay = time.Second

// try restarts the box once into the other slot, if an update was written there
// since the last try, and it holds a released system, every byte of which is right.
func (u *updates) try(ctx context.Context) error {
	if !u.changing.TryLock() {
		return errChanging
	}
	defer u.changing.Unlock()
	target, state, err := u.target()
	if err != nil {
		return err
	}
	// Or a coboxd that was taken over could have the box restart all the time.
	if !u.written(target) {
		return machine.Errorf(machine.CodeRefused, "no update was written since the last one was tried; send the update again")
	}
	keys, err := releaseKeys(u.keys)
	if err != nil {
		return err
	}
	m, err := u.verify(target, keys, state)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return machine.Errorf(machine.CodeRefused, "the other slot holds no system that could be tried; send the update again: %v", err)
	}
	if err := u.keep(&record{Update: machine.Update{Release: releaseOf(m), Result: machine.ResultTrying}, slot: target}); err != nil {
		return err
	}
	u.mu.Lock()
	u.leaving = true
	u.mu.Unlock()
	u.log.Info("the box restarts to try the other slot", "slot", target, "version", m.Version)
	time.AfterFunc(tryDelay, func() { u.stop(tryOther) })
	return nil
}

// written says whether the record says that an update waits in a slot to be tried.
func (u *updates) written(s layout.Slot) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last != nil && u.last.slot == s && u.last.Result == machine.ResultWritten
}

// verify reads a slot and says whether the box may start from it.
func (u *updates) verify(s layout.Slot, keys *bundle.Keys, state bundle.State) (m *bundle.Manifest, err error) {
	files, done, err := u.disk.mountSlot(s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	system, err := slot.Read(files)
	if err != nil {
		return nil, err
	}
	if _, err := keys.Verify(system.Text, system.Signatures); err != nil {
		return nil, err
	}
	if err := state.Check(system.Manifest); err != nil {
		return nil, err
	}
	return system.Manifest, system.Verify(files)
}
