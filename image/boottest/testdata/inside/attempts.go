//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempt is something that was tried, and how it went.
type attempt struct {
	What  string `json:"what"`
	Error string `json:"error"` // "" if it was allowed
}

// tellAttempts tries what a coboxd has no business with, and a few things that
// it needs, so that a test can tell a sandbox from a program that does nothing.
func tellAttempts(data string) {
	try := func(what string, f func() error) {
		a := attempt{What: what}
		if err := f(); err != nil {
			a.Error = err.Error()
		}
		tell("attempt", a)
	}
	open := func(path string, flags int) {
		how := "read "
		if flags&unix.O_ACCMODE != unix.O_RDONLY {
			how = "write "
		}
		try(how+path, func() error {
			fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0o600)
			if err == nil {
				unix.Close(fd)
			}
			return err
		})
	}

	// The needed ones come first.
	open(filepath.Join(data, "needed"), unix.O_WRONLY|unix.O_CREAT)
	try("start itself", func() error { return start(0) })

	for _, path := range []string{
		"/init", "/bin/coboxd", "/bin/sh", "/etc/passwd", "/etc/cobox-release", "/x", "/dev/x", "/tmp/x", "/run/x", "/slot/x", "/boot/x",
		filepath.Join(filepath.Dir(data), "x"), filepath.Join(filepath.Dir(data), "clock"), filepath.Join(filepath.Dir(data), "floor"), "/card/x", "/card/floor",
		"/dev/console", "/dev/kmsg", "/dev/mem", "/dev/fb0", "/dev/watchdog", "/dev/tty0",
		"/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/1/oom_score_adj", "/sys/power/state", "/sys/kernel/uevent_helper",
	} {
		open(path, unix.O_WRONLY|unix.O_CREAT)
	}
	for _, path := range []string{
		"/init", "/dev/mem", "/dev/kmsg", "/dev/fb0", "/dev/watchdog", "/dev/console", "/dev/input/event0", "/boot", "/slot",
		filepath.Join(filepath.Dir(data), "clock"), "/card/clock",
		"/proc/1/environ", "/proc/1/mem", "/proc/1/root/init", "/proc/1/fd/0", "/proc/kcore", "/proc/kmsg", "/sys/kernel/debug/tracing/trace",
	} {
		open(path, unix.O_RDONLY)
	}
	disks, err := os.ReadDir("/sys/class/block")
	if err != nil || len(disks) == 0 {
		failed("disks", fmt.Errorf("%d found: %w", len(disks), err))
	}
	for _, d := range disks {
		open("/dev/"+d.Name(), unix.O_RDONLY)
		open("/dev/"+d.Name(), unix.O_WRONLY)
	}

	for what, port := range map[string]int{"listen at port 80": 80, "listen at port 22": 22, "listen at another port": 26271} {
		try(what, func() error { return listen(unix.AF_INET, unix.SOCK_STREAM, 0, port) })
		try(what+" of IPv6", func() error { return listen(unix.AF_INET6, unix.SOCK_STREAM, 0, port) })
	}
	try("listen without a name", func() error { return listen(unix.AF_INET, unix.SOCK_STREAM, 0, 0) })
	try("listen by Multipath TCP", func() error { return listen(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, 0) })
	try("listen by SCTP", func() error { return listen(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP, 0) })
	try("open a packet socket", func() error { return socketOf(unix.AF_PACKET, unix.SOCK_RAW, 0) })
	try("open a raw socket", func() error { return socketOf(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) })
	try("take a privileged port of UDP", func() error { return listen(unix.AF_INET, unix.SOCK_DGRAM, 0, 53) })

	try("become root", func() error { return unix.Setresuid(0, 0, 0) })
	try("become the group root", func() error { return unix.Setresgid(0, 0, 0) })
	try("join groups", func() error { return unix.Setgroups([]int{0}) })
	try("signal the first process", func() error { return unix.Kill(1, 0) })
	try("trace the first process", func() error { return unix.PtraceAttach(1) })
	try("mount a file system", func() error { return unix.Mount("tmpfs", data, "tmpfs", 0, "") })
	try("mount the data anew", func() error { return unix.Mount("", filepath.Dir(data), "", unix.MS_REMOUNT, "") })
	try("unmount the data", func() error { return unix.Unmount(filepath.Dir(data), unix.MNT_DETACH) })
	try("change the root", func() error { return unix.Chroot(data) })
	try("make a block device", func() error {
		return unix.Mknod(filepath.Join(data, "disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0)))
	})
	try("make a symbolic link", func() error { return unix.Symlink("/dev/zero", filepath.Join(data, "link")) })
	try("make a FIFO", func() error { return unix.Mkfifo(filepath.Join(data, "fifo"), 0o600) })
	try("make a socket in the data", func() error { return unix.Mknod(filepath.Join(data, "socket"), unix.S_IFSOCK|0o600, 0) })
	try("restart the box", func() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_ON) })
	try("set the clock", func() error { return unix.Settimeofday(&unix.Timeval{Sec: time.Now().Unix()}) })
	try("set the host name", func() error { return unix.Sethostname([]byte("x")) })
	try("load a module", func() error { return unix.InitModule([]byte("x"), "") })
	try("read the kernel's log", func() error {
		_, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 4096))
		return err
	})
	try("load a program into the kernel", func() error {
		// A map of one integer: the least that can be asked for.
		attr := [5]uint32{unix.BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0}
		return call(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	})
	try("watch the kernel's counters", func() error {
		_, err := unix.PerfEventOpen(&unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}, -1, 0, -1, 0)
		return err
	})
	try("make a ring of requests", func() error {
		var params [120]byte
		return call(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	})
	try("leave for a user namespace", func() error { return start(unix.CLONE_NEWUSER) })
	try("leave for a network of its own", func() error { return start(unix.CLONE_NEWUSER | unix.CLONE_NEWNET) })
	try("start the first process's program", func() error { return exec("/init") })
	try("start a program of its own", func() error {
		self, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			self, err = os.ReadFile("/bin/coboxd")
		}
		if err != nil {
			return errors.New("cannot even read its own program: " + err.Error())
		}
		path := filepath.Join(data, "program")
		if err := os.WriteFile(path, self, 0o700); err != nil {
			failed("writing a program", err)
			return nil
		}
		defer os.Remove(path)
		return exec(path)
	})
	os.Remove(filepath.Join(data, "needed"))
}

