//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mountSystem mounts what the kernel offers and two file systems in memory. It
// does all that it can and returns what failed.
func mountSystem() error {
	const locked = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	var errs []error
	for _, m := range []struct {
		fs, on  string
		flags   uintptr
		options string
	}{
		{"devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC, ""},
		{"proc", "/proc", locked, ""},
		{"sysfs", "/sys", locked, ""},
		{"tmpfs", "/run", locked, "mode=0755,size=4m"},
		{"tmpfs", "/tmp", locked, "mode=1777,size=16m"},
	} {
		if err := os.MkdirAll(m.on, 0o755); err != nil {
			errs = append(errs, err)
		}
		err := unix.Mount(m.fs, m.on, m.fs, m.flags, m.options)
		if err != nil && !errors.Is(err, unix.EBUSY) { // the kernel may have mounted /dev
			errs = append(errs, fmt.Errorf("mounting %s: %w", m.on, err))
		}
	}
	// The kernel drops most lines of one who writes many. Ours are bounded
	// already.
	if err := os.WriteFile("/proc/sys/kernel/printk_devkmsg", []byte("on\n"), 0); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
