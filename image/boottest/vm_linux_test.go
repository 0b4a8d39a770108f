package boottest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"cobox/appliance/boxtest"
)

// computer is what a VM is made of.
type computer struct {
	board    func(m computer) []string // QEMU's arguments for a board and what is on it; nil is virt
	disk     string                    // raw image; written to
	readOnly bool                      // the disk is
	forget   bool                      // what is written to the disk is gone with the VM
	writes   string                    // empty file in which all that is written to the disk is logged; or ""
	settings string                    // of U-Boot, which starts the machine; or "", then QEMU does with:
	kernel   string                    // vmlinuz
	initrd   string                    //
	cmdline  string                    // added to what every CoBox kernel is given
	serial   string                    // name of the console; "" is virt's
	memory   string                    // "512"
	port     string                    // on 127.0.0.1, forwarded to the box's port of links
	args     []string                  // more of QEMU's
}

// bootArgs is what the firmware gives the kernel on a Pi: cmdline.txt of a slot
// without the console, which comes with the board.
const bootArgs = "rdinit=/init panic=10 oops=panic watchdog.open_timeout=30 vt.global_cursor_default=0 consoleblank=0 loglevel=5 initcall_blacklist=trace_eval_init brd.rd_nr=0 loop.max_loop=0"

// verbose lets the kernel tell what it does before init as well: it is wanted
// where a start fails.
const verbose = " loglevel=7"

// vm is a running QEMU. It has a process of its own, which ends with the test.
type vm struct {
	t       testing.TB
	cmd     *exec.Cmd
	port    string // on 127.0.0.1, forwarded to the box's port of links
	console string // file
	monitor string // socket
	traffic string // file: the beginnings of all frames on n0, as pcap
	started time.Time
	exited  chan struct{}

	// Read them only after exited is closed.
	ended  string // why the machine ended, as QEMU says; "" if it was killed
	bitten bool   // the watchdog has fired
}

// start starts QEMU. All is emulated: there is no KVM on the machines that run
// the tests.
func start(t testing.TB, m computer) *vm {
	t.Helper()
	dir := t.TempDir()
	v := &vm{t: t, port: m.port, console: filepath.Join(dir, "console.log"),
		monitor: filepath.Join(dir, "monitor"), traffic: filepath.Join(dir, "n0.pcap"), exited: make(chan struct{})}
	events := filepath.Join(dir, "events")
	board := m.board
	if board == nil {
		board = virt
	}
	args := append(board(m),
		"-display", "none", "-no-reboot", "-S",
		"-serial", "file:"+v.console,
		"-qmp", "unix:"+v.monitor+",server=on,wait=off",
		"-qmp", "unix:"+events+",server=on,wait=off",
		"-netdev", "user,id=n0,hostfwd=tcp:127.0.0.1:"+v.port+"-:26269",
		"-object", "filter-dump,id=traffic,netdev=n0,maxlen=64,file="+v.traffic)
	if m.settings != "" {
		args = append(args, "-bios", uBoot, "-drive", "if=pflash,unit=1,format=raw,readonly=on,file="+m.settings)
	} else {
		if m.serial == "" {
			m.serial = "ttyAMA0"
		}
		args = append(args, "-kernel", m.kernel, "-initrd", m.initrd, "-append", "console="+m.serial+" "+bootArgs+" "+m.cmdline)
	}
	v.cmd = exec.Command("qemu-system-aarch64", append(args, m.args...)...)
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	v.cmd.Stdout, v.cmd.Stderr = &out, &out
	v.started = time.Now()
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waited := make(chan struct{})
	go func() {
		_ = v.cmd.Wait()
		close(waited)
	}()
	listener := v.listen(events, waited)
	go func() {
		if listener != nil {
			v.hear(listener)
		}
		<-waited
		close(v.exited)
	}()
	t.Cleanup(func() {
		v.kill()
		if out.Len() > 0 {
			t.Logf("QEMU says: %s", out.String())
		}
		if t.Failed() {
			t.Logf("console of the machine:\n%s", v.log())
		}
	})
	return v
}

