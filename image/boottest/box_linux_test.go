package boottest

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"cobox/image/layout"
)

// box is a computer with a card, which starts as a Raspberry Pi does: see
// firmware. It goes on over restarts, each of which is a new run of QEMU with
// what survives one: the card and the firmware's one-shot flag.
type box struct {
	*vm                  // that runs, or ran last
	owner     testing.TB // ends it
	computer  computer
	arguments string   // of the kernel, beside those of the slot
	record    bool     // all writes to the card, from the next start on
	writes    []string // their logs, one a start
}

// watchdog is the hardware that restarts a computer which does not pet it. The
// kernel has its driver; no argument is needed but those of every slot.
var watchdog = []string{"-device", "i6300esb", "-action", "watchdog=reset"}

// newBox makes a box of a card. It is off.
func newBox(t testing.TB, disk string, devices ...string) *box {
	t.Helper()
	return &box{owner: t, computer: computer{disk: disk, memory: "512", port: freePort(t), args: devices}}
}

// start switches the box on. It goes on until the test ends that made it.
func (b *box) start(t testing.TB) {
	t.Helper()
	b.startWith(t, false)
}

func (b *box) startWith(t testing.TB, tryboot bool) {
	t.Helper()
	m := b.computer
	m.settings = newSettings(b.owner, tryboot, b.arguments)
	if b.record {
		m.writes = filepath.Join(b.owner.TempDir(), "writes")
		if err := os.WriteFile(m.writes, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		b.writes = append(b.writes, m.writes)
	}
	b.vm = start(b.owner, m)
	b.in(t)
}

// in says which test a running box fails from now on: a part of the owner.
func (b *box) in(t testing.TB) { b.t = t }

// restarts waits until the machine restarts by itself, and starts it again. If
// the kernel was asked for it, the firmware starts the other slot this once.
func (b *box) restarts(atMost time.Duration) {
	b.t.Helper()
	select {
	case <-b.exited:
	case <-time.After(atMost):
		b.t.Fatalf("the machine did not restart within %v", atMost)
	}
	if b.ended != "guest-reset" {
		b.t.Fatalf("the machine did not restart but ended: %q", b.ended)
	}
	b.startWith(b.t, b.asksToTry())
}

// asksToTry tells whether the last thing that the kernel did was to restart with
// the argument that sets the one-shot flag on a Raspberry Pi.
func (b *box) asksToTry() bool { return tryLine.MatchString(b.log()) }

// slot waits until the firmware has chosen a slot and returns it.
func (b *box) slot() layout.Slot {
	b.t.Helper()
	n, err := strconv.Atoi(b.wait(`(?m)^firmware: partition (\d+)\r?$`, 30*time.Second)[1])
	if err != nil {
		b.t.Fatal(err)
	}
	s, ok := layout.SlotOf(n)
	if !ok {
		b.t.Fatalf("the firmware starts partition %d, which is no slot", n)
	}
	return s
}

// answers waits until coboxd of a slot answers the first process.
func (b *box) answers(s layout.Slot) {
	b.t.Helper()
	if started := b.slot(); started != s {
		b.t.Fatalf("the firmware starts slot %v, and should start slot %v", started, s)
	}
	if told := b.wait(`cobox-init: the slot is known slot=(\w)`, time.Minute)[1]; told != s.String() {
		b.t.Fatalf("the box takes its slot for %s, and the firmware started %v", told, s)
	}
	b.wait(`cobox-init: coboxd answers`, 2*time.Minute)
}
