//go:build linux

package main

import (
	"errors"
	"fmt"
	"math"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What Landlock does not see: the parts of the kernel that a box never needs,
// which are where most of its faults are found. The list names what is
// forbidden, and not what is allowed: which calls the runtime of Go makes differs
// from release to release and from kernel to kernel, and a box that stops after
// an update because of one call that is new would be worse than one of which a
// harmless call is left. A forbidden call fails with EPERM, as it does for want
// of a right, and kills nothing: whoever only asks whether it is there, as
// libraries do, goes on.

// forbidden are the calls of every architecture.
var forbidden = []uint32{
	// looking into other programs
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE,
	unix.SYS_PROCESS_MRELEASE, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP, unix.SYS_PERF_EVENT_OPEN,
	// file systems
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSCONFIG,
	unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD,
	unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_FANOTIFY_INIT, unix.SYS_FANOTIFY_MARK,
	// the kernel itself
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD,
	unix.SYS_BPF, unix.SYS_REBOOT, unix.SYS_ACCT, unix.SYS_SYSLOG, unix.SYS_VHANGUP,
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL, unix.SYS_USERFAULTFD,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	// the machine's clock and names
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX,
	unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_PERSONALITY,
	// namespaces, see also [callFilter]
	unix.SYS_UNSHARE, unix.SYS_SETNS,
	// a second way to start programs
	unix.SYS_EXECVEAT,
}

// families are the kinds of sockets that a box uses: its own, the network's, and
// the one that tells which addresses there are.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// namespaces are the flags of clone that make new ones, in which a program would
// have rights that it does not have outside.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// Offsets in the kernel's struct seccomp_data, of linux/seccomp.h. Of the 64 bits
// of an argument only the lower half is looked at, which comes first: the kernel
// takes no more of a family or a protocol, and the flags of namespaces are there.
const (
	dataNumber   = 0
	dataArch     = 4
	dataArgument = 16
)

// What a filter says of a call.
const (
	allow    = unix.SECCOMP_RET_ALLOW
	deny     = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	notThere = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	noFamily = unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)
	kill     = unix.SECCOMP_RET_KILL_PROCESS
)

// callFilter makes the program that the kernel runs at every call. Most calls
// are of small numbers and allowed, so what is forbidden is compared one by one,
// which takes some nanoseconds.
func callFilter() []unix.SockFilter {
	var p []unix.SockFilter
	load := func(offset uint32) {
		p = append(p, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
	}
	answer := func(what uint32) { p = append(p, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: what}) }
	// Each condition runs the next instructions only if it holds.
	when := func(test uint16, k uint32, then func()) {
		at := len(p)
		p = append(p, unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, K: k})
		then()
		p[at].Jf = jump(len(p) - at - 1)
	}
	unless := func(test uint16, k uint32, then func()) {
		at := len(p)
		p = append(p, unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, K: k})
		then()
		p[at].Jt = jump(len(p) - at - 1)
	}

	// The numbers of calls are those of this architecture. Another one, such as
	// 32-bit programs have, is used only by whoever wants to get around this.
	load(dataArch)
	unless(unix.BPF_JEQ, callArch, func() { answer(kill) })
	load(dataNumber)
	if callsBelow != math.MaxUint32 {
		when(unix.BPF_JGE, callsBelow, func() { answer(kill) })
	}
	for _, list := range [][]uint32{forbidden, forbiddenHere} {
		for _, number := range list {
			when(unix.BPF_JEQ, number, func() { answer(deny) })
		}
	}
	// Its flags lie in memory, where a filter cannot look. Whoever is told that
	// the kernel does not know it uses clone.
	when(unix.BPF_JEQ, unix.SYS_CLONE3, func() { answer(notThere) })
	when(unix.BPF_JEQ, unix.SYS_CLONE, func() {
		load(dataArgument)
		when(unix.BPF_JSET, namespaces, func() { answer(deny) })
		answer(allow)
	})
	when(unix.BPF_JEQ, unix.SYS_SOCKET, func() {
		load(dataArgument)
		for _, family := range families {
			when(unix.BPF_JEQ, family, func() {
				if family == unix.AF_NETLINK {
					load(dataArgument + 2*8)
					unless(unix.BPF_JEQ, unix.NETLINK_ROUTE, func() { answer(deny) })
				}
				answer(allow)
			})
		}
		answer(noFamily)
	})
	answer(allow)
	return p
}

// jump is a distance in a filter.
func jump(n int) uint8 {
	if n > math.MaxUint8 {
		panic("cobox-init: a part of the filter is too long to be jumped over")
	}
	return uint8(n)
}

// errNoFilter says that the kernel has no seccomp.
var errNoFilter = errors.New("the kernel cannot filter system calls; coboxd runs without that")

// forbidCalls puts the filter on this thread, and on the program that it becomes.
// It cannot be taken off. New rights must be forbidden before.
func forbidCalls() error {
	filter := callFilter()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
	switch errno {
	case 0:
		return nil
	case unix.ENOSYS, unix.EINVAL: // the latter for a wrong filter too, which the tests would show
		return errNoFilter
	}
	return fmt.Errorf("filtering system calls: %w", errno)
}