// virt is QEMU's own board, with the disk and the network n0.
func virt(m computer) []string {
	args := []string{
		// With ACPI the power button would be one that only ACPI knows.
		"-M", "virt,acpi=off", "-cpu", "cortex-a72", "-smp", "2", "-m", m.memory,
		"-device", "virtio-net-pci,netdev=n0,romfile=",
	}
	if m.disk == "" {
		return args
	}
	return append(append(args, m.diskArgs()...), "-device", "virtio-blk-pci,drive="+cardNode)
}

// cardNode is QEMU's name for the disk that a computer is started from.
const cardNode = "d0"

func (m computer) diskArgs() []string {
	if m.writes != "" {
		return []string{
			"-blockdev", "driver=file,node-name=file,filename=" + m.disk,
			"-blockdev", "driver=file,node-name=writes,filename=" + m.writes,
			"-blockdev", "driver=blklogwrites,node-name=" + cardNode + ",file=file,log=writes",
		}
	}
	return []string{"-drive", m.drive("if=none,id=" + cardNode)}
}

// drive is QEMU's option for the disk.
func (m computer) drive(how string) string {
	option := "file=" + m.disk + ",format=raw,cache=writeback," + how
	if m.readOnly {
		option += ",readonly=on"
	}
	if m.forget {
		option += ",snapshot=on"
	}
	return option
}

