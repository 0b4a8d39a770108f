package boottest

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// stopWithin is how long a box may take from its button to off.
const stopWithin = 10 * time.Second

// TestStopUnderLoad presses the power button in the middle of a backup. The box
// ends in an orderly way and in time, and the next start has nothing to repair.
func TestStopUnderLoad(t *testing.T) {
	m := card(t, 4<<30)
	v := start(t, m)
	me := &member{t: t, home: t.TempDir()}
	me.must("init", "--phrase-out", filepath.Join(me.home, "words"))
	me.pair(v, v.wait(pairingCode, 2*time.Minute)[1], 2*time.Minute)

	const files, size = 60, 2_000_000
	src := tree(t, files, size, 52)
	said := me.interrupted(v, cardNode, files*size/20, src)
	off := v.powerButton(30 * time.Second)
	t.Logf("off %v after the button was pressed in the middle of a backup", off.Round(10*time.Millisecond))
	if off > stopWithin {
		t.Errorf("off only %v after the button was pressed", off)
	}
	if out, code := me.end(said); code != 4 { // no box reachable: the rest waits on the member's computer
		t.Errorf("the backup that was interrupted ended with code %d\n%s", code, out)
	}
	v.wait("CoBox has stopped", time.Second)
	for _, bad := range []string{"did not end in time", "not unmounted", "cut off"} {
		if strings.Contains(v.log(), bad) {
			t.Errorf("the end was not an orderly one: %q", bad)
		}
	}
	v.sound()

	v = start(t, m)
	me.await(v, 2*time.Minute)
	if strings.Contains(v.log(), "recovery complete") {
		t.Error("the file system's journal had to be replayed after an orderly end")
	}
	me.must("box", "check")
	me.must("backup", src)
	me.restored("latest", src)
	v.powerButton(30 * time.Second)
	v.sound()
}
