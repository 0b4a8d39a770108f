package boottest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
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

// quiet is how many of the machine's processors may be busy with something else
// for a time to count. Times of a busy machine prove nothing.
const quiet = 0.3

// judgeTimes is for whoever measures on a machine that does nothing else.
var judgeTimes = flag.Bool("judge", false, "let TestBootTime fail where a start takes too long")

// TestBootTime measures from power-on to a pairing, and the kernel alone with
// an init that does nothing but switch off. Both are also measured in processor
// time of QEMU, which does not hang on what else the machine is doing.
func TestBootTime(t *testing.T) {
	image, label := provisioned(t)
	m := cardOf(t, image, 4<<30)
	m.cmdline = strings.ReplaceAll(m.cmdline, verbose, "")
	type measured struct {
		clock, work time.Duration
		others      float64 // processors busy with something else
	}
	// Of measurements on a quiet machine the fastest is the least disturbed one.
	best := func(a, b measured) measured {
		switch {
		case a.clock == 0:
			return b
		case max(a.others, b.others) <= quiet:
			if b.clock < a.clock {
				return b
			}
		case b.others < a.others:
			return b
		}
		return a
	}
	measure := func(v *vm, busy time.Duration, work time.Duration) measured {
		t.Helper()
		clock := time.Since(v.started)
		return measured{clock, work, (processors(t) - busy - work).Seconds() / clock.Seconds()}
	}
	var bare, ours, first, second measured
	// The kernel as it comes, and with the arguments that a box gives it.
	plain := computer{kernel: m.kernel, memory: m.memory, initrd: bareInitramfs(t), args: []string{"-append", "console=ttyAMA0 rdinit=/init"}}
	tuned := plain
	tuned.args = nil
	alone := func(c computer) measured {
		t.Helper()
		c.port = freePort(t)
		busy := processors(t)
		v := start(t, c)
		select {
		case <-v.exited:
		case <-time.After(time.Minute):
			t.Fatal("the bare kernel does not switch off")
		}
		return measure(v, busy, v.cmd.ProcessState.UserTime()+v.cmd.ProcessState.SystemTime())
	}
	rounds := 1
	if *judgeTimes {
		rounds = 3
	}
	for range rounds {
		bare, ours = best(bare, alone(plain)), best(ours, alone(tuned))

		m.disk, m.port = copySparse(t, image, 4<<30), freePort(t)
		settle(t, m.disk)
		me := &member{t: t, home: t.TempDir()}
		me.must("init", "--phrase-out", filepath.Join(me.home, "words"))
		busy := processors(t)
		v := start(t, m)
		v.listening(2 * time.Minute)
		me.pair(v, label, 2*time.Minute)
		first = best(first, measure(v, busy, v.work()))
		v.powerButton(30 * time.Second)
		v.sound()

		busy = processors(t)
		v = start(t, m)
		v.listening(2 * time.Minute)
		me.await(v, 2*time.Minute)
		second = best(second, measure(v, busy, v.work()))
		v.powerButton(30 * time.Second)
		v.sound()
	}
	show := func(what string, x measured) {
		t.Logf("%-32s %5.2f s, %5.2f s of work, %.2f processors busy with something else; %.2f and %.2f times the bare kernel", what,
			x.clock.Seconds(), x.work.Seconds(), x.others, x.clock.Seconds()/bare.clock.Seconds(), x.work.Seconds()/bare.work.Seconds())
	}
	show("bare kernel, on and off", bare)
	show("the same with a box's arguments", ours)
	show("new card, to a pairing", first)
	show("later start, to a link", second)
	switch {
	case !*judgeTimes:
		return
	case max(bare.others, first.others) > quiet:
		t.Fatal("the machine is busy, so that its times say nothing")
	}
	if first.clock > pairWithin {
		t.Errorf("a new box takes a pairing after %v; at most %v", first.clock, pairWithin)
	}
	if got := first.clock.Seconds() / bare.clock.Seconds(); got > pairRatio {
		t.Errorf("a new box takes a pairing after %.2f times the bare kernel; at most %.1f", got, pairRatio)
	}
}

// listening waits until the box takes connections, and takes nothing of its
// processor time as a member's program would that tries again and again. QEMU
// takes connections before, and hangs up on them.
func (v *vm) listening(atMost time.Duration) {
	v.t.Helper()
	end := time.Now().Add(atMost)
	v.addressed(end)
	for ; ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", "127.0.0.1:"+v.port)
		if err == nil {
			c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			_, err = c.Read(make([]byte, 1))
			c.Close()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return // it waits for us to speak
			}
		}
		if time.Now().After(end) {
			v.t.Fatalf("the box does not listen within %v", atMost)
		}
	}
}

// addressed waits until the box uses the address that QEMU gives it. QEMU takes
// a connection before, but its first packet finds no way to the box, and QEMU
// sends it again only after six seconds: whoever connects too early finds the box
// long after it was there.
func (v *vm) addressed(end time.Time) {
	v.t.Helper()
	for ; time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		b, err := os.ReadFile(v.traffic)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			v.t.Fatal(err)
		}
		if speaks(b, netip.MustParseAddr("10.0.2.15")) {
			return
		}
	}
}

// speaks reports whether a capture, in the format of libpcap, has a frame that an
// IPv4 address has sent.
func speaks(capture []byte, from netip.Addr) bool {
	const header, record = 24, 16
	for b := capture[min(header, len(capture)):]; len(b) >= record; {
		n := int(binary.NativeEndian.Uint32(b[8:]))
		if len(b) < record+n {
			return false // is still being written
		}
		frame := b[record : record+n]
		b = b[record+n:]
		if n < 34 {
			continue
		}
		at := 0
		switch binary.BigEndian.Uint16(frame[12:]) {
		case etherIPv4:
			at = 14 + 12
		case etherARP:
			at = 14 + 14
		default:
			continue
		}
		if netip.AddrFrom4([4]byte(frame[at:])) == from {
			return true
		}
	}
	return false
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

// processors returns the time that all processors of the machine have been busy.
func processors(t testing.TB) time.Duration {
	t.Helper()
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal …
	if len(f) < 9 {
		t.Fatalf("/proc/stat begins with %q", line)
	}
	ticks := 0
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		n, err := strconv.Atoi(f[i])
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick
}

// tick is the unit of processor times in /proc.
const tick = 10 * time.Millisecond

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
	return time.Duration(ticks) * tick
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
