package boottest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cobox/image/bundle"
	"cobox/image/bundle/bundletest"
	"cobox/image/layout"
)

// updated is a box that takes updates which the keys of package bundletest have
// signed, and its administrator. Both slots hold the system old.
type updated struct {
	*box
	me     *member
	system system // old's, to make others of
}

var old = release{"old", 10}

// trialTime is that of the boxes of these tests. A trial is given up after five
// times as much.
const trialTime = "12"

// newUpdated makes a box with a new card. It is off and unclaimed.
func newUpdated(t testing.TB) *updated {
	t.Helper()
	disk := copySparse(t, theImage(t), 1<<30)
	s := readSystem(t, disk, layout.SlotA).with(t, testKeys, text(releaseFile, old.version+"\n"))
	s.install(t, disk, layout.SlotA, old)
	s.install(t, disk, layout.SlotB, old)
	u := &updated{box: newBox(t, disk), me: &member{t: t, home: t.TempDir()}, system: s}
	u.arguments = "cobox.trial=" + trialTime
	return u
}

// claim switches the box on and pairs.
func (u *updated) claim(t testing.TB) {
	t.Helper()
	u.start(t)
	u.answers(layout.SlotA)
	u.me.must("init", "--phrase-out", filepath.Join(u.me.home, "words"))
	u.me.pair(u.vm, u.wait(pairingCode, 2*time.Minute)[1], 2*time.Minute)
}

// in says which test the box and its administrator fail from now on.
func (u *updated) in(t testing.TB) {
	u.box.in(t)
	u.me.t = t
}

// bundle makes an update of the box's system with changes.
func (u *updated) bundle(t testing.TB, r release, changes ...change) string {
	t.Helper()
	private, _ := bundletest.Keys()
	s := u.system.with(t, append(changes, text(releaseFile, r.version+"\n"))...)
	return s.update(t, s.manifest(r), private[0], private[2])
}

// send sends an update that the box takes, and waits until the box has restarted
// into the other slot. What the administrator's program says comes later, for it
// may wait for the end of the trial.
func (u *updated) send(t testing.TB, file string) <-chan answer {
	t.Helper()
	from := u.slot()
	said := u.me.begin("box", "update", file)
	select {
	case <-u.exited:
	case a := <-said:
		if a.err != nil || a.code != 0 {
			t.Fatalf("cobox box update: code %d, %v\n%s", a.code, a.err, a.out)
		}
		again := make(chan answer, 1)
		again <- a
		said = again
	case <-time.After(4 * time.Minute):
		t.Fatal("the box has not taken the update within 4 minutes")
	}
	u.restarts(2 * time.Minute)
	if s := u.slot(); s != from.Other() {
		t.Fatalf("slot %v starts after an update that slot %v has taken", s, from)
	}
	return said
}

// status is what a box tells its administrators of its system.
type status struct {
	System struct {
		Version string
		Number  uint32
		Slot    string
		Trying  bool
		Floor   uint32
	}
	Update *struct {
		Version string
		Number  uint32
		Result  string
		Reason  string
	}
}

// status asks the box for the state of its system.
func (u *updated) status(t testing.TB) status {
	t.Helper()
	u.me.await(u.vm, 2*time.Minute)
	out := u.me.must("box", "status", "--json")
	var s status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("cobox box status --json: %v\n%s", err, out)
	}
	return s
}

// runs checks that a release runs in a slot, not on trial.
func (u *updated) runs(t testing.TB, slot layout.Slot, r release) status {
	t.Helper()
	s := u.status(t)
	if got := s.System; got.Slot != slot.String() || got.Trying || got.Version != r.version || got.Number != r.number {
		t.Fatalf("the system is %+v, and should be %+v in slot %v", got, r, slot)
	}
	return s
}

// frozen is what no refused update may change: all before the data.
func (u *updated) frozen(t testing.TB) string {
	t.Helper()
	f, err := os.Open(u.computer.disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, layout.DataStart)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// badUpdates are those that a box that runs old refuses, and a word of why.
func (u *updated) badUpdates(t testing.TB) []badUpdate {
	t.Helper()
	private, _ := bundletest.Keys()
	s, next := u.system, release{"next", 11}
	of := func(change func(*bundle.Manifest), keys ...*bundletest.Key) string {
		m := s.manifest(next)
		if change != nil {
			change(m)
		}
		return s.update(t, m, keys...)
	}
	good := of(nil, private[0], private[1])
	damaged := func(change func([]byte) []byte) string {
		b, err := os.ReadFile(good)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "update.cobox")
		if err := os.WriteFile(path, change(b), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	flip := func(at func(size int) int) string {
		return damaged(func(b []byte) []byte { b[at(len(b))] ^= 4; return b })
	}
	return []badUpdate{
		{"keys of somebody else", of(nil, bundletest.NewKey(4), bundletest.NewKey(5)), "signed"},
		{"one signature only", of(nil, private[1]), "signed"},
		{"one signature and one of somebody else", of(nil, private[1], bundletest.NewKey(4)), "signed"},
		{"another manifest than was signed", flip(func(int) int { return 60 }), "signed"},
		{"an older version", of(func(m *bundle.Manifest) { m.Number, m.Floor = 9, 9 }, private[0], private[1]), "older"},
		{"another board", of(func(m *bundle.Manifest) { m.Board = "toaster" }, private[0], private[1]), "board"},
		{"cut short", damaged(func(b []byte) []byte { return b[:len(b)*2/3] }), "damaged"},
		{"a bit in the middle", flip(func(size int) int { return size / 2 }), "damaged"},
		{"a bit at the end", flip(func(size int) int { return size - 1 }), "damaged"},
		{"no update at all", filepath.Join(filepath.Dir(uBoot), "u-boot.bin"), "no update"},
	}
}

type badUpdate struct{ name, file, why string }
