//go:build linux

package main

import (
	"context"
	"os"
	"path/filepath"
	"time"
)

// lampNames are those that the activity LED has on the boards, newest first.
var lampNames = []string{"ACT", "led0"}

// lampTick is the shortest time that the lamp is on or off.
const lampTick = 125 * time.Millisecond

// lampPatterns say what the lamp shows, a character a tick: # is on.
var lampPatterns = [...]string{
	booting:   "#.",
	unclaimed: "########........",
	healthy:   "#",
	attention: "#.#.........",
	stopping:  ".",
}

// lampAt tells whether the lamp is on at a tick.
func lampAt(p phase, tick int) bool {
	pattern := lampPatterns[p]
	return pattern[tick%len(pattern)] == '#'
}

// runLamp shows the state on the activity LED until ctx ends.
func (s *system) runLamp(ctx context.Context) {
	dir := findLamp("/sys/class/leds")
	if dir == "" {
		return // a computer without one
	}
	// The kernel blinks at disk activity until told otherwise.
	if err := os.WriteFile(filepath.Join(dir, "trigger"), []byte("none"), 0); err != nil {
		s.log.Warn("the lamp is not ours", "error", err)
		return
	}
	ticks := time.NewTicker(lampTick)
	defer ticks.Stop()
	last, on := phase(0xff), false
	for tick := 0; ; tick++ {
		p := s.state.facts().phase(time.Now())
		if p != last {
			tick = 0
		}
		if want := lampAt(p, tick); want != on || p != last {
			text := "0"
			if want {
				text = "1"
			}
			if err := os.WriteFile(filepath.Join(dir, "brightness"), []byte(text), 0); err != nil {
				s.log.Warn("the lamp does not obey", "error", err)
				return
			}
			on = want
		}
		last = p
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
	}
}

func findLamp(leds string) string {
	for _, name := range lampNames {
		dir := filepath.Join(leds, name)
		if _, err := os.Stat(filepath.Join(dir, "brightness")); err == nil {
			return dir
		}
	}
	return ""
}
