//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// settings are those of the kernel that a box needs otherwise than they are.
var settings = map[string]string{
	// The kernel drops most lines of one who writes many. Ours are bounded already.
	"kernel/printk_devkmsg": "on\n",
	// From here on the console shows what the log gets; the kernel's arguments
	// keep its own beginning from it.
	"kernel/printk": "7\n",
	// Landlock does not see the ports of Multipath TCP, which Go's listeners use
	// where they can.
	"net/mptcp/enabled": "0\n",
	// Nobody on a box needs these, and errors in the kernel are mostly reached by
	// them.
	"user/max_user_namespaces": "0\n",
	"kernel/io_uring_disabled": "2\n",
	"kernel/dmesg_restrict":    "1\n",
}

// mountSystem mounts what the kernel offers and two file systems in memory,
// and sets what must be set before anything else runs. It
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
	for name, value := range settings {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
