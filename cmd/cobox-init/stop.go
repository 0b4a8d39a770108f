//go:build linux

package main

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stopTimeout is how long the tasks get. It is more than coboxd's grace, and
// with what comes after it within 10 s.
const stopTimeout = daemonGrace + time.Second

// ending is how a box stops.
type ending uint8

const (
	powerOff ending = iota
	restart
	tryOther // restart once into the other slot
)

func (e ending) String() string {
	switch e {
	case restart:
		return "restart"
	case tryOther:
		return "restart into the other slot"
	}
	return "power off"
}

// tryCommand is the argument of a restart that the Raspberry Pi's firmware takes
// for its one-shot flag: partition 0, which is the one that autoboot.txt says,
// and the section [tryboot] in it.
const tryCommand = "0 tryboot"

// askToStop lets the box end. The first who asks says how.
func (s *system) askToStop(how ending) {
	select {
	case s.stop <- how:
	default:
	}
}

// end is the last thing that a box does; it does not return.
func (s *system) end(how ending) {
	if err := s.clock.save(); err != nil {
		s.log.Error("the time is not kept", "error", err)
	}
	for _, path := range []string{dataMount, newMount, diskMount, cardMount} {
		if err := release(path); err != nil {
			s.log.Error("the data is not unmounted; its journal makes up for that", "error", err)
		}
	}
	unix.Sync()
	s.log.Info("CoBox has stopped", "to", how)
	if err := how.reboot(); err != nil {
		s.log.Error("the machine does not stop", "error", err)
	}
	select {} // a machine that cannot be switched off waits for its plug
}

// reboot asks the kernel for it.
func (e ending) reboot() error {
	switch e {
	case restart:
		return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	case tryOther:
		command, err := unix.BytePtrFromString(tryCommand)
		if err != nil {
			return err
		}
		_, _, errno := unix.Syscall6(unix.SYS_REBOOT, unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2,
			unix.LINUX_REBOOT_CMD_RESTART2, uintptr(unsafe.Pointer(command)), 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	}
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// release unmounts a file system, or makes it read-only if somebody still uses
// it. One that is not mounted is fine.
func release(path string) error {
	err := unix.Unmount(path, 0)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if remount := unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); remount != nil {
		return fmt.Errorf("unmounting %s: %w", path, errors.Join(err, remount))
	}
	return nil
}
