// Command misfit takes the place of a program of a box in the tests of updates
// and does one thing, usually a wrong one.
package main

import (
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// does is what the program does, set by the linker.
var does string

func main() {
	switch does {
	case "hang":
		hang()
	case "silent":
		for {
			time.Sleep(time.Hour)
		}
	case "try":
		restart("0 tryboot")
	case "restart":
		must("restart", syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART))
	default:
		must("start", fmt.Errorf("%q is nothing that it can do", does))
	}
}

// hang is a first process that arms the watchdog, as that of a box does first of
// all, and then stops doing anything.
func hang() {
	must("mount /dev", syscall.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""))
	f, err := os.OpenFile("/dev/watchdog", os.O_WRONLY, 0)
	must("open the watchdog", err)
	seconds := int32(5)
	const setTimeout = 0xc0045706 // WDIOC_SETTIMEOUT
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), setTimeout, uintptr(unsafe.Pointer(&seconds))); e != 0 {
		must("set the watchdog", e)
	}
	fmt.Printf("hang: the watchdog is armed, %d s\n", seconds)
	for {
	}
}

// restart restarts with an argument for the firmware.
func restart(argument string) {
	b := append([]byte(argument), 0)
	_, _, e := syscall.Syscall6(syscall.SYS_REBOOT, syscall.LINUX_REBOOT_MAGIC1, syscall.LINUX_REBOOT_MAGIC2,
		syscall.LINUX_REBOOT_CMD_RESTART2, uintptr(unsafe.Pointer(&b[0])), 0, 0)
	must("restart", e)
}

func must(what string, err error) {
	if err != nil && err != syscall.Errno(0) {
		fmt.Printf("misfit: %s: %v\n", what, err)
		time.Sleep(time.Hour) // the end of a first process would be a panic
	}
}
