//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
)

// reaper collects every process that ends. The first process inherits the
// orphans of all others, so it waits for any, and hands the status of those
// that it started to whoever waits for them.
type reaper struct {
	mu      sync.Mutex
	waiting map[int]chan syscall.WaitStatus
}

func newReaper() *reaper { return &reaper{waiting: map[int]chan syscall.WaitStatus{}} }

// start starts a program. Its end arrives on ended.
func (r *reaper) start(path string, argv []string, attr *os.ProcAttr) (pid int, ended <-chan syscall.WaitStatus, err error) {
	// A process that ends at once is not reaped before it is known.
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := os.StartProcess(path, argv, attr)
	if err != nil {
		return 0, nil, fmt.Errorf("starting %s: %w", path, err)
	}
	c := make(chan syscall.WaitStatus, 1)
	r.waiting[p.Pid] = c
	pid = p.Pid
	p.Release() // not waited for through p
	return pid, c, nil
}

// reap collects all that have ended. One SIGCHLD may stand for several.
func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if c, ok := r.waiting[pid]; ok {
			c <- status
			delete(r.waiting, pid)
		}
	}
}
