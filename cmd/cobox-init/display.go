//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cobox/cmd/cobox-init/screen"
	"cobox/netlink/pairing"
)

const (
	displayEvery = time.Second
	// consoleEvery is the least time between two codes on the serial console: a
	// code is written anew whenever an address changes.
	consoleEvery   = time.Minute
	consoleTimeout = 10 * time.Second
)

// runDisplay shows the box's state on a screen, and its pairing code on the
// console too, until ctx ends. A screen may be plugged in at any time.
func (s *system) runDisplay(ctx context.Context) {
	type shown struct {
		mode framebuffer
		page screen.Page
	}
	var last shown
	var console struct {
		code string
		at   time.Time
	}
	told := ""
	tick := time.NewTicker(displayEvery)
	defer tick.Stop()
	for {
		f := s.state.facts()
		page := f.page(time.Now(), hostName(), interfaceAddresses())
		if page.Code != "" && page.Code != console.code && (console.code == "" || time.Since(console.at) >= consoleEvery) {
			console.code, console.at = page.Code, time.Now()
			if err := showOnConsole(page.Code); err != nil {
				s.log.Warn("the pairing code is not on the console", "error", err)
			}
		}
		if file, mode, err := openFramebuffer(); err == nil {
			if want := (shown{mode, page}); want != last {
				if last.mode != mode {
					s.log.Info("a screen is found", "width", mode.width, "height", mode.height, "bits", mode.format.Bits)
					err = quietConsole()
				}
				if err == nil {
					err = mode.show(file, page.Draw(mode.width, mode.height))
				}
				last = want
			}
			file.Close()
			s.tellOnce(&told, err)
		} else if _, missing := os.Stat(framebufferDevice); missing == nil {
			s.tellOnce(&told, err)
		} else {
			last = shown{} // the next screen is a new one
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// tellOnce logs an error of the screen unless it is the same as before.
func (s *system) tellOnce(told *string, err error) {
	if err == nil {
		return
	}
	if text := err.Error(); text != *told {
		*told = text
		s.log.Warn("the screen is not drawn", "error", err)
	}
}

// page is what a screen shows.
func (f facts) page(now time.Time, name string, addresses []netip.Addr) screen.Page {
	lines := make([]string, len(addresses))
	for i, a := range addresses {
		lines[i] = a.String()
	}
	p := screen.Page{
		Name: name, State: f.stateText(now), Problem: f.problem(now),
		Addresses: strings.Join(lines, "\n"),
	}
	if f.phase(now) == unclaimed {
		p.Code = f.code
	}
	return p
}

// interfaceAddresses lists those at which others may reach the box, IPv4 first.
func interfaceAddresses() []netip.Addr {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil // shown as none, which is as good as true
	}
	var list []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			list = append(list, p.Addr().Unmap())
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}

// showOnConsole writes the code to the console, which is no log: nothing of it
// is kept.
func showOnConsole(code string) error {
	d, err := pairing.Draw(code)
	if err != nil {
		return err
	}
	// Nobody may be reading; a terminal that holds the line must not hold the box.
	f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	f.SetWriteDeadline(time.Now().Add(consoleTimeout)) // where the console knows none, there is none
	_, err = fmt.Fprintf(f, "\n%s\nThis box has no administrator yet. Whoever uses this code first becomes one:\n\n  cobox pair '%s'\n\n", d.Terminal(), code)
	return err
}