// listen asks for QEMU's events, and starts the machine only then, so that none
// is missed.
func (v *vm) listen(events string, ended <-chan struct{}) net.Conn {
	for {
		if c, err := net.Dial("unix", events); err == nil {
			if _, err := io.WriteString(c, `{"execute":"qmp_capabilities"}{"execute":"cont"}`); err == nil {
				return c
			}
			c.Close()
		}
		select {
		case <-ended:
			return nil // it did not even start, and says why
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// hear reads what QEMU has told until it ended.
func (v *vm) hear(c net.Conn) {
	defer c.Close()
	for d := json.NewDecoder(c); ; {
		var said struct {
			Event string
			Data  struct{ Reason string }
		}
		if d.Decode(&said) != nil {
			return
		}
		switch said.Event {
		case "SHUTDOWN":
			v.ended = said.Data.Reason
		case "WATCHDOG":
			v.bitten = true
		}
	}
}

// kill is a power cut: what the machine has sent to its disk stays in the
// host's page cache.
func (v *vm) kill() {
	_ = v.cmd.Process.Kill()
	<-v.exited
}

// log returns what the machine has written to its console, without colours.
func (v *vm) log() string {
	b, err := os.ReadFile(v.console)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		v.t.Error(err)
	}
	return string(escapes.ReplaceAll(b, nil))
}

var escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[a-zA-Z]`)

// wait waits until the console shows what matches, and returns the match.
func (v *vm) wait(pattern string, atMost time.Duration) []string {
	v.t.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(atMost); ; time.Sleep(50 * time.Millisecond) {
		ended := false
		select {
		case <-v.exited:
			ended = true // and has written all that it will
		default:
		}
		if m := re.FindStringSubmatch(v.log()); m != nil {
			return m
		}
		if ended {
			v.t.Fatalf("QEMU ended while %q was waited for", pattern)
		}
		if time.Now().After(end) {
			v.t.Fatalf("%q did not come within %v", pattern, atMost)
		}
	}
}

// troubles are lines that no console may have.
var troubles = regexp.MustCompile(`(?m)^.*(EXT4-fs error|EXT4-fs warning|Kernel panic|Oops|BUG:|I/O error|FAT-fs.*error|panic: |DATA RACE).*$`)

// sound fails the test if the console has a line that no console may have.
func (v *vm) sound() {
	v.t.Helper()
	for _, line := range troubles.FindAllString(v.log(), -1) {
		v.t.Errorf("console: %s", line)
	}
}

// qmp sends one command to QEMU and returns what it answers.
func (v *vm) qmp(command string, arguments map[string]any) json.RawMessage {
	v.t.Helper()
	c, err := net.Dial("unix", v.monitor)
	if err != nil {
		v.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReader(c)
	ask := func(m map[string]any) json.RawMessage {
		v.t.Helper()
		b, err := json.Marshal(m)
		if err == nil {
			_, err = c.Write(append(b, '\n'))
		}
		for err == nil {
			var line []byte
			if line, err = r.ReadBytes('\n'); err != nil {
				break
			}
			var answer struct {
				Return json.RawMessage
				Error  *struct{ Desc string }
			}
			if err = json.Unmarshal(line, &answer); err == nil && answer.Error != nil {
				err = errors.New(answer.Error.Desc)
			}
			if answer.Return != nil {
				return answer.Return
			}
		}
		v.t.Fatalf("QEMU, %v: %v", m, err)
		return nil
	}
	if _, err := r.ReadBytes('\n'); err != nil { // its greeting
		v.t.Fatal(err)
	}
	ask(map[string]any{"execute": "qmp_capabilities"})
	m := map[string]any{"execute": command}
	if arguments != nil {
		m["arguments"] = arguments
	}
	return ask(m)
}

// written returns how many bytes the machine has written to a disk since it was
// switched on, or the disk plugged in.
func (v *vm) written(disk string) int64 {
	v.t.Helper()
	var disks []struct {
		Device string
		Node   string `json:"node-name"`
		Stats  struct {
			Written int64 `json:"wr_bytes"`
		}
	}
	if err := json.Unmarshal(v.qmp("query-blockstats", nil), &disks); err != nil {
		v.t.Fatal(err)
	}
	for _, d := range disks {
		if d.Device == disk || d.Node == disk {
			return d.Stats.Written
		}
	}
	v.t.Fatalf("QEMU knows no disk %q: %+v", disk, disks)
	return 0
}

// felt is how long a machine may take to notice that its button was pressed.
const felt = 3 * time.Second

// powerButton presses the power button until the box feels it, and waits until
// the machine is off. It returns how long that took from the press that was felt.
// QEMU lets the button go after a tenth of a second, whether or not a busy host
// has let the machine run in it: whoever stands before a box presses longer.
func (v *vm) powerButton(atMost time.Duration) time.Duration {
	v.t.Helper()
	const pressed = "the power key was pressed"
	before := strings.Count(v.log(), pressed)
	began := time.Now()
	for end := began.Add(atMost); ; {
		began = time.Now()
		v.qmp("system_powerdown", nil)
		for strings.Count(v.log(), pressed) == before && time.Since(began) < felt {
			select {
			case <-v.exited:
				return time.Since(began)
			case <-time.After(50 * time.Millisecond):
			}
		}
		if strings.Count(v.log(), pressed) > before || time.Now().After(end) {
			break
		}
		v.t.Logf("the button was not felt within %v and is pressed again", felt)
	}
	select {
	case <-v.exited:
	case <-time.After(atMost):
		v.t.Errorf("the machine is still on %v after its button was pressed", atMost)
		v.kill()
	}
	return time.Since(began)
}

// freePort returns a port that nobody else takes before the test ends.
func freePort(t testing.TB) string {
	t.Helper()
	port, release, err := boxtest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return port
}

// copySparse makes a copy of an image that is as long as a card would be.
func copySparse(t testing.TB, image string, size int64) string {
	t.Helper()
	in, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	path := filepath.Join(t.TempDir(), "disk.img")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	buf := make([]byte, 1<<20)
	zero := make([]byte, len(buf))
	for off := int64(0); ; off += int64(len(buf)) {
		n, err := io.ReadFull(in, buf)
		if n > 0 && !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := out.WriteAt(buf[:n], off); err != nil {
				t.Fatal(err)
			}
		}
		if err != nil {
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				t.Fatal(err)
			}
			break
		}
	}
	if err := out.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}
