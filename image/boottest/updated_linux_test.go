package boottest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"cobox/image/disk"
	"cobox/image/imagetest"
	"cobox/image/layout"
)

// updated is a box that takes updates which the keys of package bundletest have
// signed, and its administrator. Both slots hold the system old.
type updated struct {
	*box
	me     *member
	system *disk.Slot // old, to make others of
}

var old = release{"old", 10}

// trialTime is that of the boxes of these tests. A trial is given up after five
// times as much.
const trialTime = "12"

// newUpdated makes a box with a new card. It is off and unclaimed.
func newUpdated(t testing.TB) *updated {
	t.Helper()
	card := copySparse(t, theImage(t), 1<<30)
	s := variant(t, imageSystem(t), old, nil)
	install(t, card, layout.SlotA, s)
	install(t, card, layout.SlotB, s)
	u := &updated{box: newBox(t, card), me: &member{t: t, home: t.TempDir()}, system: s}
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
func (u *updated) bundle(t testing.TB, r release, c contents) string {
	t.Helper()
	return bundleOf(t, variant(t, u.system, r, c))
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
	of := func(v imagetest.Variant) string {
		if v.Version = "next"; v.Number == 0 {
			v.Number = old.number + 1
		}
		v.Floor = v.Number
		return bundleOf(t, signed(t, u.system, v))
	}
	good, err := os.ReadFile(of(imagetest.Variant{}))
	if err != nil {
		t.Fatal(err)
	}
	flipped := func(at int) string {
		b := slices.Clone(good)
		b[at] ^= 4
		return fileOf(t, b)
	}
	return []badUpdate{
		{"keys of somebody else", of(imagetest.Variant{Signers: []int{4, 5}}), "signed"},
		{"one signature only", of(imagetest.Variant{Signers: []int{2}}), "signed"},
		{"one signature and one of somebody else", of(imagetest.Variant{Signers: []int{2, 4}}), "signed"},
		{"another manifest than was signed", flipped(60), "signed"},
		{"an older version", of(imagetest.Variant{Number: old.number - 1}), "older"},
		{"another board", of(imagetest.Variant{Board: "toaster"}), "board"},
		{"cut short", fileOf(t, good[:len(good)*2/3]), "damaged"},
		{"a bit in the middle", flipped(len(good) / 2), "damaged"},
		{"a bit at the end", flipped(len(good) - 1), "damaged"},
		{"no update at all", uBoot, "no update"},
	}
}

type badUpdate struct{ name, file, why string }
