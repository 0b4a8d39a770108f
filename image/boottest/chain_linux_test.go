package boottest

import (
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"cobox/image/layout"
)

// tryLine is how the kernel says that it restarts with the one-shot flag.
var tryLine = regexp.MustCompile(`reboot: Restarting system with command '0 tryboot'`)

// TestBootChain starts the image as it ships through a real boot loader, with
// the arguments of its own slot and the device tree that a Raspberry Pi's
// firmware would pass: a pairing with the picture of its sticker, a backup, a
// restore.
func TestBootChain(t *testing.T) {
	image, label := provisioned(t)
	b := newBox(t, copySparse(t, image, 4<<30), watchdog...)
	b.start(t)
	b.answers(layout.SlotA)
	b.wait("the watchdog is armed", time.Minute)
	me := &member{t: t, home: t.TempDir()}
	me.must("init", "--phrase-out", filepath.Join(me.home, "words"))
	took := me.pair(b.vm, label, 2*time.Minute)
	t.Logf("power-on to a pairing, through U-Boot: %v", took.Round(10*time.Millisecond))
	src := tree(t, 30, 100_000, 1)
	me.must("backup", src)
	target := filepath.Join(t.TempDir(), "back")
	me.must("restore", "--target", target)
	same(t, src, target)
	b.powerButton(30 * time.Second)
	b.sound()
	if b.ended != "guest-shutdown" || b.asksToTry() {
		t.Errorf("the box was switched off and ended by %q", b.ended)
	}
}

// TestFirmware is what updates rely on, with systems that do one thing each: the
// kernel hands the one-shot flag over, a panic and a hang end in a restart, and
// a restart without the flag leaves the slot that was tried.
func TestFirmware(t *testing.T) {
	system, try := imageSystem(t), misfit(t, "try")
	for _, c := range []struct {
		name   string
		second []byte // its first process
		line   string // on the console of the system that is tried
		bitten bool
	}{
		{"panic", noProgram, `Kernel panic - not syncing`, false},
		{"hang", misfit(t, "hang"), `hang: the watchdog is armed`, true},
		{"restart", misfit(t, "restart"), `reboot: Restarting system`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := copySparse(t, theImage(t), layout.ImageSize)
			install(t, disk, layout.SlotA, variant(t, system, release{"1", 1}, contents{initProgram: try}))
			install(t, disk, layout.SlotB, variant(t, system, release{"2", 2}, contents{initProgram: c.second}))
			b := newBox(t, disk, watchdog...)
			b.start(t)
			if s := b.slot(); s != layout.SlotA {
				t.Fatalf("slot %v starts first", s)
			}
			b.restarts(time.Minute)
			if s := b.slot(); s != layout.SlotB {
				t.Fatalf("slot %v starts with the one-shot flag", s)
			}
			b.wait(c.line, time.Minute)
			tried := b.vm
			b.restarts(time.Minute)
			if tried.bitten != c.bitten {
				t.Errorf("the watchdog has restarted it: %v", tried.bitten)
			}
			if s := b.slot(); s != layout.SlotA {
				t.Fatalf("slot %v starts after the trial", s)
			}
			b.kill()
		})
	}
}
