//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	llsyscall "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// daemonOOMScore makes the kernel kill coboxd when memory runs out, and not the
// first process, whose end is a panic.
const daemonOOMScore = "500"

// daemonFiles is how many files coboxd may have open: its store has some
// hundreds, every link one.
const daemonFiles = 8192

// enterSandbox gives up every right that coboxd does not need and becomes the
// program argv[0]; only an error returns. The process that runs it is root
// still, and single-threaded as far as rights go: they are those of the thread
// that calls execve, which is this one.
func enterSandbox(argv []string) error {
	runtime.LockOSThread()
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(daemonOOMScore), 0); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	for what, limit := range map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: daemonFiles, unix.RLIMIT_NPROC: 256} {
		if err := unix.Setrlimit(what, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			return fmt.Errorf("sandbox: limiting resource %d: %w", what, err)
		}
	}
	// A capability that is not in the bounding set can never come back. The
	// kernel says EINVAL behind the last one that it knows.
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL && c > 0 {
			break
		}
		if err != nil {
			return fmt.Errorf("sandbox: dropping capability %d: %w", c, err)
		}
	}
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("sandbox: leaving all groups: %w", err)
	}
	if err := syscall.Setresgid(daemonUID, daemonUID, daemonUID); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	// This clears the capabilities as well, as no thread keeps them.
	if err := syscall.Setresuid(daemonUID, daemonUID, daemonUID); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("sandbox: forbidding new rights: %w", err)
	}
	syscall.Umask(0o077)
	if err := restrict(dataDir, argv[0]); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if err := forbidCalls(); errors.Is(err, errNoFilter) {
		fmt.Fprintln(os.Stderr, "cobox-init:", err)
	} else if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if err := syscall.Exec(argv[0], argv, os.Environ()); err != nil {
		return fmt.Errorf("sandbox: starting %s: %w", argv[0], err)
	}
	return nil
}

// dataRights are what coboxd may do in its directory: have files and directories.
// A link, FIFO or socket it has no use for, and one who has taken it over would
// have them for init to stumble upon.
const dataRights = llsyscall.AccessFSReadFile | llsyscall.AccessFSReadDir | llsyscall.AccessFSWriteFile |
	llsyscall.AccessFSTruncate | llsyscall.AccessFSMakeReg | llsyscall.AccessFSMakeDir |
	llsyscall.AccessFSRemoveFile | llsyscall.AccessFSRemoveDir | llsyscall.AccessFSRefer

// restrict lets the process reach its data, what a network program reads, and
// two ports to listen at. Other ports may still be connected to: a box calls
// its partners wherever they are. A kernel without Landlock restricts less.
func restrict(dataDir, program string) error {
	config := landlock.V6
	config.HandledAccessNet = llsyscall.AccessNetBindTCP
	return config.BestEffort().Restrict(
		landlock.PathAccess(dataRights, dataDir),
		// coboxd syncs the directory that holds its own.
		landlock.PathAccess(llsyscall.AccessFSReadDir, filepath.Dir(dataDir)),
		landlock.RODirs("/proc", "/sys", "/etc", "/run"),
		landlock.RWFiles("/dev/null"),
		landlock.PathAccess(llsyscall.AccessFSExecute|llsyscall.AccessFSReadFile, program),
		landlock.BindTCP(daemonListen),
		landlock.BindTCP(daemonHTTP),
		// Go finds out whether there is IPv6 by binding to a port that the kernel
		// chooses, and does without it where it may not. Nothing is given away: a
		// socket that listens without having been bound gets such a port as well,
		// which Landlock does not see.
		landlock.BindTCP(0),
	)
}
