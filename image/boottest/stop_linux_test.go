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
	small := tree(t, 8, 500_000, 51)
	began := time.Now()
	me.must("backup", small)
	took := time.Since(began)

	src := tree(t, 60, 2_000_000, 52) // takes many times longer
	code := make(chan int, 1)
	go func() {
		_, c := me.run("backup", src)
		code <- c
	}()
	time.Sleep(took)
	select {
	case c := <-code:
		t.Fatalf("the backup had ended with code %d before the button was pressed", c)
	default:
	}
	off := v.powerButton(30 * time.Second)
	t.Logf("off %v after the button was pressed in the middle of a backup", off.Round(10*time.Millisecond))
	if off > stopWithin {
		t.Errorf("off only %v after the button was pressed", off)
	}
	if c := <-code; c != 4 { // no box reachable: the rest waits on the member's computer
		t.Errorf("the backup that was interrupted ended with code %d", c)
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
