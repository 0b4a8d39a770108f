//go:build linux

package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cobox/image/layout"
)

// TestTidyDue: the card's copy is removed only after all was well for long enough.
func TestTidyDue(t *testing.T) {
	begin := time.Now()
	at := func(d time.Duration) time.Time { return begin.Add(d) }
	well := func(d time.Duration) facts { return facts{daemonUp: true, healthy: at(d)} }
	var broken error
	fresh := func() *tidying { return &tidying{after: time.Hour, sound: func() error { return broken }} }
	due := func(d *tidying, when time.Duration, f facts, want bool) {
		t.Helper()
		if got, err := d.due(at(when), f); got != want || err != nil {
			t.Errorf("after %v: %v, %v", when, got, err)
		}
	}
	d := fresh()
	due(d, 0, well(0), false)
	due(d, time.Hour-time.Second, well(time.Hour-time.Second), false)
	due(d, time.Hour, well(time.Hour), true)
	d.done = true
	due(d, 3*time.Hour, well(3*time.Hour), false)

	for what, spoil := range map[string]func(*facts){
		"coboxd is not up":   func(f *facts) { f.daemonUp = false },
		"it does not answer": func(f *facts) { f.healthy = begin },
		"it is read-only":    func(f *facts) { f.readOnly = true },
		"it says it waits":   func(f *facts) { f.waits = true },
		"it is let wait":     func(f *facts) { f.waiting = "for its disk" },
		"the disk has gone":  func(f *facts) { f.dataProblem = errDiskGone },
	} {
		d := fresh()
		due(d, 0, well(0), false)
		f := well(time.Hour / 2)
		spoil(&f)
		due(d, time.Hour/2, f, false)
		f = well(time.Hour)
		spoil(&f)
		due(d, time.Hour, f, false)
		due(d, time.Hour+time.Second, well(time.Hour+time.Second), false) // begins anew
		due(d, 2*time.Hour, well(2*time.Hour), false)
		due(d, 2*time.Hour+time.Second, well(2*time.Hour+time.Second), true)
		if t.Failed() {
			t.Fatal(what)
		}
	}

	// coboxd ends and is started again between two looks.
	st := newState(begin)
	d = fresh()
	runs := func(d time.Duration) facts { f := well(d); f.daemonRuns = st.facts().daemonRuns; return f }
	st.setDaemonUp(true)
	due(d, 0, runs(0), false)
	st.setDaemonUp(false)
	st.setDaemonUp(true)
	due(d, time.Hour/2, runs(time.Hour/2), false)
	due(d, time.Hour, runs(time.Hour), false)
	due(d, 3*time.Hour/2, runs(3*time.Hour/2), true)

	d, broken = fresh(), errors.New("not filled")
	if got, err := d.due(at(0), well(0)); got || !errors.Is(err, broken) {
		t.Errorf("a disk that is not sound: %v, %v", got, err)
	}
	broken = nil
	due(d, time.Hour, well(time.Hour), true)
	d = fresh()
	due(d, 0, well(0), false)
	broken = errors.New("not filled any more")
	if got, err := d.due(at(time.Hour), well(time.Hour)); got || !errors.Is(err, broken) {
		t.Errorf("a disk that is not sound any more: %v, %v", got, err)
	}
	broken = nil
	due(d, time.Hour+time.Second, well(time.Hour+time.Second), false)
}

func TestSoundDisk(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sdx")
	header, err := layout.NewDataDisk(4<<30, layout.DataDiskID{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		filled bool
		id     layout.DataDiskID
		sound  bool
	}{{false, header.ID, false}, {true, layout.DataDiskID{9}, false}, {true, header.ID, true}} {
		d := *header
		d.Filled = c.filled
		if err := os.WriteFile(path, d.Append(nil), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := soundDisk(path, dir, c.id); (err == nil) != c.sound {
			t.Errorf("%+v: %v", c, err)
		}
	}
	// A file system that can only be read.
	shown := t.TempDir()
	if err := bind(dir, shown, true); err == nil {
		if err := soundDisk(path, shown, header.ID); !errors.Is(err, unix.EROFS) {
			t.Errorf("a disk that can only be read: %v", err)
		}
		if err := unix.Unmount(shown, 0); err != nil {
			t.Fatal(err)
		}
	} else if !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := soundDisk(path, dir, header.ID); err == nil {
		t.Error("nothing is on the disk")
	}
}
