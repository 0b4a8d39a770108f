//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cobox/appliance/machine"
)

const (
	daemonProgram = "/bin/coboxd"
	daemonUID     = 900 // user and group "coboxd" of /etc/passwd
	daemonListen  = 26269
	daemonHTTP    = 26270

	// daemonMemory is what coboxd's garbage collector aims to stay below. It is
	// coboxd's own default, said here so that a box's memory is planned in one
	// place.
	daemonMemory = "48MiB"

	// restartReset is how long coboxd must have run for its failures to be
	// forgotten.
	restartReset = 10 * time.Minute
	// daemonGrace is what coboxd gets to end in an orderly way.
	daemonGrace = 8 * time.Second
	// daemonStuck is how long the kernel gets to end one that was killed.
	daemonStuck = 20 * time.Second
)

// runDaemon keeps coboxd running until ctx ends. If waiting is not empty, coboxd
// has no data, and tells its members that.
func (s *system) runDaemon(ctx context.Context, waiting string) {
	again := backoff{first: time.Second, limit: time.Minute}
	for ctx.Err() == nil {
		start := time.Now()
		status, err := s.daemonOnce(ctx, waiting)
		s.state.setDaemonUp(false)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) >= restartReset {
			again.reset()
		}
		wait := again.wait()
		if err != nil {
			s.log.Error("coboxd was not started", "error", err, "again in", wait)
		} else {
			s.log.Error("coboxd has ended", "how", describeEnd(status), "again in", wait)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func describeEnd(w syscall.WaitStatus) string {
	if w.Signaled() {
		return "killed by " + w.Signal().String()
	}
	return fmt.Sprintf("exit code %d", w.ExitStatus())
}

// daemonOnce runs coboxd until it ends. When ctx ends coboxd is told to, and
// killed if it does not. Nothing that it has started outlives it.
func (s *system) daemonOnce(ctx context.Context, waiting string) (syscall.WaitStatus, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	ours, theirs, err := newSocket()
	if err != nil {
		return 0, errors.Join(err, r.Close(), w.Close())
	}
	argv := []string{"init", "sandbox", daemonProgram, "run", "--data", dataDir,
		"--listen", fmt.Sprintf(":%d", daemonListen), "--http", fmt.Sprintf("127.0.0.1:%d", daemonHTTP)}
	if waiting != "" {
		argv = append(argv, "--waiting", waiting)
	}
	pid, ended, err := s.reaper.start("/proc/self/exe", argv, &os.ProcAttr{
		Dir: "/",
		Env: []string{"PATH=", "HOME=/", "GOMEMLIMIT=" + daemonMemory, machine.Variable + "=" + strconv.Itoa(daemonSocket)},
		// Standard output shows the pairing code, which belongs into no log.
		Files: []*os.File{null, null, w, daemonSocket: theirs},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	w.Close()
	theirs.Close()
	if err != nil {
		r.Close()
		ours.Close()
		return 0, err
	}
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		defer r.Close()
		s.logLines(r)
	}()
	s.log.Info("coboxd is started", "pid", pid)
	s.state.setDaemonUp(true)
	serving, stopServing := context.WithCancel(ctx)
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.serveMachine(serving, ours)
	}()
	defer func() {
		stopServing()
		<-served
	}()
	status, killed, stuck := syscall.WaitStatus(0), (<-chan time.Time)(nil), (<-chan time.Time)(nil)
	done := ctx.Done()
	for {
		select {
		case status = <-ended:
			if err := s.endAll(); err != nil {
				s.log.Error("something of coboxd is left", "error", err)
			}
			select {
			case <-logged:
			case <-time.After(time.Second): // something that cannot be killed still holds the pipe
			}
			return status, nil
		case <-done:
			done = nil
			syscall.Kill(pid, syscall.SIGTERM)
			killed = time.After(daemonGrace)
		case <-killed:
			s.log.Error("coboxd did not end in time and is killed")
			syscall.Kill(pid, syscall.SIGKILL)
			stuck = time.After(daemonStuck)
		case <-stuck:
			// The kernel still holds it, perhaps in a call to a disk that has gone.
			s.log.Error("coboxd cannot be killed; the box starts anew")
			s.askToStop(restart)
			return 0, nil
		}
	}
}

// logLines copies what coboxd says to the kernel's log.
func (s *system) logLines(r io.Reader) {
	k, ok := s.log.Handler().(*kernelLog)
	if !ok {
		io.Copy(io.Discard, r)
		return
	}
	copyLines(r, maxKernelLine, time.Now,
		func(line string) { k.write(daemonLevel(line), "coboxd", line) },
		func(n int) { s.log.Warn("coboxd said too much", "lines left out", n) })
}

// daemonLevel finds the level in a line of coboxd's log.
func daemonLevel(line string) slog.Level {
	var level slog.Level
	if _, rest, ok := strings.Cut(line, " level="); ok {
		text, _, _ := strings.Cut(rest, " ")
		if level.UnmarshalText([]byte(text)) == nil {
			return level
		}
	}
	return slog.LevelWarn // not from its log: a usage error, or a crash
}
