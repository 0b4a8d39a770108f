//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"cobox/appliance/machine"
)

// daemonSocket is the descriptor that coboxd finds its end of the socket at.
const daemonSocket = 3

// newSocket makes the two ends over which one run of coboxd may ask for what only
// init may do. Neither is left open in any program but those that they are for.
func newSocket() (ours net.Conn, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("machine: making a socket: %w", err)
	}
	f := os.NewFile(uintptr(pair[0]), "machine")
	defer f.Close()
	theirs = os.NewFile(uintptr(pair[1]), "machine")
	if ours, err = net.FileConn(f); err != nil { // a copy
		theirs.Close()
		return nil, nil, fmt.Errorf("machine: making a socket: %w", err)
	}
	return ours, theirs, nil
}

// serveMachine answers coboxd until it or ctx ends.
func (s *system) serveMachine(ctx context.Context, conn net.Conn) {
	if err := machine.Serve(ctx, conn, s.answer); err != nil {
		s.log.Error("coboxd is not answered any more", "error", err)
	}
}

// answer answers one question of coboxd, which nothing here trusts.
func (s *system) answer(ctx context.Context, q *machine.Question) (any, error) {
	switch q.Method {
	case machine.MethodState:
		return s.machineState(), nil
	case machine.MethodInstall:
		return s.updates.install(ctx, func(p machine.InstallProgress) { q.Progress(p) })
	case machine.MethodTry:
		return machine.Empty{}, s.updates.try(ctx)
	case machine.MethodDisks:
		return s.listDisks()
	case machine.MethodUseDisk:
		return s.useDisk(ctx, q)
	case machine.MethodProved:
		s.state.change(func(f *facts) { f.proved = true })
		return machine.Empty{}, nil
	}
	return nil, machine.Errorf(machine.CodeUnknown, "this system knows no %.40q", q.Method)
}

func (s *system) machineState() machine.State {
	st := s.updates.status()
	st.Data = s.data.status()
	if f := s.state.facts(); f.dataProblem != nil {
		st.Data.Problem = f.problem(time.Now())
	}
	return st
}
