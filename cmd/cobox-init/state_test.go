//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cobox/appliance/datadir"
	"cobox/cmd/cobox-init/screen"
	"cobox/netlink/noiseconn"
	"cobox/netlink/pairing"
)

// TestRules holds what lamp, screen and watchdog make of the state.
func TestRules(t *testing.T) {
	start := time.Now()
	after := func(d time.Duration) time.Time { return start.Add(d) }
	up := facts{started: start, dataSince: after(time.Second), daemonUp: true}
	with := func(f facts, change func(*facts)) facts { change(&f); return f }
	well := with(up, func(f *facts) { f.healthy = after(time.Hour) })
	for _, c := range []struct {
		what    string
		f       facts
		at      time.Duration
		phase   phase
		pet     bool
		problem bool
	}{
		{"just started", facts{started: start}, time.Second, booting, true, false},
		{"coboxd is verifying", up, 2 * time.Minute, booting, true, false},
		{"coboxd never comes up", up, 4 * time.Minute, attention, false, true},
		{"coboxd answers", well, time.Hour, healthy, true, false},
		{"it answered a while ago", well, time.Hour + 59*time.Second, healthy, true, false},
		{"it answers no more", well, time.Hour + 61*time.Second, attention, false, true},
		{"unclaimed", with(well, func(f *facts) { f.code = "x" }), time.Hour, unclaimed, true, false},
		{"read-only", with(well, func(f *facts) { f.readOnly = true }), time.Hour, attention, true, true},
		{"the data is elsewhere", with(well, func(f *facts) { f.waiting, f.waits = "its disk is away", true }), time.Hour, attention, true, true},
		{"the data is elsewhere, and coboxd does not even say so", with(up, func(f *facts) { f.waiting = "its disk is away" }), time.Hour, attention, true, true},
		{"full, and coboxd does not start", with(up, func(f *facts) { f.full = true }), time.Hour, attention, true, true},
		{"full, but for what coboxd keeps free", with(well, func(f *facts) { f.low = true }), time.Hour, attention, true, true},
		{"full, unclaimed", with(well, func(f *facts) { f.low, f.code = true, "x" }), time.Hour, unclaimed, true, true},
		{"full, and coboxd answers no more", with(well, func(f *facts) { f.low = true }), time.Hour + 61*time.Second, attention, false, true},
		{"no disk", facts{started: start, dataProblem: errNoDisk}, time.Hour, attention, true, true},
		{"the disk was pulled out, and coboxd still answers", with(well, func(f *facts) { f.dataProblem = errDiskGone }), time.Hour, attention, true, true},
		{"the disk came late", facts{started: start, dataSince: after(time.Hour)}, time.Hour + time.Minute, booting, true, false},
		{"the disk came late, and coboxd never", facts{started: start, dataSince: after(time.Hour)}, time.Hour + 4*time.Minute, attention, false, true},
		{"stopping", with(up, func(f *facts) { f.stopping = after(time.Hour) }), time.Hour, stopping, true, false},
		{"ended a moment ago, starting again", with(well, func(f *facts) { f.daemonUp = false }), time.Hour, attention, true, true},
	} {
		now := after(c.at)
		if got := c.f.phase(now); got != c.phase {
			t.Errorf("%s: %v", c.what, got)
		}
		if got := c.f.mayPet(now); got != c.pet {
			t.Errorf("%s: the watchdog may be petted: %v", c.what, got)
		}
		if got := c.f.problem(now); (got != "") != c.problem {
			t.Errorf("%s: problem %q", c.what, got)
		}
		if p := c.f.page(now, "n", nil); (p.Code != "") != (c.phase == unclaimed) || p.Name != "n" {
			t.Errorf("%s: page %+v", c.what, p)
		}
	}
	if p := well.page(after(time.Hour), "n", []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}); p.Addresses != "192.0.2.7\n2001:db8::7" {
		t.Errorf("addresses %q", p.Addresses)
	}
}

func TestLamp(t *testing.T) {
	for p, want := range map[phase]string{
		booting:   "#.#.#.#.#.#.#.#.",
		unclaimed: "########........",
		healthy:   "################",
		attention: "#.#.........#.#.",
		stopping:  "................",
	} {
		got := ""
		for tick := range 16 {
			if lampAt(p, tick) {
				got += "#"
			} else {
				got += "."
			}
		}
		if got != want {
			t.Errorf("%v: %s", p, got)
		}
	}
}

func TestParseHealth(t *testing.T) {
	for _, c := range []struct {
		answer string
		want   health
		bad    bool
	}{
		{"HTTP/1.0 200 OK\r\nX: y\r\n\r\nok\n", health{}, false},
		{"HTTP/1.1 200 OK\r\n\r\nok, but read-only: the store cannot be written\n", health{readOnly: true}, false},
		{"HTTP/1.1 200 OK\r\n\r\nok, but full: new data is refused\n", health{low: true}, false},
		{"HTTP/1.1 200 OK\r\n\r\nok, but waiting: its disk is away\n", health{waiting: true}, false},
		{"HTTP/1.0 503 Service Unavailable\r\n\r\nstarting\n", health{}, true},
		{"200\r\n", health{}, true},
		{"HTTP/1.0 200 OK", health{}, true},
		{"", health{}, true},
	} {
		if got, err := parseHealth(strings.NewReader(c.answer)); got != c.want || (err != nil) != c.bad {
			t.Errorf("%q: %+v, %v", c.answer, got, err)
		}
	}
}

