//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	clockFile  = "clock"
	clockEvery = 10 * time.Minute
)

// clock keeps the system's clock from going back. Most boxes have no clock that
// runs while they are off, so the last time that was known is kept in a file.
//
// The file holds seconds since 1970 in decimal and a newline.
type clock struct {
	log  *slog.Logger
	get  func() time.Time
	step func(time.Time) error

	mu    sync.Mutex
	floor time.Time // no time before it is believed
	path  string    // of the file, "" until the data is mounted
	steps int       // how often the clock was set
}

// newClock returns a clock for a program that was built at a time, in seconds
// since 1970.
func newClock(log *slog.Logger, built string) *clock {
	c := &clock{log: log, get: time.Now, step: setSystemClock}
	if n, err := strconv.ParseInt(built, 10, 64); err == nil {
		c.floor = time.Unix(n, 0)
	}
	return c
}

func setSystemClock(t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// start sets a clock that is before the program was built.
func (c *clock) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.liftLocked()
}

// useFile takes the last known time from a file, and keeps it there from now
// on.
func (c *clock) useFile(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.path = path
	b, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var last time.Time
	if err == nil {
		last, err = parseClock(b)
	}
	if err != nil {
		c.log.Error("the last known time is lost", "error", err)
		return
	}
	c.raiseLocked(last)
	c.liftLocked()
}

func parseClock(b []byte) (time.Time, error) {
	digits, ok := strings.CutSuffix(string(b), "\n")
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n < 0 || strconv.FormatInt(n, 10) != digits {
		return time.Time{}, fmt.Errorf("clock: %.40q is no time", b)
	}
	return time.Unix(n, 0), nil
}

func (c *clock) raiseLocked(t time.Time) {
	if t.After(c.floor) {
		c.floor = t
	}
}

// liftLocked steps the clock to the floor if it is below.
func (c *clock) liftLocked() {
	if now := c.get(); now.Before(c.floor) {
		if err := c.setLocked(c.floor); err != nil {
			c.log.Error("the clock was not set", "error", err)
			return
		}
		c.log.Info("the clock was behind what is known", "set", c.floor.UTC().Format(time.RFC3339))
	}
}

func (c *clock) setLocked(t time.Time) error {
	c.steps++
	return c.step(t)
}

// stepsSoFar returns how often the clock was set, for [clock.adjust].
func (c *clock) stepsSoFar() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.steps
}

// errStepped says that an offset was measured by a clock that was set meanwhile.
var errStepped = errors.New("clock: it was set while a time server was asked")

// adjust moves the clock by what a time server says: forward always, back only
// down to the floor. Steps are those before the server was asked: when the card is
// found while the answer is on its way, the offset is of the time before. It would
// put the clock far ahead, and what is kept then never lets it go back.
func (c *clock) adjust(offset time.Duration, steps int) (time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.steps != steps {
		return time.Time{}, errStepped
	}
	t := c.get().Add(offset)
	if t.Before(c.floor) {
		t = c.floor
	}
	if err := c.setLocked(t); err != nil {
		return time.Time{}, fmt.Errorf("clock: setting it: %w", err)
	}
	return t, nil
}

// save keeps the time, below which the clock never goes again.
func (c *clock) save() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.path == "" {
		return nil
	}
	c.raiseLocked(c.get().Truncate(time.Second))
	if err := writeDurably(c.path, []byte(strconv.FormatInt(c.floor.Unix(), 10)+"\n"), 0o600, 0); err != nil {
		return fmt.Errorf("clock: keeping the time: %w", err)
	}
	return nil
}

// runClock keeps the time until ctx ends.
func (s *system) runClock(ctx context.Context) {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.clock.save(); err != nil {
			s.log.Error("the time is not kept", "error", err)
		}
	}
}
