package boottest

import (
	"strings"
	"testing"
	"time"

	"cobox/image/layout"
)

// TestUpdates is the life of a box with updates: those that it refuses, those
// that turn out to be bad, a good one, and what it refuses from then on.
func TestUpdates(t *testing.T) {
	t.Parallel()
	u := newUpdated(t)
	u.computer.args = watchdog
	u.claim(t)
	u.runs(t, layout.SlotA, old)
	part := func(name string, f func(t *testing.T)) {
		if !t.Run(name, func(t *testing.T) {
			u.in(t)
			defer u.in(u.owner)
			f(t)
		}) {
			t.Fatal("what follows needs this")
		}
	}
	part("refused", u.refuses)
	part("panics", func(t *testing.T) {
		said := u.send(t, u.bundle(t, release{"panics", 11}, contents{initProgram: noProgram}))
		u.wait(`Kernel panic - not syncing`, time.Minute)
		u.restarts(time.Minute)
		u.fellBack(t, release{"panics", 11}, said, "")
	})
	part("hangs", func(t *testing.T) {
		said := u.send(t, u.bundle(t, release{"hangs", 12}, contents{initProgram: misfit(t, "hang")}))
		u.wait(`hang: the watchdog is armed`, time.Minute)
		tried := u.vm
		u.restarts(2 * time.Minute)
		if !tried.bitten {
			t.Error("it was not the watchdog that restarted the machine")
		}
		u.fellBack(t, release{"hangs", 12}, said, "")
	})
	part("never answers", func(t *testing.T) {
		said := u.send(t, u.bundle(t, release{"silent", 13}, contents{boxProgram: misfit(t, "silent")}))
		u.wait(`cobox-init: this system is on trial`, time.Minute)
		u.restarts(3 * time.Minute)
		u.fellBack(t, release{"silent", 13}, said, "did not answer")
	})
	good := release{"good", 14}
	part("good", func(t *testing.T) {
		said := u.send(t, u.bundle(t, good, nil))
		u.answers(layout.SlotB)
		u.wait(`cobox-init: the system has proved itself`, 2*time.Minute)
		s := u.runs(t, layout.SlotB, good)
		if s.Update == nil || s.Update.Result != "promoted" || s.System.Floor != good.number {
			t.Errorf("after a good update: %+v, %+v", s.System, s.Update)
		}
		if a := u.ends(t, said); a.code != 0 || !strings.Contains(a.out, "stays with it") {
			t.Error("the administrator was not told that the update stays")
		}
		u.powerButton(time.Minute)
		u.sound()
		u.start(t)
		u.answers(layout.SlotB)
		u.runs(t, layout.SlotB, good)
	})
	part("older than the good one", func(t *testing.T) {
		// Signed, undamaged, and taken by the box when it was the newer one.
		out, code := u.me.run("box", "update", u.bundle(t, release{"between", 13}, nil))
		if code == 0 || !strings.Contains(out, "older") {
			t.Errorf("code %d: %s", code, out)
		}
		u.runs(t, layout.SlotB, good)
	})
	u.powerButton(time.Minute)
	u.sound()
}

// refuses sends what the box must refuse, and looks whether that has changed
// anything.
func (u *updated) refuses(t *testing.T) {
	before := u.frozen(t)
	for _, bad := range u.badUpdates(t) {
		out, code := u.me.run("box", "update", bad.file)
		t.Logf("%s: code %d: %s", bad.name, code, strings.TrimSpace(out))
		if code == 0 || !strings.Contains(out, bad.why) {
			t.Errorf("%s: code %d, and the message should say %q:\n%s", bad.name, code, bad.why, out)
		}
		if s := u.runs(t, layout.SlotA, old); s.Update != nil {
			t.Errorf("%s: the box tells of an update: %+v", bad.name, s.Update)
		}
	}
	select {
	case <-u.exited:
		t.Fatal("the box has restarted")
	default:
	}
	if u.frozen(t) != before {
		t.Error("a refused update has changed the disk before the data")
	}
	u.sound()
}

// fellBack checks that old runs again and tells so.
func (u *updated) fellBack(t *testing.T, r release, said <-chan answer, why string) {
	t.Helper()
	u.answers(layout.SlotA)
	s := u.runs(t, layout.SlotA, old)
	if up := s.Update; up == nil || up.Result != "fellback" || up.Reason == "" || !strings.Contains(up.Reason, why) ||
		up.Version != r.version || up.Number != r.number {
		t.Errorf("the box does not tell what became of the update: %+v", up)
	}
	if s.System.Floor != old.number {
		t.Errorf("the floor is %d after an update that was not kept", s.System.Floor)
	}
	if a := u.ends(t, said); a.code == 0 || !strings.Contains(a.out, "went back") || !strings.Contains(a.out, why) {
		t.Error("the administrator was not told that the box went back")
	}
	u.sound()
}

// ends waits for the end of the administrator's program and shows what it said.
func (u *updated) ends(t *testing.T, said <-chan answer) answer {
	t.Helper()
	select {
	case a := <-said:
		if a.err != nil {
			t.Fatal(a.err)
		}
		t.Logf("cobox box update: code %d\n%s", a.code, a.out)
		return a
	case <-time.After(3 * time.Minute):
		t.Fatal("cobox box update does not end")
	}
	return answer{}
}
