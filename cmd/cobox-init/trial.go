//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"cobox/appliance/machine"
)

const (
	// trialTime is how long a new system must be up to stay. The kernel's argument
	// cobox.trial= changes it.
	trialTime = 2 * time.Minute
	// trialLimit times that is when one that has not proved itself is given up.
	trialLimit = 5
	trialEvery = time.Second
	// trialAgain is how long to wait after the choice could not be written.
	trialAgain = 10 * time.Second
	// trialSlack is what the watchdog leaves for giving up in an orderly way.
	trialSlack = 15 * time.Second
)

// trialOfCmdline reads cobox.trial=SECONDS from the kernel's arguments.
func trialOfCmdline(line string) (time.Duration, error) {
	return secondsOfCmdline(line, "cobox.trial", trialTime)
}

// secondsOfCmdline reads NAME=SECONDS from the kernel's arguments. The last one
// counts, and usual without any.
func secondsOfCmdline(line, name string, usual time.Duration) (time.Duration, error) {
	d, err := usual, error(nil)
	for _, arg := range strings.Fields(line) {
		if text, ok := strings.CutPrefix(arg, name+"="); ok {
			n, parsed := strconv.ParseUint(text, 10, 32)
			if d, err = time.Duration(n)*time.Second, nil; parsed != nil || n < 1 || n > 24*60*60 {
				d, err = usual, fmt.Errorf("init: %s=%.20s: 1 to 86400 seconds, please", name, text)
			}
		}
	}
	return d, err
}

// firmwareTrial is where the Raspberry Pi's firmware tells whether the one-shot
// flag was set.
const firmwareTrial = "/proc/device-tree/chosen/bootloader/tryboot"

// triedByFirmware says whether the firmware calls this start a trial. It is
// asked only while the disk, which knows for sure, is not to be found: a new
// system without a driver for it must not stay.
func triedByFirmware() bool {
	b, err := os.ReadFile(firmwareTrial)
	return err == nil && string(b) == "\x00\x00\x00\x01"
}

// lacks lists what a system on trial has not shown yet.
func (f facts) lacks(now time.Time, trial time.Duration, addresses int) []string {
	var list []string
	if f.dataProblem != nil || f.waiting != "" || f.dataSince.IsZero() {
		list = append(list, "the box's data could not be used")
	}
	switch {
	case !f.daemonUp || !f.answering(now):
		list = append(list, "the box's program did not answer")
	case f.readOnly:
		list = append(list, "the disk could not be written")
	case !f.proved:
		list = append(list, "the box's program did not find itself reachable")
	}
	if addresses == 0 {
		list = append(list, "the network gave no address")
	}
	if now.Sub(f.started) < trial {
		list = append(list, "the trial was not over")
	}
	return list
}

// runTrial ends a trial, if this start is one: the new system stays once it has
// shown all that is asked of it; if it does not in time, the box restarts, which
// starts the system before. Without a restart of ours (a panic, a hang, no
// power) that one starts too.
func (s *system) runTrial(ctx context.Context) {
	u := s.updates
	started := s.state.facts().started
	limit := started.Add(trialLimit * u.trial)
	select {
	case <-ctx.Done():
		return
	case <-time.After(time.Until(limit)):
		if u.tried() {
			s.log.Error("the system on trial has not found its disk, and the box restarts into the one before")
			s.askToStop(restart)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-u.begun:
		}
	case <-u.begun:
	}
	if !u.onTrial() {
		return
	}
	s.log.Info("this system is on trial", "needs", u.trial, "at most", trialLimit*u.trial)
	s.state.setTrial(limit.Add(trialSlack))
	defer s.state.setTrial(time.Time{})
	tick := time.NewTicker(trialEvery)
	defer tick.Stop()
	var again time.Time // when to try to write the choice
	limited, problem := true, ""
	for {
		now := time.Now()
		lacks := s.state.facts().lacks(now, u.trial, s.addresses())
		if len(lacks) == 0 && !now.Before(again) {
			err := u.promote()
			if err == nil {
				return
			}
			s.log.Error("the system on trial is well, and could not be made the one that starts", "error", err)
			again, problem = now.Add(trialAgain), err.Error()
		}
		if limited && !now.Before(limit) {
			if u.fellBackBefore() {
				// It was given up before, and runs again: the other does not start.
				limited = false
				s.log.Warn("the system before does not start, so this one goes on although it was given up")
			} else {
				if len(lacks) == 0 {
					lacks = []string{problem}
				}
				u.giveUp(fmt.Sprintf("within %v: %s", trialLimit*u.trial, strings.Join(lacks, ", ")))
				s.askToStop(restart)
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// promote makes the running system the one that starts.
//
//  1. The sector of autoboot.txt is overwritten: from here on it starts.
//  2. The floor is raised.
//  3. The record says so.
//
// A crash after 1 or 2 is made good by the next start: the running system's
// floor counts in any case, and a record is settled when it is read.
func (u *updates) promote() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lookLocked()
	at, err := u.disk.autoboot()
	if err != nil {
		return err
	}
	if err := chooseSlot(at, u.running); err != nil {
		return err
	}
	u.chosen = u.running
	u.log.Info("the system has proved itself and starts from now on", "slot", u.running, "version", u.release.Version)
	u.raiseFloorLocked()
	u.setResultLocked(machine.ResultPromoted, "")
	return nil
}

// giveUp writes down why the running system is left again.
func (u *updates) giveUp(why string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lookLocked()
	u.log.Error("the system on trial has not proved itself, and the box restarts into the one before", "why", why)
	if u.loaded {
		u.setResultLocked(machine.ResultFellBack, oneReason(why))
	}
}

// setResultLocked says how the trial of the running system has ended.
func (u *updates) setResultLocked(result machine.Result, reason string) {
	r := &record{Update: machine.Update{Release: u.release}, slot: u.running}
	if u.last != nil && u.last.slot == u.running {
		r.Release = u.last.Release
	}
	r.Result, r.Reason = result, reason
	u.last = r
	if err := writeRecord(u.card, r); err != nil {
		u.log.Error("what became of the update is not kept", "error", err)
	}
}

// fellBackBefore says whether the running system was given up already.
func (u *updates) fellBackBefore() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last != nil && u.last.slot == u.running && u.last.Result == machine.ResultFellBack
}
