package main

import "golang.org/x/sys/unix"

const (
	callArch = unix.AUDIT_ARCH_X86_64
	// callsBelow is where the numbers of x32 begin: the same calls once more.
	callsBelow = 0x40000000
)

// forbiddenHere are the calls that other architectures do not have.
var forbiddenHere = []uint32{
	unix.SYS_LOOKUP_DCOOKIE, unix.SYS_NFSSERVCTL, unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_MODIFY_LDT,
	unix.SYS_USELIB, unix.SYS_USTAT, unix.SYS__SYSCTL, unix.SYS_CREATE_MODULE,
}
