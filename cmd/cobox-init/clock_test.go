//go:build linux

package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func at(n int64) time.Time { return time.Unix(n, 0) }

// fakeClock is a clock that shows now and does not run.
func fakeClock(now int64, built string) (*clock, *time.Time) {
	c, shown := newClock(slog.New(slog.DiscardHandler), built), new(time.Time)
	*shown = at(now)
	c.get = func() time.Time { return *shown }
	c.step = func(t time.Time) error { *shown = t; return nil }
	return c, shown
}

func TestClockFloor(t *testing.T) {
	for _, c := range []struct {
		what  string
		now   int64
		built string
		kept  string
		want  int64
	}{
		{"no clock, first start", 0, "1000", "", 1000},
		{"no clock, later", 0, "1000", "5000\n", 5000},
		{"the update is newer than what was kept", 0, "7000", "5000\n", 7000},
		{"a clock that runs", 9000, "1000", "5000\n", 9000},
		{"what was kept is damaged", 10, "1000", "50", 1000},
		{"what was kept is negative", 10, "1000", "-5\n", 1000},
		{"built without a time", 10, "unknown", "", 10},
	} {
		clk, shown := fakeClock(c.now, c.built)
		path := filepath.Join(t.TempDir(), clockFile)
		if c.kept != "" {
			if err := os.WriteFile(path, []byte(c.kept), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		clk.start()
		clk.useFile(path)
		if !shown.Equal(at(c.want)) {
			t.Errorf("%s: %d, want %d", c.what, shown.Unix(), c.want)
		}
	}
}

func TestClockAdjust(t *testing.T) {
	clk, shown := fakeClock(6000, "1000")
	path := filepath.Join(t.TempDir(), clockFile)
	clk.useFile(path)
	if err := clk.save(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ offset, want int64 }{
		{4000, 10000}, // forward always
		{-3000, 7000}, // back, but above what is known
		{-5000, 6000}, // and never below
		{0, 6000},
	} {
		if _, err := clk.adjust(time.Duration(c.offset)*time.Second, clk.stepsSoFar()); err != nil || !shown.Equal(at(c.want)) {
			t.Errorf("by %d: %d, %v; want %d", c.offset, shown.Unix(), err, c.want)
		}
	}
	*shown = at(8000)
	if err := clk.save(); err != nil {
		t.Fatal(err)
	}
	// Something set the clock back behind our back: what is kept stays.
	*shown = at(7000)
	if err := clk.save(); err != nil {
		t.Fatal(err)
	}
	again, shown := fakeClock(0, "1000")
	again.useFile(path)
	if !shown.Equal(at(8000)) {
		t.Errorf("after a restart: %d", shown.Unix())
	}
	again.step = func(time.Time) error { return errors.New("no") }
	if _, err := again.adjust(time.Hour, again.stepsSoFar()); err == nil {
		t.Error("a clock that cannot be set is no error")
	}
}

// TestClockStepsMeanwhile: the card is found while a time server is asked, and what
// is kept there sets the clock. The offset was measured by the clock before.
func TestClockStepsMeanwhile(t *testing.T) {
	clk, shown := fakeClock(0, "1000")
	path := filepath.Join(t.TempDir(), clockFile)
	if err := os.WriteFile(path, []byte("5000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	clk.start()
	const right = 5500
	steps, offset := clk.stepsSoFar(), at(right).Sub(*shown)
	clk.useFile(path)
	if _, err := clk.adjust(offset, steps); !errors.Is(err, errStepped) || !shown.Equal(at(5000)) {
		t.Errorf("the clock shows %d: %v", shown.Unix(), err)
	}
	steps, offset = clk.stepsSoFar(), at(right).Sub(*shown)
	if _, err := clk.adjust(offset, steps); err != nil || !shown.Equal(at(right)) {
		t.Errorf("asked again: the clock shows %d: %v", shown.Unix(), err)
	}
}

func FuzzParseClock(f *testing.F) {
	f.Add([]byte("1790000000\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := parseClock(b); err == nil && got.Unix() < 0 {
			t.Errorf("%q is %v", b, got)
		}
	})
}
