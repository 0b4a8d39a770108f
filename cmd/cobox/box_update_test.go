package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/image/bundle"
	"cobox/netlink/replicate"
)

// TestJudgeUpdate: only a box that stays with the update ends the wait well, and
// each bad end is told as what it is.
func TestJudgeUpdate(t *testing.T) {
	mine, before := admin.Release{Version: "1.4.0", Number: 4}, admin.Release{Version: "1.3.0", Number: 3}
	last := func(r admin.Release, result admin.UpdateResult) *admin.LastUpdate {
		return &admin.LastUpdate{Release: r, Result: result}
	}
	for name, tc := range map[string]struct {
		machine *admin.Machine
		taken   time.Duration // ago
		uptime  time.Duration
		done    bool
		code    string // of the failure; "": none
	}{
		"no system yet":           {nil, time.Second, time.Second, false, ""},
		"no update yet":           {&admin.Machine{Release: before}, time.Second, time.Hour, false, ""},
		"about to restart":        {&admin.Machine{Release: before, Update: last(mine, admin.UpdateWritten)}, 30 * time.Second, time.Hour, false, ""},
		"does not restart":        {&admin.Machine{Release: before, Update: last(mine, admin.UpdateWritten)}, 61 * time.Second, time.Hour, false, "update_stuck"},
		"restarted otherwise":     {&admin.Machine{Release: before, Update: last(mine, admin.UpdateWritten)}, 90 * time.Second, 20 * time.Second, false, ""},
		"on trial":                {&admin.Machine{Release: mine, Trying: true, Update: last(mine, admin.UpdateTrying)}, time.Minute, time.Second, false, ""},
		"promoted in this moment": {&admin.Machine{Release: mine, Trying: true, Update: last(mine, admin.UpdatePromoted)}, time.Minute, time.Second, false, ""},
		"promoted, another runs":  {&admin.Machine{Release: before, Update: last(mine, admin.UpdatePromoted)}, time.Minute, time.Second, false, ""},
		"promoted":                {&admin.Machine{Release: mine, Update: last(mine, admin.UpdatePromoted)}, time.Minute, time.Second, true, ""},
		"fell back":               {&admin.Machine{Release: before, Update: last(mine, admin.UpdateFellBack)}, time.Minute, time.Second, false, "update_fell_back"},
		"another's update":        {&admin.Machine{Release: before, Update: last(before, admin.UpdatePromoted)}, time.Minute, time.Second, false, "update_other"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &updateWatch{a: &app{ui: ui.New(false)}, box: &device.Box{Name: "shelf"}, release: mine, taken: time.Now().Add(-tc.taken)}
			done, err := w.judge(&admin.Status{Machine: tc.machine, Box: &admin.BoxStatus{Uptime: tc.uptime.Milliseconds()}})
			if done != tc.done || failureCode(err) != tc.code {
				t.Errorf("%v, %v; want %v, %q", done, err, tc.done, tc.code)
			}
		})
	}
}

func failureCode(err error) string {
	var f *ui.Failure
	if errors.As(err, &f) {
		return f.Code
	}
	return ""
}

type plainConn struct{ net.Conn }

func (plainConn) Flush() error { return nil }

// TestOldBox: a box that knows nothing of uploads is told from one that is a
// plain program.
func TestOldBox(t *testing.T) {
	a, b := net.Pipe()
	var sessions []*replicate.Session
	ended := make(chan error, 2)
	for _, c := range []net.Conn{a, b} {
		s, err := replicate.NewSession(plainConn{c}, replicate.Config{}) // without an Admin
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, s)
		go func() { ended <- s.Run(context.Background()) }()
	}
	err := canUpdate(t.Context(), &link{box: &device.Box{Name: "shelf"}, session: sessions[0]})
	if failureCode(err) != "box_too_old" {
		t.Error(err)
	}
	for _, s := range sessions {
		s.Close()
	}
	for range sessions {
		<-ended
	}
}

// TestOpenUpdate looks at files before any box is asked.
func TestOpenUpdate(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, text string, size int64) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if size > 0 {
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	for path, code := range map[string]string{
		filepath.Join(dir, "missing"): "no_path",
		dir:                           "not_update",
		write("empty", "", 0):         "not_update",
		write("short", "cobox", 0):    "not_update",
		write("text", "hello, this is a text without a meaning", 0):      "not_update",
		write("huge", "cobox-bundle\x00\x00\x00\x01", bundle.MaxSize+1):  "not_update",
		write("good", "cobox-bundle\x00\x00\x00\x01", 0):                 "",
		write("largest", "cobox-bundle\x00\x00\x00\x01", bundle.MaxSize): "",
	} {
		f, size, err := openUpdate(path)
		if failureCode(err) != code || (err == nil) != (code == "") {
			t.Errorf("%s: %v, want %q", path, err, code)
		}
		if err != nil {
			continue
		}
		if at, err := f.Seek(0, 1); err != nil || at != 0 || size < 16 {
			t.Errorf("%s: opened at %d, with %d bytes", path, at, size)
		}
		f.Close()
	}
}
