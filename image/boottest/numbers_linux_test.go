package boottest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"
)

// What a box must reach in time.
const (
	pairWithin = 8 * time.Second
	pairRatio  = 1.5 // of what the kernel alone takes
)

// quiet is how much longer than its own work a bare kernel may take for the
// machine to count as quiet. Clock times of another machine prove nothing.
const quiet = 1.25

// TestBootTime measures from power-on to a pairing, and the kernel alone with
// an init that does nothing but switch off. Both are also measured in processor
// time of QEMU, which does not hang on what else the machine is doing.
func TestBootTime(t *testing.T) {
	m := card(t, 4<<30)
	image := m.disk
	type measured struct{ clock, work time.Duration }
	least := func(a, b measured) measured {
		if a.clock == 0 {
			return b
		}
		return measured{min(a.clock, b.clock), min(a.work, b.work)}
	}
	var bare, first, second measured
	alone := computer{kernel: m.kernel, memory: m.memory, initrd: bareInitramfs(t)}
	for range 3 {
		alone.port = freePort(t)
		v := start(t, alone)
		select {
		case <-v.exited:
		case <-time.After(time.Minute):
			t.Fatal("the bare kernel does not switch off")
		}
		bare = least(bare, measured{time.Since(v.started), v.cmd.ProcessState.UserTime() + v.cmd.ProcessState.SystemTime()})

		m.disk, m.port = copySparse(t, image, 4<<30), freePort(t)
		settle(t, m.disk)
		me := &member{t: t, home: t.TempDir()}
		me.must("init", "--phrase-out", filepath.Join(me.home, "words"))
		v = start(t, m)
		// The code is on the console of a box without a label. Nobody would have to
		// wait for it, as nobody has to who has a label: it is read as soon as it is
		// there, and costs nothing beside.
		clock := me.pair(v, v.wait(pairingCode, 2*time.Minute)[1], 2*time.Minute)
		first = least(first, measured{clock, v.work()})
		v.powerButton(30 * time.Second)
		v.sound()

		v = start(t, m)
		me.await(v, 2*time.Minute)
		second = least(second, measured{time.Since(v.started), v.work()})
		v.powerButton(30 * time.Second)
		v.sound()
	}
	show := func(what string, x measured) {
		t.Logf("%-32s %5.2f s, %5.2f s of work; %.2f and %.2f times the bare kernel", what, x.clock.Seconds(), x.work.Seconds(),
			x.clock.Seconds()/bare.clock.Seconds(), x.work.Seconds()/bare.work.Seconds())
	}
	show("bare kernel, on and off", bare)
	show("new card, to a pairing", first)
	show("later start, to a link", second)
	if bare.clock.Seconds() > quiet*bare.work.Seconds() {
		t.Logf("The machine is busy (the bare kernel took %.2f times its work): times are not judged.", bare.clock.Seconds()/bare.work.Seconds())
		return
	}
	if first.clock > pairWithin {
		t.Errorf("a new box takes a pairing after %v; at most %v", first.clock, pairWithin)
	}
	if got := first.clock.Seconds() / bare.clock.Seconds(); got > pairRatio {
		t.Errorf("a new box takes a pairing after %.2f times the bare kernel; at most %.1f", got, pairRatio)
	}
}

// settle waits until a file is on the host's disk, so that the box does not
// wait for what the test has written.
func settle(t testing.TB, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// work returns the processor time that the machine has used so far.
func (v *vm) work() time.Duration {
	v.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", v.cmd.Process.Pid))
	if err != nil {
		v.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest) // from field 3 on; 14 and 15 are what is wanted
	var ticks int
	for _, text := range f[11:13] {
		n, err := strconv.Atoi(text)
		if err != nil {
			v.t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100 // the kernel's clock tick for programs is 10 ms
}

// bareInitramfs holds an init of ten instructions that switches off: the least
// that a kernel can be started for.
func bareInitramfs(t testing.TB) string {
	t.Helper()
	const (
		loadAt = 0x400000
		header = 64 + 56
	)
	movz := func(register, value, shift uint32) uint32 {
		return 0xd2800000 | shift/16<<21 | value<<5 | register
	}
	movk := func(register, value, shift uint32) uint32 {
		return 0xf2800000 | shift/16<<21 | value<<5 | register
	}
	code := []uint32{ // reboot(0xfee1dead, 0x28121969, LINUX_REBOOT_CMD_POWER_OFF)
		movz(0, 0xdead, 0), movk(0, 0xfee1, 16),
		movz(1, 0x1969, 0), movk(1, 0x2812, 16),
		movz(2, 0xfedc, 0), movk(2, 0x4321, 16),
		movz(3, 0, 0),
		movz(8, 142, 0),
		0xd4000001, // svc 0
		0x14000000, // b .
	}
	size := uint64(header + 4*len(code))
	var b bytes.Buffer
	for _, part := range []any{
		[16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1},
		uint16(2), uint16(183), uint32(1), uint64(loadAt + header), uint64(64), uint64(0), uint32(0), // executable, AArch64
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(loadAt), uint64(loadAt), size, size, uint64(0x10000), // read and run all of it
		code,
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	records := []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("init", b.String(), 0o755),
	}
	for i := range records {
		records[i].Ino, records[i].NLink = uint64(i+1), 1
	}
	return writeInitramfs(t, records)
}
