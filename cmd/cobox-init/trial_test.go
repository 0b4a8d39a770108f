//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cobox/appliance/machine"
	"cobox/image/layout"
)

func TestTrialTime(t *testing.T) {
	for line, want := range map[string]time.Duration{
		"":                               trialTime,
		"cobox.trial=5 quiet":            5 * time.Second,
		"cobox.trial=5 cobox.trial=7":    7 * time.Second,
		"cobox.trial=86400":              24 * time.Hour,
		"cobox.trials=5 xcobox.trial=5 ": trialTime,
	} {
		if got, err := trialOfCmdline(line); got != want || err != nil {
			t.Errorf("%q: %v, %v", line, got, err)
		}
	}
	for _, text := range []string{"0", "-1", "86401", "x", "", "5s"} {
		if got, err := trialOfCmdline("cobox.trial=" + text); got != trialTime || err == nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// TestTidyTime has an argument of its own.
func TestTidyTime(t *testing.T) {
	for line, want := range map[string]time.Duration{
		"":                           tidyTime,
		"cobox.trial=5":              tidyTime,
		"cobox.tidy=5 cobox.trial=7": 5 * time.Second,
	} {
		if got, err := tidyOfCmdline(line); got != want || err != nil {
			t.Errorf("%q: %v, %v", line, got, err)
		}
	}
	if got, err := tidyOfCmdline("cobox.tidy=0"); got != tidyTime || err == nil {
		t.Errorf("%v, %v", got, err)
	}
}

// well lets a box be as it should be from now on, until ctx ends.
func (s *system) well(ctx context.Context) {
	s.silent()
	go every(ctx, healthEvery, func() { s.state.change(func(f *facts) { f.healthy = time.Now() }) })
}

// silent is well but for coboxd's answers.
func (s *system) silent() {
	s.state.setDataProblem(nil)
	s.state.setDaemonUp(true)
	s.state.change(func(f *facts) { f.proved = true })
}

// every does something at once and then again and again until ctx ends.
func every(ctx context.Context, d time.Duration, do func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for do(); ; do() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// try runs a trial to its end and returns how long that took, and how the box
// was asked to stop if it was.
func (s *system) tryToEnd(t *testing.T, change func(ctx context.Context)) (took time.Duration, stop ending, stopped bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	start := time.Now()
	done := make(chan struct{})
	go func() { defer close(done); s.runTrial(ctx) }()
	synctest.Wait()
	if change != nil {
		change(ctx)
	}
	<-done
	select {
	case stop = <-s.stop:
		stopped = true
	default:
	}
	return time.Since(start), stop, stopped
}

// trialCard is a card whose slot b is on trial.
func trialCard(t *testing.T) *fakeCard {
	c := newFakeCard(t, layout.SlotA)
	f, m, _ := testSystem(t, 3, 2)
	c.put(layout.SlotA, f, m, nil)
	f, m, sigs := testSystem(t, 5, 4, 1, 2)
	c.put(layout.SlotB, f, m, sigs)
	if err := os.Mkdir(filepath.Join(c.dir, "card"), 0o700); err != nil {
		t.Fatal(err)
	}
	r := &record{Update: machine.Update{Release: machine.Release{Version: "v5", Number: 5}, Result: machine.ResultTrying}, slot: layout.SlotB}
	if err := writeRecord(filepath.Join(c.dir, "card"), r); err != nil {
		t.Fatal(err)
	}
	return c
}

// bootsel returns the partition with autoboot.txt, without its sector.
func (c *fakeCard) others() []byte {
	b, err := os.ReadFile(filepath.Join(c.dir, "bootsel"))
	if err != nil {
		c.t.Fatal(err)
	}
	clear(b[autobootAt:][:layout.SectorSize])
	return b
}

func TestTrialStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := trialCard(t)
		before := c.others()
		s := c.start(t, layout.SlotB)
		if st := s.machineState(); !st.Trying || st.Slot != "b" || st.Floor != 0 || st.Update.Result != machine.ResultTrying || st.Release.Number != 5 || st.Other.Number != 3 {
			t.Errorf("on trial: %+v, %+v", st, st.Update)
		}
		took, stop, stopped := s.tryToEnd(t, func(ctx context.Context) {
			if f := s.state.facts(); !strings.Contains(f.page(time.Now(), "n", nil).State, "on trial") {
				t.Error("the screen does not tell of the trial")
			}
			s.well(ctx)
		})
		if took != trialTime || stopped {
			t.Errorf("after %v; to stop: %v, %v", took, stop, stopped)
		}
		if c.chosen() != layout.SlotB || !bytes.Equal(c.others(), before) {
			t.Errorf("slot %v starts; what lies around is the same: %v", c.chosen(), bytes.Equal(c.others(), before))
		}
		for _, s := range []*system{s, c.start(t, layout.SlotB)} {
			if st := s.machineState(); st.Trying || st.Floor != 4 || st.Update.Result != machine.ResultPromoted {
				t.Errorf("promoted: %+v, %+v", st, st.Update)
			}
		}
		if n, err := readFloor(s.updates.card); n != 4 || err != nil {
			t.Errorf("floor %d, %v", n, err)
		}
		if f := s.state.facts(); strings.Contains(f.page(time.Now(), "n", nil).State, "on trial") {
			t.Error("the screen still tells of the trial")
		}
	})
}

