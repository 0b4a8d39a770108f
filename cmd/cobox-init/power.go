//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// inputsAgain is how often the box looks for keys: a keyboard may come later.
const inputsAgain = 5 * time.Second

// runPowerKeys switches the box off when a power key is pressed: the button of
// a Raspberry Pi 5, or that of a keyboard.
func (s *system) runPowerKeys(ctx context.Context) {
	ended, pressed := make(chan string, 64), make(chan struct{}, 1)
	open := map[string]*os.File{}
	defer func() {
		for _, f := range open {
			f.Close()
		}
	}()
	tick := time.NewTicker(inputsAgain)
	defer tick.Stop()
	for {
		names, _ := filepath.Glob("/dev/input/event*") // the pattern is right
		for _, name := range names {
			if open[name] != nil || !hasPowerKey(filepath.Base(name)) {
				continue
			}
			f, err := os.Open(name)
			if err != nil {
				continue // it is gone again, or will be tried again
			}
			s.log.Info("the power key is watched", "device", name)
			open[name] = f
			go func() {
				if watchPowerKey(f) {
					select {
					case pressed <- struct{}{}:
					default:
					}
				}
				select {
				case ended <- name:
				case <-ctx.Done():
				}
			}()
		}
		select {
		case <-ctx.Done():
			return
		case <-pressed:
			s.log.Info("the power key was pressed")
			s.askToStop(powerOff)
			return
		case name := <-ended:
			open[name].Close()
			delete(open, name)
		case <-tick.C:
		}
	}
}

// Of linux/input-event-codes.h.
const (
	eventKey = 1
	keyPower = 116
)

// hasPowerKey tells whether an input device has the key, by the bits that /sys
// shows: words of 64 bits in hexadecimal, the highest first.
func hasPowerKey(event string) bool {
	b, err := os.ReadFile("/sys/class/input/" + event + "/device/capabilities/key")
	return err == nil && bitOfWords(string(b), keyPower)
}

func bitOfWords(text string, bit int) bool {
	words := strings.Fields(text)
	i := len(words) - 1 - bit/64
	if i < 0 {
		return false
	}
	var word uint64
	for _, c := range words[i] {
		d := strings.IndexRune("0123456789abcdef", c)
		if d < 0 {
			return false
		}
		word = word<<4 | uint64(d)
	}
	return word>>(bit%64)&1 == 1
}

// inputEventSize is that of the kernel's struct input_event on a 64-bit
// machine: time 16, type u16, code u16, value s32.
const inputEventSize = 24

// watchPowerKey reads events until the power key is pressed or the device is
// gone.
func watchPowerKey(r io.Reader) (pressed bool) {
	var e [inputEventSize]byte
	for {
		if _, err := io.ReadFull(r, e[:]); err != nil {
			return false
		}
		kind, code := binary.NativeEndian.Uint16(e[16:]), binary.NativeEndian.Uint16(e[18:])
		if kind == eventKey && code == keyPower && binary.NativeEndian.Uint32(e[20:]) == 1 {
			return true
		}
	}
}
