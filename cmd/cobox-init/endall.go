//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// endAllTimeout is how long processes that were killed get to be gone.
	endAllTimeout = 5 * time.Second
	// endAllTries is how often it is tried to kill them: they might kill back.
	endAllTries = 3
)

// killCommand makes this program one that kills all of coboxd's user.
const killCommand = "sandbox-kill"

// endAll kills every process of coboxd's user and waits until none is left. A
// coboxd that was taken over may have children that outlive it, and hold its
// ports, its lock and its mounts.
func (s *system) endAll() error {
	return endAll("/proc", daemonUID, func() error {
		_, ended, err := s.reaper.start("/proc/self/exe", []string{"init", killCommand}, &os.ProcAttr{Dir: "/", Sys: &syscall.SysProcAttr{Setsid: true}})
		if err != nil {
			return err
		}
		select {
		case status := <-ended:
			if status != 0 {
				return fmt.Errorf("what kills was ended: %s", describeEnd(status))
			}
			return nil
		case <-time.After(endAllTimeout):
			return errors.New("what kills does not end")
		}
	})
}

func endAll(proc string, uid int, kill func() error) error {
	var killed error
	for range endAllTries {
		if killed = kill(); killed == nil {
			break
		}
	}
	for end := time.Now().Add(endAllTimeout); ; time.Sleep(10 * time.Millisecond) {
		left, err := processesOf(proc, uid)
		if err == nil && len(left) == 0 {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("the kernel still holds processes %v", left)
		}
		if killed != nil || time.Now().After(end) {
			return fmt.Errorf("ending all of user %d: %w", uid, errors.Join(killed, err))
		}
	}
}

// killAllAs becomes a user and kills all that this user may kill, which is its own
// processes. It is one call, so nothing can be started meanwhile that is not
// killed too. The program that makes it is there for nothing else: all of its
// three user ids must be the user's, or root's processes were its own as well.
func killAllAs(uid int) error {
	runtime.LockOSThread()
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("becoming user %d: %w", uid, err)
	}
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return err
	}
	r, e, v := unix.Getresuid()
	if uid == 0 || r != uid || e != uid || v != uid || data[0] != (unix.CapUserData{}) || data[1] != (unix.CapUserData{}) {
		return fmt.Errorf("as user %d it may kill others', and kills nobody", uid)
	}
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EPERM) {
		return err
	}
	return nil
}

// processesOf lists the processes of a user, those too that have ended and were
// not waited for yet.
func processesOf(proc string, uid int) ([]int, error) {
	dir, err := os.Open(proc)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var list []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		// Whose the directory is tells nothing: a process can make it root's.
		b, err := os.ReadFile(filepath.Join(proc, name, "status"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(b)) {
			if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
				if f := strings.Fields(ids); len(f) > 0 && f[0] == strconv.Itoa(uid) {
					list = append(list, pid)
				}
				break
			}
		}
	}
	return list, nil
}