// TestReadCode: what coboxd leaves as its pairing code is shown on a terminal only
// if it is one.
func TestReadCode(t *testing.T) {
	dir := t.TempDir()
	if _, err := readCode(dir); !errors.Is(err, datadir.ErrNoCode) {
		t.Errorf("none: %v", err)
	}
	secret, invite := pairing.NewSecret()
	text, err := (&pairing.Code{Kind: pairing.KindClaim, Box: noiseconn.StaticPublic{1, 2, 3}, Secret: secret, Invite: invite}).Text()
	if err != nil {
		t.Fatal(err)
	}
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "pairing.txt"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(text + "\n")
	if got, err := readCode(dir); got != text || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"", "\x1b[2J", text + "\x1b[2J", "\x1b[2J" + text, "cobox pair x"} {
		put(bad + "\n")
		if got, err := readCode(dir); got != "" || err == nil || errors.Is(err, datadir.ErrNoCode) {
			t.Errorf("%q is taken: %q, %v", bad, got, err)
		}
	}
}

func FuzzParseHealth(f *testing.F) {
	f.Add("HTTP/1.0 200 OK\r\nX: y\r\n\r\nok\n")
	f.Fuzz(func(t *testing.T, answer string) {
		if _, err := parseHealth(strings.NewReader(answer)); err == nil && !strings.Contains(answer, "200") {
			t.Errorf("%q is a good answer", answer)
		}
	})
}

func FuzzParseFramebuffer(f *testing.F) {
	f.Add(make([]byte, 240))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 240 {
			return
		}
		got, err := parseFramebuffer([160]byte(b[:160]), [80]byte(b[160:]))
		if err == nil && got.stride < got.width*int(got.format.Bits/8) {
			t.Errorf("%+v", got)
		}
	})
}

func TestPowerKey(t *testing.T) {
	event := func(kind, code uint16, value uint32) []byte {
		b := make([]byte, inputEventSize)
		binary.NativeEndian.PutUint16(b[16:], kind)
		binary.NativeEndian.PutUint16(b[18:], code)
		binary.NativeEndian.PutUint32(b[20:], value)
		return b
	}
	other := bytes.Join([][]byte{event(eventKey, 30, 1), event(eventKey, keyPower, 0), event(0, keyPower, 1)}, nil)
	if watchPowerKey(bytes.NewReader(other)) {
		t.Error("another key is the power key")
	}
	if !watchPowerKey(bytes.NewReader(append(other, event(eventKey, keyPower, 1)...))) {
		t.Error("the power key is not seen")
	}
	for text, want := range map[string]bool{
		"10000000000000 0\n":           true,
		"1000000000000 0":              false,
		"10000000000000":               false,
		"1 10000000000000 0":           true,
		"ffffffffffffffff fffffffffff": true,
		"xyz 0":                        false,
		"":                             false,
	} {
		if got := bitOfWords(text, keyPower); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestParseFramebuffer(t *testing.T) {
	var variable [160]byte
	var fixed [80]byte
	put := binary.NativeEndian.PutUint32
	for at, v := range map[int]uint32{0: 640, 4: 480, 24: 32, 32: 16, 36: 8, 44: 8, 48: 8, 56: 0, 60: 8} {
		put(variable[at:], v)
	}
	put(fixed[48:], 2560)
	want := framebuffer{640, 480, 2560, screen.Format{
		Bits: 32, Red: screen.Channel{Offset: 16, Length: 8}, Green: screen.Channel{Offset: 8, Length: 8}, Blue: screen.Channel{Offset: 0, Length: 8},
	}}
	if got, err := parseFramebuffer(variable, fixed); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for at, bad := range map[int]uint32{0: 0, 4: 1 << 20, 24: 8} {
		v := variable
		put(v[at:], bad)
		if _, err := parseFramebuffer(v, fixed); err == nil {
			t.Errorf("%d at %d is taken", bad, at)
		}
	}
	put(fixed[48:], 2559)
	if _, err := parseFramebuffer(variable, fixed); err == nil {
		t.Error("lines that overlap are taken")
	}
}

// A process is reaped, and whoever started it learns how it ended.
func TestReaper(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := newReaper()
	_, ended, err := r.start(exe, []string{exe, "-test.run=^TestReapedChild$"}, &os.ProcAttr{
		Env: append(os.Environ(), "COBOX_REAPED=7"), Files: []*os.File{nil, nil, nil},
	})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.After(20 * time.Second)
	for {
		r.reap()
		select {
		case status := <-ended:
			if got := describeEnd(status); got != "exit code 7" {
				t.Error(got)
			}
			return
		case <-deadline:
			t.Fatal("the child is not reaped")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestReapedChild(t *testing.T) {
	if os.Getenv("COBOX_REAPED") == "7" {
		os.Exit(7)
	}
}

func TestReaperStartFails(t *testing.T) {
	if _, _, err := newReaper().start("/does/not/exist", []string{"x"}, &os.ProcAttr{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if got := describeEnd(syscall.WaitStatus(syscall.SIGKILL)); got != "killed by killed" {
		t.Error(got)
	}
}
