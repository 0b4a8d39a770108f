//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	llsyscall "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"cobox/appliance/machine"
	"cobox/image/layout"
)

// childVariable tells this program what to do as a child of its own tests.
const childVariable = "COBOX_INIT_CHILD"

// child returns a command that runs this program as a child.
func child(t *testing.T, what string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestChild$", "-test.v")
	cmd.Env = append(os.Environ(), childVariable+"="+what)
	return cmd
}

// TestChild is what the children do.
func TestChild(t *testing.T) {
	switch os.Getenv(childVariable) {
	case "enter":
		// As enterSandbox: the thread that asks is the one that execve keeps.
		runtime.LockOSThread()
		before := answers()
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		if err := forbidCalls(); err != nil {
			t.Fatal(err)
		}
		os.Setenv(childVariable, "filtered")
		os.Setenv("COBOX_INIT_BEFORE", strings.Join(before, " "))
		t.Fatal(syscall.Exec(os.Args[0], os.Args, os.Environ()))
	case "filtered":
		filtered(t)
	case "arch":
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		if err := forbidCalls(); err != nil {
			t.Fatal(err)
		}
		unix.Syscall(callsBelow|unix.SYS_GETPID, 0, 0, 0)
		t.Fatal("a call of another set of numbers was made")
	case "end":
		endAllAlone(t)
	case "kill":
		if err := killAllAs(uidOfTest); err != nil {
			t.Fatal(err)
		}
	case "files":
		runtime.LockOSThread()
		confined(t, os.Getenv("COBOX_INIT_DIR"))
	}
}

// confined gives up rights, and tries what only somebody would who has taken
// coboxd over.
func confined(t *testing.T, dir string) {
	if err := restrict(dir, os.Args[0]); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for what, err := range map[string]error{
		"link":   os.Symlink("/dev/zero", at("link")),
		"fifo":   unix.Mkfifo(at("fifo"), 0o600),
		"socket": unix.Mknod(at("socket"), unix.S_IFSOCK|0o600, 0),
		"device": unix.Mknod(at("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))),
	} {
		if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
			t.Errorf("making a %s: %v", what, err)
		}
	}
	// And what coboxd does goes on.
	err := errors.Join(os.Mkdir(at("db"), 0o700), os.WriteFile(at("db/f"), []byte("well"), 0o600),
		os.Truncate(at("db/f"), 2), os.Rename(at("db/f"), at("g")), os.Remove(at("g")), os.Remove(at("db")))
	if err != nil {
		t.Error(err)
	}
}

// TestDataRights needs a kernel with Landlock, as a box has.
func TestDataRights(t *testing.T) {
	if abi, err := llsyscall.LandlockGetABIVersion(); err != nil || abi < 3 {
		t.Skipf("this kernel has Landlock %d: %v", abi, err)
	}
	cmd := child(t, "files")
	cmd.Env = append(cmd.Env, "COBOX_INIT_DIR="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestChild") {
		t.Errorf("%v\n%s", err, out)
	}
}

// probes are calls that change nothing, whether they are allowed or not.
var probes = []struct {
	name string
	call func() error
	want error // under the filter; nil: as without it
}{
	{"ptrace", raw(unix.SYS_PTRACE, unix.PTRACE_CONT, 0), unix.EPERM},
	{"process_vm_readv", raw(unix.SYS_PROCESS_VM_READV), unix.EPERM},
	{"unshare", raw(unix.SYS_UNSHARE), unix.EPERM},
	{"setns", raw(unix.SYS_SETNS, ^uintptr(0)), unix.EPERM},
	{"personality", raw(unix.SYS_PERSONALITY, 0xffffffff), unix.EPERM},
	{"umount2", raw(unix.SYS_UMOUNT2), unix.EPERM},
	{"chroot", raw(unix.SYS_CHROOT), unix.EPERM},
	{"keyctl", raw(unix.SYS_KEYCTL, 0xffff), unix.EPERM},
	{"bpf", raw(unix.SYS_BPF, 0xffff), unix.EPERM},
	{"io_uring_setup", raw(unix.SYS_IO_URING_SETUP, 1), unix.EPERM},
	{"open_by_handle_at", raw(unix.SYS_OPEN_BY_HANDLE_AT), unix.EPERM},
	{"name_to_handle_at", raw(unix.SYS_NAME_TO_HANDLE_AT), unix.EPERM},
	{"clock_adjtime", raw(unix.SYS_CLOCK_ADJTIME), unix.EPERM},
	{"execveat", raw(unix.SYS_EXECVEAT), unix.EPERM},
	{"clone of a user namespace", raw(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_FS), unix.EPERM},
	{"clone3", raw(unix.SYS_CLONE3), unix.ENOSYS},
	{"socket packet", socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0), unix.EAFNOSUPPORT},
	{"socket vsock", socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0), unix.EAFNOSUPPORT},
	{"socket alg", socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0), unix.EAFNOSUPPORT},
	{"socket audit", socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT), unix.EPERM},
	{"socket route", socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE), nil},
	{"socket unix", socket(unix.AF_UNIX, unix.SOCK_STREAM, 0), nil},
	{"socket inet", socket(unix.AF_INET, unix.SOCK_STREAM, 0), nil},
	{"socket inet6", socket(unix.AF_INET6, unix.SOCK_DGRAM, 0), nil},
	{"getpid", raw(unix.SYS_GETPID), nil},
}

