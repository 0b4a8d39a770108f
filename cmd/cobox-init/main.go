//go:build linux

// Command cobox-init is the first process of a box. It is the whole of the
// system beside the kernel and coboxd: both programs lie in the initramfs, and
// nothing else does. There is no shell and no login.
//
// It never gives up: a step that fails is logged and shown, and the box goes on
// as far as it can. Only coboxd waits for its data, because a box that starts
// empty would be a stranger to its members.
//
// Start at [system.run], which is the life of a box from power-on to power-off.
// Each task has a file of its own:
//
//	mount.go, kernellog.go             what any first process does
//	disk.go, slot.go, grow.go, data.go finding the disk and growing its data partition
//	place.go, datastate.go, datadisk.go, blockdisk.go
//	                                   a disk of its own for the data, and what to do without it
//	remainder.go                       what the card keeps then
//	movedata.go, copytree.go, walk.go, tidy.go
//	                                   moving the data there
//	provision.go                       taking an identity that was made with the image
//	daemon.go, sandbox.go, seccomp.go, reaper.go, endall.go
//	                                   coboxd: locked in, started again, its output logged
//	machine.go                         what coboxd may ask for
//	update.go, install.go, try.go      replacing the system in the other slot
//	trial.go, autoboot.go, record.go   a new system stays, or the one before comes back
//	network.go, dhcp.go, lease.go      addresses on every wired interface
//	clock.go, ntp.go                   a clock that never goes back
//	health.go, watchdog.go             what pets the hardware watchdog
//	state.go, lamp.go, display.go      what people see
//	power.go, stop.go                  the power button and an orderly end
//
// The program also has two small lives beside: as "init sandbox PROGRAM" it gives
// up every right that coboxd does not need and becomes coboxd; as "init
// sandbox-kill" it becomes coboxd's user and ends all of its processes.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"cobox/image/layout"
)

// built is when the program was built, in seconds since 1970, set by the
// linker. No clock is right that says less.
var built = "0"

const releaseFile = "/etc/cobox-release"

func main() {
	if len(os.Args) > 2 && os.Args[1] == "sandbox" {
		// Only an error returns.
		fmt.Fprintln(os.Stderr, "cobox-init:", enterSandbox(os.Args[2:]))
		os.Exit(1)
	}
	if len(os.Args) == 2 && os.Args[1] == killCommand {
		if err := killAllAs(daemonUID); err != nil {
			fmt.Fprintln(os.Stderr, "cobox-init:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "cobox-init is the first process of a box, and of no use anywhere else.")
		os.Exit(2)
	}
	mounted := mountSystem()
	s := newSystem(slog.New(newKernelLog()))
	if mounted != nil {
		s.log.Error("not all of the system is mounted", "error", mounted)
	}
	s.run()
}

// system is a running box.
type system struct {
	log    *slog.Logger
	state  *state
	reaper *reaper
	clock  *clock
	net    *network
	stop   chan ending // how the box is to end; holds one

	// These belong to runData.
	running layout.Slot // 0: unknown
	card    *disk       // that the box starts from; nil until it is mounted; never changes then
	shown   sync.Once   // the data, to whoever needs the box's name

	updates   *updates
	data      *dataState
	tidyAfter time.Duration
	addresses func() int // how many others may reach the box at

	watchdog *os.File // belongs to runWatchdog; open until the power goes
}

func newSystem(log *slog.Logger) *system {
	s := &system{
		log:       log,
		state:     newState(time.Now()),
		reaper:    newReaper(),
		clock:     newClock(log, built),
		net:       newNetwork(log),
		stop:      make(chan ending, 1),
		addresses: func() int { return len(interfaceAddresses()) },
		data:      newDataState(),
		tidyAfter: tidyTime,
	}
	s.updates = newUpdates(log, s.state, s.askToStop)
	return s
}

// run runs the box until it is switched off; it does not return.
func (s *system) run() {
	s.updates.version = "unknown"
	version, err := os.ReadFile(releaseFile)
	if err != nil {
		s.log.Warn("the version is unknown", "error", err)
	} else {
		s.updates.version = strings.TrimSpace(string(version))
	}
	s.log.Info("CoBox starts", "version", s.updates.version)
	if line, err := os.ReadFile("/proc/cmdline"); err != nil {
		s.log.Warn("the kernel's arguments are unknown", "error", err)
	} else {
		if s.updates.trial, err = trialOfCmdline(string(line)); err != nil {
			s.log.Warn("a trial takes as long as usual", "error", err)
		}
		if s.tidyAfter, err = tidyOfCmdline(string(line)); err != nil {
			s.log.Warn("the card is tidied as late as usual", "error", err)
		}
	}
	s.clock.start()
	s.watchSignals()

	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	for _, task := range []func(context.Context){
		s.runData, s.net.run, s.runHealth, s.runWatchdog, s.runClock, s.runNTP,
		s.runLamp, s.runDisplay, s.runPowerKeys, s.runTrial,
	} {
		tasks.Go(func() { task(ctx) })
	}
	end := <-s.stop
	s.log.Info("CoBox stops", "to", end)
	s.state.setStopping(time.Now())
	cancel()
	stopped := make(chan struct{})
	go func() { tasks.Wait(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(stopTimeout):
		s.log.Error("something did not stop in time and is cut off")
	}
	s.end(end)
}

// watchSignals reaps children, and turns the signals that the kernel and
// people send to a first process into an orderly end.
func (s *system) watchSignals() {
	// Without this Ctrl-Alt-Del restarts the machine at once; with it the kernel
	// sends SIGINT.
	if err := syscall.Reboot(syscall.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		s.log.Warn("Ctrl-Alt-Del restarts the box without warning", "error", err)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for sig := range signals {
			switch sig {
			case syscall.SIGCHLD:
				s.reaper.reap()
			case syscall.SIGINT:
				s.askToStop(restart)
			case syscall.SIGTERM:
				s.askToStop(powerOff)
			}
		}
	}()
}