// TestTrialLater waits for what comes late.
func TestTrialLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := trialCard(t)
		s := c.start(t, layout.SlotB)
		c.addresses.Store(0)
		took, _, stopped := s.tryToEnd(t, func(ctx context.Context) {
			s.well(ctx)
			time.Sleep(7*time.Minute + time.Second/2)
			c.addresses.Store(1)
		})
		if took != 7*time.Minute+time.Second || stopped || c.chosen() != layout.SlotB {
			t.Errorf("after %v, stopped %v, slot %v", took, stopped, c.chosen())
		}
	})
}

func TestTrialFails(t *testing.T) {
	for _, x := range []struct {
		what   string
		change func(s *system)
		says   string
	}{
		{"coboxd never answers", nil, "did not answer"},
		{"coboxd does not prove itself", func(s *system) { s.state.change(func(f *facts) { f.proved = false }) }, "reachable"},
		{"coboxd is started again and again", func(s *system) { s.state.setDaemonUp(false) }, "did not answer"},
		{"no network", func(s *system) { s.updates.disk.(*fakeCard).addresses.Store(0) }, "no address"},
		{"no data", func(s *system) { s.state.setDataProblem(errNoDisk) }, "data could not be used"},
		{"read-only", func(s *system) { s.state.change(func(f *facts) { f.readOnly = true }) }, "could not be written"},
		{"no boot partition", func(s *system) {
			s.updates.mu.Lock() // as whoever asks for it
			defer s.updates.mu.Unlock()
			s.updates.disk.(*fakeCard).missing = errors.New("it is gone")
		}, "it is gone"},
	} {
		t.Run(x.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := trialCard(t)
				s := c.start(t, layout.SlotB)
				took, stop, stopped := s.tryToEnd(t, func(ctx context.Context) {
					if x.change == nil {
						s.silent()
					} else {
						s.well(ctx)
						synctest.Wait()
						x.change(s)
					}
					// The watchdog leaves it to the trial to end.
					go every(ctx, watchdogEvery, func() {
						now, f := time.Now(), s.state.facts()
						if !f.trialEnds.IsZero() && !f.mayPet(now) {
							t.Errorf("the watchdog ends the trial after %v", now.Sub(f.started))
						}
					})
				})
				if took != trialLimit*trialTime || !stopped || stop != restart {
					t.Errorf("after %v; stopped %v to %v", took, stopped, stop)
				}
				if c.chosen() != layout.SlotA {
					t.Error("it starts nevertheless")
				}
				c.missing = nil
				// The box before tells what was wrong.
				st := c.start(t, layout.SlotA).machineState()
				if st.Trying || st.Update.Result != machine.ResultFellBack || !strings.Contains(st.Update.Reason, x.says) || st.Floor != 2 {
					t.Errorf("%+v, %+v", st, st.Update)
				}
			})
		})
	}
}

// TestTrialWatchdog: a trial that does not end when it should is ended by the
// hardware.
func TestTrialWatchdog(t *testing.T) {
	start := time.Now()
	f := facts{started: start, dataSince: start, daemonUp: true, trialEnds: start.Add(10*time.Minute + trialSlack)}
	for at, want := range map[time.Duration]bool{4 * time.Minute: true, 10 * time.Minute: true, 11 * time.Minute: false} {
		if got := f.mayPet(start.Add(at)); got != want {
			t.Errorf("after %v: %v", at, got)
		}
	}
}

