package boottest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// member is somebody's computer: cobox with a state of its own.
type member struct {
	t    testing.TB
	home string
	addr string // of the box, as this computer reaches it
}

var build = sync.OnceValues(func() (string, error) { return buildProgram("cobox/cmd/cobox") })

// programs is the folder of what buildProgram has built.
var programs string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

// runTests runs the tests, which share the programs, and then removes those.
func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cobox-boottest")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs = dir
	return m.Run()
}

// buildProgram builds a program for this computer.
func buildProgram(pkg string) (string, error) {
	bin := filepath.Join(programs, filepath.Base(pkg))
	if out, err := exec.Command("go", "build", "-o", bin, pkg).CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return bin, nil
}

// run runs cobox and returns what it wrote, and its exit code.
func (m *member) run(args ...string) (string, int) {
	m.t.Helper()
	return m.end(m.begin(args...))
}

// end waits for the end of what begin has started.
func (m *member) end(said <-chan answer) (string, int) {
	m.t.Helper()
	a := <-said
	if a.err != nil {
		m.t.Fatal(a.err)
	}
	return a.out, a.code
}

// answer is what a program said.
type answer struct {
	out  string
	code int
	err  error // it could not be run
}

// begin starts cobox and gives its answer when it has ended.
func (m *member) begin(args ...string) <-chan answer {
	m.t.Helper()
	bin, err := build()
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command(bin, append([]string{"--home", m.home}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said := make(chan answer, 1)
	go func() {
		// A thread that ends takes with it what it has started, so it may not.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		out, err := cmd.CombinedOutput()
		a := answer{out: string(out)}
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			a.err = err
		} else {
			a.code = cmd.ProcessState.ExitCode()
		}
		said <- a
	}()
	return said
}

// must is run for what has to succeed.
func (m *member) must(args ...string) string {
	m.t.Helper()
	out, code := m.run(args...)
	if code != 0 {
		m.t.Fatalf("cobox %s: code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// interrupted begins a backup, which is about to be disturbed, and returns when the
// box has written so many bytes to a disk since, or the backup has ended already.
// A time would say nothing: how long a backup takes hangs on what else this
// computer does.
func (m *member) interrupted(v *vm, disk string, bytes int64, src string) <-chan answer {
	m.t.Helper()
	before := v.written(disk)
	said := m.begin("backup", src)
	for v.written(disk) < before+bytes {
		select {
		case a := <-said:
			again := make(chan answer, 1)
			again <- a
			return again
		case <-time.After(20 * time.Millisecond):
		}
	}
	return said
}

// backup backs up a folder and returns the name of the snapshot.
func (m *member) backup(src string) string {
	m.t.Helper()
	return snapshotOf(m.t, m.must("backup", src))
}

// snapshotOf finds the name in what a backup has written.
func snapshotOf(t testing.TB, out string) string {
	t.Helper()
	found := regexp.MustCompile(`Snapshot ([0-9a-f]{8}) `).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("the backup does not tell its snapshot:\n%s", out)
	}
	return found[1]
}

// restored brings a snapshot back and compares it with what it was made of.
func (m *member) restored(snapshot, src string) {
	m.t.Helper()
	target := filepath.Join(m.t.TempDir(), "back")
	m.must("restore", "--target", target, "--snapshot", snapshot)
	same(m.t, src, target)
}

// pair pairs as soon as the box accepts it.
func (m *member) pair(v *vm, code string, atMost time.Duration) time.Duration {
	m.t.Helper()
	end := time.Now().Add(atMost)
	v.addressed(end)
	for ; ; time.Sleep(100 * time.Millisecond) {
		out, c := m.run("pair", code, "--address", "127.0.0.1:"+v.port)
		if c == 0 {
			return time.Since(v.started)
		}
		if time.Now().After(end) {
			m.t.Fatalf("not paired within %v: %s", atMost, out)
		}
	}
}

// await waits until the box answers.
func (m *member) await(v *vm, atMost time.Duration) {
	m.t.Helper()
	end := time.Now().Add(atMost)
	v.addressed(end)
	for ; ; time.Sleep(100 * time.Millisecond) {
		out, code := m.run("box", "status")
		if code == 0 {
			return
		}
		if time.Now().After(end) {
			m.t.Fatalf("the box does not answer within %v: %s", atMost, out)
		}
	}
}
