package boottest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cobox/image/layout"
)

// TestFullCard fills a card with backups until the box refuses, and goes on as
// its owner would: restores from it, starts it anew, and at last copies it to a
// larger card.
func TestFullCard(t *testing.T) {
	// coboxd keeps 1 GiB free and a reserve of 64 MiB; some 60 MB are left for
	// backups.
	const small = layout.DataStart + 1<<30 + 192<<20
	m := card(t, small)
	v := start(t, m)
	me := &member{t: t, home: t.TempDir()}
	me.must("init", "--phrase-out", filepath.Join(me.home, "words"))
	me.pair(v, v.wait(pairingCode, 2*time.Minute)[1], 2*time.Minute)
	first := tree(t, 20, 100_000, 31)
	firstSnapshot := me.backup(first)

	var last, lastSnapshot, refused string
	trees := 0
	fill := func() {
		t.Helper()
		for range 12 {
			src := tree(t, 12, 1_000_000, uint64(32+trees))
			trees++
			out, code := me.run("backup", src)
			if code == 0 {
				last, lastSnapshot = src, snapshotOf(t, out)
				continue
			}
			if refused = src; !strings.Contains(out, "is full") || !strings.Contains(out, "can be restored") {
				t.Errorf("the refusal does not say why and what to do:\n%s", out)
			}
			return
		}
		t.Fatal("a card that must be full takes in more and more")
	}
	fill()
	if last == "" {
		t.Fatal("a card that is not full takes in nothing")
	}
	// What the box has receipted comes back; what it has refused is not taken for
	// safe, and waits on the member's computer.
	full := func(stage string) {
		t.Helper()
		if got := me.must("box", "status"); !strings.Contains(got, "full: it takes in nothing new") {
			t.Errorf("%s: the status does not say that the box is full:\n%s", stage, got)
		}
		v.wait("refusing_new_data=true", 15*time.Second)
		me.restored(lastSnapshot, last)
		if got := me.must("status"); !strings.Contains(got, "on NO box") || !strings.Contains(got, "wait here to be sent") {
			t.Errorf("%s: what was refused counts as safe:\n%s", stage, got)
		}
		me.must("box", "check")
	}
	full("as it fills up")
	v.powerButton(30 * time.Second)
	v.sound()

	v = start(t, m)
	me.await(v, 2*time.Minute)
	// The store may have become smaller by some MB: what came slowly is in its
	// write-ahead logs first.
	if free, low := me.space(); low != (free < 1<<30) {
		t.Errorf("after a start: %d bytes are free, and that the box is full is %v", free, low)
	}
	fill()
	full("after a start")
	if out, code := me.run("backup", refused); code == 0 || !strings.Contains(out, "is full") {
		t.Errorf("after a start: code %d\n%s", code, out)
	}
	v.powerButton(30 * time.Second)
	v.sound()

	// The same bytes on a larger card: that is all that has to be done.
	if err := os.Truncate(m.disk, small+2<<30); err != nil {
		t.Fatal(err)
	}
	v = start(t, m)
	me.await(v, 2*time.Minute)
	me.restored(me.backup(refused), refused)
	me.restored(lastSnapshot, last)
	me.restored(firstSnapshot, first)
	if got := me.must("box", "status"); strings.Contains(got, "full:") {
		t.Errorf("the box is full still:\n%s", got)
	}
	if got := me.must("status"); !strings.Contains(got, "durable on 1 box") || strings.Contains(got, "wait here") {
		t.Errorf("on the larger card not all is safe:\n%s", got)
	}
	v.powerButton(30 * time.Second)
	v.sound()
}

// space returns how many bytes of its disk a box calls free, and whether it calls
// itself full.
func (m *member) space() (free uint64, full bool) {
	m.t.Helper()
	out := m.must("box", "status", "--json")
	var s struct {
		State struct {
			Free uint64 `json:"disk_free"`
			Low  bool   `json:"disk_low"`
		}
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		m.t.Fatalf("cobox box status --json: %v\n%s", err, out)
	}
	return s.State.Free, s.State.Low
}

// TestReadOnlyCard starts a box from a card that has worn out and turned
// read-only: after an orderly end, and after a power cut, which leaves a journal
// that cannot be replayed.
func TestReadOnlyCard(t *testing.T) {
	m := card(t, 4<<30)
	v := start(t, m)
	me := &member{t: t, home: t.TempDir()}
	me.must("init", "--phrase-out", filepath.Join(me.home, "words"))
	me.pair(v, v.wait(pairingCode, 2*time.Minute)[1], 2*time.Minute)
	src := tree(t, 20, 100_000, 41)
	snapshot := me.backup(src)
	v.powerButton(30 * time.Second)
	readOnly := func(stage, refused string) {
		t.Helper()
		m.readOnly = true
		defer func() { m.readOnly = false }()
		v = start(t, m)
		me.await(v, 2*time.Minute)
		v.wait("the data partition can only be read", 15*time.Second)
		if got := me.must("box", "status"); !strings.Contains(got, "read-only: it takes in nothing") {
			t.Errorf("%s: the status does not say that the box is read-only:\n%s", stage, got)
		}
		me.restored(snapshot, src)
		if out, code := me.run("backup", tree(t, 2, 1000, 42)); code == 0 || !strings.Contains(out, refused) {
			t.Errorf("%s: a backup to a card that cannot be written ended with code %d:\n%s", stage, code, out)
		}
		took := v.powerButton(30 * time.Second)
		if took > stopWithin {
			t.Errorf("%s: off only %v after the button was pressed", stage, took)
		}
	}
	readOnly("after an orderly end", "it still serves restores")

	// The kernel writes what is in the journal to its place half a minute later. A
	// slow computer may need as long to come to the power cut.
	late := m
	late.cmdline += " sysctl.vm.dirty_expire_centisecs=100000"
	v = start(t, late)
	me.await(v, 2*time.Minute)
	last := tree(t, 20, 100_000, 43)
	lastSnapshot := me.backup(last)
	v.kill()
	// What came last may be in the journal only, which cannot be read back; a backup
	// would build on it. What was there before is all there.
	readOnly("after a power cut", "cannot")

	// Whoever could write again would find everything.
	v = start(t, m)
	me.await(v, 2*time.Minute)
	me.must("box", "check")
	me.restored(lastSnapshot, last)
	me.restored(snapshot, src)
	v.powerButton(30 * time.Second)
	v.sound()
}
