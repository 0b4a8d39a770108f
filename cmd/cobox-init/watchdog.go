//go:build linux

package main

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	watchdogDevice  = "/dev/watchdog"
	watchdogSeconds = 15
	watchdogEvery   = 3 * time.Second
)

// mayPet tells whether the hardware may be told that all is well. If not, it
// restarts the box. A restart does not help against a missing or full disk, and
// a trial ends by itself, so that it can be told why.
func (f facts) mayPet(now time.Time) bool {
	return !f.stopping.IsZero() || f.starting(now) || f.answering(now) || f.dataProblem != nil || f.waiting != "" || f.full ||
		now.Before(f.trialEnds)
}

// runWatchdog keeps the hardware watchdog quiet while the box is well. The
// device stays open and armed when ctx ends, so that a box that hangs while it
// stops is restarted too: stopping takes less than the watchdog's time.
func (s *system) runWatchdog(ctx context.Context) {
	f, err := os.OpenFile(watchdogDevice, os.O_WRONLY, 0)
	if err != nil {
		s.log.Warn("there is no hardware watchdog", "error", err)
		return
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, watchdogSeconds); err != nil {
		s.log.Warn("the watchdog keeps its own time", "error", err)
	}
	s.log.Info("the watchdog is armed", "seconds", watchdogSeconds)
	s.watchdog = f // keeps the collector from closing it
	refused := false
	for {
		if s.state.facts().mayPet(time.Now()) {
			refused = false
			if _, err := f.Write([]byte{0}); err != nil {
				s.log.Error("the watchdog was not petted", "error", err)
			}
		} else if !refused {
			refused = true
			s.log.Error("coboxd does not answer; the watchdog is left to restart the box", "within seconds", watchdogSeconds)
		}
		select {
		case <-ctx.Done():
			f.Write([]byte{0})
			return
		case <-time.After(watchdogEvery):
		}
	}
}
