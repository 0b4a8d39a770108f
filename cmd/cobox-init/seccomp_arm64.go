package main

import (
	"math"

	"golang.org/x/sys/unix"
)

const (
	callArch   = unix.AUDIT_ARCH_AARCH64
	callsBelow = math.MaxUint32 // there is one set of numbers
)

// forbiddenHere are the calls that other architectures do not have.
var forbiddenHere = []uint32{unix.SYS_LOOKUP_DCOOKIE, unix.SYS_NFSSERVCTL}