func raw(number uintptr, args ...uintptr) func() error {
	return func() error {
		var a [6]uintptr
		copy(a[:], args)
		_, _, errno := unix.RawSyscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno != 0 {
			return errno
		}
		return nil
	}
}

func socket(family, kind, protocol int) func() error {
	return func() error {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

// answers makes all probes that are harmless without the filter.
func answers() []string {
	var list []string
	for _, p := range probes {
		text := "-"
		if !strings.HasPrefix(p.name, "clone") {
			text = number(p.call())
		}
		list = append(list, text)
	}
	return list
}

func number(err error) string {
	var errno syscall.Errno
	errors.As(err, &errno)
	return strconv.Itoa(int(errno))
}

// filtered is a program under the filter: what is forbidden fails, what a box
// does goes on as before.
func filtered(t *testing.T) {
	before := strings.Fields(os.Getenv("COBOX_INIT_BEFORE"))
	if len(before) != len(probes) {
		t.Fatalf("%d answers", len(before))
	}
	bites := 0
	for i, p := range probes {
		err := p.call()
		switch {
		case p.want != nil && !errors.Is(err, p.want):
			t.Errorf("%s: %v, want %v", p.name, err, p.want)
		case p.want == nil && number(err) != before[i]:
			t.Errorf("%s: %v, without the filter %s", p.name, err, before[i])
		case p.want != nil && number(p.want) != before[i]:
			bites++
		}
	}
	// On a computer that forbids some of it anyway the rest shows that it is us.
	if bites < 8 {
		t.Errorf("only %d probes tell the filter from its absence", bites)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		c, err := l.Accept()
		if err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	c, err := net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if _, err := c.Write([]byte("well")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "well" {
		t.Errorf("%q, %v", b, err)
	}
	c.Close()
	if _, err := net.InterfaceAddrs(); err != nil {
		t.Error(err)
	}
	name := filepath.Join(t.TempDir(), "f")
	if err := writeDurably(name, b, 0o600, os.Getuid()); err != nil {
		t.Error(err)
	}
	// Threads are made with clone.
	done := make(chan bool)
	for range 20 {
		go func() { runtime.LockOSThread(); time.Sleep(time.Millisecond); done <- true }()
	}
	for range 20 {
		<-done
	}
	// And what was inherited is still there.
	m, err := machine.Inherited(os.Getenv)
	if err != nil || m == nil {
		t.Fatalf("no socket: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	st, err := m.State(ctx)
	if err != nil || st.Slot != "b" || !st.Trying {
		t.Errorf("%+v, %v", st, err)
	}
	if err := m.Proved(ctx); err != nil {
		t.Error(err)
	}
	_, err = m.Disks(ctx)
	var e *machine.Error
	if !errors.As(err, &e) || e.Code == machine.CodeFailed {
		t.Errorf("disks: %v", err)
	}
}

// TestSandboxedProgram starts a program as coboxd is started: with a socket at
// descriptor 3, through a second program that puts the filter on.
func TestSandboxedProgram(t *testing.T) {
	s := newFakeCard(t, layout.SlotA).start(t, layout.SlotB)
	ours, theirs, err := newSocket()
	if err != nil {
		t.Fatal(err)
	}
	cmd := child(t, "enter")
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", machine.Variable, daemonSocket))
	cmd.ExtraFiles = []*os.File{theirs}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	served := make(chan struct{})
	go func() { defer close(served); s.serveMachine(t.Context(), ours) }()
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "--- PASS: TestChild") {
		t.Errorf("%v\n%s", err, out.String())
	}
	select {
	case <-served: // the socket ended with the program
	case <-time.After(10 * time.Second):
		t.Error("the socket outlives the program")
	}
	if !s.state.facts().proved {
		t.Error("what the program has proved is not known")
	}
}

// TestOtherNumbers: calls in the numbers of another architecture end the program.
func TestOtherNumbers(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("only amd64 has two sets of numbers for one kind of program")
	}
	out, err := child(t, "arch").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGSYS {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestFilter holds what the kernel cannot be asked on every computer.
func TestFilter(t *testing.T) {
	if n := len(callFilter()); n > 4096 {
		t.Errorf("%d instructions are more than the kernel takes", n)
	}
	if size := unsafe.Sizeof(unix.SockFilter{}); size != 8 {
		t.Errorf("an instruction has %d bytes", size)
	}
}
