//go:build linux

package main

import (
	"sync"
	"time"
)

// state is what init knows about the box, for the watchdog, the lamp and the
// screen. Times are read on the monotonic clock, which no step of the wall
// clock moves.
type state struct {
	mu  sync.Mutex
	now facts
}

// facts is one view of the state.
type facts struct {
	started     time.Time // of the system
	dataSince   time.Time // when the data was ready; zero while it is not
	dataProblem error     // why it is not, or not any more
	dataDevice  string    // the card's partition that is mounted, as in /sys/class/block
	waiting     string    // what coboxd tells instead of serving, for people; "": it serves
	daemonUp    bool      // coboxd is running, well or not
	daemonRuns  int       // how often it was started
	healthy     time.Time // when coboxd last answered well; zero: never
	readOnly    bool      // it answered that it cannot write
	waits       bool      // it answered that it has no data
	low         bool      // it answered that it refuses new data for lack of space
	full        bool      // the data partition has no space left at all
	code        string    // the pairing code, while the box is unclaimed
	proved      bool      // this run of coboxd has checked itself
	trialEnds   time.Time // the latest end of the trial of a new system; zero if there is none
	stopping    time.Time // zero while it is not
}

func newState(now time.Time) *state { return &state{now: facts{started: now}} }

func (s *state) facts() facts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *state) change(f func(*facts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.now)
}

func (s *state) setDataProblem(err error) {
	s.change(func(f *facts) {
		if f.dataProblem = err; err == nil {
			f.dataSince = time.Now()
		}
	})
}

// setWaiting says that coboxd is started anew, on the data or, to say what it waits
// for, without.
func (s *state) setWaiting(what string) {
	s.change(func(f *facts) {
		f.dataProblem, f.dataSince, f.healthy, f.waiting = nil, time.Now(), time.Time{}, what
	})
}

// setDataLost says that the disk has gone while it was in use.
func (s *state) setDataLost(err error) { s.change(func(f *facts) { f.dataProblem = err }) }

// setDaemonUp says that coboxd runs, or does not. A new run has proved nothing yet.
func (s *state) setDaemonUp(up bool) {
	s.change(func(f *facts) {
		if f.daemonUp, f.proved = up, false; up {
			f.daemonRuns++
		}
	})
}

func (s *state) setTrial(ends time.Time) { s.change(func(f *facts) { f.trialEnds = ends }) }

func (s *state) setStopping(now time.Time) { s.change(func(f *facts) { f.stopping = now }) }

// phase is the state of the box in one word, as the lamp shows it.
type phase uint8

const (
	booting phase = iota
	unclaimed
	healthy
	attention
	stopping
)

func (p phase) String() string {
	return [...]string{"starting", "waiting for its administrator", "working", "needs attention", "stopping"}[p]
}

const (
	// startGrace is how long coboxd may take from the moment that its data is
	// there: it verifies what an earlier crash may have left.
	startGrace = 3 * time.Minute
	// healthGrace is how old a good answer of coboxd may be.
	healthGrace = time.Minute
)

// starting tells whether coboxd may still be on its way up.
func (f facts) starting(now time.Time) bool {
	from := f.started
	if f.dataSince.After(from) {
		from = f.dataSince
	}
	return now.Sub(from) < startGrace
}

// answering tells whether coboxd has answered well lately.
func (f facts) answering(now time.Time) bool {
	return !f.healthy.IsZero() && now.Sub(f.healthy) < healthGrace
}

func (f facts) phase(now time.Time) phase {
	switch {
	case !f.stopping.IsZero():
		return stopping
	case f.dataProblem != nil || f.waiting != "" || f.full:
		return attention
	case f.answering(now) && (f.readOnly || f.waits):
		return attention
	case f.answering(now) && f.daemonUp && f.code != "":
		return unclaimed
	case f.answering(now) && f.low:
		return attention
	case f.answering(now) && f.daemonUp:
		return healthy
	case f.starting(now) && f.healthy.IsZero():
		return booting
	}
	return attention
}

// stateText is the state for people.
func (f facts) stateText(now time.Time) string {
	text := f.phase(now).String()
	if !f.trialEnds.IsZero() && f.stopping.IsZero() {
		text += ", a new system on trial"
	}
	return text
}

// problem says in plain words what is wrong; "" means nothing.
func (f facts) problem(now time.Time) string {
	switch {
	case f.dataProblem != nil:
		return "The box's disk is missing or cannot be read. Nothing is lost by waiting: switch off, put the right card in, and switch on again."
	case f.waiting != "":
		return "The box is on, but has none of its data: " + f.waiting + "."
	case f.readOnly:
		return "The disk cannot be written any more. What is on it can still be restored. Replace it soon."
	case f.full, f.low && f.answering(now):
		return "The disk is full. New data is refused; what is on it is safe and can be restored."
	case f.phase(now) == attention:
		return "The box's program does not answer and is started again."
	}
	return ""
}