// TestTrialCut loses power at the moments that matter.
func TestTrialCut(t *testing.T) {
	t.Run("on trial", func(t *testing.T) {
		c := trialCard(t)
		c.start(t, layout.SlotB)
		st := c.start(t, layout.SlotA).machineState()
		if st.Trying || st.Update.Result != machine.ResultFellBack || st.Update.Reason != reasonNever || st.Floor != 2 {
			t.Errorf("%+v, %+v", st, st.Update)
		}
	})
	t.Run("after the choice", func(t *testing.T) {
		c := trialCard(t)
		at, _ := c.autoboot()
		if err := chooseSlot(at, layout.SlotB); err != nil {
			t.Fatal(err)
		}
		s := c.start(t, layout.SlotB)
		if st := s.machineState(); st.Trying || st.Update.Result != machine.ResultPromoted || st.Floor != 4 {
			t.Errorf("%+v, %+v", st, st.Update)
		}
		if n, err := readFloor(s.updates.card); n != 4 || err != nil {
			t.Errorf("floor %d, %v", n, err)
		}
	})
}

// TestTrialOnceOnly: a system that was given up and runs again is the only one
// that starts, and is not left for one that does not.
func TestTrialOnceOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := trialCard(t)
		if _, _, stopped := c.start(t, layout.SlotB).tryToEnd(t, nil); !stopped {
			t.Fatal("it is not given up")
		}
		s := c.start(t, layout.SlotB)
		took, _, stopped := s.tryToEnd(t, func(ctx context.Context) {
			time.Sleep(2 * time.Hour)
			s.well(ctx)
		})
		if stopped || took < 2*time.Hour || c.chosen() != layout.SlotB {
			t.Errorf("after %v, stopped %v, slot %v", took, stopped, c.chosen())
		}
		if st := s.machineState(); st.Update.Result != machine.ResultPromoted || st.Update.Reason != "" {
			t.Errorf("%+v", st.Update)
		}
	})
}

// TestNoTrial: what runs as it should is left alone.
func TestNoTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, running := range []layout.Slot{layout.SlotA, 0} {
			c := newFakeCard(t, layout.SlotA)
			s := c.start(t, running)
			if took, _, stopped := s.tryToEnd(t, nil); took != 0 || stopped {
				t.Errorf("slot %v: a trial of %v, stopped %v", running, took, stopped)
			}
		}
	})
}

// TestTrialWithoutDisk: a new system that does not find its disk cannot know that
// it is on trial, but for the firmware's word.
func TestTrialWithoutDisk(t *testing.T) {
	for _, tried := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := &system{log: slog.New(slog.DiscardHandler), state: newState(time.Now()), stop: make(chan ending, 1), data: newDataState()}
			s.updates = newUpdates(s.log, s.state, s.askToStop)
			s.updates.tried = func() bool { return tried }
			took, stop, stopped := s.tryToEnd(t, func(ctx context.Context) {
				if !tried {
					time.Sleep(24 * time.Hour)
					close(s.updates.begun) // a disk of no slot
				}
			})
			if stopped != tried || tried && (stop != restart || took != trialLimit*trialTime) || !tried && took != 24*time.Hour {
				t.Errorf("tried %v: after %v, stopped %v to %v", tried, took, stopped, stop)
			}
		})
	}
}

// TestFloorNeverSinks: a system with a lower floor changes nothing.
func TestFloorNeverSinks(t *testing.T) {
	c := newFakeCard(t, layout.SlotA)
	f, m, _ := testSystem(t, 9, 2)
	c.put(layout.SlotA, f, m, nil)
	card := filepath.Join(c.dir, "card")
	if err := os.Mkdir(card, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeFloor(card, 6); err != nil {
		t.Fatal(err)
	}
	if st := c.start(t, layout.SlotA).machineState(); st.Floor != 6 {
		t.Errorf("floor %d", st.Floor)
	}
	// A damaged one is none, but the running system's counts.
	if err := os.WriteFile(filepath.Join(card, floorFile), []byte("six\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if st := c.start(t, layout.SlotA).machineState(); st.Floor != 2 {
		t.Errorf("floor %d", st.Floor)
	}
}

// TestChoice writes nothing where no autoboot.txt of ours is.
func TestChoice(t *testing.T) {
	c := newFakeCard(t, layout.SlotA)
	at, _ := c.autoboot()
	at.offset += layout.SectorSize
	before, err := os.ReadFile(at.device)
	if err != nil {
		t.Fatal(err)
	}
	if err := chooseSlot(at, layout.SlotB); !errors.Is(err, layout.ErrAutoboot) {
		t.Error(err)
	}
	if after, err := os.ReadFile(at.device); err != nil || !bytes.Equal(after, before) {
		t.Errorf("something was written (%v)", err)
	}
	at.offset = 1 << 20
	if err := chooseSlot(at, layout.SlotB); err == nil {
		t.Error("a sector behind the end was chosen in")
	}
}