// listen binds and listens, as far as it is let.
func listen(family, kind, protocol, port int) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var at unix.Sockaddr = &unix.SockaddrInet4{Port: port}
	if family == unix.AF_INET6 {
		at = &unix.SockaddrInet6{Port: port}
	}
	if port == 0 && kind == unix.SOCK_STREAM {
		return unix.Listen(fd, 1) // without a name, the kernel chooses the port
	}
	if err := unix.Bind(fd, at); err != nil {
		return err
	}
	if kind == unix.SOCK_DGRAM {
		return nil
	}
	return unix.Listen(fd, 1)
}

func socketOf(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func call(trap, a, b, c uintptr) error {
	fd, _, errno := unix.Syscall(trap, a, b, c)
	if errno != 0 {
		return errno
	}
	unix.Close(int(fd))
	return nil
}

// start starts this program again, in namespaces of its own if so flagged.
func start(namespaces uintptr) error {
	return run("/bin/coboxd", namespaces)
}

func exec(path string) error { return run(path, 0) }

func run(path string, namespaces uintptr) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := os.StartProcess(path, []string{filepath.Base(path), "exit"}, &os.ProcAttr{
		Env: []string{}, Files: []*os.File{nil, nil, os.Stderr}, Sys: &syscall.SysProcAttr{Cloneflags: namespaces},
	})
	if err != nil {
		return err
	}
	_, err = p.Wait()
	return err
}
